"""Other people's formats of conversations, each a file: which rows are in it, and what record a row becomes.

Refuses to know files. A format is tried only on rows that it recognises; the first in `FORMATS` that does takes the row.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from agentlm.tuning.data.errors import RowError
from agentlm.tuning.data.formats import adp, agentlm, agenttraj, instruction, openai, sharegpt, state_action
from agentlm.tuning.data.formats.context import Context
from agentlm.tuning.record import Conversation, RecordError


@dataclass(frozen=True, slots=True)
class Format:
    """One format."""

    name: str
    what: str
    """In words, for help and documentation."""
    recognises: Callable[[dict[str, Any]], bool]
    """By its keys, before anything is checked."""
    convert: Callable[[dict[str, Any], Context], Conversation]
    """Raises `RowError` or `RecordError`."""


FORMATS = (
    Format("agentlm", "our own records and evaluation transcripts", agentlm.recognises, agentlm.convert),
    Format("adp", "Agent Data Protocol trajectories", adp.recognises, adp.convert),
    Format("agenttraj", "AgentTraj of AgentGym", agenttraj.recognises, agenttraj.convert),
    Format("agentinstruct", "AgentInstruct, `loss` flags honoured", sharegpt.has_loss, sharegpt.convert_instruct),
    Format("sharegpt", "ShareGPT in its dialects, tool calls included", sharegpt.recognises, sharegpt.convert),
    Format("openai", "OpenAI messages, with tools and tool calls", openai.recognises, openai.convert),
    Format("state-action", "pairs of an environment's states and actions", state_action.recognises, state_action.convert),
    Format("instruction", "instruction, input and output (Alpaca)", instruction.recognises, instruction.convert),
)  # fmt: skip
"""In the order in which they are tried."""

NAMES = tuple(each.name for each in FORMATS)


def named(name: str) -> Format:
    """The format of a name among `NAMES`."""
    return next(each for each in FORMATS if each.name == name)


def convert(row: Any, context: Context, forced: Format | None = None) -> tuple[Format, Conversation]:
    """The record that a row becomes, and the format it was in.

    Raises:
        RowError: The row is in no known format, or is malformed in its own.
    """
    if not isinstance(row, dict):
        raise RowError(f"a row must be an object; it is {row!r:.60}")
    found = forced or next((each for each in FORMATS if each.recognises(row)), None)
    if found is None:
        keys = ", ".join(map(repr, list(row)[:12]))
        raise RowError(f"in none of the formats {', '.join(NAMES)}; its keys are {keys}")
    try:
        return found, found.convert(row, context)
    except RecordError as error:
        raise RowError(str(error)) from error
