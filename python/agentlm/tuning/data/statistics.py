"""Counts of conversations by source, task or tag: turns, characters, tokens, trained tokens, rewards, lengths.

Refuses to know how counts are shown. Memory: 4 bytes a conversation, for its length.
"""

import math
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentlm.errors import ChatTemplateError
from agentlm.tuning.data.errors import DataError
from agentlm.tuning.line_reading import Progress
from agentlm.tuning.record import Conversation, read

if TYPE_CHECKING:
    from agentlm.tuning.data.rendering import Rendered

GROUPINGS = ("source", "task", "tag")
"""What conversations may be counted by."""

LENGTHS = (0, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
"""Borders of the classes of lengths; the last class is open."""

_LONGEST = 2**32 - 1


@dataclass(slots=True)
class Counts:
    """What one group of conversations adds up to."""

    conversations: int = 0
    turns: int = 0
    """Messages of users, assistants and tools."""
    trained_turns: int = 0
    characters: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    unrendered: int = 0
    """Conversations that the chat template refused; they have no tokens here."""
    rewards: int = 0
    """Conversations that have a reward."""
    reward_sum: float = 0.0
    lengths: "array[int]" = field(default_factory=lambda: array("I"))
    """Of each conversation: in tokens if they were counted, else in characters."""

    def add(self, conversation: Conversation, rendered: "Rendered | None", *, counts_tokens: bool) -> None:
        """Adds one conversation."""
        self.conversations += 1
        self.turns += sum(message.role != "system" for message in conversation.messages)
        self.trained_turns += sum(message.trained for message in conversation.messages)
        characters = sum(len(message.content or "") for message in conversation.messages)
        self.characters += characters
        if conversation.reward is not None:
            self.rewards += 1
            self.reward_sum += conversation.reward
        if rendered is not None:
            self.tokens += len(rendered.ids)
            self.trained_tokens += rendered.trained_tokens
            self.lengths.append(min(len(rendered.ids), _LONGEST))
        elif counts_tokens:
            self.unrendered += 1
        else:
            self.lengths.append(min(characters, _LONGEST))

    def quantile(self, share: float) -> int:
        """The least length that this share of the conversations does not exceed (nearest rank); 0 without conversations."""
        if not self.lengths:
            return 0
        ordered = sorted(self.lengths)
        return ordered[max(math.ceil(share * len(ordered)), 1) - 1]

    def classes(self) -> list[int]:
        """Conversations in each class of `LENGTHS`."""
        found = [0] * len(LENGTHS)
        for length in self.lengths:
            found[bisect_right(LENGTHS, length) - 1] += 1
        return found

    def to_dict(self) -> dict[str, Any]:
        """The counts as JSON."""
        return {
            "conversations": self.conversations,
            "turns": self.turns,
            "trained_turns": self.trained_turns,
            "characters": self.characters,
            "tokens": self.tokens,
            "trained_tokens": self.trained_tokens,
            "unrendered": self.unrendered,
            "mean_reward": self.reward_sum / self.rewards if self.rewards else None,
            "length": {
                "median": self.quantile(0.5),
                "p95": self.quantile(0.95),
                "longest": max(self.lengths, default=0),
                "classes": dict(zip(map(str, LENGTHS), self.classes(), strict=True)),
            },
        }


@dataclass(slots=True)
class Statistics:
    """Counts of files."""

    by: str
    """One of `GROUPINGS`."""
    has_tokens: bool
    """Whether tokens were counted; lengths are in characters otherwise."""
    groups: dict[str, Counts] = field(default_factory=dict)
    all: Counts = field(default_factory=Counts)
    """Of all conversations, each once, also where it has several tags."""

    def to_dict(self) -> dict[str, Any]:
        """The counts as JSON."""
        return {
            "by": self.by,
            "lengths_in": "tokens" if self.has_tokens else "characters",
            "groups": {name: self.groups[name].to_dict() for name in sorted(self.groups)},
            "all": self.all.to_dict(),
        }


def class_names() -> list[str]:
    """The classes of lengths in words."""
    return [*(f"{low:,}-{high - 1:,}" for low, high in pairwise(LENGTHS)), f"{LENGTHS[-1]:,}+"]


def collect(
    paths: Sequence[str | Path],
    *,
    by: str = "source",
    render: "Callable[[Conversation], Rendered] | None" = None,
    progress: Progress | None = None,
) -> Statistics:
    """Counts the conversations of files of records; with `render`, their tokens too.

    `progress` is told of the files' bytes as they are read.

    Raises:
        DataError: `by` is none of `GROUPINGS`.
        RecordError: A file cannot be read, or a line is no record.
    """
    if by not in GROUPINGS:
        raise DataError(f"by must be one of {', '.join(GROUPINGS)}; it is {by!r}")
    made = Statistics(by, render is not None)
    for path in paths:
        for _, conversation in read(path, progress):
            rendered = None
            if render is not None:
                try:
                    rendered = render(conversation)
                except ChatTemplateError:
                    rendered = None  # counted as unrendered: the audit says why
            for counts in (
                made.all,
                *(made.groups.setdefault(name, Counts()) for name in _groups(conversation, by)),
            ):
                counts.add(conversation, rendered, counts_tokens=render is not None)
    return made


def _groups(conversation: Conversation, by: str) -> Iterator[str]:
    if by == "source":
        yield conversation.source
    elif by == "task":
        yield conversation.task or "(no task)"
    else:
        yield from dict.fromkeys(conversation.tags or ("(no tag)",))
