"""ShareGPT in its dialects, and AgentInstruct, which is ShareGPT with a `loss` flag on each turn.

The list of turns is `conversations`, `conversation` or `items`; a turn has `from` and `value`, or `role` and `content`; the
speakers have many names. LLaMA-Factory's tool dialogues are a dialect: `function_call`, `observation`, and `tools` as text.
Refuses to repair what it reads.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from agentlm.tuning.data.errors import RowError
from agentlm.tuning.data.formats.context import (
    TASKS,
    Context,
    calls_of,
    id_of,
    json_value,
    loss_of,
    message,
    model_tags,
    reward_of,
    role_of,
    text_of,
    tools_of,
)
from agentlm.tuning.record import Conversation, Message

LISTS = ("conversations", "conversation", "items")
"""Names under which the turns are found."""

_TURN_KEYS = frozenset((
    "from", "value", "role", "content", "text", "loss", "weight", "name", "tool_call_id", "markdown", "user",
))  # fmt: skip


def recognises(row: dict[str, Any]) -> bool:
    """Whether the row has a list of turns under one of `LISTS`."""
    return any(isinstance(row.get(name), list | str) for name in LISTS)


def has_loss(row: dict[str, Any]) -> bool:
    """Whether a turn has a `loss` flag: AgentInstruct's mark."""
    turns: list[Any] = next((row[name] for name in LISTS if isinstance(row.get(name), list)), [])
    return any(isinstance(turn, Mapping) and "loss" in turn for turn in turns)


def convert(row: dict[str, Any], context: Context) -> Conversation:
    """The record of a chat. Raises `RowError`, `RecordError`."""
    messages = list(turns_of(row))
    system = row.get("system") or row.get("system_prompt")
    if isinstance(system, str) and system.strip() and messages and messages[0].role != "system":
        messages.insert(0, Message("system", system))
    return Conversation(
        id=id_of(row, context),
        source=context.source,
        task=context.task,
        reward=reward_of(row),
        tags=(*context.tags, *model_tags(row)),
        messages=tuple(messages),
        tools=tools_of(row.get("tools") or row.get("functions")),
    )


def convert_instruct(row: dict[str, Any], context: Context) -> Conversation:
    """The record of one of AgentInstruct's trajectories: task and item follow from its id. Raises `RowError`."""
    made = convert(row, context)
    task = TASKS.get(made.id.partition("_")[0].lower())
    return made if task is None else replace(made, task=task, item=made.id)


def turns_of(row: Mapping[str, Any]) -> list[Message]:
    """The messages of a row's turns. Raises `RowError`."""
    name = next((name for name in LISTS if row.get(name) is not None), None)
    turns = json_value(row[name], name) if name else None
    if not isinstance(turns, list):
        raise RowError(f"{' or '.join(LISTS)} must be a list of turns; it is {turns!r:.60}")
    if not turns:
        raise RowError(f"{name} is empty")
    messages: list[Message] = []
    calls = 0
    for index, turn in enumerate(turns):
        where = f"{name}[{index}]"
        if not isinstance(turn, Mapping):
            raise RowError(f"{where} must be an object; it is {turn!r:.60}")
        unknown = [key for key in turn if key not in _TURN_KEYS and turn[key] is not None]
        if unknown:
            raise RowError(
                f"{where}: unknown key {unknown[0]!r:.40}; a turn has from and value, or role and content"
            )
        role = role_of(turn.get("from", turn.get("role")))
        text = text_of(
            next((turn[key] for key in ("value", "content", "text") if turn.get(key) is not None), None),
            where,
        )
        if role == "call":
            calls += 1
            made = calls_of(text, where, f"call_{calls}")
            messages.append(
                message("assistant", None, where, tool_calls=made, loss=loss_of(turn, "assistant", where))
            )
        elif role == "tool":
            loss_of(turn, role, where)
            messages.append(
                message(role, text, where, tool_call_id=_answered(messages), name=turn.get("name"))
            )
        else:
            loss = loss_of(turn, role, where)
            messages.append(message(role, text, where, **({"loss": loss} if role == "assistant" else {})))
    return messages


def _answered(messages: list[Message]) -> str | None:
    """Which call a result belongs to: the first of the last turn's calls that has none yet."""
    results = 0
    for before in reversed(messages):
        if before.role == "tool":
            results += 1
            continue
        called = before.tool_calls[results : results + 1]
        return called[0].get("id") if called else None
    return None
