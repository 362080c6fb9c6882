"""What a format is told about a row from outside, and the parts that several formats share. Refuses to know any of them."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agentlm.tuning.data.errors import RowError
from agentlm.tuning.record import Message, RecordError

ROLES: Mapping[str, str] = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "gpt-4": "assistant", "bing": "assistant",
    "bard": "assistant", "claude": "assistant", "gemini": "assistant", "model": "assistant", "bot": "assistant",
    "agent": "assistant", "ai": "assistant",
    "tool": "tool", "function": "tool", "observation": "tool", "function_response": "tool", "tool_response": "tool",
    "ipython": "tool",
    "function_call": "call", "tool_call": "call",
}  # fmt: skip
"""Names of speakers in the data that is about, and who they are; `call` is the assistant calling a tool."""

TASKS: Mapping[str, str] = {
    "alfworld": "alfworld", "webshop": "webshop", "mind2web": "mind2web", "kg": "kg", "os": "os", "db": "db",
}  # fmt: skip
"""Tasks by the first part of AgentInstruct's ids, such as `db_tri_375`."""


@dataclass(frozen=True, slots=True)
class Context:
    """What a format is told about a row from outside."""

    source: str
    """The record's source, unless the row is a record of ours."""
    fallback_id: str
    """The record's id where the row has none."""
    tags: tuple[str, ...] = ()
    """Added to each record's."""
    task: str | None = None
    """The record's task where the row does not say one."""


def role_of(name: Any) -> str:
    """Who a speaker's name means. Raises `RowError` for one that is not known."""
    found = ROLES.get(name.strip().lower()) if isinstance(name, str) else None
    if found is None:
        raise RowError(f"unknown speaker {name!r:.40}; known are {', '.join(ROLES)}")
    return found


def text_of(value: Any, where: str) -> str:
    """Text, or the texts of OpenAI's content parts. Raises `RowError` for anything else."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        parts = []
        for part in value:
            if isinstance(part, str):
                parts.append(part)
            elif isinstance(part, Mapping) and isinstance(part.get("text"), str):
                parts.append(part["text"])
            else:
                kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
                raise RowError(f"{where}: holds a part of type {kind!r:.40}; only text can be trained on")
        return "\n".join(parts)
    raise RowError(f"{where} must be text; it is {value!r:.60}")


def json_value(value: Any, what: str) -> Any:
    """A value that some data sets keep as JSON text. Raises `RowError` if it is none."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value) if value.strip() else None
    except (ValueError, RecursionError) as error:
        raise RowError(f"{what} is text, but no JSON: {error}") from error


