"""What runs, mergers, evolving and preferring refuse beyond the configuration's rules, and what nearly equal passes."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from agentlm.cli.tune import command
from agentlm.errors import AdapterError, AgentLMError, ConfigError
from agentlm.tuning.checkpoint import TuneError
from agentlm.tuning.config import EvaluationSection, TuneConfig
from agentlm.tuning.evolve import evolve
from agentlm.tuning.merge import merge
from agentlm.tuning.parallel import Ranks, check_shares
from agentlm.tuning.rendering import RenderingError
from agentlm.tuning.run import _check_batch, run
from agentlm.tuning.tasks import TaskRuns
from tests.tuning.runs import config, settings, sums, write_records
from tests.tuning.test_preference import TRIES, preferring, trajectory


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model, conversations, and an adapter of the base."""
    directory = tmp_path_factory.mktemp("files")
    run(config(directory, lora={"rank": 2, "alpha": 4.0}, training__steps=1), quiet=True)
    (directory / "out").rename(directory / "adapted")
    return directory


@pytest.fixture
def place(files: Path, tmp_path: Path) -> Path:
    """The same files in a folder of the test's own."""
    return shutil.copytree(files, tmp_path / "own", symlinks=True)


def one(place: Path, **changes: Any) -> TuneConfig:
    return config(place, training__steps=1, **changes)


def edited(file: Path, **changes: Any) -> None:
    told = json.loads(file.read_text(encoding="utf-8")) | changes
    file.write_text(json.dumps(told), encoding="utf-8")


def narrowed(base: Path, vocab: int) -> None:
    """Leaves a model so many tokens, and its tokenizer all."""
    edited(base / "config.json", vocab_size=vocab, eos_token_id=None)
    edited(base / "generation_config.json", eos_token_id=None)


def without(place: Path, name: str) -> None:
    (place / name).unlink()


def untrained(place: Path, *names: str) -> None:
    for name in names or ("agent", "general"):
        records = sums(6, name)
        for record in records:
            for message in record["messages"]:
                if message["role"] == "assistant":
                    message["loss"] = False
        write_records(place / f"{name}.jsonl", records)


def taken(place: Path, content: str) -> None:
    (place / "out").mkdir()
    (place / "out" / content).write_text("mine", encoding="utf-8")


def no_change(_: Path) -> None:
    pass


