"""Rows and tables of runs whose every episode is known: nothing leaves the denominator or is passed off as another."""

import json
from pathlib import Path
from typing import Any

import pytest

from agentlm_evals.harness.journal import Record
from agentlm_evals.harness.plan import RunSettings, TaskPlan, check_identity, plan_task, write_run
from agentlm_evals.outcome import Outcome, Score, format_or_limit, harness_fault, right, wrong
from agentlm_evals.protocols import AGENTLM, Protocol
from agentlm_evals.report.html import html
from agentlm_evals.report.rows import Row, load_run
from agentlm_evals.report.table import load_runs, markdown, terminal, to_json
from agentlm_evals.task import Sample, Setting, Source, resolve_options
from agentlm_evals.tasks import entry

ABOUT = {"name": "m", "weights": "w", "template": None, "server": "agentlm 1"}


def make_run(
    directory: Path, scores: list[Score | None], task: str = "gsm8k", own: bool = True, **more: Any
) -> Path:
    """A run with these scores, in order; None: not run yet."""
    built = entry(task).load()
    source = Source() if own else Source(directory)
    setting = Setting(source, Protocol(AGENTLM), resolve_options(built, {}))
    samples = [Sample(f"s{at}", {}, None, f"c{at % 2}") for at in range(len(scores))]
    decoding = built.decoding(AGENTLM)
    plan = TaskPlan(built, setting, samples, more.pop("total", len(samples)), "digest", decoding, 1, 7)
    check_identity(directory / task, plan.identity(ABOUT))
    write_run(directory, [plan], RunSettings(), ABOUT)
    calls = more.pop("calls", [])
    lines = [
        json.dumps(Record(sample.id, 0, sample.category, score, "x", calls=calls, **more).to_json()) + "\n"
        for sample, score in zip(samples, scores, strict=True)
        if score is not None
    ]
    (directory / task / "episodes.jsonl").write_text("".join(lines))
    return directory


def row(directory: Path) -> Row:
    (found,) = load_run(directory)
    return found


def test_a_fault_is_not_averaged_and_not_forgotten(tmp_path: Path) -> None:
    found = row(make_run(tmp_path, [right(), wrong(), format_or_limit("no"), harness_fault("gone")]))
    assert found.outcomes == dict.fromkeys(Outcome, 1)
    assert found.estimate.value == pytest.approx(100 / 3)
    assert not found.is_whole
    assert found.bounds == pytest.approx((25.0, 50.0))
    assert "1 harness faults: between 25.00 and 50.00" in found.notes


def test_episodes_that_are_missing_are_said(tmp_path: Path) -> None:
    found = row(make_run(tmp_path, [right(), None, None, None]))
    assert (found.finished, found.planned, found.bounds) == (1, 4, (25.0, 100.0))
    assert "unfinished: 1 of 4 episodes" in found.notes


def test_our_own_samples_are_never_the_published_set(tmp_path: Path) -> None:
    directory = make_run(tmp_path, [right()] * 4)
    assert row(directory).label == "GSM8K (own samples)"
    report = load_runs([directory])
    text = markdown(report)
    (published,) = [line for line in text.splitlines() if line.startswith("| GSM8K |")]
    assert published.split("|")[2].strip() == ""
    (own,) = [line for line in text.splitlines() if line.startswith("| GSM8K (own samples) |")]
    assert own.split("|")[2].strip().startswith("100.00 [51.01, 100.00]")
    assert json.loads(to_json(report))["rows"][0]["published"] is None
    assert [line.complete for line in report.groups] == [0]


def test_a_whole_group_has_an_overall_and_another_has_none(tmp_path: Path) -> None:
    from agentlm_evals.report import table
    from agentlm_evals.report.published import GROUP_TASKS, SCORES
    from agentlm_evals.task import Group

    base = row(make_run(tmp_path, [right(), wrong()], own=False, total=1319))
    from dataclasses import replace

    from agentlm_evals.report.statistics import Estimate

    def rows(tasks: tuple[str, ...]) -> list[Row]:
        column = 1
        return [
            replace(base, task=task, estimate=Estimate(SCORES[task][column], 0.0, 0.0, 2)) for task in tasks
        ]

    (line,) = table._groups(rows(GROUP_TASKS[Group.GENERAL]))
    assert line.overall is not None
    assert f"{line.overall.value:.2f}" == "1.53"
    (line,) = table._groups(rows(GROUP_TASKS[Group.GENERAL][:3]))
    assert (line.complete, line.of, line.overall) == (3, 4, None)


