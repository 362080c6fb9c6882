"""What a run tells: the same numbers in JSONL and TensorBoard, and a bar with speed, MFU and the time that is left."""

from pathlib import Path
from typing import Any

import pytest

from agentlm.tuning import log
from agentlm.tuning.log import RunLog, draw, events


def told(step: int) -> dict[str, Any]:
    return {
        "step": step,
        "loss": 2.0 / step,
        "losses": {"agent": 1.0 / step},
        "tags": {},
        "tokens_per_second": 1234.5,
        "mfu": 0.415,
    }


def board(directory: Path) -> dict[str, dict[int, float]]:
    """What TensorBoard reads: for each name its values by step."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    pytest.importorskip("torch.utils.tensorboard")
    read = accumulator.EventAccumulator(str(directory / "tensorboard"))
    read.Reload()
    return {
        name: {event.step: event.value for event in read.Scalars(name)} for name in read.Tags()["scalars"]
    }


def test_tensorboard_reads_what_the_lines_say(tmp_path: Path) -> None:
    made = RunLog(tmp_path, 2, 0, quiet=True)
    made.step(told(1))
    made.step(told(2))
    made.event("evaluation", {"step": 2, "loss": {"held": 0.75}})
    made.close()
    lines = [(line["event"], line["step"]) for line in events(tmp_path / "log.jsonl")]
    assert lines == [("step", 1), ("step", 2), ("evaluation", 2)]
    shown = board(tmp_path)
    assert shown["step/loss"] == {1: 2.0, 2: 1.0}
    assert shown["step/losses/agent"] == {1: 1.0, 2: 0.5}
    assert shown["evaluation/loss/held"] == {2: 0.75}
    assert shown["step/mfu"][2] == pytest.approx(0.415)
    assert "step/step" not in shown


def test_a_run_that_goes_on_tells_each_step_once(tmp_path: Path) -> None:
    made = RunLog(tmp_path, 4, 0, quiet=True)
    for step in (1, 2, 3):
        made.step(told(step))
    made.close()
    # Killed after step 3, whose checkpoint was not there; and in the middle of a line.
    with (tmp_path / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"event": "st')
    made = RunLog(tmp_path, 4, 2, quiet=True)
    made.step(told(3) | {"loss": 9.0})
    made.close()
    assert [(line["step"], line["loss"]) for line in events(tmp_path / "log.jsonl")] == [
        (1, 2.0),
        (2, 1.0),
        (3, 9.0),
    ]
    assert board(tmp_path)["step/loss"] == {1: 2.0, 2: 1.0, 3: 9.0}


def test_the_bar_shows_speed_use_and_the_time_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(log, "wanted", lambda: True)
    made = RunLog(tmp_path, 400, 100)
    made.step(told(101))
    made._bar.refresh()
    made.say("a line")
    made.close()
    shown = capsys.readouterr().err
    assert "training:" in shown
    assert "101/400" in shown
    # Time passed, and time left.
    assert "<" in shown.rpartition("101/400")[2].partition("]")[0]
    assert "loss 0.0198 1,234 tokens/s MFU 42%" in shown or "loss 0.0198 1,235 tokens/s MFU 42%" in shown
    assert "a line" in shown


def test_what_is_no_number_is_null_and_pictures_leave_it_out(tmp_path: Path) -> None:
    made = RunLog(tmp_path, 1, 0, quiet=True)
    made.step(told(1) | {"loss": float("nan"), "gradient_norm": float("inf")})
    made.close()
    (line,) = events(tmp_path / "log.jsonl")
    assert (line["loss"], line["gradient_norm"]) == (None, None)
    pytest.importorskip("matplotlib")
    assert draw(tmp_path) == tmp_path / "loss.svg"