Change = Callable[[Path], object]
RUNS: dict[
    str, tuple[type[AgentLMError], str, tuple[Change, dict[str, Any]], tuple[Change, dict[str, Any]]]
] = {
    "an output that is a file": (
        TuneError,
        "out is a file: name another output",
        (lambda place: (place / "out").touch(), {}),
        (lambda place: (place / "out").mkdir(), {}),
    ),
    "an output that holds something": (
        TuneError,
        r"out is not empty \(notes.txt\): go on with --resume",
        (lambda place: taken(place, "notes.txt"), {}),
        (lambda place: (place / "out" / "rendered").mkdir(parents=True), {}),
    ),
    "a file that is not there": (
        ConfigError,
        r"source 'agent': there is no file .*agent\.jsonl",
        (lambda place: without(place, "agent.jsonl"), {}),
        (no_change, {}),
    ),
    "a file that is no record": (
        AgentLMError,
        r"agent\.jsonl:1: id and source and messages missing",
        (lambda place: (place / "agent.jsonl").write_text("{}\n", encoding="utf-8"), {}),
        (no_change, {}),
    ),
    "a template that is not there": (
        ConfigError,
        r"`model.chat_template`: there is no file own\.jinja",
        (no_change, {"model__chat_template": "own.jinja"}),
        (
            lambda place: (place / "own.jinja").write_text(
                json.loads((place / "base" / "tokenizer_config.json").read_text(encoding="utf-8"))[
                    "chat_template"
                ],
                encoding="utf-8",
            ),
            {"model__chat_template": "own.jinja"},
        ),
    ),
    "nothing to train on": (
        RenderingError,
        "no conversation is left to train on",
        (untrained, {}),
        (lambda place: write_records(place / "agent.jsonl", sums(2, "agent")), {}),
    ),
    "a share of a source of which nothing is left": (
        ConfigError,
        r"source 'agent' has a share of 0\.2 .*\(agent: 6 conversations left out: no trained token; for example agent",
        (lambda place: untrained(place, "agent"), {}),
        (lambda place: untrained(place, "agent"), {"data__eta": 0.0}),
    ),
    "a tag that nobody has": (
        ConfigError,
        "`data.tag_weights` names 'shell', which no conversation has",
        (no_change, {"data__tag_weights": {"shell": 2.0}}),
        (
            lambda place: write_records(
                place / "agent.jsonl", [r | {"tags": ["shell"]} for r in sums(6, "agent")]
            ),
            {"data__tag_weights": {"shell": 2.0}},
        ),
    ),
    "conversations that are too long": (
        RenderingError,
        '`data.over_length` is "refuse": drop or split such',
        (no_change, {"data__over_length": "refuse", "data__length": 20}),
        (no_change, {"data__over_length": "refuse", "data__length": 500}),
    ),
    "more at a time than there are": (
        ConfigError,
        "`training.micro_batch` = 5 is more than the 4 packs",
        (no_change, {"training__micro_batch": 5}),
        (no_change, {"training__micro_batch": 4}),
    ),
    "ranks that are not there": (
        ConfigError,
        "`parallel.tensor` = 2 does not divide the 1 processes",
        (no_change, {"parallel__tensor": 2}),
        (no_change, {"parallel__tensor": 1}),
    ),
    "a tokenizer with more tokens than the model": (
        ConfigError,
        "the tokenizer belongs to another model",
        (lambda place: narrowed(place / "base", 200), {"model__init": "random"}),
        (lambda place: edited(place / "base" / "config.json", vocab_size=272), {"model__init": "random"}),
    ),
    "weights of another shape": (
        AgentLMError,
        "model.layers.0.mlp",
        (lambda place: edited(place / "base" / "config.json", intermediate_size=104), {}),
        (no_change, {}),
    ),
    "no weights": (
        AgentLMError,
        "safetensors",
        (lambda place: without(place / "base", "model.safetensors"), {}),
        (lambda place: without(place / "base", "model.safetensors"), {"model__init": "random"}),
    ),
    "an adapter of another rank": (
        AdapterError,
        r"has rank \[2\], scale alpha/rank \[2.0\]",
        (no_change, {"lora": {"rank": 4, "alpha": 8.0, "adapter": "adapted/adapter"}}),
        (no_change, {"lora": {"rank": 2, "alpha": 4.0, "adapter": "adapted/adapter"}}),
    ),
    "an adapter of another scale": (
        AdapterError,
        r"\[lora\] says rank 2, scale \[1.0\]",
        (no_change, {"lora": {"rank": 2, "alpha": 2.0, "adapter": "adapted/adapter"}}),
        (no_change, {"lora": {"rank": 2, "alpha": 4, "adapter": "adapted/adapter"}}),
    ),
    "an adapter of other linears": (
        AdapterError,
        "targets .* Make them equal",
        (no_change, {"lora": {"rank": 2, "alpha": 4.0, "targets": ["q_proj"], "adapter": "adapted/adapter"}}),
        (no_change, {"lora": {"rank": 2, "alpha": 4.0, "targets": ["q_proj"]}}),
    ),
}


@pytest.mark.parametrize("case", RUNS)
def test_what_a_run_refuses_and_what_nearly_equal_it_does(
    case: str, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error, told, bad, good = RUNS[case]
    for number, (change, changes) in enumerate((bad, good)):
        place = shutil.copytree(files, tmp_path / str(number))
        monkeypatch.chdir(place)
        change(place)
        if number == 0:
            with pytest.raises(error, match=told):
                run(one(place, **changes), quiet=True)
            assert not (place / "out" / "model").exists()
        else:
            assert run(one(place, **changes), quiet=True).step == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused(place: Path) -> None:
    with pytest.raises(ConfigError, match=r'`training.device` = "cuda", and torch finds no GPU here'):
        run(one(place, training__device="cuda"), quiet=True)
    assert not (place / "out").exists()
    assert run(one(place, training__device="auto"), quiet=True).step == 1


def test_packs_that_ranks_cannot_share_are_refused(place: Path) -> None:
    two = Ranks(0, 2, torch.device("cpu"), 1, None, owned=False)
    with pytest.raises(ConfigError, match=r"`training.batch` = 3 packs cannot be shared evenly by 2 ranks"):
        _check_batch(one(place, training__batch=3), two)
    with pytest.raises(ConfigError, match=r"`training.micro_batch` = 3 is more than the 2 packs"):
        _check_batch(one(place, training__batch=4, training__micro_batch=3), two)
    _check_batch(one(place, training__batch=4, training__micro_batch=2), two)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"kv_heads": 1}, r"does not divide the model's key and value heads \(1\)"),
        ({"inter": 95}, r"feed-forward width \(95\)"),
        ({"vocab": 263}, r"vocabulary \(263\)"),
    ],
)
def test_matrices_that_ranks_cannot_share_are_refused(
    place: Path, changes: dict[str, int], told: str
) -> None:
    from dataclasses import replace

    from agentlm.model.config import ModelConfig

    model = ModelConfig.load(place / "base")
    with pytest.raises(ConfigError, match=told):
        check_shares(replace(model, **changes), 2)
    check_shares(model, 2)


