"""What is measured: one cell is one number of the table. Refuses to know who measures it and how."""

import fnmatch
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["prefill", "decode", "agents"]

MODELS = ("110m", "1.1b")
PRECISIONS = ("float32", "float16")
BATCHES = (1, 4, 8, 16)
CONTEXT_TOKENS = {"short": 32, "2k": 1920}
"""Prompt tokens before decoding."""
PREFILL_TOKENS = {"short": 512, "2k": 1920}
"""Prompt tokens of one prefill."""
DECODE_STEPS = 32
"""Steps of one repetition."""
MAX_CONTEXT = 2048
"""Positions of the random models."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One number: tokens per second of one engine on one workload."""

    model: str
    precision: str
    """Storage of the weights."""
    kind: Kind
    batch: int
    """Requests at once; for `agents` the number of agents."""
    context: str
    """"short" or "2k"; for `agents` the number of turns."""

    @property
    def key(self) -> str:
        """Its name in results and in `--only`."""
        return f"{self.model}/{self.precision}/{self.kind}/{self.context}/{self.batch}"

    @classmethod
    def from_key(cls, key: str) -> "Cell":
        """The cell of a name. Raises `ValueError` for anything else."""
        model, precision, kind, context, batch = key.split("/")
        if kind not in ("prefill", "decode", "agents"):
            raise ValueError(f"{key!r} is not a cell: kinds are prefill, decode and agents")
        return cls(model, precision, kind, int(batch), context)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class AgentShape:
    """A multi-turn workload: every turn's prompt is the whole conversation so far."""

    agents: int
    turns: int
    system: int
    """Tokens of the prompt that all agents share."""
    observation: int
    """Tokens that come in at each turn."""
    answer: int
    """Tokens generated at each turn."""


AGENTS = {
    "110m": AgentShape(agents=16, turns=30, system=200, observation=36, answer=24),
    "1.1b": AgentShape(agents=4, turns=8, system=400, observation=120, answer=60),
}
"""Both end just below `MAX_CONTEXT`."""


def all_cells(quick: bool) -> Iterator[Cell]:
    """The table, cheap cells first. `quick` leaves out the larger model, the long context and most batches."""
    for model in MODELS[:1] if quick else MODELS:
        for precision in PRECISIONS:
            for context in ("short",) if quick else CONTEXT_TOKENS:
                yield Cell(model, precision, "prefill", 1, context)
                for batch in (1, 16) if quick else BATCHES:
                    yield Cell(model, precision, "decode", batch, context)
            shape = AGENTS[model]
            turns = 4 if quick else shape.turns
            yield Cell(model, precision, "agents", shape.agents, str(turns))


def matching(cells: Iterator[Cell], patterns: Sequence[str]) -> list[Cell]:
    """The cells whose name matches one of the shell patterns, all of them when there is none."""
    return [
        cell
        for cell in cells
        if not patterns or any(fnmatch.fnmatch(cell.key, f"*{pattern}*") for pattern in patterns)
    ]