def test_the_published_columns_as_runs_give_the_published_overall_in_the_report(tmp_path: Path) -> None:
    from dataclasses import replace

    from agentlm_evals.report import table
    from agentlm_evals.report.published import COLUMNS, GROUP_TASKS, OVERALL, SCORES
    from agentlm_evals.report.statistics import Estimate

    base = row(make_run(tmp_path, [right(), wrong()], own=False, total=1319))
    rows = [
        replace(base, run=name, task=task, estimate=Estimate(score, score, score, 2))
        for task, scores in SCORES.items()
        for name, score in zip(COLUMNS, scores, strict=True)
    ]
    report = table.Report(rows, table._groups(rows), [])
    page, text = markdown(report), terminal(report)
    seen = 0
    for group in GROUP_TASKS:
        (line,) = [one for one in page.splitlines() if one.startswith(f"| **{group.value}** |")]
        ours = [cell.split()[0] for cell in line.split("|")[2 : 2 + len(COLUMNS)]]
        assert ours == [f"{value:.2f}" for value in OVERALL[group]]
        for value in OVERALL[group]:
            assert f"{group.value} (agentlm): Overall {value:.2f} [" in text
            seen += 1
    assert seen == 24


def test_protocols_are_never_mixed(tmp_path: Path) -> None:
    from dataclasses import replace

    from agentlm_evals.report import table

    one = row(make_run(tmp_path, [right()], own=False, total=1319))
    other = replace(one, protocol="agenttuning", task="mmlu")
    lines = table._groups([one, other])
    assert [(line.protocol, line.complete) for line in lines] == [("agentlm", 1), ("agenttuning", 1)]


def test_a_subset_is_said(tmp_path: Path) -> None:
    found = row(make_run(tmp_path, [right(), wrong()], own=False, total=1319))
    assert found.notes == ["2 of 1319 samples"]


def test_runs_are_compared_on_the_samples_that_both_ran(tmp_path: Path) -> None:
    good = make_run(tmp_path / "good", [right()] * 15 + [None])
    bad = make_run(tmp_path / "bad", [wrong()] * 16)
    same = make_run(tmp_path / "same", [right()] * 16)
    (found,) = load_runs([good, bad]).comparisons
    assert (found.samples, found.difference.is_more_than_noise) == (15, True)
    assert (
        "good - bad = +100.00 [+71.17, +100.00] on 15 common samples (p = 6.1e-05): more than noise"
        in found.text()
    )
    (found,) = load_runs([good, same]).comparisons
    assert found.text().endswith("no more than noise")


def test_elementary_errors_are_counted_by_our_rules(tmp_path: Path) -> None:
    def call(text: str) -> dict[str, Any]:
        return {"text": text, "generated_tokens": 1, "prompt_tokens": 1}

    def shares(name: str, calls: list[dict[str, Any]], score: Score, **more: Any) -> dict[str, float]:
        return dict(row(make_run(tmp_path / name, [score], calls=calls, **more)).elementary)

    assert shares("a", [call("go east")] * 3, wrong())["repetition"] == 1.0
    assert shares("b", [call("go east"), call("go west"), call("go east")], wrong())["repetition"] == 0.0
    assert shares("c", [call("la\n" * 4)], wrong())["repetition"] == 1.0
    assert shares("d", [call("I'm sorry, but I cannot do that.")], wrong())["refusal"] == 1.0
    assert shares("e", [call("The farmer said: I cannot")], wrong())["refusal"] == 0.0
    assert shares("f", [call("?")], format_or_limit("no action", kind="format"))["invalid action"] == 1.0
    assert shares("g", [call("?")], format_or_limit("15 rounds", kind="limit"))["invalid action"] == 0.0
    assert shares("h", [call("?")], wrong(), notes={"invalid_actions": 2})["invalid action"] == 1.0


def test_every_form_of_the_report_shows_the_four_outcomes(tmp_path: Path) -> None:
    report = load_runs([make_run(tmp_path, [right(), wrong(), format_or_limit("no"), harness_fault("gone")])])
    assert "1 / 1 / 1 / 1" in terminal(report)
    assert "1 / 1 / 1 / 1" in markdown(report)
    assert "1 / 1 / 1 / 1" in html(report)
    outcomes = json.loads(to_json(report))["rows"][0]["outcomes"]
    assert outcomes == {"right": 1, "wrong": 1, "format/limit": 1, "fault": 1}


