"""AgentTraj, the trajectories of AgentGym: ShareGPT's turns with `loss` flags and an `item_id`. Refuses to know rewards.

The environment is the beginning of the item's name, such as `webshop_12`; ALFWorld's items are named by their kind.
"""

import re
from typing import Any

from agentlm.tuning.data.errors import RowError
from agentlm.tuning.data.formats.context import Context, reward_of
from agentlm.tuning.data.formats.sharegpt import turns_of
from agentlm.tuning.record import Conversation

_ALFWORLD = re.compile(r"(pick_|look_at_obj)")
"""Kinds of ALFWorld's games."""


def recognises(row: dict[str, Any]) -> bool:
    """Whether the row has turns and an item."""
    return "item_id" in row and any(
        isinstance(row.get(name), list) for name in ("conversations", "conversation")
    )


def convert(row: dict[str, Any], context: Context) -> Conversation:
    """The record of one trajectory. Raises `RowError`, `RecordError`."""
    item = row.get("item_id")
    if isinstance(item, bool) or not isinstance(item, str | int) or not str(item):
        raise RowError(f"item_id must be text or a number; it is {item!r:.60}")
    name = str(item)
    return Conversation(
        id=name,
        source=context.source,
        task=context.task or task_of(name),
        item=name,
        reward=reward_of(row),
        tags=context.tags,
        messages=tuple(turns_of(row)),
    )


def task_of(item: str) -> str | None:
    """The environment that an item's name begins with, if it begins with a word."""
    if _ALFWORLD.match(item):
        return "alfworld"
    found = re.match(r"([A-Za-z][A-Za-z0-9]*?)[_-]?(?:\d|[_-]|$)", item)
    return found.group(1).lower() if found else None
