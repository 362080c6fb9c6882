"""JSON values read one after the other from a file of any size: from an array, from lines, or from a list inside an object.

Refuses to know what the values mean. Memory: one value and a piece of the file.
"""

import codecs
import io
import json
import re
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
_BROKEN = re.compile("[\udc80-\udcff]")
"""What Python's decoder makes of a byte that is no UTF-8, so that it spoils its own element and not the file."""
_NEAR_END = 12
"""An error this close to the end of what was read may be a value that goes on: `-Infinity`, an escape of 6 characters."""


Element = tuple[int, Any, str | None]
"""An element's number, from 1; its value; why it is no JSON although it could be read: NaN, or bytes that are not UTF-8."""


def array_rows(file: io.BufferedIOBase, name: str) -> Iterator[Element]:
    """The elements of a JSON array, or of a list under one of `CONTAINERS` in an object.

    Raises:
        DataError: The file is not JSON; the message says at which element.
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
        self._decode = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape")
        self._scan = json.JSONDecoder(parse_constant=self._constant).raw_decode
        self._has_broken = False
        """Whether the file had a byte that is no UTF-8."""
        self._faults: list[str] = []
        """Of the values taken since the last element."""
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
            if self._has_broken and (broken := _BROKEN.search(self.text, self._at, end)):
                before = self.text[max(broken.start() - 20, self._at) : broken.start()]
                self._faults.append(f"not UTF-8: byte 0x{ord(broken.group()) - 0xDC00:02x} after {before!r}")
            self._at = end
            return value

    def fault(self) -> str | None:
        """What was wrong with the values taken since this was last asked."""
        faults, self._faults = self._faults, []
        return faults[0] if faults else None

    def elements(self) -> Iterator[Element]:
        """Takes an array, element by element."""
        self.take("[")
        if self.peek() == "]":
            self.take("]")
            return
        while True:
            self._element += 1
            value = self.value()
            yield self._element, value, self.fault()
            if self.take(",]") == "]":
                return

    def container(self) -> Iterator[Element]:
        """Takes an object: the elements of its list of rows if it has one, else the object itself."""
        self.take("{")
        kept: dict[str, Any] = {}
        found = False
        kept_fault: str | None = None
        more = self.peek() != "}"
        while more:
            key = self.value()
            self.take(":")
            if key in CONTAINERS and self.peek() == "[":
                found = True
                yield from self.elements()
            else:
                kept[str(key)] = self.value()
                kept_fault = kept_fault or self.fault()
            more = self.take(",}") == ","
        if not found:
            yield 1, kept, kept_fault

    def _more(self, size: int) -> bool:
        if self._ended:
            return False
        data = self._file.read(size)
        text = self._decode.decode(data, final=not data)
        self._has_broken = self._has_broken or (not text.isascii() and _BROKEN.search(text) is not None)
        self._ended = not data
        self.text = self.text[self._at :] + text
        self._at = 0
        return True

    def _place(self) -> str:
        return f"{self._name}: element {self._element}" if self._element else self._name

    def _constant(self, name: str) -> None:
        self._faults.append(f"{name} is no JSON number")
