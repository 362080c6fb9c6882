"""Chat messages as a caller gives them: one conversation or several, and the JSON that a template is given.

Refuses to know templates: what a message must hold is theirs to say.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from agentlm.errors import InvalidMessageError

Message = Mapping[str, Any]
"""One chat message: `role`, `content`, and whatever else the template reads."""

_EXAMPLE = '[{"role": "user", "content": "Hi"}]'


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
    return "{" + ",".join(_member(key, value, place) for key, value in message.items()) + "}"


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
