"""Checkpoints, runs and transformers' distributions, shared by the tests of the CPU engine.

A run reports the whole vocabulary's log-probabilities at each generated position, so that rows can be compared and not
only the tokens chosen from them.
"""

import functools
import hashlib
import tempfile
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from agentlm import LLM, Completion, SamplingParams
from agentlm._engine import CpuBackend, Engine
from agentlm.runtime.cpu import CpuRunner
from tests.model import families

VOCAB = 288
"""Vocabulary of every case of `families`."""
CONTEXT = 256
KV_MEMORY = 1 << 25
"""Enough for every batch below, so that nothing is preempted unless a test wants it."""
TIE = 1e-3
"""A greedy choice may differ from transformers' where its two largest logits are closer than this."""

ISAS = ("portable", "neon", "avx2", "avx512", "amx")


def need_isa(isa: str) -> None:
    """Skips the test on a machine without this instruction set."""
    if isa != "auto" and isa not in CpuBackend.available_isas():
        pytest.skip(f"this machine does not have {isa}: it has {', '.join(CpuBackend.available_isas())}")


@functools.cache
def _root() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="agentlm-tests-")


@functools.cache
def checkpoint(case: str, seed: int = 0, dtype: str = "float32") -> Path:
    """A case's checkpoint directory, written once a test run and never changed."""
    return families.write(Path(_root().name) / f"{case}-{seed}-{dtype}", case, seed, dtype)


class GatedRunner(CpuRunner):
    """The CPU runner, which can be told to begin only when a whole batch is there.

    Steps of a model this small are over before the next request is submitted; a test of what requests do to each other
    must not depend on which thread is scheduled.
    """

    latest: "GatedRunner"

    def __init__(self, engine: Engine, *arguments: Any) -> None:
        super().__init__(engine, *arguments)
        self._engine = engine
        self.wanted = 0
        GatedRunner.latest = self

    def launch(self, slot: int) -> None:
        while self._engine.snapshot()["unfinished"] < self.wanted:
            time.sleep(0.0002)
        self.wanted = 0
        super().launch(slot)


_runners: weakref.WeakKeyDictionary[LLM, GatedRunner] = weakref.WeakKeyDictionary()


@contextmanager
def opened(directory: Path, **settings: Any) -> Iterator[LLM]:
    """The engine on a checkpoint: float32 storage, no prefix cache and one thread unless `settings` say otherwise."""
    defaults = {
        "backend": "cpu",
        "dtype": "float32",
        "kv_cache_dtype": "float32",
        "kv_cache_memory": KV_MEMORY,
        "prefix_cache": False,
        "threads": 1,
        "max_top_n_tokens": 1000,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("agentlm.runtime.cpu.CpuRunner", GatedRunner)
        llm = LLM(directory, progress=False, **(defaults | settings))
    with llm:
        _runners[llm] = GatedRunner.latest
        yield llm


def generate_together(
    llm: LLM, prompts: Sequence[list[int]], params: Sequence[SamplingParams]
) -> list[Completion]:
    """`llm.generate`, whose second step at the latest sees every request."""
    runner = _runners[llm]
    runner.wanted = len(prompts)
    try:
        return llm.generate(list(prompts), params)
    finally:
        runner.wanted = 0


@dataclass(frozen=True)
class Run:
    """What one request gave."""

    prompt: list[int]
    tokens: list[int]
    rows: npt.NDArray[np.float64]
    """Log-probabilities `[tokens, vocab]`, each row in front of its token."""
    completion: Completion

    def same_as(self, other: "Run") -> bool:
        """Whether tokens and every log-probability are equal, to the last bit."""
        return (
            self.tokens == other.tokens
            and self.completion.logprobs == other.completion.logprobs
            and np.array_equal(self.rows, other.rows)
        )


GREEDY = SamplingParams(ignore_eos=True)


def run(
    llm: LLM,
    prompts: Sequence[list[int]],
    new_tokens: int | None = None,
    params: SamplingParams = GREEDY,
    vocab: int = VOCAB,
    context: int = CONTEXT,
) -> list[Run]:
    """Generates for all prompts in one batch; without `new_tokens` each fills the context."""
    several = [
        replace(params, max_new_tokens=new_tokens or context - len(prompt), top_n_tokens=vocab)
        for prompt in prompts
    ]
    completions = generate_together(llm, prompts, several)
    return [_run(p, c, vocab) for p, c in zip(prompts, completions, strict=True)]


def _run(prompt: list[int], completion: Completion, vocab: int) -> Run:
    assert completion.top_logprobs is not None
    listed = np.array(completion.top_logprobs)
    assert listed.shape == (len(completion.token_ids), vocab, 2)
    rows = np.full(listed.shape[:2], np.nan)
    np.put_along_axis(rows, listed[..., 0].astype(np.int64), listed[..., 1], axis=1)
    assert not np.isnan(rows).any()
    return Run(list(prompt), list(completion.token_ids), rows, completion)


@functools.cache
def _transformers(directory: Path) -> Any:
    return families.load_transformers(directory)


_rows_by_ids: dict[bytes, npt.NDArray[np.float32]] = {}


def transformers_rows(directory: Path, run: Run) -> npt.NDArray[np.float32]:
    """Teacher-forced log-probabilities `[tokens, vocab]` of a run's tokens: transformers, float32, no cache."""
    import torch

    ids = run.prompt + run.tokens
    # Backends that choose the same tokens share the computation.
    key = hashlib.sha256(repr((directory, ids)).encode()).digest()
    if key not in _rows_by_ids:
        with torch.no_grad():
            logits = _transformers(directory)(torch.tensor([ids])).logits[0].float()
        rows = torch.log_softmax(logits, dim=-1).numpy()
        _rows_by_ids[key] = rows[len(run.prompt) - 1 : -1]
    return _rows_by_ids[key]


@dataclass(frozen=True)
class Comparison:
    """How far runs are from transformers."""

    mean: float
    """Mean difference of log-probabilities, over every position and the whole vocabulary."""
    largest: float
    spread: float
    """Standard deviation of transformers' logits."""
    differing: int
    """Tokens that transformers would not have chosen."""
    differing_gaps: list[float]
    """For each of them, how far transformers' first choice is above its second."""


def compare(directory: Path, runs: Sequence[Run]) -> Comparison:
    """Compares greedy runs with transformers, position by position on the runs' own tokens.

    Without a differing token the runs are transformers' own greedy continuations, by induction.
    """
    theirs = np.concatenate([transformers_rows(directory, r) for r in runs])
    ours = np.concatenate([r.rows for r in runs])
    tokens = np.concatenate([r.tokens for r in runs])
    difference = np.abs(ours - theirs)
    top = np.sort(theirs, axis=1)[:, -2:]
    wrong = theirs.argmax(axis=1) != tokens
    return Comparison(
        mean=float(difference.mean()),
        largest=float(difference.max()),
        spread=float(theirs.std(axis=1).mean()),
        differing=int(wrong.sum()),
        differing_gaps=(top[:, 1] - top[:, 0])[wrong].tolist(),
    )
