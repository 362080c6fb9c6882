"""What a generated text must look like. Refuses to know how it is enforced: an engine compiles it when it is submitted."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

from agentlm.errors import InvalidRequestError, shown

GrammarKind = Literal["json_schema", "json_object", "regex", "choice", "lark"]


@dataclass(frozen=True, slots=True)
class Grammar:
    """A grammar that the whole generated text follows. Made by one of the class's methods.

    A grammar that cannot be compiled is refused, with the reason, when a request with it is submitted.
    """

    kind: GrammarKind
    text: str
    """The grammar itself: a schema and a choice as JSON, the others as they were given."""

    def __post_init__(self) -> None:
        check_unicode(self.text, f"`grammar` of kind {self.kind}")

    @classmethod
    def json_schema(cls, schema: Mapping[str, Any] | bool) -> Self:
        """JSON that this schema allows."""
        if not isinstance(schema, Mapping | bool):
            raise _unfit("json_schema", "a JSON schema: a mapping, True or False", schema)
        try:
            text = _json(schema if isinstance(schema, bool) else dict(schema))
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidRequestError(
                f"`grammar` of kind json_schema must be what JSON can hold: {error}"
            ) from error
        return cls("json_schema", text)

    @classmethod
    def json_object(cls) -> Self:
        """Any JSON object."""
        return cls("json_object", "")

    @classmethod
    def regex(cls, pattern: str) -> Self:
        """Text that this regular expression matches from beginning to end."""
        if not isinstance(pattern, str):
            raise _unfit("regex", "a pattern as text", pattern)
        return cls("regex", pattern)

    @classmethod
    def choice(cls, choices: Sequence[str]) -> Self:
        """One of these texts."""
        given: Any = choices
        listed = isinstance(given, Sequence) and not isinstance(given, str | bytes)
        if not listed or not given or not all(isinstance(one, str) for one in given):
            raise _unfit("choice", "a list of at least one text", given)
        return cls("choice", _json(list(given)))

    @classmethod
    def lark(cls, grammar: str) -> Self:
        """Text of the language that this grammar in Lark's notation describes."""
        if not isinstance(grammar, str):
            raise _unfit("lark", "a grammar as text", grammar)
        return cls("lark", grammar)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Reads the plain form `{kind: value}`, such as `{"regex": "[a-z]+"}` or `{"json_object": True}`."""
        given: Any = values
        if isinstance(given, Mapping) and len(given) == 1:
            [(kind, value)] = given.items()
            if kind == "json_object" and value is True:
                return cls.json_object()
            if kind in _READERS:
                made: Self = getattr(cls, kind)(value)
                return made
        raise InvalidRequestError(
            f"`grammar` must be {{'json_object': True}}, or one of {', '.join(_READERS)} with its value. "
            f"Given: {shown(given)}"
        )


_READERS = ("json_schema", "regex", "choice", "lark")
"""Kinds whose method takes the value of the plain form."""


def check_unicode(text: str, what: str) -> None:
    """Raises `InvalidRequestError` that calls the text `what` if half a character (a lone surrogate) is in it."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequestError(
            f"{what} must be valid Unicode; character {error.start} is half of one (a lone surrogate): "
            f"{text[error.start]!a}"
        ) from error


def _json(value: object) -> str:
    return json.dumps(value, allow_nan=False, ensure_ascii=False)


def _unfit(kind: str, allowed: str, given: object) -> InvalidRequestError:
    return InvalidRequestError(f"`grammar` of kind {kind} must be {allowed}. Given: {shown(given)}")
