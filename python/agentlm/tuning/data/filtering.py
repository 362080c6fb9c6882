"""From a file of records to one of those worth training on, with a report of what went and why.

Refuses to know how a fault is found (`filters/`), and to change a record: one stays as it is or goes.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from agentlm.tuning.data import outputs
from agentlm.tuning.data.errors import DataError
from agentlm.tuning.data.filters import forms, loops, poison, turns
from agentlm.tuning.data.filters.duplicates import Seen
from agentlm.tuning.data.rejects import Rejects
from agentlm.tuning.line_reading import Progress
from agentlm.tuning.record import Conversation, RecordError, Writer, read_rows

AGENTTUNING_REWARDS: Mapping[str, float] = MappingProxyType({"*": 1.0, "mind2web": 2 / 3})
"""AgentTuning's thresholds: a trajectory must have solved its task; Mind2Web's at least two thirds of its steps."""

REASONS: Mapping[str, str] = MappingProxyType({
    "record": "not a conversation record",
    "reward": "the reward is below the task's threshold",
    "untrained": "no turn is trained",
    "roles": "the turns are not in order, or one is empty",
    "form": "an agent's turn has no action that its harness could read",
    "loop": "the assistant does the same again and again, and nothing changes",
    "repetition": "a turn's text runs in a circle",
    "short": "fewer turns than asked for",
    "long": "more turns, characters or tokens than allowed",
    "poison": "a mark of poison: a hidden character, a download that is run",
    "duplicate": "an earlier conversation says the same",
    "item": "enough conversations of this task and item",
})  # fmt: skip
"""Why a conversation goes, in the order in which it is looked for."""

_TOLERANCE = 1e-6
"""A reward of 0.666667 reaches two thirds."""


@dataclass(frozen=True, slots=True)
class FilterSettings:
    """What stays; wrong values raise `DataError`."""

    min_reward: Mapping[str, float] = field(default_factory=lambda: AGENTTUNING_REWARDS)
    """Least reward by task, in lower case; `*` is every other task's. Empty sets no limit."""
    require_reward: bool = False
    """Whether a conversation of a task without a reward goes."""
    roles: bool = True
    """Whether turns must be in order."""
    task_forms: Mapping[str, str] = field(default_factory=lambda: forms.TASK_FORMS)
    """The form that a task's actions are in, the task in lower case; other tasks have none."""
    max_repeats: int = 3
    """Times in a row at which what the assistant does is a loop; 0 looks for none."""
    max_text_repeats: int = 8
    """Times in a row at which a line or a circle of words is a repetition; 0 looks for none."""
    min_turns: int = 1
    """Least turns of the assistant."""
    max_turns: int | None = None
    """Most turns of the assistant."""
    max_chars: int | None = None
    """Most characters in all messages."""
    max_tokens: int | None = None
    """Most tokens, as the renderer makes them; needs a renderer."""
    poison: str = "agent"
    """Where commands are looked at: `agent` in conversations of a task, `all`, or `off`, which looks at nothing."""
    dedupe: bool = True
    """Whether one that says the same as an earlier one goes."""
    per_item: int = 1
    """Conversations of one task and item that stay; 0 sets no limit."""

    def __post_init__(self) -> None:
        wrong = {
            task: limit for task, limit in self.min_reward.items() if math.isnan(limit) or limit == math.inf
        }
        if wrong:
            task, limit = next(iter(wrong.items()))
            raise DataError(
                f"the least reward of {'every task' if task == '*' else task} must be a number; it is {limit}"
            )
        unknown = [form for form in self.task_forms.values() if form not in forms.FORMS]
        if unknown:
            raise DataError(f"a form must be one of {', '.join(forms.FORMS)}; it is {unknown[0]!r}")
        if self.poison not in ("agent", "all", "off"):
            raise DataError(f"poison must be agent, all or off; it is {self.poison!r}")
        for name in ("max_repeats", "max_text_repeats"):
            value = getattr(self, name)
            if value < 0 or value == 1:
                raise DataError(f"{name} must be 0 (off) or at least 2; it is {value}")
        for name in ("min_turns", "per_item"):
            if getattr(self, name) < 0:
                raise DataError(f"{name} must be at least 0; it is {getattr(self, name)}")
        for name in ("max_turns", "max_chars", "max_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise DataError(f"{name} must be at least 1; it is {value}")
        if self.max_turns is not None and self.max_turns < self.min_turns:
            raise DataError(f"max_turns is {self.max_turns}, below min_turns, which is {self.min_turns}")


@dataclass(slots=True)
class FilterReport:
    """What stayed and what went."""

    kept: Counter[str] = field(default_factory=Counter)
    """Conversations that stayed, by group (`group_of`)."""
    removed: dict[str, Counter[str]] = field(default_factory=dict)
    """For each group, conversations that went by reason."""

    def add(self, group: str, reason: str | None) -> None:
        """Counts one; without a reason it stayed."""
        if reason is None:
            self.kept[group] += 1
        else:
            self.removed.setdefault(group, Counter())[reason] += 1

    @property
    def groups(self) -> list[str]:
        """Every group, by name."""
        return sorted({*self.kept, *self.removed})

    @property
    def reasons(self) -> Counter[str]:
        """Conversations that went, by reason."""
        return sum(self.removed.values(), Counter())

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON."""
        return {
            "kept": self.kept.total(),
            "removed": self.reasons.total(),
            "reasons": dict(self.reasons.most_common()),
            "groups": {
                group: {"kept": self.kept[group], "removed": dict(self.removed.get(group, {}))}
                for group in self.groups
            },
            "meaning": dict(REASONS),
        }


def group_of(conversation: Conversation) -> str:
    """What a report counts a conversation under: its task, else its source."""
    return conversation.task or conversation.source


class Filter:
    """Decides conversation by conversation; remembers those that stayed, to know duplicates."""

    def __init__(
        self, settings: FilterSettings, count_tokens: Callable[[Conversation], int] | None = None
    ) -> None:
        if settings.max_tokens is not None and count_tokens is None:
            raise DataError("max_tokens needs a model, whose tokenizer counts; give one")
        self.settings = settings
        self._count_tokens = count_tokens
        self._seen = Seen(settings.per_item)

    def fault(self, conversation: Conversation) -> tuple[str, str] | None:
        """Why the conversation goes: one of `REASONS` and the detail; None if it stays."""
        looks = (self._reward, self._order, self._form, self._repetition, self._length, self._poison)
        found = next((fault for look in looks if (fault := look(conversation))), None)
        if found is None and self.settings.dedupe:
            found = self._seen.fault(conversation)
        return found

    def _reward(self, conversation: Conversation) -> tuple[str, str] | None:
        limits, reward, task = self.settings.min_reward, conversation.reward, conversation.task
        if reward is None:
            missing = self.settings.require_reward and task is not None
            return ("reward", f"a conversation of {task} without a reward") if missing else None
        limit = limits.get((task or "*").lower(), limits.get("*"))
        if limit is None or reward >= limit - _TOLERANCE:
            return None
        return "reward", f"reward {reward:g} of {task or 'no task'}; at least {limit:.4g} is asked for"

    def _order(self, conversation: Conversation) -> tuple[str, str] | None:
        if not any(message.trained for message in conversation.messages):
            return "untrained", "no message of the assistant, or loss is false on each"
        found = turns.fault(conversation) if self.settings.roles else None
        return ("roles", found) if found else None

    def _form(self, conversation: Conversation) -> tuple[str, str] | None:
        found = forms.fault(conversation, self.settings.task_forms)
        return ("form", found) if found else None

    def _repetition(self, conversation: Conversation) -> tuple[str, str] | None:
        if self.settings.max_repeats:
            done = forms.steps(conversation, self.settings.task_forms)
            is_agent = conversation.task is not None or any(
                message.tool_calls for message in conversation.messages
            )
            if found := loops.loop(done, self.settings.max_repeats, is_agent=is_agent):
                return "loop", found
        if self.settings.max_text_repeats:
            for index, message in enumerate(conversation.messages):
                if message.trained and (
                    found := loops.repeated_text(message.content or "", self.settings.max_text_repeats)
                ):
                    return "repetition", f"messages[{index}]: {found}"
        return None

    def _length(self, conversation: Conversation) -> tuple[str, str] | None:
        settings = self.settings
        count = sum(message.role == "assistant" for message in conversation.messages)
        if count < settings.min_turns:
            return "short", f"{count} turns of the assistant; at least {settings.min_turns} are asked for"
        if settings.max_turns is not None and count > settings.max_turns:
            return "long", f"{count} turns of the assistant; at most {settings.max_turns} are allowed"
        if settings.max_chars is not None:
            chars = sum(len(message.content or "") for message in conversation.messages)
            if chars > settings.max_chars:
                return "long", f"{chars:,} characters; at most {settings.max_chars:,} are allowed"
        if settings.max_tokens is not None and self._count_tokens is not None:
            tokens = self._count_tokens(conversation)
            if tokens > settings.max_tokens:
                return "long", f"{tokens:,} tokens; at most {settings.max_tokens:,} are allowed"
        return None

    def _poison(self, conversation: Conversation) -> tuple[str, str] | None:
        where = self.settings.poison
        if where == "off":
            return None
        found = poison.fault(conversation, commands=where == "all" or conversation.task is not None)
        return ("poison", found) if found else None


def run(
    paths: Sequence[str | Path],
    output: str | Path,
    removed: str | Path,
    settings: FilterSettings,
    *,
    count_tokens: Callable[[Conversation], int] | None = None,
    progress: Progress | None = None,
) -> FilterReport:
    """Filters files of records into one; both outputs are written whole or not at all.

    `progress` is told of the files' bytes as they are read.

    Raises:
        DataError: An output is also an input, or `max_tokens` is asked for without `count_tokens`.
        RecordError: A file cannot be read.
    """
    inputs = [Path(path) for path in paths]
    outputs.check(inputs, output, removed)
    decide = Filter(settings, count_tokens)
    report = FilterReport()
    with Writer(output) as writer, Rejects(removed) as rejects:
        for path in inputs:
            for number, text, row in read_rows(path, progress):
                if isinstance(row, RecordError):
                    report.add(str(path), "record")
                    rejects.add(path, number, "record", str(row), text)
                else:
                    found = decide.fault(row)
                    report.add(group_of(row), found[0] if found else None)
                    if found:
                        rejects.add(path, number, *found, row.to_dict())
                    else:
                        writer.add(row)
    return report
