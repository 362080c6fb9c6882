"""What a run is to do: which samples, how often, under which settings. Refuses to know servers and how episodes are run."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from agentlm_evals import __version__
from agentlm_evals.errors import ConfigError, DataError, RunError
from agentlm_evals.harness.episode import Budget, derive_seed
from agentlm_evals.harness.journal import Key, write_whole
from agentlm_evals.model import Decoding
from agentlm_evals.task import Average, Sample, Setting, Task, digest

FORMAT = 1
"""Of run.json, task.json and episodes.jsonl."""


@dataclass(frozen=True, slots=True)
class RunSettings:
    """What the command line says about a whole run."""

    seed: int = 0
    samples_per_item: int = 1
    limit: int | None = None
    """The first so many samples of each task."""
    sample_ids: tuple[str, ...] = ()
    temperature: float | None = None
    top_p: float | None = None
    max_new_tokens: int | None = None
    budget: Budget = field(default_factory=Budget)
    concurrency: int | None = None
    """Episodes at once; None: what the servers take."""
    fault_retries: int = 2
    """How often an episode that ended with a harness fault is run again."""

    @property
    def overridden(self) -> frozenset[str]:
        """Fields of `Decoding` that are set here, whatever a task would choose."""
        return frozenset(
            name for name in ("temperature", "top_p", "max_new_tokens") if getattr(self, name) is not None
        )

    def __post_init__(self) -> None:
        for name, least in (
            ("samples_per_item", 1),
            ("limit", 1),
            ("concurrency", 1),
            ("fault_retries", 0),
            ("seed", 0),
        ):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"{name} is {value}; it must be at least {least}")


@dataclass(frozen=True, slots=True)
class TaskPlan:
    """One task in a run."""

    task: Task
    setting: Setting
    samples: list[Sample]
    """Those chosen."""
    total: int
    """Those there are."""
    data_digest: str
    """Of all there are."""
    decoding: Decoding
    epochs: int
    run_seed: int
    budget: Budget = field(default_factory=Budget)
    overridden: frozenset[str] = frozenset()
    """Fields of `decoding` that the command line set."""

    @property
    def is_own(self) -> bool:
        """Whether these are items of our own making."""
        return self.setting.source.is_own and not self.task.needs_no_data

    @property
    def keys(self) -> list[Key]:
        """Every episode planned: all samples once, then all again."""
        return [(sample.id, epoch) for epoch in range(self.epochs) for sample in self.samples]

    def identity(self, model: Mapping[str, Any]) -> dict[str, Any]:
        """What decides an episode's result. Two runs that agree in it may share their records."""
        setting = self.setting
        identity = {
            "format": FORMAT,
            "task": self.task.name,
            "protocol": setting.protocol.name,
            "protocol_version": setting.protocol.version,
            "options": {
                option.name: setting.options[option.name]
                for option in self.task.options
                if option.decides and option.name in setting.options
            },
            "own_samples": self.is_own,
            "data": self.data_digest,
            "decoding": self.decoding.to_json(),
            "versions": dict(self.task.versions(setting)),
            "model": {key: value for key, value in model.items() if key != "server"},
            "run_seed": self.run_seed,
        }
        # Only where there is something to say, so that runs from before these were kept go on.
        if self.budget != Budget():
            identity["budget"] = asdict(self.budget)
        if self.overridden:
            identity["overridden"] = sorted(self.overridden)
        # As it is read back: tuples are lists then.
        whole: dict[str, Any] = json.loads(json.dumps(identity))
        return whole


def plan_task(task: Task, setting: Setting, settings: RunSettings) -> TaskPlan:
    """Chooses the samples and settles the decoding.

    Raises:
        DataError: The task's items cannot be read.
        ConfigError: A sample that was named is not there.
    """
    if setting.protocol.name not in task.protocols:
        raise ConfigError(
            f"task {task.name} knows the protocols {', '.join(task.protocols)}, not {setting.protocol.name!r}"
        )
    samples = task.samples(setting)
    if not samples:
        raise DataError(
            f"task {task.name} has no samples in {setting.source.file or setting.source.directory}"
        )
    by_id = {sample.id: sample for sample in samples}
    if len(by_id) != len(samples):
        raise ConfigError(f"task {task.name} has two samples of one id")
    chosen = samples
    if settings.sample_ids:
        if unknown := [name for name in settings.sample_ids if name not in by_id]:
            raise ConfigError(
                f"task {task.name} has no sample {', '.join(unknown)}; its first are {', '.join(list(by_id)[:5])}"
            )
        chosen = [by_id[name] for name in dict.fromkeys(settings.sample_ids)]
    chosen = chosen[: settings.limit]
    decoding = task.decoding(setting.protocol.name).with_(
        temperature=settings.temperature, top_p=settings.top_p, max_new_tokens=settings.max_new_tokens
    )
    return TaskPlan(
        task, setting, chosen, len(samples), digest(samples), decoding, settings.samples_per_item,
        derive_seed(settings.seed, task.name), settings.budget, settings.overridden,
    )  # fmt: skip


def check_identity(directory: Path, identity: Mapping[str, Any]) -> None:
    """Writes `task.json`, or holds the one that is there against this run.

    Raises:
        RunError: The directory holds episodes that ran under other settings; the message says which.
    """
    path = directory / "task.json"
    if path.is_file():
        try:
            there = json.loads(path.read_text())
        except ValueError as error:
            raise RunError(f"{path} cannot be read: {error}") from error
        if differing := [key for key in {**there, **identity} if there.get(key) != identity.get(key)]:
            said = "; ".join(
                f"{key}: {there.get(key)!r} there, {identity.get(key)!r} now" for key in differing
            )
            raise RunError(f"{directory} holds episodes of another run ({said}); choose another --out")
        return
    write_whole(path, json.dumps(identity, indent=1, ensure_ascii=False) + "\n")


def write_run(
    directory: Path, plans: list[TaskPlan], settings: RunSettings, model: Mapping[str, Any]
) -> None:
    """Writes `run.json`: what was planned last. Tasks planned before and not now are kept."""
    path = directory / "run.json"
    tasks: dict[str, Any] = {}
    if path.is_file():
        tasks = dict(json.loads(path.read_text()).get("tasks", {}))
    for plan in plans:
        tasks[plan.task.name] = {
            "samples": [sample.id for sample in plan.samples],
            "epochs": plan.epochs,
            "total": plan.total,
        }
        if plan.task.metric.average is Average.MACRO:
            # Of episodes that never ended, too: what the number could be depends on their categories.
            tasks[plan.task.name]["categories"] = {sample.id: sample.category for sample in plan.samples}
    body = {
        "format": FORMAT,
        "agentlm_evals": __version__,
        "model": dict(model),
        "settings": asdict(settings),
        "tasks": tasks,
    }
    write_whole(path, json.dumps(body, indent=1, ensure_ascii=False) + "\n")
