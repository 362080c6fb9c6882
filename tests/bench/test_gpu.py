"""The GPU benchmark plans, records and reports as it says; what it measures needs a GPU."""

import json
import sys
import time
from pathlib import Path

import pytest

from bench.gpu import plan, record
from bench.gpu.agreement import percentile, verdict
from bench.gpu.child import Say, Setup, read_rows
from bench.gpu.kernels_check import junit_rows
from bench.gpu.plan import Part, choose, starts, with_limits
from bench.gpu.record import Record, Result, source_digest
from bench.gpu.run import environment, last_words, run_command
from bench.gpu.serving import STUDIES
from bench.gpu.session import Session
from bench.gpu.tables import figure, summary, table
from bench.gpu.trace import Interval, steady

SHORT, LONG = Part("short", "none", 10, 20, "short"), Part("long", "none", 100, 200, "long")


def setup(tmp_path: Path, **given: object) -> Setup:
    return Setup(rows=str(tmp_path / "part.rows"), work=str(tmp_path), deadline=time.time() + 60, **given)


def result(part: str, status: str = "done", **given: object) -> Result:
    return Result(part, status, 1.0, "GPU", "abc", "c0ffee", **given)


def test_every_part_has_a_module_and_a_name_of_its_own() -> None:
    folder = Path(plan.__file__).parent
    assert all((folder / f"{part.module}.py").is_file() for part in plan.PARTS)
    assert len({part.name for part in plan.PARTS}) == len(plan.PARTS)
    assert plan.PARTS[0].name == plan.LIMITS_PART


def test_parts_are_chosen_by_patterns_in_the_order_given() -> None:
    assert [part.name for part in choose(["peers", "engine*"])] == [
        "peers", "engine", "engine-qwen3-8b", "engine-int4", "engine-int8", "engine-invariant", "engine-llama-2-7b",
    ]  # fmt: skip
    assert choose([]) == list(plan.PARTS)
    with pytest.raises(ValueError, match="no part is called 'peer'"):
        choose(["peer"])


def test_the_first_minutes_have_most_to_say_and_no_part_has_more_than_ten() -> None:
    first, seconds = [], 0.0
    for part in plan.PARTS:
        seconds += part.seconds
        if seconds <= plan.FIRST_SECONDS:
            first.append(part.name)
    assert first == ["machine", "engine", "agreement", "engine-qwen3-8b", "kernels-check"]
    assert all(
        part.expected(long) < part.allowed(long) < 600 for part in plan.PARTS for long in (False, True)
    )


def test_every_engines_part_knows_what_to_ask() -> None:
    asked = [part.argument for part in plan.PARTS if part.module == "serving"]
    assert sorted(asked) == sorted(STUDIES)
    assert all(hasattr(Session, f"_{work}") for study in STUDIES.values() for work in study.work)


def test_limits_come_first_where_they_are_not_known() -> None:
    names = [part.name for part in with_limits(choose(["peers"]), has_limits=False)]
    assert names == [plan.LIMITS_PART, "peers"]
    assert with_limits(choose(["peers"]), has_limits=True) == choose(["peers"])


def test_what_does_not_fit_is_not_started_and_what_follows_may_be() -> None:
    clock = iter([0.0, 50.0, 85.0])
    decided = list(starts([SHORT, LONG, SHORT], 110.0, False, lambda: next(clock)))
    assert [one.seconds for one in decided] == [SHORT.allowed(False), None, 25.0]


def test_without_a_budget_all_parts_start() -> None:
    decided = list(starts([SHORT, LONG], None, True, lambda: 1e9))
    assert [one.seconds for one in decided] == [SHORT.allowed(True), LONG.allowed(True)]


def test_a_part_is_done_for_one_gpu_and_one_state_of_the_sources(tmp_path: Path) -> None:
    record = Record.open(tmp_path)
    record.put(result("a", rows=[{"name": "read", "gb_per_s": 4000.0}]))
    record.put(result("b", "partial"))
    record.put(result("c", long=True))
    read = Record.open(tmp_path)
    assert read.is_done("a", "GPU", "abc", long=False)
    assert not read.is_done("a", "other GPU", "abc", long=False)
    assert not read.is_done("a", "GPU", "other sources", long=False)
    assert not read.is_done("a", "GPU", "abc", long=True)
    assert not read.is_done("b", "GPU", "abc", long=False)
    assert read.is_done("c", "GPU", "abc", long=False)
    assert read.figures("a", "GPU")["read"]["gb_per_s"] == 4000.0
    assert read.figures("a", "other GPU") == {}
    assert [file.name for file in tmp_path.iterdir()] == [record_name := "gpu.json"], record_name


def test_the_digest_follows_the_sources_and_nothing_else(tmp_path: Path) -> None:
    for folder in record.MEASURED:
        (tmp_path / folder).mkdir(parents=True)
    file = tmp_path / record.MEASURED[0] / "kernel.py"
    file.write_text("a")
    before = source_digest(tmp_path)
    (file.parent / "kernel.pyc").write_text("compiled")
    assert source_digest(tmp_path) == before
    file.write_text("b")
    assert source_digest(tmp_path) != before


def test_a_part_that_hangs_is_ended_and_its_rows_are_kept(tmp_path: Path) -> None:
    given = setup(tmp_path)
    code = f'open({given.rows!r}, \'w\').write(\'{{"name": "first"}}\\n{{"na\'); import time; time.sleep(60)'
    start = time.monotonic()
    ended = run_command([sys.executable, "-c", code], given, 1.0)
    assert time.monotonic() - start < 20
    assert ended.status == "timeout"
    assert ended.rows == [{"name": "first"}]