def tools_of(value: Any) -> tuple[dict[str, Any], ...] | None:
    """Tools as OpenAI writes them, from that shape, bare functions, one of them, or their JSON text.

    Raises `RowError`.
    """
    value = json_value(value, "tools")
    if isinstance(value, Mapping):
        value = [value]
    if not value:
        return None
    if not isinstance(value, list):
        raise RowError(f"tools must be a list; they are {value!r:.60}")
    tools = []
    for index, tool in enumerate(value):
        tool = json_value(tool, f"tools[{index}]")
        function = tool.get("function", tool) if isinstance(tool, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise RowError(f"tools[{index}] must be a function with a name; it is {tool!r:.60}")
        tools.append({"type": "function", "function": without_nulls(function)})
    return tuple(tools)


def call_of(value: Any, where: str, call_id: str | None) -> dict[str, Any]:
    """A tool call as OpenAI writes it, its arguments an object; from that shape or from `{"name", "arguments"}`.

    Raises `RowError`.
    """
    value = json_value(value, where)
    function = value.get("function", value) if isinstance(value, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise RowError(f'{where} must be a call {{"name", "arguments"}}; it is {value!r:.60}')
    given = next((function[key] for key in ("arguments", "parameters", "kwargs") if key in function), None)
    arguments = json_value(given, f"{where}: arguments")
    if arguments is not None and not isinstance(arguments, Mapping):
        raise RowError(f"{where}: arguments must be an object; they are {arguments!r:.60}")
    call: dict[str, Any] = {}
    if name := (value.get("id") if isinstance(value.get("id"), str) else None) or call_id:
        call["id"] = name
    call["type"] = "function"
    call["function"] = {"name": function["name"], "arguments": dict(arguments or {})}
    return call


def calls_of(value: Any, where: str, call_id: str | None) -> tuple[dict[str, Any], ...]:
    """One call, or a list of them. Raises `RowError`."""
    value = json_value(value, where)
    several = value if isinstance(value, list) else [value]
    if not several:
        raise RowError(f"{where} holds no call")
    ids = [f"{call_id}_{index}" if call_id and len(several) > 1 else call_id for index in range(len(several))]
    return tuple(call_of(call, where, name) for call, name in zip(several, ids, strict=True))


def message(role: str, content: str | None, where: str, **more: Any) -> Message:
    """A message of a record; what is wrong with it is said with its place. Raises `RowError`."""
    for key in ("name", "tool_call_id"):
        if not isinstance(more.get(key), str | None):
            raise RowError(f"{where}: {key} must be text; it is {more[key]!r:.60}")
    try:
        return Message(role, content, **more)
    except RecordError as error:
        raise RowError(f"{where}: {error}") from error


def loss_of(turn: Mapping[str, Any], role: str, where: str) -> bool:
    """Whether a turn is trained: `loss` true, false or null, or OpenAI's `weight` 1 or 0; an assistant's is by default.

    Raises `RowError` for another value, and where a turn that the model does not write is to be trained.
    """
    loss, weight = turn.get("loss"), turn.get("weight")
    if weight is not None:
        if isinstance(weight, bool) or weight not in (0, 1):
            raise RowError(f"{where}: weight must be 0 or 1; it is {weight!r:.40}")
        if loss is None:
            loss = bool(weight) if role == "assistant" else None
    if loss is not None and not isinstance(loss, bool):
        raise RowError(f"{where}: loss must be true, false or null; it is {loss!r:.40}")
    if role == "assistant":
        return loss is not False
    if loss:
        raise RowError(
            f"{where}: loss is true on a turn of the {role}; only what the assistant writes is trained"
        )
    return True


def id_of(row: Mapping[str, Any], context: Context) -> str:
    """The row's own id as text, or the one from outside."""
    for key in ("id", "conversation_id", "conversation_hash", "uuid", "idx"):
        value = row.get(key)
        if isinstance(value, str | int) and not isinstance(value, bool) and str(value):
            return str(value)
    return context.fallback_id


def task_of(row: Mapping[str, Any], context: Context) -> str | None:
    """The task that the row says, else the one from outside."""
    said = row.get("task")
    return said if isinstance(said, str) and said else context.task


def item_of(row: Mapping[str, Any]) -> str | None:
    """The environment's item that the row says."""
    said = row.get("item")
    return said if isinstance(said, str) and said else None


def model_tags(row: Mapping[str, Any]) -> tuple[str, ...]:
    """A tag `model:NAME` where the row says which model answered, so that a mixture can weigh GPT-4 against GPT-3.5."""
    for key in ("model", "model_name", "condition"):
        value = row.get(key)
        if isinstance(value, str) and value.strip():
            return ("model:" + re.sub(r"\s+", "-", value.strip().lower()),)
    return ()


def reward_of(row: Mapping[str, Any]) -> float | None:
    """The row's reward. Raises `RowError` if it is no number."""
    value = row.get("reward")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RowError(f"reward must be a number; it is {value!r:.40}")
    return float(value)


def without_nulls(value: Any) -> Any:
    """The value without members that are null: parquet adds every column to every row, also deep inside.

    Types and values that a schema lists stay as they are.
    """
    if isinstance(value, Mapping):
        return {key: without_nulls(entry) for key, entry in value.items() if entry is not None}
    return value
