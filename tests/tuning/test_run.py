"""Whole runs: they learn, they resume bit for bit, accumulation and ranks change nothing, and refusals say why."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from agentlm import LLM, SamplingParams
from agentlm.errors import ConfigError
from agentlm.model.weights import Checkpoint
from agentlm.tuning import result
from agentlm.tuning.checkpoint import Checkpoints, Progress, TuneError
from agentlm.tuning.config import TuneConfig
from agentlm.tuning.log import events
from agentlm.tuning.lora import stored
from agentlm.tuning.rendering import RenderingError
from agentlm.tuning.run import run
from agentlm.tuning.trainer import StepResult, Trainer
from tests.tuning.ranks import launch
from tests.tuning.runs import (
    TIED,
    config,
    losses,
    norms,
    settings,
    sums,
    tensors,
    write_base,
    write_records,
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four steps, with evaluation and checkpoints: what others are compared with."""
    directory = tmp_path_factory.mktemp("finished")
    run(
        config(
            directory,
            checkpoints__every=2,
            evaluation={"every": 2, "sources": [{"name": "held", "path": str(directory / "held.jsonl")}]},
        ),
        quiet=True,
    )
    return directory


def again(finished: Path, output: Path, **changes: Any) -> TuneConfig:
    """The finished run's configuration with another output and what else is to be changed."""
    return config(finished, output=str(output), **changes)


