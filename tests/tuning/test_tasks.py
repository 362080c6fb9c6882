"""Task runs on the way: served over HTTP, on the weights as they are; what fails never ends training."""

import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from agentlm.model.weights import Checkpoint
from agentlm.tuning.config import EvaluationSection
from agentlm.tuning.log import events
from agentlm.tuning.run import run
from agentlm.tuning.served import Served, start
from agentlm.tuning.tasks import TaskRuns
from tests.tuning.runs import config, write_base
from tests.tuning.test_run import interrupted_after

EVALUATION: dict[str, Any] = {
    "tasks": ["gsm8k"],
    "worlds": ["shop"],
    "samples": 2,
    "eval_arguments": ["--own-samples", "--max-new-tokens", "4"],
    "serve_arguments": ["--threads", "1"],
}


def told(directory: Path) -> list[dict[str, Any]]:
    return [line for line in events(directory / "out" / "log.jsonl") if line["event"] == "tasks"]


def weights(directory: Path) -> dict[str, bytes]:
    return {tensor.name: tensor.bytes().tobytes() for tensor in Checkpoint.open(directory).tensors()}


@pytest.mark.slow
def test_tasks_are_run_over_http_on_the_weights_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A proxy that is not there: what is on this machine is not asked through it.
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    asked: list[str] = []
    given: list[dict[str, bytes]] = []
    post, run_tasks = Served.post, TaskRuns.run

    def noted_post(self: Served, path: str, body: dict[str, Any]) -> None:
        asked.append(path)
        post(self, path, body)

    def noted_run(self: TaskRuns, step: int, tick: Any) -> dict[str, Any]:
        given.append(weights(self.model))
        return run_tasks(self, step, tick)

    monkeypatch.setattr(Served, "post", noted_post)
    monkeypatch.setattr(TaskRuns, "run", noted_run)
    run(config(tmp_path, evaluation=EVALUATION, training__steps=2), quiet=True)
    first, last = told(tmp_path)
    assert (first["step"], last["step"]) == (0, 2)
    for line in (first, last):
        assert "error" not in line, line
        assert line["score"].keys() == line["samples"].keys() == {"gsm8k", "shop"}
        assert line["samples"] == {"gsm8k": 2, "shop": 2}
        assert line["faults"] == {}
        assert 0 <= line["score"]["gsm8k"] <= 100
    # One server: it sleeps in between, and takes the new weights.
    assert asked == ["/sleep", "/wake", "/weights/reload", "/sleep"]
    assert given[0] == weights(tmp_path / "base")
    assert given[1] == weights(tmp_path / "out" / "model")
    kept = tmp_path / "out" / "tasks"
    assert not (kept / "model").exists()
    assert len((kept / "step-00000002" / "worlds.jsonl").read_text(encoding="utf-8").splitlines()) == 2
    assert (kept / "step-00000002" / "tasks" / "gsm8k" / "episodes.jsonl").is_file()


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"worlds": ["nowhere"], "tasks": []}, "there is no world 'nowhere'"),
        ({"serve_arguments": ["--no-such-flag"]}, "the server did not come up: .*no-such-flag"),
    ],
)
def test_what_fails_is_told_and_training_goes_on(tmp_path: Path, changes: dict[str, Any], error: str) -> None:
    outcome = run(config(tmp_path, evaluation=EVALUATION | changes, training__steps=1), quiet=True)
    assert outcome.result == tmp_path / "out" / "model"
    lines = told(tmp_path)
    assert [line["step"] for line in lines] == [0, 1]
    assert all(re.search(error, line["error"]) for line in lines), lines


def test_a_full_disk_under_a_task_run_does_not_end_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from agentlm.tuning import result

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(result, "write_weights", full)
        patch.setattr("agentlm.tuning.run.write_result", lambda *_: None)
        run(config(tmp_path, evaluation=EVALUATION, training__steps=1), quiet=True)
    assert ["No space left" in line["error"] for line in told(tmp_path)] == [True, True]
    assert not (tmp_path / "out" / "tasks" / ".model").exists()


@pytest.mark.parametrize("given_up", ["interrupted", "seconds"])
def test_a_task_run_may_be_given_up(tmp_path: Path, given_up: str) -> None:
    seconds = 0.01 if given_up == "seconds" else 3600.0
    tasks = TaskRuns(EvaluationSection(worlds=("shop",), seconds=seconds), tmp_path)
    write_base(tasks.model)
    began = time.monotonic()
    line = tasks.run(3, lambda: given_up == "interrupted")
    tasks.close()
    assert time.monotonic() - began < 20
    assert line["step"] == 3
    assert ("interrupted" if given_up == "interrupted" else "`evaluation.seconds` = 0.01 are over") in line[
        "error"
    ]


def test_an_interrupted_task_run_comes_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the last step's task run: the run ends with its checkpoint, and the task run is made up for."""
    played: list[int] = []

    def instead(_: TaskRuns, step: int, tick: Any) -> dict[str, Any]:
        played.append(step)
        given_up = tick()
        return {"step": step, "score": {}, "samples": {}, "faults": {}} | (
            {"error": "interrupted"} if given_up else {}
        )

    monkeypatch.setattr(TaskRuns, "run", instead)
    changes: dict[str, Any] = {"evaluation": EVALUATION | {"tasks_every": 2}, "training__steps": 4}
    with monkeypatch.context() as patch:
        interrupted_after(patch, 2)
        assert run(config(tmp_path, **changes), quiet=True).step == 2
    # The step's own signal came first: its task run was left to the next process.
    assert played == [0]
    run(config(tmp_path, **changes), resume=True, quiet=True)
    assert played == [0, 2, 4]
    assert [line["step"] for line in told(tmp_path)] == [0, 2, 4]


def test_low_rank_additions_are_merged_for_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from agentlm.tuning.merge import merge

    given: list[dict[str, bytes]] = []

    def instead(self: TaskRuns, step: int, _: Any) -> dict[str, Any]:
        given.append(weights(self.model))
        return {"step": step, "score": {}, "samples": {}, "faults": {}}

    monkeypatch.setattr(TaskRuns, "run", instead)
    run(config(tmp_path, evaluation=EVALUATION, lora={"rank": 2, "alpha": 4.0}), quiet=True)
    merged = merge(tmp_path / "base", tmp_path / "out" / "adapter", tmp_path / "merged")
    assert given[0] == weights(tmp_path / "base")
    assert given[1] == weights(merged) != given[0]


def lives(process: int) -> bool:
    """Whether it is there, and no corpse that nobody has asked for yet."""
    try:
        return (
            Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
            not in "ZX"
        )
    except FileNotFoundError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
def test_a_killed_run_leaves_no_server_behind(tmp_path: Path) -> None:
    script = (
        "import os, sys, time; from pathlib import Path; from agentlm.tuning.served import start\n"
        f"child = start([sys.executable, '-c', 'import time; time.sleep(60)'], Path({str(tmp_path / 'said')!r}), {{}})\n"
        "print(child.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert lives(child)
    parent.kill()
    parent.wait()
    until = time.monotonic() + 10
    while lives(child) and time.monotonic() < until:
        time.sleep(0.05)
    assert not lives(child)


def test_a_child_says_what_it_says_to_a_file(tmp_path: Path) -> None:
    child = start([sys.executable, "-c", "import os; print(os.environ['A'])"], tmp_path / "said", {"A": "b"})
    assert child.wait(30) == 0
    assert (tmp_path / "said").read_text(encoding="utf-8") == "b\n"