def test_what_a_task_says_cannot_break_the_page(tmp_path: Path) -> None:
    report = load_runs([make_run(tmp_path / "<script>", [right()])])
    assert "<script>" not in html(report)


def test_an_identity_is_the_same_when_it_is_read_back(tmp_path: Path) -> None:
    for task in ("gsm8k", "mmlu"):
        built = entry(task).load()
        setting = Setting(Source(), Protocol(AGENTLM), resolve_options(built, {}))
        plan = plan_task(built, setting, RunSettings())
        check_identity(tmp_path / task, plan.identity(ABOUT))
        check_identity(tmp_path / task, plan.identity(ABOUT))
        check_identity(tmp_path / task, plan.identity(ABOUT | {"server": "agentlm 2"}))


def test_the_judge_is_said_on_every_form_and_another_one_keeps_a_task_out_of_overall(tmp_path: Path) -> None:
    local = {"judge": "mine (127.0.0.1)", "comparable": False, "incomparable": "local judge"}
    by_another = make_run(
        tmp_path / "a", [right(8.0, ratings=[8.0, 8.0])], "mt-bench", own=False, total=80, notes=local
    )
    said = "judge: mine (127.0.0.1); comparable: no (local judge)"
    assert row(by_another).notes == ["1 of 80 samples", said]
    assert not row(by_another).is_official
    report = load_runs([by_another])
    for text in (terminal(report), markdown(report), html(report)):
        assert said in text
    (body,) = json.loads(to_json(report))["rows"]
    assert (body["judge"], body["comparable"], body["incomparable"]) == (
        "mine (127.0.0.1)",
        False,
        "local judge",
    )
    by_gpt4 = {"judge": "gpt-4 (api.openai.com)", "comparable": True}
    found = row(
        make_run(
            tmp_path / "b", [right(8.0, ratings=[8.0, 8.0])], "mt-bench", own=False, total=80, notes=by_gpt4
        )
    )
    assert found.notes[-1] == "judge: gpt-4 (api.openai.com); comparable: yes"
    assert found.is_official


def test_items_that_are_not_the_published_set_have_no_overall(tmp_path: Path) -> None:
    found = row(make_run(tmp_path, [right(), wrong()], own=False, total=60))
    assert not found.is_official
    assert "60 items, where the published set has 1319: not that set" in found.notes


def test_the_weights_are_on_every_row(tmp_path: Path) -> None:
    report = load_runs([make_run(tmp_path, [right()])])
    assert "weights w" in terminal(report)
    assert "weights w, protocol" in markdown(report)
    assert json.loads(to_json(report))["rows"][0]["weights"] == "w"


def test_one_item_makes_no_difference(tmp_path: Path) -> None:
    good, bad = (make_run(tmp_path / name, [score]) for name, score in (("a", right()), ("b", wrong())))
    (found,) = load_runs([good, bad]).comparisons
    assert not found.difference.is_more_than_noise
    assert found.text().endswith("no more than noise")


def test_runs_of_one_name_are_two_runs(tmp_path: Path) -> None:
    one, other = (make_run(tmp_path / name / "run", [right()]) for name in "ab")
    report = load_runs([one, other])
    assert [found.run for found in report.rows] == [str(one), str(other)]
    assert len(report.comparisons) == 1


def test_the_bounds_of_a_macro_average_are_a_macro_averages(tmp_path: Path) -> None:
    # Categories c0 and c1 in turn: c0 is right, wrong, missing; c1 is right, faulty.
    scores = [right(), right(), wrong(), harness_fault("gone"), None]
    found = row(make_run(tmp_path, scores, "database"))
    assert found.bounds == pytest.approx((100 * (1 / 3 + 1 / 2) / 2, 100 * (2 / 3 + 1) / 2))


def test_a_difference_of_macro_averages_is_one_too(tmp_path: Path) -> None:
    # c0 has five samples, c1 one.
    one = make_run(tmp_path / "a", [right()] * 2 + [right(), None] * 4, "database")
    other = make_run(tmp_path / "b", [right(), wrong()] + [right(), None] * 4, "database")
    (found,) = load_runs([one, other]).comparisons
    assert found.difference.estimate.value == pytest.approx(50.0)