def interrupted_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Ctrl-C comes during so many-th step."""
    step = Trainer.step

    def interrupted(self: Trainer, index: int) -> StepResult:
        if index + 1 == steps:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, index)

    monkeypatch.setattr(Trainer, "step", interrupted)


def test_a_run_leaves_a_model_that_is_served_and_a_log(finished: Path) -> None:
    out = finished / "out"
    steps = [line for line in events(out / "log.jsonl") if line["event"] == "step"]
    assert [line["step"] for line in steps] == [1, 2, 3, 4]
    assert steps[-1]["loss"] < steps[0]["loss"]
    assert set(steps[0]["losses"]) <= {"agent", "general"}
    held = [line["loss"]["held"] for line in events(out / "log.jsonl") if line["event"] == "evaluation"]
    assert len(held) == 2
    assert held[1] < held[0]
    assert (out / "loss.svg").read_text(encoding="utf-8").lstrip().startswith("<?xml")
    assert TuneConfig.load(out / "config.toml").training.steps == 4
    before, after = tensors_of(finished / "base"), tensors(out)
    assert before.keys() == after.keys()
    assert all(before[name] != after[name] for name in before)
    with LLM(str(out / "model"), threads=1, backend="cpu") as llm:
        (answer,) = llm.chat([{"role": "user", "content": "1+1?"}], SamplingParams(max_new_tokens=4))
        assert answer.usage.completion_tokens >= 1


def tensors_of(directory: Path) -> dict[str, bytes]:
    return {tensor.name: tensor.bytes().tobytes() for tensor in Checkpoint.open(directory).tensors()}


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_an_interrupted_run_goes_on_bit_for_bit(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    with monkeypatch.context() as patch:
        interrupted_after(patch, stop)
        outcome = run(again(finished, tmp_path / "out"), quiet=True)
    assert outcome.result is None
    assert outcome.step == stop
    assert not (tmp_path / "out" / "model").exists()
    assert [path.name for path in (tmp_path / "out" / "checkpoints").iterdir()] == [f"step-{stop:08}"]
    run(again(finished, tmp_path / "out"), resume=True, quiet=True)
    assert losses(tmp_path / "out") == losses(finished / "out")
    assert tensors(tmp_path / "out") == tensors(finished / "out")


def test_bfloat16_states_resume_bit_for_bit(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    narrow = {"training__optimizer_state": "bfloat16", "training__steps": 3}
    run(again(finished, tmp_path / "whole", **narrow), quiet=True)
    with monkeypatch.context() as patch:
        interrupted_after(patch, 1)
        run(again(finished, tmp_path / "parts", **narrow), quiet=True)
    run(again(finished, tmp_path / "parts", **narrow), resume=True, quiet=True)
    assert tensors(tmp_path / "parts") == tensors(tmp_path / "whole")


@pytest.mark.slow
def test_a_killed_run_goes_on_from_its_last_complete_checkpoint(finished: Path, tmp_path: Path) -> None:
    values = settings(finished, output=str(tmp_path / "out"), checkpoints__every=1, training__steps=12)
    file = tmp_path / "run.toml"
    file.write_text(TuneConfig.from_dict(values).to_toml(), encoding="utf-8")
    process = subprocess.Popen([sys.executable, "-m", "agentlm", "tune", str(file), "--quiet"])
    try:
        while not list((tmp_path / "out").glob("checkpoints/step-*/run.json")):
            assert process.poll() is None
            time.sleep(0.02)
    finally:
        process.kill()
        process.wait()
    # What a write that was cut off leaves, is none.
    (tmp_path / "out" / "checkpoints" / ".step-00000099").mkdir()
    outcome = run(TuneConfig.from_dict(values), resume=True, quiet=True)
    assert outcome.step == 12
    assert not list((tmp_path / "out" / "checkpoints").glob(".step-*"))
    logged = [line["step"] for line in events(tmp_path / "out" / "log.jsonl") if line["event"] == "step"]
    assert logged == list(range(1, 13))


def test_a_run_that_goes_on_counts_on(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        interrupted_after(patch, 2)
        run(again(finished, tmp_path / "out"), quiet=True)
    run(again(finished, tmp_path / "out"), resume=True, quiet=True)
    parts, whole = (
        [line for line in events(out / "log.jsonl") if line["event"] == "step"]
        for out in (tmp_path / "out", finished / "out")
    )
    for name in ("tokens", "trained_tokens"):
        assert [line[name] for line in parts] == [line[name] for line in whole]
    seconds = [line["seconds"] for line in parts]
    assert seconds == sorted(seconds)


def test_losses_are_told_by_tag(tmp_path: Path) -> None:
    config(tmp_path)
    for source, tags in (("agent", ["react", "shell"]), ("general", ["chat"])):
        records = [record | {"tags": tags} for record in sums(12, source)]
        write_records(tmp_path / f"{source}.jsonl", records)
    write_records(
        tmp_path / "held.jsonl", [record | {"tags": ["chat", "chat"]} for record in sums(6, "held")]
    )
    held = {"sources": [{"name": "held", "path": str(tmp_path / "held.jsonl")}]}
    run(config(tmp_path, training__steps=1, evaluation=held), quiet=True)
    step, evaluation = events(tmp_path / "out" / "log.jsonl")
    assert step["tags"].keys() == {"react", "shell", "chat"}
    # Here a source has the same tags throughout.
    assert step["tags"]["react"] == step["tags"]["shell"] == pytest.approx(step["losses"]["agent"], rel=1e-12)
    assert step["tags"]["chat"] == pytest.approx(step["losses"]["general"], rel=1e-12)
    assert evaluation["tags"] == {"chat": pytest.approx(evaluation["loss"]["held"], rel=1e-12)}


def test_a_loss_that_is_no_number_ends_the_run_without_a_checkpoint(finished: Path, tmp_path: Path) -> None:
    base = shutil.copytree(finished / "base", tmp_path / "base")
    raw = bytearray((base / "model.safetensors").read_bytes())
    # The last bytes are a weight's: float32's not-a-number, or bfloat16's twice.
    raw[-4:] = b"\xc0\x7f\xc0\x7f"
    (base / "model.safetensors").write_bytes(raw)
    with pytest.raises(TuneError, match=r"step 1: the loss is nan"):
        run(again(finished, tmp_path / "out", model__path=str(base), checkpoints={"every": 1}), quiet=True)
    assert list((tmp_path / "out" / "checkpoints").iterdir()) == []
    (line,) = (tmp_path / "out" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    # What other programs read is JSON, which knows no such number.
    assert json.loads(line, parse_constant=lambda name: pytest.fail(name))["loss"] is None


def test_a_disk_that_fills_up_leaves_the_checkpoint_before(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = Checkpoints.save

    def on_a_small_disk(self: Checkpoints, progress: Progress, *rest: Any) -> None:
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        if progress.step == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
        try:
            save(self, progress, *rest)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", on_a_small_disk)
        with pytest.raises(
            TuneError, match=r"the checkpoint of step 2 could not be written .* step 1 is kept"
        ):
            run(again(finished, tmp_path / "out", checkpoints={"every": 1}), quiet=True)
    left = [path.name for path in (tmp_path / "out" / "checkpoints").iterdir()]
    assert left == ["step-00000001"]
    run(again(finished, tmp_path / "out", checkpoints={"every": 1}), resume=True, quiet=True)
    assert tensors(tmp_path / "out") == tensors(finished / "out")


def test_a_result_that_finds_no_room_is_written_when_there_is(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(result, "write_weights", full)
        with pytest.raises(TuneError, match=r"out/model could not be written: .*No space left on device"):
            run(again(finished, tmp_path / "out"), quiet=True)
    assert not list((tmp_path / "out").glob("*model*"))
    assert run(again(finished, tmp_path / "out"), resume=True, quiet=True).step == 4
    assert tensors(tmp_path / "out") == tensors(finished / "out")


def test_a_finished_run_needs_its_checkpoints_no_more(finished: Path, tmp_path: Path) -> None:
    out = shutil.copytree(finished / "out", tmp_path / "out")
    shutil.rmtree(out / "checkpoints")
    assert run(again(finished, out), resume=True, quiet=True).step == 4


def test_an_evaluation_at_the_end_rounds_no_weight(finished: Path, tmp_path: Path) -> None:
    """Computed in bfloat16, kept and written in float32: tables outside of layers too, which a pass leaves gathered."""
    held = {"sources": [{"name": "held", "path": str(finished / "held.jsonl")}]}
    changes: dict[str, Any] = {"training__dtype": "bfloat16", "training__steps": 2}
    run(again(finished, tmp_path / "evaluated", evaluation=held, **changes), quiet=True)
    run(again(finished, tmp_path / "plain", **changes), quiet=True)
    assert tensors(tmp_path / "evaluated") == tensors(tmp_path / "plain")


def test_what_is_left_out_of_what_is_held_out_and_what_is_no_news_is_told(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = [json.loads(line) for line in (finished / "agent.jsonl").read_text(encoding="utf-8").splitlines()]
    file = write_records(tmp_path / "held.jsonl", [*sums(3, "held"), *known[:2], *sums(1, "long", turns=400)])
    held = {"sources": [{"name": "held", "path": str(file)}]}
    run(again(finished, tmp_path / "out", evaluation=held, training__steps=1))
    said = capsys.readouterr().err
    assert "held: 1 conversations left out: too long\n  for example held: " in said
    assert "held: 2 of 5 conversations held out are trained on, too: their loss says less" in said


@pytest.mark.parametrize("way", ["pattern", "dots", "link"])
def test_a_file_is_not_trained_on_and_held_out_under_two_names(
    finished: Path, tmp_path: Path, way: str
) -> None:
    (tmp_path / "link.jsonl").symlink_to(finished / "agent.jsonl")
    names = {
        "pattern": f"{finished}/agen*.jsonl",
        "dots": f"{finished}/base/../agent.jsonl",
        "link": str(tmp_path / "link.jsonl"),
    }
    held = {"sources": [{"name": "held", "path": names[way]}]}
    with pytest.raises(ConfigError, match=r"is both trained on \(source 'agent'\) and held out"):
        run(again(finished, tmp_path / "out", evaluation=held), quiet=True)
    (tmp_path / "link.jsonl").unlink()
    shutil.copy(finished / "held.jsonl", tmp_path / "link.jsonl")
    held = {"sources": [{"name": "held", "path": f"{tmp_path}/lin*.jsonl"}]}
    assert run(again(finished, tmp_path / "out", evaluation=held, training__steps=1), quiet=True).step == 1


def test_old_checkpoints_are_removed(finished: Path, tmp_path: Path) -> None:
    run(again(finished, tmp_path / "out", checkpoints={"every": 1, "keep": 2}), quiet=True)
    kept = sorted(path.name for path in (tmp_path / "out" / "checkpoints").iterdir())
    assert kept == ["step-00000003", "step-00000004"]


def test_a_finished_run_is_not_run_again(finished: Path) -> None:
    before = (finished / "out" / "log.jsonl").read_bytes()
    outcome = run(again(finished, finished / "out", checkpoints__every=2), resume=True, quiet=True)
    assert outcome.result == finished / "out" / "model"
    assert (finished / "out" / "log.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"training__learning_rate": 2e-3}, r"\[training\] differs: learning_rate"),
        ({"data__eta": 0.5}, r"\[data\] differs: eta"),
        ({"seed": 1}, "`seed` differs"),
        ({"model__init": "random"}, "`model.init` differs"),
    ],
)
def test_a_finished_run_is_not_taken_for_another(
    finished: Path, tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    out = shutil.copytree(finished / "out", tmp_path / "out")
    with pytest.raises(TuneError, match=f"holds a finished run that this one is not: {told}"):
        run(again(finished, out, **changes), resume=True, quiet=True)
    assert tensors(out) == tensors(finished / "out")
    assert run(again(finished, out, training__micro_batch=2), resume=True, quiet=True).step == 4


def test_a_finished_run_of_other_conversations_is_another(tmp_path: Path) -> None:
    wanted = config(tmp_path, training__steps=1)
    run(wanted, quiet=True)
    kept = (tmp_path / "agent.jsonl").read_text(encoding="utf-8")
    (tmp_path / "agent.jsonl").write_text(kept.replace("It is", "Is it"), encoding="utf-8")
    with pytest.raises(TuneError, match="this one is not: the conversations of source 'agent' are others"):
        run(wanted, resume=True, quiet=True)
    (tmp_path / "agent.jsonl").write_text(kept, encoding="utf-8")
    assert run(wanted, resume=True, quiet=True).step == 1
    (tmp_path / "agent.jsonl").unlink()
    assert run(wanted, resume=True, quiet=True).step == 1


@pytest.mark.parametrize(
    "changes", [{"training__micro_batch": 4}, {"training__activation_checkpointing": "layers"}]
)
def test_how_a_step_is_computed_changes_nothing(
    finished: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    run(again(finished, tmp_path / "out", **changes), quiet=True)
    assert losses(tmp_path / "out") == pytest.approx(losses(finished / "out"), rel=1e-5)
    assert norms(tmp_path / "out") == pytest.approx(norms(finished / "out"), rel=1e-4)


def test_activation_checkpointing_keeps_less(finished: Path, tmp_path: Path) -> None:
    kept = {}
    for way in ("none", "layers"):
        sizes: list[int] = []

        def note(tensor: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(tensor.nbytes)
            return tensor

        changes = {"training__activation_checkpointing": way, "training__steps": 1, "training__clip": None}
        with saved_tensors_hooks(note, lambda tensor: tensor):
            run(again(finished, tmp_path / way, **changes), quiet=True)
        kept[way] = sum(sizes)
    assert 0 < kept["layers"] < kept["none"] / 2


def test_a_tied_head_stays_tied(finished: Path, tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", shape=TIED)
    run(again(finished, tmp_path / "out", model__path=str(base), training__steps=1), quiet=True)
    assert tensors(tmp_path / "out").keys() == tensors_of(base).keys()
    for out, tied in ((tmp_path / "out", True), (finished / "out", False)):
        told = json.loads((out / "model" / "config.json").read_text(encoding="utf-8"))
        assert told["tie_word_embeddings"] is tied


def test_deterministic_is_torch_s_own_switch(finished: Path, tmp_path: Path) -> None:
    for way in (True, False):
        run(again(finished, tmp_path / str(way), training__steps=1, training__deterministic=way), quiet=True)
        assert torch.are_deterministic_algorithms_enabled() is way


@pytest.fixture(scope="module")
def by_two(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two ranks make of the finished run, in several ways: one launch, for starting them takes longest."""
    directory = tmp_path_factory.mktemp("ranks")
    with pytest.MonkeyPatch.context() as patch:
        interrupted_after(patch, 2)
        run(again(finished, directory / "resumed"), quiet=True)
    lora = {"lora": {"rank": 4, "alpha": 8.0}}
    run(again(finished, directory / "lora-one", **lora), quiet=True)
    tasks = {"worlds": ["shop"], "samples": 1, "serve_arguments": ["--threads", "1"]}
    launch(
        2,
        again(finished, directory / "fsdp"),
        again(finished, directory / "tensor", parallel__tensor=2),
        again(finished, directory / "resumed"),
        again(finished, directory / "lora-fsdp", **lora),
        again(finished, directory / "lora-tensor", parallel__tensor=2, **lora),
        again(finished, directory / "tasks", training__steps=1, evaluation=tasks),
    )
    return directory


