"""Compiled layers: what they compute is what they compute uncompiled, and packs of other lengths need no other programs."""

from collections.abc import Iterator
from functools import partialmethod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

from agentlm.errors import ConfigError
from agentlm.model.random import Shape
from agentlm.tuning.compiled import check_compiler
from agentlm.tuning.model import TrainableDecoder
from agentlm.tuning.run import run
from tests.tuning.ranks import launch
from tests.tuning.runs import config, load, losses, norms, write_base
from tests.tuning.test_model import assert_close, batch, gradients
from tests.tuning.test_run import interrupted_after

PACKS = ((70, 5, 33, 100, 1, 34), (9, 70, 31), (50,), (1,), (3, 3, 80, 40))
"""Lengths of the conversations of some packs; one is a single token, as of a rank that has nothing to do."""
THREE = Shape(layers=3, hidden=64, inter=96, heads=4, kv_heads=2, vocab=264, context=512)
TRACED = partialmethod(TrainableDecoder.compile_layers, backend="aot_eager")
"""Traced and differentiated as compiled programs are, and then interpreted: seconds instead of a minute."""


@pytest.fixture(autouse=True)
def _nothing_is_compiled_yet() -> Iterator[None]:
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


def programs() -> int:
    return counters["stats"]["unique_graphs"]


def check_same(directory: Path, of_losses: float, of_norms: float) -> None:
    """Losses and gradient norms of `compiled` are those of `plain`, to within these shares."""
    compiled, plain = directory / "compiled", directory / "plain"
    assert losses(compiled) == pytest.approx(losses(plain), rel=of_losses)
    assert norms(compiled) == pytest.approx(norms(plain), rel=of_norms)


def adapted(directory: Path) -> TrainableDecoder:
    """Norms of query and key, tied tables, low-rank additions to some linears, checkpointed layers."""
    model = load(write_base(directory, "qwen3", THREE, tie_word_embeddings=True))
    model.add_lora(("q_proj", "down_proj"), 4, 2.0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, 0.05, generator=torch.Generator().manual_seed(len(name)))
    for layer in model.layers:
        layer.checkpointed = True
    return model


def biased(directory: Path) -> TrainableDecoder:
    """Biases, and a window of attention."""
    return load(write_base(directory, "mistral", THREE, attention_bias=True, mlp_bias=True))


@pytest.mark.parametrize("make", [adapted, pytest.param(biased, marks=pytest.mark.slow)])
def test_losses_and_gradients_are_those_of_uncompiled_layers(tmp_path: Path, make: Any) -> None:
    model = make(tmp_path)
    met: list[list[Any]] = []
    made = []
    for compiled in (False, True):
        if compiled:
            model.compile_layers("aot_eager")
        met.append([])
        for number, lengths in enumerate(PACKS):
            rng = np.random.default_rng(number)
            ids = rng.integers(0, 256, sum(lengths))
            trained = rng.random(len(ids)) < 0.4
            trained[np.cumsum((0, *lengths[:-1]))] = False
            given = batch(ids, list(lengths), trained)
            loss, logprobs = model(given, 1 / max(1, len(given.rows)))
            loss.backward()
            with torch.no_grad():
                unkept = model(given, 1.0)[1]
            met[-1].append((loss.detach(), logprobs, unkept, gradients(model)))
            made.append(programs())
    for (loss, logprobs, unkept, of), (loss2, logprobs2, unkept2, of2) in zip(*met, strict=True):
        torch.testing.assert_close(loss2, loss, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(logprobs2, logprobs, rtol=1e-5, atol=2e-5)
        torch.testing.assert_close(unkept2, unkept, rtol=1e-5, atol=2e-5)
        assert_close(of2, of, 1e-5)
    # Two halves, with and without a way back; the first layer takes nothing in, and its input may be frozen: never one a
    # layer, never one a length.
    assert made[: len(PACKS)] == [0] * len(PACKS)
    assert 4 <= made[len(PACKS)] <= 8
    assert set(made[len(PACKS) :]) == {made[len(PACKS)]}


@pytest.mark.slow
def test_layers_whose_weights_are_gathered_are_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    narrow = {"training__dtype": "bfloat16", "training__activation_checkpointing": "layers"}
    run(config(tmp_path, output=str(tmp_path / "plain"), **narrow), quiet=True)
    monkeypatch.setattr(TrainableDecoder, "compile_layers", TRACED)
    run(config(tmp_path, output=str(tmp_path / "compiled"), training__compile=True, **narrow), quiet=True)
    assert 0 < programs() <= 4
    check_same(tmp_path, 1e-3, 2e-2)


@pytest.mark.slow
def test_a_compiled_run_gives_the_losses_of_one_that_is_not(tmp_path: Path) -> None:
    run(config(tmp_path, output=str(tmp_path / "plain")), quiet=True)
    run(config(tmp_path, output=str(tmp_path / "compiled"), training__compile=True), quiet=True)
    assert 0 < programs() <= 4
    check_same(tmp_path, 1e-5, 1e-4)


@pytest.mark.slow
def test_two_ranks_that_compile_give_the_losses_of_one_that_does_not(tmp_path: Path) -> None:
    run(config(tmp_path, output=str(tmp_path / "plain")), quiet=True)
    launch(2, config(tmp_path, output=str(tmp_path / "compiled"), training__compile=True))
    check_same(tmp_path, 1e-5, 1e-4)


def test_a_run_may_go_on_with_compiled_layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(config(tmp_path, output=str(tmp_path / "plain")), quiet=True)
    with monkeypatch.context() as patch:
        interrupted_after(patch, 2)
        run(config(tmp_path, output=str(tmp_path / "parts")), quiet=True)
    asked: list[TrainableDecoder] = []
    # What is compiled is tested above.
    monkeypatch.setattr(TrainableDecoder, "compile_layers", lambda model: asked.append(model))
    run(config(tmp_path, output=str(tmp_path / "parts"), training__compile=True), resume=True, quiet=True)
    assert len(asked) == 1
    assert losses(tmp_path / "parts") == losses(tmp_path / "plain")


def test_without_a_compiler_it_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = config(tmp_path, training__compile=True, training__steps=1)
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(ConfigError, match=r"`training.compile` = true needs a C\+\+ compiler, and none of"):
        run(wanted, quiet=True)
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConfigError, match="needs a C compiler, and none of gcc, clang is on PATH"):
        check_compiler(torch.device("cuda", 0))
    for name in ("g++", "gcc"):
        (tmp_path / "bin" / name).write_text("#!/bin/sh\n", encoding="utf-8")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", (None, "g++"))
    check_compiler(torch.device("cpu"))
    check_compiler(torch.device("cuda", 0))
