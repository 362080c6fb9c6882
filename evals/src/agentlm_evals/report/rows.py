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
    """Samples of the whole set that was there."""
    published_size: int | None
    """Samples of the published set, where that is known."""
    samples: int
    """Samples planned."""
    epochs: int
    protocol: str
    protocol_version: str
    own_samples: bool
    data: str
    """Digest of the items."""
    weights: str | None
    """The weights' digest or commit; None: nobody knows."""
    versions: Mapping[str, str]
    assumption: str | None
    decoding: Mapping[str, Any]
    categories: Mapping[str, Estimate]
    elementary: Mapping[str, float]
    """Shares of episodes."""
    numbers: Mapping[str, float]
    judge: str | None
    """Who graded the answers (`notes["judge"]`); None: the task's own rules did."""
    comparable: bool | None
    """Whether the judge's numbers may be held against the published ones; None: the task does not say."""
    incomparable: str | None
    """Why not (`notes["incomparable"]`)."""
    tokens: int
    """Generated, all episodes together."""
    bounds: tuple[float, float]
    """The number if every episode that is missing or faulty had been worth the least, and the most; in the table's unit."""
    values: Mapping[str, float] = field(repr=False)
    """Each sample's mean value, for comparisons; in the table's unit."""
    strata: Mapping[str, str] = field(repr=False, default_factory=dict)
    """Of a macro average: each sample's category."""

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
    def is_published_set(self) -> bool:
        """Whether these are the published items and all of them are there, however few were run."""
        return not self.own_samples and self.published_size in (None, self.total)

    @property
    def is_official(self) -> bool:
        """Whether it may count in Overall: whole, on the published items, comparable."""
        return self.is_whole and self.is_published_set and self.incomparable is None

    @property
    def span(self) -> float:
        """How far apart two values can be, in the table's unit."""
        return 9.0 if self.unit is Unit.RATING else 100.0

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
        else:
            if self.samples < self.total:
                notes.append(f"{self.samples} of {self.total} samples")
            if not self.is_published_set:
                notes.append(
                    f"{self.total} items, where the published set has {self.published_size}: not that set"
                )
            if lacking := self.versions.get("without"):
                notes.append(f"without {lacking}")
        if self.finished < self.planned:
            notes.append(f"unfinished: {self.finished} of {self.planned} episodes")
        if self.faults:
            low, high = self.bounds
            notes.append(f"{self.faults} harness faults: between {low:.2f} and {high:.2f}")
        if self.assumption:
            notes.append(self.assumption)
        if self.judge:
            verdict = {True: "; comparable: yes", False: f"; comparable: no ({self.incomparable})", None: ""}
            notes.append(f"judge: {self.judge}{verdict[self.comparable]}")
        return notes


def load_run(directory: Path, name: str | None = None) -> list[Row]:
    """The rows of a run, which is called `name`, or as its directory is.

    Raises:
        RunError: It is no run's directory, or its files cannot be read.
    """
    path = directory / "run.json"
    if not path.is_file():
        raise RunError(f"{directory} holds no run (there is no run.json)")
    try:
        run = json.loads(path.read_text())
        return [
            _row(directory, name or directory.resolve().name, run["model"], task, plan)
            for task, plan in run["tasks"].items()
        ]
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise RunError(f"{directory} cannot be read as a run: {type(error).__name__}: {error}") from error


def _row(directory: Path, run: str, model: Mapping[str, Any], name: str, plan: Mapping[str, Any]) -> Row:
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
    judge, comparable, why_not = _judged_by(records)
    is_macro = task.metric.average is Average.MACRO
    strata = dict(plan.get("categories", {})) | {record.sample: record.category for record in records}
    return Row(
        run=run,
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
        published_size=task.max_samples,
        samples=len(plan["samples"]),
        epochs=int(plan["epochs"]),
        protocol=identity["protocol"],
        protocol_version=identity["protocol_version"],
        own_samples=bool(identity["own_samples"]),
        data=identity["data"],
        weights=identity["model"].get("weights"),
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
        judge=judge,
        comparable=comparable,
        incomparable=why_not,
        tokens=sum(int(call["generated_tokens"]) for record in records for call in record.calls),
        bounds=_bounds(task, plan, judged, strata if is_macro else {}, factor),
        values={
            sample: factor * sum(score.value for score in scores) / len(scores)
            for sample, scores in by_sample.items()
        },
        strata=strata if is_macro else {},
    )


def _judged_by(records: Sequence[Record]) -> tuple[str | None, bool | None, str | None]:
    """The judges' names, whether the number is comparable, and why not."""
    judges = sorted({str(one.notes["judge"]) for one in records if one.notes.get("judge")})
    said = {bool(one.notes["comparable"]) for one in records if "comparable" in one.notes}
    whys = sorted({str(one.notes.get("incomparable", "another judge")) for one in records
                   if one.notes.get("comparable") is False})  # fmt: skip
    comparable = None if not said else said == {True}
    return ", ".join(judges) or None, comparable, ", ".join(whys) or None


def _bounds(
    task: Task,
    plan: Mapping[str, Any],
    judged: Sequence[Record],
    strata: Mapping[str, str],
    factor: float,
) -> tuple[float, float]:
    """The number with the worst and with the best value in the place of every episode that says nothing."""
    known = {record.key: record.score.value for record in judged}
    epochs = range(int(plan["epochs"]))

    def number(instead: float) -> float:
        groups: dict[str, list[float]] = defaultdict(list)
        for sample in plan["samples"]:
            values = [known.get((sample, epoch), instead) for epoch in epochs]
            groups[strata.get(sample, "")].append(sum(values) / len(values))
        return factor * sum(sum(group) / len(group) for group in groups.values()) / len(groups)

    return number(task.metric.least), number(task.metric.most)


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
        return bootstrap(groups, task.metric.least, task.metric.most)
    values = list(items[""].values())
    means = [sum(of) / len(of) for of in values]
    # Several episodes of one item are one observation, at worst; a bootstrap of equal values would claim certainty.
    if task.metric.is_share and (all(len(of) == 1 for of in values) or len(set(means)) == 1):
        return wilson(sum(means), len(means))
    return clustered(values, task.metric.least, task.metric.most)
