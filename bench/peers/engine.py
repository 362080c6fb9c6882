"""The one interface between the benchmark and an engine, and what engines that live in our process share."""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bench.cells import CONTEXT_TOKENS, DECODE_STEPS, PREFILL_TOKENS, Cell
from bench.workload import AgentRun, Tokens, prompt, run_in_lockstep

REPETITIONS = 5
SEGMENT_STEPS = 8
"""Steps of one repetition where all repetitions share one expensive prefill."""


class EngineBrokenError(RuntimeError):
    """An engine did not do what was asked, so that its time means nothing."""


@dataclass(frozen=True, slots=True)
class Setup:
    """How an engine is started."""

    name: str
    """The peer's name in the table."""
    model: Path
    """The model in the engine's form."""
    precision: str
    threads: int
    batch: int
    """The most requests at once in this run."""
    programs: Path
    """llama.cpp's programs."""


class Engine(Protocol):
    """An engine with a model loaded."""

    def measure(self, cell: Cell) -> Iterator[float]:
        """Yields tokens per second, one value a repetition; the first value comes after a warm-up.

        An `AtMost` ends the cell: the others would say the same.
        """

    def close(self) -> None:
        """Ends what was started."""


class BatchEngine(ABC):
    """Measures an engine that generates greedily for a whole batch of equally long prompts."""

    recomputes = True
    """Whether a prompt is computed again that was computed before, an agent's earlier turns among them."""

    @abstractmethod
    def generate(self, prompts: list[Tokens], new_tokens: int) -> tuple[Sequence[Sequence[int]], list[float]]:
        """Generates exactly so many tokens for each prompt.

        Returns the tokens, and for each step the time at which its tokens were there (seconds of `perf_counter`).
        """

    def measure(self, cell: Cell) -> Iterator[float]:
        """Yields tokens per second, one value a repetition."""
        if cell.kind == "prefill":
            yield from self._prefill(cell)
        elif cell.kind == "agents":
            yield from self._agents(cell)
        elif cell.context == "short" or not self.recomputes:
            # What keeps its prompts computes them once, in the warm-up.
            yield from self._decode(cell)
        else:
            yield from self._decode_in_segments(cell)

    def close(self) -> None:  # noqa: B027 (on purpose: what lives in our process ends with it)
        """Nothing outlives the process."""

    def _prefill(self, cell: Cell) -> Iterator[float]:
        tokens = PREFILL_TOKENS[cell.context]
        for repetition in range(REPETITIONS + 1):
            prompts = [prompt(tokens, cell.key, repetition)]
            start = time.perf_counter()
            _, marks = self.generate(prompts, 1)
            if repetition > 0:
                yield tokens / (marks[0] - start)

    def _decode(self, cell: Cell) -> Iterator[float]:
        prompts = [prompt(CONTEXT_TOKENS[cell.context], cell.key, number) for number in range(cell.batch)]
        for repetition in range(REPETITIONS + 1):
            _, marks = self.generate(prompts, DECODE_STEPS + 1)
            if repetition > 0:
                yield cell.batch * DECODE_STEPS / (marks[-1] - marks[0])

    def _decode_in_segments(self, cell: Cell) -> Iterator[float]:
        prompts = [prompt(CONTEXT_TOKENS[cell.context], cell.key, number) for number in range(cell.batch)]
        _, marks = self.generate(prompts, REPETITIONS * SEGMENT_STEPS + 1)
        for repetition in range(REPETITIONS):
            start = repetition * SEGMENT_STEPS
            yield cell.batch * SEGMENT_STEPS / (marks[start + SEGMENT_STEPS] - marks[start])

    def _agents(self, cell: Cell) -> Iterator[float]:
        for repetition in range(REPETITIONS):
            run = AgentRun(cell, repetition, recomputes=self.recomputes)
            yield run_in_lockstep(run, lambda prompts, new_tokens: self.generate(prompts, new_tokens)[0])
