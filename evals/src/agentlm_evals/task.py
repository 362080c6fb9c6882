"""The contract of a task: what harness, report and doctor ask of it. Refuses to know servers and run directories.

A task is a folder `tasks/<name>/` whose `__init__.py` exports `TASK`, with its own items in `samples.jsonl`; the registry
(`tasks/__init__.py`) names it. `tasks/gsm8k` is the worked example. In short:

    class Riddles(Task):
        name, title, group = "riddles", "Riddles", Group.GENERAL
        metric = Metric("accuracy", Unit.PERCENT)

        def samples(self, source, options): ...                 # -> list[Sample], in a fixed order
        def decoding(self, protocol): return Decoding(max_new_tokens=128)
        async def solve(self, episode): ...                     # talks to episode.ask()/generate(); -> the answer, JSON
        def score(self, sample, answer, protocol): ...          # pure: -> right() / wrong() / format_or_limit()
        def gold(self, sample, protocol): ...                   # the replies of a perfect agent, for the doctor and tests

`solve` raises `FormatError` or `LimitReached` when the task's rules end an episode, and lets everything else through:
an exception of any other kind is a harness fault. `score` sees only what `solve` returned, so that a run can be
scored again. What needs an environment (exit codes of checks, a table's hash, a judge's rating) is found out in `solve`
and returned.
"""

import gzip
import json
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from agentlm_evals.errors import ConfigError, DataError
from agentlm_evals.model import Decoding, Prompt
from agentlm_evals.outcome import Score

if TYPE_CHECKING:
    from agentlm_evals.harness.episode import Episode
    from agentlm_evals.protocols import Protocol
    from agentlm_evals.protocols.source import Extract


class Group(StrEnum):
    """AgentTuning's three tables."""

    GENERAL = "general"
    HELD_IN = "held-in"
    HELD_OUT = "held-out"


class Unit(StrEnum):
    """What a task's number is printed in."""

    PERCENT = "%"
    """100 x the mean value."""
    RATING = "rating"
    """The mean value itself, 1 to 10."""


class Average(StrEnum):
    """How values become the task's number."""

    MICRO = "micro"
    """The mean over samples."""
    MACRO = "macro"
    """The mean over categories of the mean over samples (DBBench: SELECT, INSERT, UPDATE; HotpotQA: levels)."""


@dataclass(frozen=True, slots=True)
class Metric:
    """What the report prints for a task."""

    name: str
    unit: Unit = Unit.PERCENT
    average: Average = Average.MICRO
    is_share: bool = True
    """Every value is 0 or 1, so that its interval is Wilson's; else it is a bootstrap's."""

    @property
    def least(self) -> float:
        """The worst value there is: what an episode is worth that a limit ended."""
        return 1.0 if self.unit is Unit.RATING else 0.0

    @property
    def most(self) -> float:
        """The best value there is."""
        return 10.0 if self.unit is Unit.RATING else 1.0


@dataclass(frozen=True, slots=True)
class Sample:
    """One item of a task."""

    id: str
    """Unique in the task, the same in every run: the item's own id, or its number in the official order."""
    input: Mapping[str, Any]
    """What the task needs to pose it; JSON."""
    target: Any = None
    """What `score` compares with; JSON. Never shown to the model."""
    category: str = ""
    """Subject, level, statement type: what the report breaks the number down by, and what a macro average runs over."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a task's items come from."""

    directory: Path | None = None
    """A folder as `agentlm data fetch` lays it out (`DIR/<task>/...`); None: the task's own items in this wheel."""
    file: Path | None = None
    """One file of items in the official form, in place of the folder's."""

    @property
    def is_own(self) -> bool:
        """Whether these are items of our own making: their number is no published task's number."""
        return self.directory is None and self.file is None

    def path(self, *names: str) -> Path:
        """The first of the files, named relative to the folder, that is there.

        Raises:
            DataError: None of them is there.
        """
        if self.file is not None:
            if not self.file.is_file():
                raise DataError(f"{self.file} is not there")
            return self.file
        if self.directory is None:
            raise DataError("no data directory was named: --data DIR")
        for name in names:
            if (path := self.directory / name).is_file():
                return path
        raise DataError(f"{self.directory} holds none of {', '.join(names)}")


@dataclass(frozen=True, slots=True)
class Missing:
    """Something that a task needs and this machine lacks."""

    what: str
    how: str
    """How to get it; one line."""


@dataclass(frozen=True, slots=True)
class Option:
    """A choice that one task alone has (`-T database.engine=sqlite`)."""

    name: str
    default: str
    says: str
    choices: tuple[str, ...] = ()
    """Empty: any text."""
    least: int | float | None = None
    """It is a number, whole if this one is, and not less than this."""
    decides: bool = True
    """Whether an episode's result may depend on it. What does not is no part of what a run is, and is not written down."""

    def check(self, task: str, value: str) -> None:
        """Raises ConfigError if it may not have this value."""
        if self.choices and value not in self.choices:
            raise ConfigError(f"{task}.{self.name} is {value!r}; it must be one of {', '.join(self.choices)}")
        if self.least is None:
            return
        kind = type(self.least)
        try:
            is_right = kind(value) >= self.least
        except ValueError:
            is_right = False
        if not is_right:
            what = "a whole number" if kind is int else "a number"
            raise ConfigError(f"{task}.{self.name} is {value!r}; it must be {what}, at least {self.least:g}")


