"""Which models the study trains and on how much: a fixed list, small enough to be read. Refuses to know how it is run."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Size:
    """How much of everything."""

    scale: float
    """Of the corpus; 1 is about 13 M tokens."""
    practice_steps: int
    base_steps: int
    tune_steps: int
    seeds: int
    """Tunings of each mixture; they differ in what is drawn and in which order."""
    episodes: int
    """Of each group of worlds, and questions, a cell."""
    batch: int = 4
    length: int = 1024


FULL = Size(scale=1.0, practice_steps=500, base_steps=1000, tune_steps=450, seeds=3, episodes=200)
"""One base and 15 tunings: about 8,000 steps of 4,000 tokens."""
REHEARSAL = Size(
    scale=0.02, practice_steps=2, base_steps=3, tune_steps=2, seeds=1, episodes=8, batch=2, length=512
)
"""Whether all of it runs: minutes, and no finding."""
ETAS = (0.0, 0.1, 0.2, 0.5, 1.0)
"""Shares of agent data, by trained tokens. 0 is general-only, 1 agent-only; AgentTuning takes 0.2."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One trained model."""

    eta: float | None = None
    """None: the base, of which there is one, as AgentTuning tunes one Llama-2-chat."""
    seed: int = 1

    @property
    def name(self) -> str:
        """`base`, `eta-0.2-1`: its folder."""
        return "base" if self.eta is None else f"eta-{self.eta:g}-{self.seed}"

    @property
    def title(self) -> str:
        """The table's row."""
        if self.eta is None:
            return "base"
        kind = {0.0: "general only", 1.0: "agent only"}.get(self.eta, "mixed")
        return f"{kind}, η = {self.eta:g}"


def cells(size: Size) -> Iterator[Cell]:
    """Every cell, the base first; one seed is done before the next begins."""
    yield Cell()
    for seed in range(1, size.seeds + 1):
        for eta in ETAS:
            yield Cell(eta, seed)


def stages(cell: Cell, size: Size, folder: str) -> dict[str, dict[str, Any]]:
    """The `agentlm tune` configurations that make the cell, by name, each from what the one before wrote.

    The last has the cell's own name. Paths are below `folder`; all cells but the base spend the same.
    """
    practice = {"name": "practice", "path": f"{folder}/corpus/practice.jsonl"}
    general = {"name": "general", "path": f"{folder}/corpus/general.jsonl"}
    agent = {"name": "agent", "path": f"{folder}/corpus/agent.jsonl"}
    shared = {"length": size.length, "unit": "trained_tokens"}
    if cell.eta is None:
        first = shared | {"sources": [practice]}
        then = shared | {"sources": [general | {"weight": 0.8}, practice | {"weight": 0.2}]}
        return {
            "practice": _config(
                "practice", f"{folder}/start", size.practice_steps, first, cell, size, folder
            ),
            "base": _config("base", f"{folder}/practice/model", size.base_steps, then, cell, size, folder),
        }
    mixed = shared | {
        "eta": cell.eta,
        "sources": [general | {"group": "general"}, agent | {"group": "agent"}],
    }
    return {cell.name: _config(cell.name, f"{folder}/base/model", size.tune_steps, mixed, cell, size, folder)}


def _config(
    name: str, model: str, steps: int, data: Mapping[str, Any], cell: Cell, size: Size, folder: str
) -> dict[str, Any]:
    return {
        "output": f"{folder}/{name}",
        "seed": cell.seed,
        "model": {"path": model},
        "data": dict(data),
        "training": {
            "steps": steps,
            "batch": size.batch,
            "micro_batch": size.batch,
            "learning_rate": 1e-3,
            "warmup": 0.05,
            "final_learning_rate": 0.5 if name == "practice" else 0.05,
            "weight_decay": 0.05,
            "dtype": "bfloat16",
            "device": "cpu",
        },
        "checkpoints": {"every": 100, "keep": 1},
    }


def to_toml(values: Mapping[str, Any], table: str = "") -> str:
    """The plain TOML of a configuration: tables, lists of tables, and scalars."""
    lines: list[str] = []
    below: list[str] = []
    for key, value in values.items():
        path = f"{table}.{key}" if table else key
        if isinstance(value, Mapping):
            below.append(f"\n[{path}]\n{to_toml(value, path)}")
        elif isinstance(value, list):
            below += [f"\n[[{path}]]\n{to_toml(entry, path)}" for entry in value]
        else:
            lines.append(f"{key} = {value!r}\n".replace("'", '"'))
    return "".join(lines + below)
