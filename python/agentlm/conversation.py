"""Chat messages as a caller gives them: one conversation or several, and the JSON that a template is given.

Refuses to know templates, and what a conversation means: the server's reader of messages says that, here as there.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from agentlm.errors import InvalidMessageError, shown

Message = Mapping[str, Any]
"""One chat message: `role`, `content` (text, or a list of text parts), and whatever else the template reads."""

_EXAMPLE = '[{"role": "user", "content": "Hi"}]'
_PART = '{"type": "text", "text": "Hi"}'


def as_conversations(messages: Sequence[Message] | Sequence[Sequence[Message]]) -> list[Sequence[Message]]:
    """The conversations among what was given: itself if it is one. Raises `InvalidMessageError`."""
    several: list[Any] = as_list(messages, "a chat")
    if several and isinstance(several[0], Mapping):
        return [several]
    return [as_list(one, f"conversation {index}") for index, one in enumerate(several)]


def as_list(given: Any, what: str) -> list[Any]:
    """The messages, or the conversations, as a list. Raises `InvalidMessageError` that calls them `what`."""
    if isinstance(given, Iterable) and not isinstance(given, str | bytes | bytearray | Mapping):
        return list(given)
    raise InvalidMessageError(f"{what} must be a list of messages such as {_EXAMPLE}. Given: {given!r:.80}")


def as_json(messages: Sequence[Message]) -> str:
    """The conversation as a JSON list. Raises `InvalidMessageError` naming the message, and the value that JSON lacks."""
    several = enumerate(as_list(messages, "a conversation"))
    return "[" + ",".join(_object(message, f"message {index}") for index, message in several) + "]"


def _object(message: Any, place: str) -> str:
    if not isinstance(message, Mapping):
        raise InvalidMessageError(
            f"{place}: a message must be a mapping such as {_EXAMPLE[1:-1]}. Given: {message!r:.80}"
        )
    members = ",".join(_member(key, value, place) for key, value in message.items())
    _check_types(message, place)
    return "{" + members + "}"


def _check_types(message: Mapping[str, Any], place: str) -> None:
    """Tells a value of another type than the server's reader takes, which would not say where it stands."""
    if not isinstance(role := message.get("role"), str):
        raise InvalidMessageError(f"{place}: 'role' must be text such as 'user'. Given: {shown(role)}")
    for key in ("name", "tool_call_id"):
        if not isinstance(value := message.get(key), str | None):
            raise InvalidMessageError(f"{place}: {key!r} must be text. Given: {shown(value)}")
    content = message.get("content")
    parts = content if isinstance(content, list | tuple) else ()
    if not isinstance(content, str | list | tuple | None) or not all(map(_is_part, parts)):
        raise InvalidMessageError(
            f"{place}: 'content' must be text, or a list of text parts such as {_PART}. Given: {shown(content)}"
        )


def _is_part(part: Any) -> bool:
    return (
        isinstance(part, dict)
        and isinstance(part.get("type"), str)
        and isinstance(part.get("text"), str | None)
    )


def _member(key: Any, value: Any, place: str) -> str:
    if not isinstance(key, str):
        raise InvalidMessageError(f"{place}: keys must be text. Given: {key!r:.80}")
    try:
        member = f"{_dumped(key)}:{_dumped(value)}"
        # Half a character (a lone surrogate) is no text.
        member.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidMessageError(
            f"{place}: {key!a:.80} must be what JSON can hold: text, finite numbers, True, False, None, and lists and "
            f"mappings of these. Given: {type(value).__name__} ({error})"
        ) from error
    return member


def _dumped(value: Any) -> str:
    return json.dumps(value, allow_nan=False, ensure_ascii=False)
