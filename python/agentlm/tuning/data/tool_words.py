"""Tools, calls and results of a conversation in words, as `agentlm serve` tells them to a model whose template knows none.

The server's own wording (engine/server, routes/chat/tools/words.rs) is repeated here so that a model is trained on what it
will be asked; a test holds the two together. Refuses to know templates.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from agentlm.tuning.data.errors import RowError
from agentlm.tuning.record import Conversation, Message

_WISH = (
    'If a function helps, answer with nothing but a JSON list of calls, such as [{"name": "NAME", "arguments": {}}]. '
    "Otherwise answer in plain text."
)


def in_words(conversation: Conversation) -> Conversation:
    """The conversation without tools, calls and results, and with all of them told in its text.

    Raises:
        RowError: A tool is not one that the server would take.
    """
    messages = _without_calls(conversation.messages)
    if conversation.tools:
        told = _told(conversation.tools)
        at = next((index for index, message in enumerate(messages) if message.role == "user"), None)
        if messages and messages[0].role == "system":
            messages[0] = _joined(messages[0], told)
        elif at is not None:
            content = messages[at].content
            messages[at] = replace(messages[at], content=f"{told}\n\n{content}" if content else told)
        else:
            messages.insert(0, Message("user", told))
    return replace(conversation, messages=tuple(messages), tools=None)


def _told(tools: Sequence[Mapping[str, Any]]) -> str:
    lines = [_compact(_function(tool, f"tools[{index}]")) for index, tool in enumerate(tools)]
    return "You can call these functions:\n" + "".join(f"{line}\n" for line in lines) + f"\n{_WISH}"


def _function(tool: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The tool's function as the server reads it: name, description and parameters, in this order."""
    given = tool.get("function")
    if not isinstance(given, Mapping) or not isinstance(given.get("name"), str):
        raise RowError(f"{where} must have a function with a name; it is {tool!r:.60}")
    function: dict[str, Any] = {"name": given["name"]}
    if given.get("description") is not None:
        function["description"] = given["description"]
    parameters = next((given[key] for key in ("parameters", "arguments") if given.get(key) is not None), None)
    function["parameters"] = {"type": "object", "properties": {}} if parameters is None else parameters
    return function


def _without_calls(messages: Sequence[Message]) -> list[Message]:
    plain: list[Message] = []
    names: dict[str, str] = {}
    follows = False  # the last message is one of results, to which what the user says next belongs
    for message in messages:
        content = message.content or ""
        if message.role == "tool":
            called = names.get(message.tool_call_id or "", message.name)
            said = f"Result of {called}:\n{content}" if called else f"Result:\n{content}"
        elif message.role == "user" and follows:
            said = content
        else:
            follows = False
            if message.tool_calls:
                message = _joined(message, _written(message.tool_calls, names))
            plain.append(message)
            continue
        if follows:
            plain[-1] = _joined(plain[-1], said)
        else:
            plain.append(Message("user", said))
        follows = message.role == "tool"
    return plain


def _written(calls: Sequence[Mapping[str, Any]], names: dict[str, str]) -> str:
    made = []
    for call in calls:
        function = call["function"]
        if isinstance(call.get("id"), str):
            names[call["id"]] = function["name"]
        made.append({"name": function["name"], "arguments": function.get("arguments")})
    return _compact(made)


def _joined(message: Message, text: str) -> Message:
    content = f"{message.content}\n\n{text}" if message.content else text
    return replace(message, content=content, tool_calls=())


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
