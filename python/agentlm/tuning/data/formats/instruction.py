"""Rows of an instruction, an input and an output, after Alpaca: one question and one answer. Refuses to know trajectories.

FireAct's first release keeps whole ReAct trajectories in this form: observations stand in the output, where a model must
not be trained to write them. An output in which a line begins with `Action:` before the first one that begins with
`Observation:` is therefore split into turns, and what the last one says of the reward is the record's. Any other output is
one answer: a report of an experiment has observations, too.
"""

import re
from typing import Any

from agentlm.tuning.data.errors import RowError
from agentlm.tuning.data.formats.context import (
    Context,
    id_of,
    item_of,
    model_tags,
    reward_of,
    task_of,
)
from agentlm.tuning.data.formats.episode_end import reward_at_end
from agentlm.tuning.record import Conversation, Message

_OBSERVATION = re.compile(r"^Observation(?: \d+)?:", re.MULTILINE)
_ACTION = re.compile(r"^Action(?: \d+)?:", re.MULTILINE)
_NEXT = re.compile(r"^(?:Thought|Action|Finish|Answer|Final Answer)(?: \d+)?:", re.MULTILINE)


def recognises(row: dict[str, Any]) -> bool:
    """Whether the row has an instruction (or a prompt) and an output (or a response)."""
    return ("instruction" in row or "prompt" in row) and any(
        key in row for key in ("output", "response", "completion")
    )


def convert(row: dict[str, Any], context: Context) -> Conversation:
    """The record of a question and its answer. Raises `RowError`, `RecordError`."""
    ask = _text(row, ("instruction", "prompt"))
    more = row.get("input") or row.get("context")
    if more is not None and not isinstance(more, str):
        raise RowError(f"input must be text; it is {more!r:.60}")
    messages: list[Message] = []
    if isinstance(row.get("system"), str) and row["system"].strip():
        messages.append(Message("system", row["system"]))
    for past in _history(row):
        if not (isinstance(past, list) and len(past) == 2 and all(isinstance(text, str) for text in past)):
            raise RowError(f"history must be a list of pairs of text; it holds {past!r:.60}")
        messages += [Message("user", past[0]), Message("assistant", past[1])]
    messages.append(Message("user", f"{ask}\n{more}" if more else ask))
    output = _text(row, ("output", "response", "completion"))
    messages += _turns(output)
    reward = reward_of(row)
    if reward is None:
        reward = reward_at_end(output)
    return Conversation(
        id=id_of(row, context),
        source=context.source,
        task=task_of(row, context),
        item=item_of(row),
        reward=reward,
        tags=(*context.tags, *model_tags(row)),
        messages=tuple(messages),
    )


def _history(row: dict[str, Any]) -> list[Any]:
    history = row.get("history") or []
    if not isinstance(history, list):
        raise RowError(f"history must be a list of pairs of text; it is {history!r:.60}")
    return history


def _turns(output: str) -> list[Message]:
    """The output as turns: what the model wrote, and what it was shown."""
    messages: list[Message] = []
    rest = output
    first = _OBSERVATION.search(output)
    if first is None or not _ACTION.search(output, 0, first.start()):
        return [Message("assistant", output)]
    while found := _OBSERVATION.search(rest):
        wrote = rest[: found.start()].rstrip("\n")
        after = _NEXT.search(rest, found.end())
        seen = rest[found.start() : after.start() if after else len(rest)].rstrip("\n")
        rest = rest[after.start() :] if after else ""
        messages.append(Message("assistant", wrote))
        if not rest:
            return messages  # the episode's end, which nobody answers
        messages.append(Message("user", seen))
    return [*messages, Message("assistant", rest)]


def _text(row: dict[str, Any], keys: tuple[str, ...]) -> str:
    value = next((row[key] for key in keys if row.get(key) is not None), None)
    if not isinstance(value, str):
        raise RowError(f"{' or '.join(keys)} must be text; it is {value!r:.60}")
    return value
