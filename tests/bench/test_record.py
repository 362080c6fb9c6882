"""The record survives being closed, and says what is left to do."""

import json
from pathlib import Path

import pytest

from bench import results, tune
from bench.cells import Cell, all_cells, matching
from bench.peers import PEERS
from bench.report import goals, markdown, write_machine, write_page
from bench.results import Measured, Record
from bench.roofline import Limits
from bench.run import jobs

OURS, LLAMA = "agentlm", "llama.cpp"
DECODE = Cell("110m", "float16", "decode", 1, "short")


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Record:
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    record = Record.open("machine")
    record.machine = {
        "processor": "P",
        "architecture": "x86_64",
        "threads": 2,
        "cores": 2,
        "memory_gib": 8,
        "instruction_sets": [],
        "system": "Linux",
    }
    record.limits = Limits(bytes_per_second=20e9, flops=200e9)
    return record


def test_a_cell_is_named_by_its_key() -> None:
    for cell in all_cells(quick=False):
        assert Cell.from_key(cell.key) == cell
    with pytest.raises(ValueError, match="kinds are"):
        Cell.from_key("110m/float16/speed/short/1")


def test_patterns_choose_cells() -> None:
    chosen = matching(all_cells(quick=False), ["110m/float16/decode/short"])
    assert [cell.batch for cell in chosen] == [1, 4, 8, 16]


def test_a_run_takes_up_where_the_last_one_stopped(record: Record) -> None:
    wanted = matching(all_cells(quick=False), ["110m/float16/decode/short"])
    ours = [peer for peer in PEERS if peer.ours]
    record.put(Measured(OURS, DECODE.key, "abc", [80.0, 82.0, 81.0], 0.01))
    record.save()
    (job,) = jobs(wanted, ours, Record.open("machine"))
    assert [cell.batch for cell in job.cells] == [4, 8, 16]


def test_half_precision_has_a_peer_in_every_cell() -> None:
    for cell in all_cells(quick=False):
        assert any(peer.takes(cell) for peer in PEERS if not peer.ours), cell.key


def test_goals_compare_with_the_best_peer_and_the_limit(record: Record) -> None:
    record.put(Measured(OURS, DECODE.key, "abc", [70.0, 80.0, 90.0]))
    record.put(Measured(LLAMA, DECODE.key, "abc", [100.0]))
    share, beside = goals(record, Limits(bytes_per_second=20e9, flops=200e9))
    assert share.what.endswith("bandwidth limit")
    assert beside.reached == pytest.approx(0.8)
    assert not beside.met


def test_a_figure_is_held_against_the_limits_beside_it(record: Record) -> None:
    # Half the best bandwidth was there when it was measured.
    record.put(Measured(OURS, DECODE.key, "abc", [40.0], limits=Limits(10e9, 200e9)))
    record.save()
    read = Record.open("machine")
    (share,) = goals(read, Limits(20e9, 200e9))
    read.put(Measured(OURS, DECODE.key, "abc", [80.0]))
    (as_good,) = goals(read, Limits(20e9, 200e9))
    assert share.reached == pytest.approx(as_good.reached)


def test_a_failed_cell_is_shown_as_failed_and_meets_no_goal(record: Record) -> None:
    record.put(Measured(OURS, DECODE.key, "abc", [70.0], error="out of memory"))
    assert list(goals(record, Limits(20e9, 200e9))) == []
    assert "| failed |" in markdown(record)


def test_a_cut_run_is_marked_and_stays_so(record: Record) -> None:
    record.put(Measured(LLAMA, DECODE.key, "abc", [70.0], at_most=True))
    record.save()
    assert "| ≤ 70 (" in markdown(Record.open("machine"))


def test_the_page_keeps_what_is_around_the_report(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- results: begin -->\nold\n<!-- results: end -->\nafter\n", encoding="utf-8")
    write_page(page, "results", r"new \1")
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert r"new \1" in text
    assert "old" not in text
    page.write_text("no marks", encoding="utf-8")
    with pytest.raises(ValueError, match="has no lines"):
        write_page(page, "results", "new")


def test_the_page_holds_every_machines_report(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- results: begin -->\n<!-- results: end -->\nafter\n", encoding="utf-8")
    for machine, text in (("old", "slow"), ("new", "fast"), ("old", "faster")):
        write_machine(page, machine, text)
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n")
    assert text.endswith("<!-- results: end -->\nafter\n")
    assert "slow" not in text
    assert text.index("fast\n") < text.index("faster\n")
    page.write_text("no marks", encoding="utf-8")
    with pytest.raises(ValueError, match="has no line"):
        write_machine(page, "new", "fast")


def test_the_pages_table_of_training_is_the_records() -> None:
    cells = json.loads(tune.RESULTS.read_text(encoding="utf-8"))["cells"]
    assert tune.markdown(cells) in tune.PAGE.read_text(encoding="utf-8")
    # A comparison with ourselves has no row beside Trainer's.
    ways = dict.fromkeys(tune.COMPILED, cells["15m full"]["medians"]["agentlm"])
    assert tune.markdown({"15m compiled": cells["15m full"] | {"medians": ways}}).count("\n") == 1
