"""ShareGPT in its dialects, and AgentInstruct, which is ShareGPT with a `loss` flag on each turn.

The list of turns is `conversations`, `conversation` or `items`; a turn has `from` and `value`, or `role` and `content`; the
speakers have many names. Dialects: Capybara and XTuner write a question and its answer as one entry, `input` and `output`;
LLaMA-Factory's tool dialogues have `function_call`, `observation`, and `tools` as text. Refuses to repair what it reads.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from agentlm.tuning.data.errors import RowError
from agentlm.tuning.data.formats.context import (
    TASKS,
    Context,
    calls_of,
    id_of,
    item_of,
    json_value,
    loss_of,
    message,
    model_tags,
    reward_of,
    role_of,
    task_of,
    text_of,
    tools_of,
)
from agentlm.tuning.record import Conversation, Message

LISTS = ("conversations", "conversation", "items")
"""Names under which the turns are found."""

_TURN_KEYS = frozenset((
    "from", "value", "role", "content", "text", "loss", "weight", "name", "tool_call_id", "markdown", "user",
))  # fmt: skip
_PAIR_KEYS = frozenset(("system", "input", "output", "output_with_loss", "need_eos_token"))
_ABOUT_A_TURN = frozenset((
    "id", "message_id", "parent", "parent_id", "index", "turn", "turn_identifier", "timestamp", "created", "create_time",
    "model", "language", "lang", "country", "state", "header", "hashed_ip", "redacted", "toxic", "temperature", "top_p",
    "token_counter", "token_count", "tokens", "openai_id",
))  # fmt: skip
"""What WildChat, LMSYS-Chat and others tell of a turn besides what was said; left out."""


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
        task=task_of(row, context),
        item=item_of(row),
        reward=reward_of(row),
        tags=(*context.tags, *model_tags(row)),
        messages=tuple(messages),
        tools=tools_of(row.get("tools") or row.get("functions")),
    )


def convert_instruct(row: dict[str, Any], context: Context) -> Conversation:
    """The record of one of AgentInstruct's trajectories: task and item follow from its id. Raises `RowError`."""
    made = convert(row, context)
    task = TASKS.get(made.id.partition("_")[0].lower())
    return made if task is None else replace(made, task=task, item=made.item or made.id)


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
    for where, turn in _one_by_one(turns, str(name)):
        unknown = [
            key
            for key in turn
            if key not in _TURN_KEYS and key not in _ABOUT_A_TURN and turn[key] is not None
        ]
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


def _one_by_one(turns: list[Any], name: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each turn and its place; an entry that is a question and its answer is two, or three with a system prompt."""
    for index, turn in enumerate(turns):
        where = f"{name}[{index}]"
        if not isinstance(turn, Mapping):
            raise RowError(f"{where} must be an object; it is {turn!r:.60}")
        if "input" not in turn or "output" not in turn:
            yield where, turn
            continue
        unknown = [key for key in turn if key not in _PAIR_KEYS and turn[key] is not None]
        if unknown:
            raise RowError(f"{where}: unknown key {unknown[0]!r:.40} beside input and output")
        if turn.get("system"):
            yield f"{where}: system", {"from": "system", "value": turn["system"]}
        yield f"{where}: input", {"from": "human", "value": turn["input"]}
        loss = turn.get("output_with_loss")
        yield f"{where}: output", {"from": "gpt", "value": turn["output"], "loss": loss}


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