@dataclass(frozen=True, slots=True)
class Setting:
    """What the command line said about one task."""

    source: Source
    protocol: "Protocol"
    options: Mapping[str, str] = field(default_factory=dict)
    """Every option that the task declares, with its default where nothing was said."""


Agent = Callable[[Prompt], str]
"""A scripted agent: what it replies to a prompt. In place of a model in the doctor and in tests."""


def scripted(*replies: str) -> Agent:
    """An agent that gives these replies in turn, and the last one again when they are used up."""
    left = list(replies)

    def reply(_prompt: Prompt) -> str:
        return left.pop(0) if len(left) > 1 else left[0]

    return reply


NONE: Mapping[str, Any] = MappingProxyType({})
"""What a task leaves out."""


class Task(ABC):
    """One evaluation: its items, its dialogue and its scorer. Instances hold no state of a run."""

    name: str
    """As on the command line."""
    title: str
    """As in the paper's table."""
    group: Group
    metric: Metric
    published_mean: float
    """The mean of the paper's five baselines (`reference` §4.2), which a score is divided by in Overall."""
    protocols: tuple[str, ...] = ("agentlm",)
    """The protocols it knows; the first is the default."""
    sources: "Mapping[str, Extract]" = NONE
    """Where the texts of the protocol `agenttuning` stand in its sources, by the task's own keys (`episode.texts`)."""
    source_files: Mapping[str, str] = NONE
    """SHA-256 of every file that they stand in."""
    assumptions: Mapping[str, str] = NONE
    """What we had to assume in a protocol, by its name; printed on every row."""
    options: tuple[Option, ...] = ()
    needs_judge: bool = False
    """Whether no episode can run without a judge (`--judge-url`)."""
    needs_no_data: bool = False
    """Its published items follow from its rules (the games of a card game): they are never items of our own making."""
    max_samples: int | None = None
    """Of the official set; None if its size is not known."""
    resource: str = ""
    """Package of `samples.jsonl`; empty: the task's own."""

    # --- what it needs -------------------------------------------------------------------------------------------
    def requirements(self, setting: Setting) -> list[Missing]:
        """What is missing here, each with the way to get it; empty if the task can run. Quick, and touches no network."""
        del setting
        return []

    def capacity(self, setting: Setting) -> int | None:
        """How many episodes this machine's environments carry at once; None: as many as the model does."""
        del setting
        return None

    def versions(self, setting: Setting) -> Mapping[str, str]:
        """What else decides the result: an engine and its version, a file's checksum. On every row of the report."""
        del setting
        return {}

    # --- items ---------------------------------------------------------------------------------------------------
    @abstractmethod
    def samples(self, setting: Setting) -> list[Sample]:
        """All items, in a fixed order.

        Raises:
            DataError: The data directory lacks them, or they cannot be read.
        """

    # --- an episode ----------------------------------------------------------------------------------------------
    @abstractmethod
    def decoding(self, protocol: str) -> Decoding:
        """The protocol's decoding parameters."""

    @asynccontextmanager
    async def environment(self, setting: Setting) -> AsyncIterator[Any]:
        """What the task's episodes share (a pool of database servers, a root file system); `episode.environment`."""
        del setting
        yield None

    @abstractmethod
    async def solve(self, episode: "Episode") -> Any:
        """Runs one episode; returns the answer as JSON, from which alone `score` decides."""

    @abstractmethod
    def score(self, sample: Sample, answer: Any, protocol: str) -> Score:
        """What the answer is worth. Pure, so that a run can be scored again."""

    def numbers(self, scores: Mapping[str, Sequence[Score]]) -> Mapping[str, float]:
        """Further numbers for the report, of each sample's scores in the order of epochs (pass@k); none by default."""
        del scores
        return {}

    def scripted_judge(self) -> "Agent | None":
        """A judge that finds every answer perfect, for the doctor; None: the task works without one."""
        return None

    # --- checks --------------------------------------------------------------------------------------------------
    @abstractmethod
    def gold(self, sample: Sample, protocol: str) -> Agent | None:
        """A perfect agent for this sample, or None where the data hold no solution."""

    def nothing(self) -> Agent:
        """An agent that does nothing of use; AgentBench's answers `AAAAA`."""
        return scripted("AAAAA")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSONL file; `.gz` is read as such.

    Raises:
        DataError: The file cannot be read, or a line is not a JSON object; the message names file and line.
    """
    rows: list[dict[str, Any]] = []
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}:{number} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise DataError(f"{path}:{number} is not a JSON object")
        rows.append(row)
    return rows


def own_samples(package_file: str) -> list[dict[str, Any]]:
    """The items in `samples.jsonl` beside a task's module; call it with `__file__`."""
    return read_lines(Path(package_file).parent / "samples.jsonl")


def digest(samples: Sequence[Sample]) -> str:
    """A checksum of items, which tells two versions of a task's data apart; 64 hex digits."""
    body = [[sample.id, dict(sample.input), sample.target, sample.category] for sample in samples]
    return sha256(json.dumps(body, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def resolve_options(task: Task, given: Mapping[str, str]) -> dict[str, str]:
    """The task's options with defaults filled in.

    Raises:
        ConfigError: The task has no such option, or the value is none that it may have.
    """
    known = {option.name: option for option in task.options}
    for name, value in given.items():
        option = known.get(name)
        if option is None:
            allowed = ", ".join(known) or "none"
            raise ConfigError(f"task {task.name} has no option {name!r}; it has: {allowed}")
        option.check(task.name, value)
    return {option.name: given.get(option.name, option.default) for option in task.options}
