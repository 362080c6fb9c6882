"""OpenAI's messages: the format of its chat API and of its fine-tuning files, older function calls included.

An observation at the end that only says the episode's reward (FireAct's) becomes the record's reward.
Refuses images and sound: a row that holds some is rejected, not thinned out.
"""

from collections.abc import Mapping
from typing import Any

from agentlm.tuning.data.errors import RowError
from agentlm.tuning.data.formats.context import (
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
from agentlm.tuning.data.formats.episode_end import reward_at_end
from agentlm.tuning.record import Conversation, Message

_KEYS = frozenset((
    "role", "content", "name", "tool_calls", "tool_call_id", "function_call", "refusal", "weight", "loss", "annotations",
    "audio", "id", "type",
))  # fmt: skip
_SAID_ELSEWHERE = ("audio",)
"""Keys whose value would be lost."""


def recognises(row: dict[str, Any]) -> bool:
    """Whether the row has `messages`."""
    return isinstance(row.get("messages"), list | str)


def convert(row: dict[str, Any], context: Context) -> Conversation:
    """The record of a chat. Raises `RowError`, `RecordError`."""
    given = json_value(row.get("messages"), "messages")
    if not isinstance(given, list) or not given:
        raise RowError(f"messages must be a list with at least one message; it is {given!r:.60}")
    messages: list[Message] = []
    for index, one in enumerate(given):
        messages.append(_message(one, f"messages[{index}]", messages))
    reward = reward_of(row)
    if len(messages) > 1 and messages[-1].role == "user":
        said = reward_at_end(messages[-1].content or "")
        if said is not None:
            messages.pop()
            reward = said if reward is None else reward
    return Conversation(
        id=id_of(row, context),
        source=context.source,
        task=task_of(row, context),
        item=item_of(row),
        reward=reward,
        tags=(*context.tags, *model_tags(row)),
        messages=tuple(messages),
        tools=tools_of(row.get("tools") or row.get("functions")),
    )


def _message(one: Any, where: str, before: list[Message]) -> Message:
    if not isinstance(one, Mapping):
        raise RowError(f"{where} must be an object; it is {one!r:.60}")
    unknown = [key for key, value in one.items() if value is not None and key not in _KEYS]
    lost = [key for key in _SAID_ELSEWHERE if one.get(key) is not None]
    if unknown or lost:
        raise RowError(
            f"{where}: {(unknown or lost)[0]!r:.40} cannot be kept; a message has {', '.join(sorted(_KEYS))}"
        )
    role = role_of(one.get("role"))
    if role == "call":
        raise RowError(f"{where}: unknown role {one.get('role')!r:.40}")
    loss = loss_of(one, role, where)
    content = one.get("content")
    text = None if content is None else text_of(content, where)
    if role == "assistant":
        called = one.get("tool_calls") or one.get("function_call")
        call_id = None if one.get("tool_calls") else f"call_{len(before)}"
        calls = calls_of(called, f"{where}: tool_calls", call_id) if called else ()
        if text is None and not calls and isinstance(one.get("refusal"), str):
            text = one["refusal"]
        return message(role, text, where, tool_calls=calls, loss=loss, name=one.get("name"))
    if role == "tool":
        return message(role, text, where, tool_call_id=_answers(one, before), name=one.get("name"))
    return message(role, text, where, name=one.get("name"))


def _answers(one: Mapping[str, Any], before: list[Message]) -> str | None:
    """The call that a result names; an older function's result belongs to the call just before it."""
    named = one.get("tool_call_id")
    if isinstance(named, str):
        return named
    calls = before[-1].tool_calls if before else ()
    return calls[0].get("id") if calls else None