def test_a_part_that_dies_says_how(tmp_path: Path) -> None:
    code = "import sys; print('out of memory', file=sys.stderr); sys.exit(3)"
    ended = run_command([sys.executable, "-c", code], setup(tmp_path), 30)
    assert ended.status == "failed"
    assert "ended with 3" in (ended.error or "")
    assert "out of memory" in (ended.error or "")


def test_a_case_that_raises_is_a_row_and_the_next_follows(tmp_path: Path) -> None:
    say = Say(tmp_path / "rows")
    with say.case("bad"):
        raise ValueError("no\nsuch size")
    say("good", us=1.23456789, nothing=None)
    assert read_rows(tmp_path / "rows") == [
        {"name": "bad", "error": "ValueError: no such size"},
        {"name": "good", "us": 1.2346},
    ]


def test_rows_that_are_errors_make_a_part_partial(tmp_path: Path) -> None:
    given = setup(tmp_path)
    row = json.dumps({"name": "a", "error": "e"})
    code = f"open({given.rows!r}, 'w').write({row + chr(10)!r})"
    assert run_command([sys.executable, "-c", code], given, 30).status == "partial"


def test_kernels_are_interpreted_in_a_rehearsal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert "TRITON_INTERPRET" not in environment(rehearse=False)
    assert environment(rehearse=True)["TRITON_INTERPRET"] == "1"


def test_a_traceback_is_told_by_its_last_line() -> None:
    assert last_words(1, "Traceback:\n  File\nValueError: no\n\n") == "ended with 1: ValueError: no"


def test_junit_becomes_counts_and_reasons() -> None:
    text = """<testsuites><testsuite>
        <testcase classname="tests.kernels.test_norm" name="a"/>
        <testcase classname="tests.kernels.test_norm" name="b"><skipped/></testcase>
        <testcase classname="tests.kernels.test_rope" name="c[bf16]">
        <failure message="assert 1 == 2">def test():\nE   assert 1 == 2\nE    + where</failure></testcase>
    </testsuite></testsuites>"""
    rows = junit_rows(text)
    assert rows[0] == {"name": "tests", "passed": 1, "failed": 1, "skipped": 1}
    assert rows[-1] == {"name": "test_rope::c[bf16]", "error": "assert 1 == 2 / + where"}


def test_the_summary_keeps_failures_and_fits(tmp_path: Path) -> None:
    record = Record.open(tmp_path)
    rows = [{"name": f"case {i}", "us": float(i)} for i in range(2000)]
    record.put(result("big", "partial", rows=[*rows, {"name": "bad", "error": "broken"}]))
    record.put(
        result("small", rows=[{"name": "one", "us": 1.0}, {"name": "hidden", "us": 2.0, "minor": True}])
    )
    text = summary(record, ["big", "small"], ["a note"])
    assert len(text) <= 11_000
    assert "! bad: broken" in text
    assert "one: us 1" in text
    assert "hidden" not in text
    assert text.endswith("a note")
    assert "hidden" in table(record.results["small"].rows)


def test_a_summary_of_nothing_but_errors_fits(tmp_path: Path) -> None:
    record = Record.open(tmp_path)
    record.put(result("bad", "failed", error="\n".join(["x" * 500] * 50)))
    assert len(summary(record, ["bad"], most=600)) <= 600


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.00012, "1.2e-04"), (0.0, "0"), (12.345, "12.3"), (4321.9, "4322"), (False, "NO"), ("a", "a")],
)
def test_figures_are_short(value: object, text: str) -> None:
    assert figure(value) == text


def steps(n: int, gap: int) -> list[Interval]:
    """Steps of a `_expand` of 10, a pause of 5, a product of 80 and a copy of 2 in a pause of `gap`."""
    found = []
    for i in range(n):
        at = i * (95 + gap)
        found += [Interval("_expand", at, at + 10), Interval("product", at + 15, at + 95)]
        found.append(Interval("Memcpy DtoH", at + 95, at + 97))
    return found


def test_idle_time_is_what_no_kernel_covers() -> None:
    found = steady(steps(20, gap=5))
    assert found.steps == 9
    assert found.step_us == pytest.approx(0.1)
    assert found.idle == pytest.approx(0.08)
    assert found.between_steps == pytest.approx(0.05)
    assert list(found.kernels) == ["product", "_expand", "Memcpy DtoH"]
    assert found.kernels["product"] == (1.0, pytest.approx(0.08))


def test_kernels_that_overlap_are_counted_once() -> None:
    found = [*steps(20, gap=5), *(Interval("other", one.start, one.end) for one in steps(20, gap=5))]
    assert steady(found).idle == pytest.approx(0.08)


def test_a_trace_without_steps_is_refused() -> None:
    with pytest.raises(ValueError, match="too few steps"):
        steady(steps(5, gap=5))


def test_agreement_is_bounded_by_the_peers_own_distance() -> None:
    assert verdict([0.1] * 100, [0.06] * 100, [0.0] * 100)["ok"]
    assert not verdict([0.13] * 100, [0.06] * 100, [0.0] * 100)["ok"]
    assert not verdict([0.1] * 100, [0.06] * 100, [0.0] * 99 + [0.3])["ok"]
    assert not verdict([float("nan")] * 10, [0.1] * 10, [0.0] * 10)["ok"]
    assert percentile(list(map(float, range(100))), 0.99) == 98.0
