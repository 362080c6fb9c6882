"""Data files line by line, however large, packed or not, with progress. Refuses to know what a line means."""

import gzip
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

LONGEST_LINE = 1 << 28
"""Bytes of the longest line that is read, as in `agentlm data contamination`; a longer one is passed over and told."""

Progress = Callable[[int], None]
"""Told of bytes as they are read from a file, packed ones as they lie."""


def open_bytes(path: str | Path, progress: Progress | None = None) -> io.BufferedIOBase:
    """A data file for reading: unpacked if it is named `.gz`, standard input if it is `-`. Raises `OSError`."""
    if str(path) == "-":
        return io.BufferedReader(_Watched(0, progress, closefd=False))
    packed: io.BufferedReader = io.BufferedReader(_Watched(path, progress))
    return _Unpacked(packed) if Path(path).suffix == ".gz" else packed


def numbered_lines(file: io.BufferedIOBase) -> Iterator[tuple[int, bytes, str | None]]:
    """The lines that are not empty: number from 1, bytes without a byte order mark, and why one is not to be parsed.

    Of a line beyond `LONGEST_LINE` only the beginning is given.
    """
    number = 0
    while line := file.readline(LONGEST_LINE + 1):
        number += 1
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if len(line) > LONGEST_LINE and not line.endswith(b"\n"):
            rest = line
            while rest and not rest.endswith(b"\n"):
                rest = file.readline(LONGEST_LINE)
            yield (
                number,
                line[:1000],
                f"the line is longer than {LONGEST_LINE:,} bytes: is the file JSON lines?",
            )
        elif line.strip():
            yield number, line, None


class _Watched(io.FileIO):
    def __init__(self, path: str | Path | int, progress: Progress | None, *, closefd: bool = True) -> None:
        super().__init__(path, closefd=closefd)
        self._progress = progress

    def readinto(self, buffer: Any) -> int | None:
        read = super().readinto(buffer)
        if self._progress is not None and read:
            self._progress(read)
        return read

    def readall(self) -> bytes:
        read = super().readall()
        if self._progress is not None and read:
            self._progress(len(read))
        return read


class _Unpacked(gzip.GzipFile):
    """Closes the packed file, too."""

    def __init__(self, packed: io.BufferedReader) -> None:
        super().__init__(fileobj=packed, mode="rb")
        self._packed = packed

    def close(self) -> None:
        super().close()
        self._packed.close()
