"""MySQL's functions that SQLite lacks or means otherwise. Refuses to know statements."""

import hashlib
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

_parser: Any = re._parser  # type: ignore[attr-defined]  # what a pattern is made of, which nothing public tells
MOST_MATCHED = 1000
"""Characters of a value that a pattern is matched against; the data's longest have a few hundred."""
_FEW = 4
"""Repetitions up to so many are no danger within others."""
_DATE = re.compile(r"\s*(\d{1,4})-(\d{1,2})-(\d{1,2})")


def _text(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _concat(*values: Any) -> str | None:
    return None if any(value is None for value in values) else "".join(map(_text, values))


def _concat_ws(separator: Any, *values: Any) -> str | None:
    return None if separator is None else _text(separator).join(_text(v) for v in values if v is not None)


def _substring_index(text: Any, delimiter: Any, count: Any) -> str | None:
    if text is None or delimiter is None or count is None:
        return None
    parts, most = _text(text).split(_text(delimiter)), int(count)
    return _text(delimiter).join(parts[:most] if most >= 0 else parts[most:])


@lru_cache(maxsize=64)
def _compiled(pattern: str) -> "re.Pattern[str]":
    """A pattern that ends in its time: nothing can stop Python's matcher, which would hold up everybody.

    Raises:
        ValueError: One repetition within another, whose steps double with each character.
    """
    if _has_nested_repeats(_parser.parse(pattern, re.IGNORECASE), within=False):
        raise ValueError("a repetition within a repetition")
    return re.compile(pattern, re.IGNORECASE)


def _has_nested_repeats(parsed: Any, *, within: bool) -> bool:
    for name, value in parsed:
        kind = str(name)
        repeats = kind in ("MAX_REPEAT", "MIN_REPEAT") and value[1] > _FEW
        if within and (repeats or kind == "BRANCH"):
            return True
        inner = value[1] if kind == "BRANCH" else value if isinstance(value, tuple | list) else ()
        for part in inner:
            if isinstance(part, _parser.SubPattern) and _has_nested_repeats(part, within=within or repeats):
                return True
    return False


def _matches(pattern: Any, text: Any) -> int | None:
    if pattern is None or text is None:
        return None
    return int(_compiled(_text(pattern)[:1000]).search(_text(text)[:MOST_MATCHED]) is not None)


def _regexp_replace(text: Any, pattern: Any, replacement: Any) -> str | None:
    if text is None or pattern is None or replacement is None:
        return None
    given = _text(text)
    replaced = _compiled(_text(pattern)[:1000]).sub(_text(replacement), given[:MOST_MATCHED])
    return replaced + given[MOST_MATCHED:]


def _locate(part: Any, text: Any) -> int | None:
    return None if part is None or text is None else _text(text).lower().find(_text(part).lower()) + 1


def _digest(name: str) -> Callable[[Any], str | None]:
    def digest(value: Any) -> str | None:
        return (
            None
            if value is None
            else hashlib.new(name, _text(value).encode(), usedforsecurity=False).hexdigest()
        )

    return digest


def _date_part(index: int) -> Callable[[Any], int | None]:
    def part(value: Any) -> int | None:
        found = _DATE.match(_text(value)) if value is not None else None
        return int(found[index]) if found else None

    return part


class GroupConcat:
    """GROUP_CONCAT with ORDER BY: an aggregate over (value, separator, key, whether downwards)."""

    def __init__(self) -> None:
        self._separator = ","
        self._down = False
        self._parts: list[tuple[tuple[int, float, str], str]] = []

    def step(self, value: Any, separator: Any, key: Any, down: Any) -> None:
        """One row."""
        self._separator, self._down = _text(separator), bool(down)
        if value is not None:
            number = float(key) if isinstance(key, int | float) else 0.0
            self._parts.append(
                ((int(key is not None), number, "" if key is None else _text(key).casefold()), _text(value))
            )

    def finalize(self) -> str | None:
        """The text; NULL of no rows."""
        ordered = sorted(self._parts, key=lambda part: part[0], reverse=self._down)
        return self._separator.join(value for _, value in ordered) if ordered else None


FUNCTIONS: tuple[tuple[str, int, Callable[..., Any]], ...] = (
    ("concat", -1, _concat),
    ("concat_ws", -1, _concat_ws),
    ("substring_index", 3, _substring_index),
    ("regexp", 2, _matches),
    ("regexp_like", 2, lambda text, pattern: _matches(pattern, text)),
    ("regexp_replace", 3, _regexp_replace),
    ("mysql_year", 1, _date_part(1)),
    ("mysql_month", 1, _date_part(2)),
    ("mysql_day", 1, _date_part(3)),
    ("locate", 2, _locate),
    ("md5", 1, _digest("md5")),
    ("sha1", 1, _digest("sha1")),
    ("mysql_left", 2, lambda text, count: None if text is None else _text(text)[: max(int(count), 0)]),
    (
        "mysql_right",
        2,
        lambda text, count: None if text is None else _text(text)[-int(count) :] if int(count) > 0 else "",
    ),
    ("reverse", 1, lambda text: None if text is None else _text(text)[::-1]),
    ("char_length", 1, lambda text: None if text is None else len(_text(text))),
    ("ucase", 1, lambda text: None if text is None else _text(text).upper()),
    ("lcase", 1, lambda text: None if text is None else _text(text).lower()),
    ("upper", 1, lambda text: None if text is None else _text(text).upper()),
    ("lower", 1, lambda text: None if text is None else _text(text).lower()),
)
"""Name, number of arguments (-1: any), function."""
