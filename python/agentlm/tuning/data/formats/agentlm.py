"""Our own record, and with it our evaluation's transcripts. Refuses to change anything but to add tags.

Other data sets have rows with `id`, `source` and `messages`, too. With keys that no record has and none that only records
have, a row is one of theirs.
"""

from dataclasses import replace
from typing import Any

from agentlm.tuning.data.formats.context import Context
from agentlm.tuning.record import Conversation, from_dict

_OURS = ("item", "tags", "meta")
_KEYS = frozenset(("id", "source", "messages", "task", "reward", "tools", *_OURS))


def recognises(row: dict[str, Any]) -> bool:
    """Whether the row has the three keys that a record must have, and is not known to be another data set's."""
    has_needed = all(key in row for key in ("id", "source", "messages"))
    return has_needed and (any(key in row for key in _OURS) or not set(row) - _KEYS)


def convert(row: dict[str, Any], context: Context) -> Conversation:
    """The record itself, with the tags from outside. Raises `RecordError`."""
    record = from_dict(row)
    tags = (*record.tags, *(tag for tag in context.tags if tag not in record.tags))
    return replace(record, tags=tags, task=record.task or context.task)
