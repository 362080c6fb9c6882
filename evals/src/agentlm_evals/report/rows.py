"""A run's directory read back: one row a task. Refuses to know how rows are shown."""

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentlm_evals.errors import RunError, UnknownTaskError
from agentlm_evals.harness import journal
from agentlm_evals.harness.journal import Record
from agentlm_evals.outcome import Outcome, Score
from agentlm_evals.report import elementary
from agentlm_evals.report.statistics import Estimate, bootstrap, clustered, macro, wilson
from agentlm_evals.task import Average, Group, Task, Unit
from agentlm_evals.tasks import entry


@dataclass(frozen=True, slots=True)
class Row:
    """One task of one run."""

    run: str
    """The directory's name."""
    model: str
    task: str
    title: str
    group: Group
    metric: str
    unit: Unit
    estimate: Estimate
    """In the table's unit, over the episodes that ended with no harness fault."""
    outcomes: Mapping[Outcome, int]
    planned: int
    total: int
    """Samples of the whole set."""
    samples: int
    """Samples planned."""
    epochs: int
    protocol: str
    protocol_version: str
    own_samples: bool
    data: str
    """Digest of the items."""
    versions: Mapping[str, str]
    assumption: str | None
    decoding: Mapping[str, Any]
    categories: Mapping[str, Estimate]
    elementary: Mapping[str, float]
    """Shares of episodes."""
    numbers: Mapping[str, float]
    incomparable: str | None
    """Why the number must not be held against the published ones, where the task says so (`notes["comparable"]`)."""
    tokens: int
    """Generated, all episodes together."""
    values: Mapping[str, float] = field(repr=False)
    """Each sample's mean value, for comparisons; in the table's unit."""

    @property
    def finished(self) -> int:
        """Episodes with a record, faults included."""
        return sum(self.outcomes.values())

    @property
    def faults(self) -> int:
        """Episodes that say nothing about the model."""
        return self.outcomes[Outcome.HARNESS_FAULT]

    @property
    def is_whole(self) -> bool:
        """Whether every episode planned counts."""
        return self.finished == self.planned and not self.faults

    @property
    def is_official(self) -> bool:
        """Whether it may count in Overall: whole, on the published items, comparable."""
        return self.is_whole and not self.own_samples and self.incomparable is None

    @property
    def bounds(self) -> tuple[float, float]:
        """The number if every episode that is missing or faulty had failed, and if every one had succeeded."""
        left = self.planned - self.finished + self.faults
        known = self.planned - left
        best = 10.0 if self.unit is Unit.RATING else 100.0
        least = 1.0 if self.unit is Unit.RATING else 0.0
        whole = self.estimate.value * known if known else 0.0
        return (whole + least * left) / self.planned, (whole + best * left) / self.planned

    @property
    def label(self) -> str:
        """The task as the report names it: our own items are never passed off as the published set."""
        return f"{self.title} (own samples)" if self.own_samples else self.title

    @property
    def notes(self) -> list[str]:
        """What a reader must know about the number."""
        notes = []
        if self.own_samples:
            notes.append("our own samples, not the published set")
        elif self.samples < self.total:
            notes.append(f"{self.samples} of {self.total} samples")
        if self.finished < self.planned:
            notes.append(f"unfinished: {self.finished} of {self.planned} episodes")
        if self.faults:
            low, high = self.bounds
            notes.append(f"{self.faults} harness faults: between {low:.2f} and {high:.2f}")
        if self.assumption:
            notes.append(self.assumption)
        if self.incomparable:
            notes.append(self.incomparable)
        return notes


def load_run(directory: Path) -> list[Row]:
    """The rows of a run.

    Raises:
        RunError: It is no run's directory, or its files cannot be read.
    """
    path = directory / "run.json"
    if not path.is_file():
        raise RunError(f"{directory} holds no run (there is no run.json)")
    try:
        run = json.loads(path.read_text())
        return [_row(directory, run["model"], name, plan) for name, plan in run["tasks"].items()]
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise RunError(f"{directory} cannot be read as a run: {type(error).__name__}: {error}") from error


