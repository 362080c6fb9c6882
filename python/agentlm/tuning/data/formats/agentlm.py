"""Our own record, and with it our evaluation's transcripts. Refuses to change anything but to add tags."""

from dataclasses import replace
from typing import Any

from agentlm.tuning.data.formats.context import Context
from agentlm.tuning.record import Conversation, from_dict


def recognises(row: dict[str, Any]) -> bool:
    """Whether the row has the three keys that a record must have."""
    return all(key in row for key in ("id", "source", "messages"))


def convert(row: dict[str, Any], context: Context) -> Conversation:
    """The record itself, with the tags from outside. Raises `RecordError`."""
    record = from_dict(row)
    tags = (*record.tags, *(tag for tag in context.tags if tag not in record.tags))
    return replace(record, tags=tags, task=record.task or context.task)
