"""Agent Data Protocol (arXiv 2510.24702), versions 1.0 to 1.2: a list of actions and observations.

An agent's action becomes an assistant's message: text, a block of code, or a tool call with what the agent thought as its
content. A result of a tool call is the tool's message; everything else that the agent sees is the user's, several in a row
joined. Text marked as the agent's own, but standing among the observations, is not trained. Refuses pictures.
"""

from collections.abc import Mapping
from typing import Any

from agentlm.tuning.data.errors import RowError
from agentlm.tuning.data.formats.context import Context, id_of, message
from agentlm.tuning.record import Conversation, Message

_LEFT_OUT = ("reasoning_content",)
"""Of an action; counted in the record's meta."""


def recognises(row: dict[str, Any]) -> bool:
    """Whether the row has a list of content with `class_` on it."""
    content = row.get("content")
    return isinstance(content, list) and any(
        isinstance(part, Mapping) and "class_" in part for part in content
    )


def convert(row: dict[str, Any], context: Context) -> Conversation:
    """The record of a trajectory; its reward is the last one that a step has. Raises `RowError`, `RecordError`."""
    messages: list[Message] = []
    reward: float | None = None
    left_out = 0
    content = row.get("content")
    if not isinstance(content, list):
        raise RowError(f"content must be a list of actions and observations; it is {content!r:.60}")
    for index, part in enumerate(content):
        where = f"content[{index}]"
        if not isinstance(part, Mapping) or not isinstance(part.get("class_"), str):
            raise RowError(f"{where} must be an object with class_; it is {part!r:.60}")
        given = part.get("reward")
        if isinstance(given, int | float) and not isinstance(given, bool):
            reward = float(given)
        left_out += sum(bool(part.get(key)) for key in _LEFT_OUT)
        _add(messages, _step(part, where, messages))
    details = row.get("details")
    meta: dict[str, Any] = dict(details) if isinstance(details, Mapping) else {}
    for key in ("available_apis", "available_custom_tools"):
        if row.get(key):
            meta[key] = row[key]
    if left_out:
        meta["reasoning_left_out"] = left_out
    return Conversation(
        id=id_of(row, context),
        source=context.source,
        task=context.task,
        reward=reward,
        tags=context.tags,
        messages=tuple(messages),
        meta=meta,
    )


def _step(part: Mapping[str, Any], where: str, before: list[Message]) -> Message:
    kind = part["class_"]
    if kind == "message_action":
        return message("assistant", _joined(part.get("description"), part.get("content"), where), where)
    if kind == "code_action":
        code = _text(part, "content", where)
        block = f"```{_text(part, 'language', where)}\n{code}\n```"
        return message("assistant", _joined(part.get("description"), block, where), where)
    if kind == "api_action":
        kwargs = part.get("kwargs") or {}
        if not isinstance(kwargs, Mapping):
            raise RowError(f"{where}: kwargs must be an object; they are {kwargs!r:.60}")
        name = part.get("tool_call_id") or f"call_{len(before)}"
        function = {"name": _text(part, "function", where), "arguments": dict(kwargs)}
        call = {"id": str(name), "type": "function", "function": function}
        thought = part.get("description")
        return message("assistant", thought if isinstance(thought, str) else None, where, tool_calls=(call,))
    if kind == "text_observation":
        return _seen(_text(part, "content", where), part, where, before)
    if kind == "web_observation":
        if part.get("image_observation") and not (part.get("axtree") or part.get("html")):
            raise RowError(f"{where} shows a picture only, which cannot be trained on")
        page = next((part[key] for key in ("axtree", "html") if isinstance(part.get(key), str)), None)
        if page is None:
            raise RowError(f"{where} has neither axtree nor html")
        address = part.get("url")
        return _seen(f"{address}\n{page}" if isinstance(address, str) else page, part, where, before)
    if kind == "json_observation":
        raise RowError(f"{where} is a json_observation, which has no text of its own")
    if kind == "image_observation":
        raise RowError(f"{where} is a picture, which cannot be trained on")
    raise RowError(f"{where}: unknown class_ {kind!r:.40}")


def _seen(text: str, part: Mapping[str, Any], where: str, before: list[Message]) -> Message:
    source = part.get("source", "environment")
    if source not in ("user", "agent", "environment", "os"):
        raise RowError(f"{where}: source must be user, agent or environment; it is {source!r:.40}")
    if source == "agent":
        return message("assistant", text, where, loss=False)
    calls = before[-1].tool_calls if before else ()
    if source != "user" and calls:
        return message("tool", text, where, tool_call_id=calls[0]["id"], name=calls[0]["function"]["name"])
    return message("user", text, where)


def _add(messages: list[Message], step: Message) -> None:
    if step.role == "user" and messages and messages[-1].role == "user":
        messages[-1] = Message("user", f"{messages[-1].content}\n\n{step.content}")
    else:
        messages.append(step)


def _text(part: Mapping[str, Any], key: str, where: str) -> str:
    value = part.get(key)
    if not isinstance(value, str):
        raise RowError(f"{where}: {key} must be text; it is {value!r:.60}")
    return value


def _joined(thought: Any, text: Any, where: str) -> str:
    if not isinstance(text, str):
        raise RowError(f"{where}: content must be text; it is {text!r:.60}")
    return f"{thought.rstrip()}\n\n{text}" if isinstance(thought, str) and thought.strip() else text