def test_a_directory_of_something_else_is_not_gone_on_with(place: Path) -> None:
    taken(place, "notes.txt")
    with pytest.raises(TuneError, match="holds no run of `agentlm tune` to go on from"):
        run(one(place), resume=True, quiet=True)
    shutil.rmtree(place / "out")
    run(one(place), quiet=True)
    assert run(one(place), resume=True, quiet=True).step == 1


def test_what_the_model_gave_at_the_start_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.tuning.test_run import interrupted_after

    prefers = preferring(tmp_path, TRIES, training__steps=2)
    with monkeypatch.context() as patch:
        interrupted_after(patch, 1)
        run(prefers, quiet=True)
    file = tmp_path / "out" / "reference.npy"
    kept = np.load(file)
    file.unlink()
    with pytest.raises(TuneError, match=r"reference.npy is gone"):
        run(prefers, resume=True, quiet=True)
    np.save(file, kept)
    assert run(prefers, resume=True, quiet=True).step == 2


@pytest.mark.parametrize(
    ("bad", "good", "told"),
    [
        ((1.0, 1.0), (1.0, 0.5), "there are 1 items with rewards and no such pair"),
        ((1.0, None), (1.0, 0.0), "there are 1 items with rewards and no such pair"),
        ((1.0, 0.5, "Otherwise"), (1.0, 0.5), r"no such pair \(1 begin with different prompts\)"),
    ],
)
def test_preferring_needs_a_pair(
    tmp_path: Path, bad: tuple[Any, ...], good: tuple[Any, ...], told: str
) -> None:
    def records(better: float, worse: float | None, *prompt: str) -> list[dict[str, Any]]:
        return [trajectory(0, "In the box.", better), trajectory(0, "I cannot know.", worse, *prompt)]

    with pytest.raises(ConfigError, match=told):
        run(preferring(tmp_path, records(*bad), training__steps=1), quiet=True)
    shutil.rmtree(tmp_path / "out")
    assert run(preferring(tmp_path, records(*good), training__steps=1), quiet=True).step == 1


def other(place: Path) -> Path:
    """An adapter of a smaller model."""
    directory = shutil.copytree(place / "adapted" / "adapter", place / "other")
    from safetensors.torch import load_file, save_file

    tensors = load_file(directory / "adapter_model.safetensors")
    smaller = {name: t[:, :32].contiguous() if "lora_A" in name else t for name, t in tensors.items()}
    save_file(smaller, directory / "adapter_model.safetensors")
    return directory


def half(place: Path) -> Path:
    directory = shutil.copytree(place / "adapted" / "adapter", place / "other")
    from safetensors.torch import load_file, save_file

    tensors = load_file(directory / "adapter_model.safetensors")
    tensors.pop(next(name for name in tensors if "lora_B" in name))
    save_file(tensors, directory / "adapter_model.safetensors")
    return directory


def told_otherwise(**changes: Any) -> Callable[[Path], Path]:
    def made(place: Path) -> Path:
        directory = shutil.copytree(place / "adapted" / "adapter", place / "other")
        edited(directory / "adapter_config.json", **changes)
        return directory

    return made


def not_there(place: Path) -> Path:
    (place / "other").mkdir()
    return place / "other"


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (other, "The adapter belongs to another model"),
        (half, "holds only one of lora_A and lora_B"),
        (not_there, "holds no adapter_config.json"),
        (told_otherwise(peft_type="IA3"), "an adapter of type 'IA3'"),
        (told_otherwise(use_dora=True), "sets 'use_dora' to True"),
        (told_otherwise(lora_alpha="much"), "sets 'lora_alpha' to 'much'; it must be a number"),
    ],
    ids=["shapes", "halves", "nothing", "type", "dora", "alpha"],
)
def test_what_a_merger_refuses(place: Path, make: Callable[[Path], Path], told: str) -> None:
    with pytest.raises(AdapterError, match=told):
        merge(place / "base", make(place), place / "merged")
    assert not list(place.glob("*merged*"))
    merge(place / "base", place / "adapted" / "adapter", place / "merged")


def test_a_merger_writes_over_nothing(place: Path) -> None:
    (place / "merged").mkdir()
    (place / "merged" / "notes.txt").touch()
    with pytest.raises(ConfigError, match="merged is there and not empty: choose another output"):
        merge(place / "base", place / "adapted" / "adapter", place / "merged")
    (place / "merged" / "notes.txt").unlink()
    assert merge(place / "base", place / "adapted" / "adapter", place / "merged").is_dir()