def _row(directory: Path, model: Mapping[str, Any], name: str, plan: Mapping[str, Any]) -> Row:
    folder = directory / name
    identity = json.loads((folder / "task.json").read_text())
    try:
        task = entry(name).load()
    except UnknownTaskError as error:
        raise RunError(f"{folder}: {error}") from error
    wanted = {(sample, epoch) for sample in plan["samples"] for epoch in range(int(plan["epochs"]))}
    records = [record for key, record in journal.read(folder / "episodes.jsonl").items() if key in wanted]
    order = {sample: at for at, sample in enumerate(plan["samples"])}
    records.sort(key=lambda record: (order[record.sample], record.epoch))
    judged = [record for record in records if record.score.outcome is not Outcome.HARNESS_FAULT]
    factor = 100.0 if task.metric.unit is Unit.PERCENT else 1.0
    by_category: dict[str, list[Record]] = defaultdict(list)
    by_sample: dict[str, list[Score]] = defaultdict(list)
    for record in judged:
        by_category[record.category].append(record)
        by_sample[record.sample].append(record.score)
    found = Counter(name for record in judged for name in elementary.errors(record))
    return Row(
        run=directory.name,
        model=str(model["name"]),
        task=name,
        title=task.title,
        group=task.group,
        metric=task.metric.name,
        unit=task.metric.unit,
        estimate=_estimate(task, judged).scaled(factor),
        outcomes=Counter(record.score.outcome for record in records),
        planned=len(wanted),
        total=int(plan["total"]),
        samples=len(plan["samples"]),
        epochs=int(plan["epochs"]),
        protocol=identity["protocol"],
        protocol_version=identity["protocol_version"],
        own_samples=bool(identity["own_samples"]),
        data=identity["data"],
        versions={"server": str(model.get("server", "?")), **identity["versions"]},
        assumption=task.assumptions.get(identity["protocol"]),
        decoding=identity["decoding"],
        categories={
            category: _estimate(task, of, plain=True).scaled(factor)
            for category, of in sorted(by_category.items())
            if category
        },
        elementary={name: found[name] / len(judged) for name in elementary.NAMES} if judged else {},
        numbers=dict(task.numbers(by_sample)) if judged else {},
        incomparable=_incomparable(records),
        tokens=sum(int(call["generated_tokens"]) for record in records for call in record.calls),
        values={
            sample: factor * sum(score.value for score in scores) / len(scores)
            for sample, scores in by_sample.items()
        },
    )


def _incomparable(records: Sequence[Record]) -> str | None:
    judges = sorted(
        {str(one.notes.get("judge", "?")) for one in records if one.notes.get("comparable") is False}
    )
    return f"judged by {', '.join(judges)}: not comparable with the published numbers" if judges else None


def _estimate(task: Task, records: Sequence[Record], *, plain: bool = False) -> Estimate:
    """The task's number in [0, 1] or as a rating, with its interval."""
    items: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    by_category = task.metric.average is Average.MACRO and not plain
    for record in records:
        items[record.category if by_category else ""][record.sample].append(record.score.value)
    if by_category:
        groups = [[sum(of) / len(of) for of in group.values()] for group in items.values()]
        if task.metric.is_share and all(value in (0.0, 1.0) for group in groups for value in group):
            return macro([wilson(sum(group), len(group)) for group in groups])
        return bootstrap(groups)
    values = list(items[""].values())
    means = [sum(of) / len(of) for of in values]
    # Several episodes of one item are one observation, at worst; a bootstrap of equal values would claim certainty.
    if task.metric.is_share and (all(len(of) == 1 for of in values) or len(set(means)) == 1):
        return wilson(sum(means), len(means))
    return clustered(values)
