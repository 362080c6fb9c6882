"""JSON values read one after the other from a file of any size: from an array, from lines, or from a list inside an object.

Refuses to know what the values mean. Memory: one value and a piece of the file.
"""

import codecs
import io
import json
from collections.abc import Iterator
from typing import Any

from agentlm.tuning.data.errors import DataError

PIECE = 1 << 18
"""Bytes read at a time."""

CONTAINERS = ("data", "rows", "train", "trajectories", "samples", "items", "examples", "instances")
"""Names under which a file that is one object keeps its rows."""

_LOOK_AHEAD = 1 << 23
"""Bytes within which a file that is lines of objects has ended its first one."""

_SPACE = " \t\r\n"
_NEAR_END = 12
"""An error this close to the end of what was read may be a value that goes on: `-Infinity`, an escape of 6 characters."""


def array_rows(file: io.BufferedIOBase, name: str) -> Iterator[tuple[int, Any]]:
    """The elements of a JSON array, with their numbers from 1; of a list under one of `CONTAINERS` in an object.

    Raises:
        DataError: The file is not UTF-8 or not JSON; the message says at which element, and after how many bytes.
    """
    cursor = _Cursor(file, name)
    start = cursor.peek()
    if start == "[":
        yield from cursor.elements()
    elif start == "{":
        yield from cursor.container()
    elif start:
        raise DataError(f"{name}: must begin with [ or {{; it begins with {start!r}")
    if after := cursor.peek():
        raise DataError(
            f"{name}: goes on with {after!r} after its end; a file with one object a line is named .jsonl"
        )


def is_lines(file: io.BufferedIOBase, name: str) -> bool:
    """Whether the file holds objects one after the other (JSONL) rather than one value. Reads the file's beginning."""
    cursor = _Cursor(file, name)
    if cursor.peek() != "{":
        return False
    try:
        cursor.value(limit=_LOOK_AHEAD)
    except DataError:
        # A first line that is broken is still a line if it ends like one and another object follows.
        return cursor.text.lstrip().partition("\n")[2].lstrip(_SPACE).startswith("{")
    return cursor.peek() != ""


class _Cursor:
    """A place in a file of JSON."""

    def __init__(self, file: io.BufferedIOBase, name: str) -> None:
        self._file = file
        self._name = name
        self._decode = codecs.getincrementaldecoder("utf-8-sig")()
        self._scan = json.JSONDecoder(parse_constant=_no_constant).raw_decode
        self.text = ""
        """What was read and not yet taken, from `_at` on."""
        self._at = 0
        self._ended = False
        self._element = 0

    def peek(self) -> str:
        """The next character that is no white space; empty at the file's end."""
        while True:
            text, at = self.text, self._at
            while at < len(text) and text[at] in _SPACE:
                at += 1
            self._at = at
            if at < len(text) or not self._more(PIECE):
                return text[at : at + 1]

    def take(self, allowed: str) -> str:
        """Takes the next character, one of `allowed`."""
        found = self.peek()
        if not found or found not in allowed:
            shown = repr(found) if found else "the end of the file"
            raise DataError(f"{self._place()}: expected {' or '.join(allowed)}, found {shown}")
        self._at += 1
        return found

    def value(self, limit: int | None = None) -> Any:
        """Takes the next value; gives up after `limit` characters."""
        self.peek()
        size = PIECE
        while True:
            try:
                value, end = self._scan(self.text, self._at)
            except json.JSONDecodeError as error:
                left = len(self.text) - self._at
                goes_on = (
                    error.msg.startswith("Unterminated string") or error.pos >= len(self.text) - _NEAR_END
                )
                if goes_on and (limit is None or left < limit) and self._more(size):
                    size *= (
                        2  # a long value is scanned again each time; doubling keeps that to twice its length
                    )
                    continue
                ended = " (the file ends inside it)" if goes_on and self._ended else ""
                raise DataError(f"{self._place()} is not JSON{ended}: {error.msg}") from error
            except (ValueError, RecursionError) as error:
                raise DataError(f"{self._place()} cannot be read: {error}") from error
            # A number near the end of what was read may go on: `1` as `1.5` or `1e+20`.
            is_bare = not isinstance(value, dict | list | str)
            if is_bare and len(self.text) - end < len("e+2") and self._more(size):
                continue
            self._at = end
            return value

    def elements(self) -> Iterator[tuple[int, Any]]:
        """Takes an array, element by element."""
        self.take("[")
        if self.peek() == "]":
            self.take("]")
            return
        while True:
            self._element += 1
            yield self._element, self.value()
            if self.take(",]") == "]":
                return

    def container(self) -> Iterator[tuple[int, Any]]:
        """Takes an object: the elements of its list of rows if it has one, else the object itself."""
        self.take("{")
        kept: dict[str, Any] = {}
        found = False
        more = self.peek() != "}"
        while more:
            key = self.value()
            self.take(":")
            if key in CONTAINERS and self.peek() == "[":
                found = True
                yield from self.elements()
            else:
                kept[str(key)] = self.value()
            more = self.take(",}") == ","
        if not found:
            yield 1, kept

    def _more(self, size: int) -> bool:
        if self._ended:
            return False
        data = self._file.read(size)
        try:
            text = self._decode.decode(data, final=not data)
        except UnicodeDecodeError as error:
            raise DataError(f"{self._place()}: not UTF-8: {error}") from error
        self._ended = not data
        self.text = self.text[self._at :] + text
        self._at = 0
        return True

    def _place(self) -> str:
        return f"{self._name}: element {self._element}" if self._element else self._name


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")