GOOD = "echo {url} {output}"
EVOLVING = {
    "an adapter": ({"lora": {}}, GOOD, "evolving serves and tunes whole models"),
    "preferences": ({"data__eta": None, "dpo": {}}, GOOD, "evolving serves and tunes whole models"),
    "a model from nothing": ({"model__init": "random"}, GOOD, "evolving serves and tunes whole models"),
    "no output": ({}, "echo {url}", "must say {url} and {output}"),
    "no address": ({}, "echo {output}", "must say {url} and {output}"),
    "no agent beside it": (
        {"data__eta": 0.0, "data__sources": "general"},
        GOOD,
        'needs a source of group "agent"',
    ),
    "a name that is taken": ({"data__eta": None, "data__sources": "evolved"}, GOOD, "rename it"),
}


@pytest.mark.parametrize("case", EVOLVING)
def test_what_cannot_evolve_is_refused_and_what_nearly_equal_can(
    case: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What can be is served next, which stands for it here: tests/tuning/test_evolve.py goes on from there."""
    changes, words, told = EVOLVING[case]
    name = changes.get("data__sources")
    if name is not None:
        group = {"group": "general"} if name == "general" else {}
        changes = changes | {"data__sources": [{"name": name, "path": str(place / "general.jsonl"), **group}]}
    elif changes.get("data__eta", 1) is None:
        plain = [{"name": n, "path": str(place / f"{n}.jsonl")} for n in ("agent", "general")]
        changes = changes | {"data__sources": plain}

    def served(*_: Any) -> None:
        raise ServedError

    monkeypatch.setattr("agentlm.tuning.evolve._generate", served)
    with pytest.raises(ConfigError, match=told):
        evolve(one(place, **changes), words, rounds=1, threshold=1.0)
    assert not (place / "out").exists()
    with pytest.raises(ServedError):
        evolve(one(place), GOOD, rounds=1, threshold=1.0)


class ServedError(Exception):
    pass


def test_a_round_that_leaves_nothing_is_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tries,) = [[r | {"task": "t", "item": r["id"], "reward": 0.9} for r in sums(2, "tries")]]
    monkeypatch.setattr(
        "agentlm.tuning.evolve._generate", lambda *given: write_records(given[3], tries) and None
    )
    with pytest.raises(TuneError, match=r"nothing reached a reward of 0.95 "):
        evolve(one(place), GOOD, rounds=1, threshold=0.95)
    (done,) = evolve(one(place), GOOD, rounds=1, threshold=0.9)
    assert done.kept == 2


def test_a_command_that_writes_nothing_is_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Instead:
        url = "http://nowhere"

        def __init__(self, *_: Any) -> None:
            pass

        def __enter__(self) -> "Instead":
            return self

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr("agentlm.tuning.evolve.Served", Instead)
    (place / "tries.jsonl").write_text(
        "".join(json.dumps(r | {"reward": 1.0}) + "\n" for r in sums(2, "tries")), encoding="utf-8"
    )
    with pytest.raises(TuneError, match=r"ended well and wrote no .*\.generated\.jsonl"):
        evolve(one(place), "true {url} {output}", rounds=1, threshold=1.0)
    with pytest.raises(TuneError, match="ended with 1: nothing was kept of round 1"):
        evolve(one(place), "false {url} {output}", rounds=1, threshold=1.0)
    copies = f"true {{url}} && cp {place / 'tries.jsonl'} {{output}}"
    assert evolve(one(place), copies, rounds=1, threshold=1.0)[0].kept == 2


def test_tasks_without_the_wheel_that_runs_them_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = EvaluationSection(worlds=("shop",))
    with monkeypatch.context() as patch:
        patch.setattr("agentlm.tuning.tasks.find_spec", lambda _: None)
        with pytest.raises(ConfigError, match="wheel agentlm-evals, which is not installed"):
            TaskRuns(wanted, tmp_path)
    TaskRuns(wanted, tmp_path).close()


def test_a_command_line_that_is_wrong_starts_nothing(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text(TuneConfig.from_dict(settings(tmp_path)).to_toml(), encoding="utf-8")
    for words, told in (
        (["--set", "clip"], "is not of the form KEY=VALUE"),
        (["--set", "training.lr=1"], "unknown keys in [training]: lr"),
        (["--set", "output.name=1"], "cannot be set: `output` is not a table"),
        (["--device", "tpu"], "'tpu' is not one of"),
    ):
        refused = CliRunner().invoke(command, [str(file), *words])
        assert isinstance(refused.exception, ConfigError | SystemExit)
        assert told in refused.output + str(refused.exception)
    assert not (tmp_path / "out").exists()
    taken = CliRunner().invoke(
        command, [str(file), "--set", "training.clip=2", "--device", "cpu", "--print-config"]
    )
    assert "clip = 2.0" in taken.output