@pytest.mark.slow
@pytest.mark.parametrize("way", ["fsdp", "tensor", "resumed"])
def test_two_ranks_give_the_loss_curve_of_one(finished: Path, by_two: Path, way: str) -> None:
    assert losses(by_two / way) == pytest.approx(losses(finished / "out"), rel=1e-5)
    assert norms(by_two / way) == pytest.approx(norms(finished / "out"), rel=1e-4)


@pytest.mark.slow
def test_other_ranks_wait_while_the_first_runs_tasks(by_two: Path) -> None:
    told = [line for line in events(by_two / "tasks" / "log.jsonl") if line["event"] == "tasks"]
    assert [(line["step"], line["samples"]) for line in told] == [(0, {"shop": 1}), (1, {"shop": 1})]
    assert not any("error" in line for line in told)
    assert (by_two / "tasks" / "model" / "model.safetensors").is_file()


@pytest.fixture(scope="module")
def by_four(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What four ranks make of it that share matrices out by two, and packs by two; and one process, in the same ways."""
    directory = tmp_path_factory.mktemp("four")
    base = write_base(directory / "base", "qwen3", TIED)
    ways: dict[str, dict[str, Any]] = {
        "plain": {"training__steps": 3, "training__clip": 0.05},
        "tied": {
            "training__steps": 3,
            "model__path": str(base),
            "training__activation_checkpointing": "layers",
            "training__optimizer_state": "bfloat16",
        },
    }
    for name, changes in ways.items():
        run(again(finished, directory / f"{name}-one", **changes), quiet=True)
    shared = (again(finished, directory / n, parallel__tensor=2, **changes) for n, changes in ways.items())
    launch(4, *shared, forks=True)
    return directory


@pytest.mark.slow
@pytest.mark.parametrize("way", ["plain", "tied"])
def test_four_ranks_of_both_kinds_give_the_loss_curve_of_one(by_four: Path, way: str) -> None:
    assert losses(by_four / way) == pytest.approx(losses(by_four / f"{way}-one"), rel=2e-5)
    assert norms(by_four / way) == pytest.approx(norms(by_four / f"{way}-one"), rel=2e-4)
    one, four = (Checkpoint.open(by_four / name / "model").tensors() for name in (f"{way}-one", way))
    for a, b in zip(one, four, strict=True):
        assert a.name == b.name
        np.testing.assert_allclose(stored(a).numpy(), stored(b).numpy(), atol=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["lora-fsdp", "lora-tensor"])
def test_two_ranks_give_the_adapter_of_one(by_two: Path, way: str) -> None:
    assert losses(by_two / way) == pytest.approx(losses(by_two / "lora-one"), rel=1e-5)
    assert norms(by_two / way) == pytest.approx(norms(by_two / "lora-one"), rel=1e-4)


def test_a_model_from_nothing_depends_on_the_seed_only(finished: Path, tmp_path: Path) -> None:
    directory = tmp_path / "new"
    shutil.copytree(finished / "base", directory)
    (directory / "model.safetensors").unlink()
    new = {"model": {"path": str(directory), "init": "random"}, "training__steps": 2}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run(again(finished, tmp_path / name, seed=seed, **new), quiet=True)
    assert tensors(tmp_path / "a") == tensors(tmp_path / "b")
    assert tensors(tmp_path / "a") != tensors(tmp_path / "c")


def test_bfloat16_computes_what_float32_does_but_for_rounding(finished: Path, tmp_path: Path) -> None:
    run(again(finished, tmp_path / "out", training__dtype="bfloat16"), quiet=True)
    assert losses(tmp_path / "out") == pytest.approx(losses(finished / "out"), rel=3e-2)
    assert losses(tmp_path / "out") != losses(finished / "out")


def test_a_full_directory_is_refused_without_resume(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(TuneError, match=r"is not empty \(notes.txt\): go on with --resume"):
        run(again(finished, tmp_path / "out"), quiet=True)
    with pytest.raises(TuneError, match="holds no run of `agentlm tune`"):
        run(again(finished, tmp_path / "out"), resume=True, quiet=True)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"training__learning_rate": 2e-3}, r"\[training\] differs: learning_rate"),
        ({"seed": 1}, "`seed` differs"),
        ({"training__steps": 5}, r"\[training\] differs: steps\. "),
        ({"training__batch": 2}, r"\[training\] differs: batch\. "),
        ({"training__betas": (0.9, 0.9)}, r"\[training\] differs: betas\. "),
        ({"data__eta": 0.5}, "the data, their mixture"),
        ({"model__path": "other"}, "the base model is another one"),
        ({"model__path": "template"}, "the tokenizer or the chat template is another one"),
        ({"data__sources": "words"}, "of the same lengths, and their tokens or loss masks are others"),
        ({"data__sources": "masks"}, "of the same lengths, and their tokens or loss masks are others"),
    ],
)
def test_a_run_goes_on_as_itself_only(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], told: str
) -> None:
    with monkeypatch.context() as patch:
        interrupted_after(patch, 1)
        run(again(finished, tmp_path / "out"), quiet=True)
    if change.get("model__path") == "other":
        other = write_base(tmp_path / "other")
        raw = bytearray((other / "model.safetensors").read_bytes())
        raw[-1] ^= 1
        (other / "model.safetensors").write_bytes(raw)
        change = {"model__path": str(other)}
    elif change.get("model__path") == "template":
        other = shutil.copytree(finished / "base", tmp_path / "template")
        told_settings = json.loads((other / "tokenizer_config.json").read_text(encoding="utf-8"))
        told_settings["model_max_length"] = 77
        (other / "tokenizer_config.json").write_text(json.dumps(told_settings), encoding="utf-8")
        change = {"model__path": str(other)}
    elif (kind := change.get("data__sources")) is not None:
        lines = (finished / "agent.jsonl").read_text(encoding="utf-8").splitlines()
        records = [json.loads(line) for line in lines]
        # One of several answers: the conversation is still trained.
        said = max(records, key=lambda record: len(record["messages"]))["messages"][-1]
        said |= {"content": said["content"].replace("It", "Is")} if kind == "words" else {"loss": False}
        file = write_records(tmp_path / "agent.jsonl", records)
        sources = settings(finished)["data"]["sources"]
        change = {"data__sources": [sources[0] | {"path": str(file)}, sources[1]]}
    with pytest.raises(TuneError, match=told):
        run(again(finished, tmp_path / "out", **change), resume=True, quiet=True)
    # The same run goes on.
    assert run(again(finished, tmp_path / "out"), resume=True, quiet=True).step == 4


def test_a_full_disk_is_told_before_the_first_step(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=100_000))
    with pytest.raises(TuneError, match="GB free; 3 checkpoints of"):
        run(again(finished, tmp_path / "out"), quiet=True)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["rendered"]
    # Three checkpoints of weights and two moments, and the result: 4 bytes a number. One byte less is too little.
    checkpoint = Checkpoint.open(finished / "base")
    needed = sum(np.prod(tensor.shape) for tensor in checkpoint.tensors()) * 4 * (3 * 3 + 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=int(needed) - 1))
    with pytest.raises(TuneError, match="GB free; 3 checkpoints of"):
        run(again(finished, tmp_path / "out"), quiet=True)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=int(needed)))
    assert run(again(finished, tmp_path / "out"), quiet=True).step == 4


def test_a_tokenizer_of_another_model_is_refused(finished: Path, tmp_path: Path) -> None:
    other = write_base(tmp_path / "other")
    about = json.loads((other / "config.json").read_text(encoding="utf-8"))
    smaller = about | {"vocab_size": 200, "eos_token_id": 2}
    (other / "config.json").write_text(json.dumps(smaller), encoding="utf-8")
    (other / "generation_config.json").unlink()
    with pytest.raises(ConfigError, match="the tokenizer belongs to another model"):
        run(again(finished, tmp_path / "out", model={"path": str(other), "init": "random"}), quiet=True)


def test_over_long_conversations_are_dropped_split_or_refused(finished: Path, tmp_path: Path) -> None:
    long = sums(20, "long", turns=12)
    file = write_records(tmp_path / "long.jsonl", long)
    data = {"length": 120, "sources": [{"name": "long", "path": str(file)}]}
    told = {}
    for way in ("drop", "split"):
        run(again(finished, tmp_path / way, data=data | {"over_length": way}, training__steps=1), quiet=True)
        (about,) = (tmp_path / way / "rendered").glob("*/about.json")
        told[way] = json.loads(about.read_text(encoding="utf-8"))["left_out"][0]
    assert told["drop"]["too long"] > 0
    assert told["split"] == {}
    # What is too long and has nothing to train in any piece is counted, too.
    silent = {
        "id": "silent",
        "source": "long",
        "messages": [m | {"loss": False} if m["role"] == "assistant" else m for m in long[0]["messages"] * 3],
    }
    write_records(file, [silent, *sums(20, "short")])
    run(
        again(finished, tmp_path / "silent", data=data | {"over_length": "split"}, training__steps=1),
        quiet=True,
    )
    (about,) = (tmp_path / "silent" / "rendered").glob("*/about.json")
    assert json.loads(about.read_text(encoding="utf-8"))["left_out"] == [{"no trained token": 1}]
    write_records(file, long)
    with pytest.raises(RenderingError, match="drop or split such conversations"):
        run(again(finished, tmp_path / "refuse", data=data | {"over_length": "refuse"}), quiet=True)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"training__batch": 4, "training__micro_batch": 5}, "more than the 4 packs"),
        ({"parallel__tensor": 2}, "does not divide the 1 processes"),
        ({"data__eta": None, "data__sources": [{"name": "a", "path": "gone.jsonl"}]}, "there is no file gone.jsonl"),
        ({"data__tag_weights": {"shell": 2.0}}, "which no conversation has"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(
    finished: Path, tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        run(again(finished, tmp_path / "out", **changes), quiet=True)
