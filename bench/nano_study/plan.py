"""Which models the study trains and on how much: a fixed list, small enough to be read. Refuses to know how it is run."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class Size:
    """How much of everything."""

    scale: float
    """Of the corpus; 1 is about 13 M tokens."""
    base_steps: int
    tune_steps: int
    seeds: int
    episodes: int
    """Of each group of worlds, and questions, a cell."""
    batch: int = 8
    length: int = 1024


FULL = Size(scale=1.0, base_steps=400, tune_steps=240, seeds=3, episodes=200)
"""15 tunings and one base a seed: about 5,000 steps."""
REHEARSAL = Size(scale=0.02, base_steps=3, tune_steps=2, seeds=1, episodes=8, batch=2, length=512)
"""Whether all of it runs: minutes, and no finding."""
ETAS = (0.0, 0.1, 0.2, 0.5, 1.0)
"""Shares of agent data, by trained tokens. 0 is general-only, 1 agent-only; AgentTuning takes 0.2."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One trained model."""

    seed: int
    eta: float | None
    """None: the base."""

    @property
    def name(self) -> str:
        """`base-1`, `eta-0.2-1`: its folder."""
        return f"{self.variant}-{self.seed}"

    @property
    def variant(self) -> str:
        """What the table's row is called by."""
        return "base" if self.eta is None else f"eta-{self.eta:g}"

    @property
    def title(self) -> str:
        """The table's row."""
        if self.eta is None:
            return "base"
        kind = {0.0: "general only", 1.0: "agent only"}.get(self.eta, "mixed")
        return f"{kind}, η = {self.eta:g}"


def cells(size: Size) -> Iterator[Cell]:
    """Every cell, a seed's base before what is tuned from it; one seed is done before the next begins."""
    for seed in range(1, size.seeds + 1):
        yield Cell(seed, None)
        for eta in ETAS:
            yield Cell(seed, eta)


def config(cell: Cell, size: Size, folder: str) -> dict[str, Any]:
    """The cell's `agentlm tune` configuration; paths are below `folder`. All cells of a kind spend the same."""
    from_base = cell.eta is not None
    base = replace(cell, eta=None).name
    sources: list[dict[str, Any]] = [{"name": "general", "path": f"{folder}/corpus/general.jsonl"}]
    if not from_base:
        sources.append({"name": "practice", "path": f"{folder}/corpus/practice.jsonl"})
    data: dict[str, Any] = {"length": size.length}
    if from_base:
        sources[0]["group"] = "general"
        sources.append({"name": "agent", "path": f"{folder}/corpus/agent.jsonl", "group": "agent"})
        data |= {"eta": cell.eta, "unit": "trained_tokens"}
    return {
        "output": f"{folder}/{cell.name}",
        "seed": cell.seed,
        "model": {"path": f"{folder}/{base}/model"}
        if from_base
        else {"path": f"{folder}/base", "init": "random"},
        "data": data | {"sources": sources},
        "training": {
            "steps": size.tune_steps if from_base else size.base_steps,
            "batch": size.batch,
            "micro_batch": size.batch,
            "learning_rate": 2e-3 if from_base else 3e-3,
            "warmup": 0.05,
            "final_learning_rate": 0.05,
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
