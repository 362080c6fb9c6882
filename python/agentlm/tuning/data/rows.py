"""Rows of data files as parsed JSON values: JSONL, JSON arrays, parquet; one in memory at a time.

Refuses to know what a row means.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentlm.tuning.data.errors import DataError, RowError, extra
from agentlm.tuning.data.json_stream import array_rows, is_lines
from agentlm.tuning.line_reading import Progress, numbered_lines, open_bytes

SUFFIXES = (".jsonl", ".ndjson", ".json", ".parquet")
"""What a folder is searched for; the first three may be gzipped."""

_BATCH = 64
"""Rows of parquet in memory at a time."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row as it stands in its file."""

    file: Path
    line: int
    """Its line; in a JSON array the element's number, in parquet the row's. From 1."""
    value: Any
    """The parsed value; the text where it could not be parsed."""
    error: RowError | None = None
    """Why it is no JSON."""


def files(paths: Iterable[str | Path]) -> list[Path]:
    """The files meant: a folder stands for those in it (and in its folders) with one of `SUFFIXES`, by name.

    Raises:
        DataError: A path is not there, a folder holds no such file, or a file is named twice.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*") if file.is_file() and kind(file) in SUFFIXES)
            if not inside:
                raise DataError(f"{path} holds no file that ends in {', '.join(SUFFIXES)}")
            found += inside
        elif path.exists() or str(path) == "-":
            found.append(path)
        else:
            raise DataError(f"{path} is not there")
    twice = next((path for index, path in enumerate(found) if path in found[:index]), None)
    if twice is not None:
        raise DataError(f"{twice} is named twice")
    return found


def kind(path: Path) -> str:
    """A file's suffix, without that of its compression."""
    return Path(path.name.removesuffix(".gz")).suffix.lower()


def read(path: Path, progress: Progress | None = None) -> Iterator[Row]:
    """Every row of a file. `progress` is told of bytes as they are read.

    `.parquet` is read by columns; `.jsonl` and `.ndjson` by lines; anything else by what it begins with: an array, lines of
    objects, or one object that keeps its rows in a list. A line that is no JSON is a row with an error.

    Raises:
        DataError: The file cannot be read, or breaks off inside an array.
        MissingExtraError: It is parquet and pyarrow is not installed.
    """
    if kind(path) == ".parquet":
        yield from _parquet(path, progress)
        return
    try:
        if kind(path) in (".jsonl", ".ndjson") or str(path) == "-":
            yield from _lines(path, progress)
            return
        with open_bytes(path) as file:
            lines = is_lines(file, str(path))
        if lines:
            yield from _lines(path, progress)
            return
        with open_bytes(path, progress) as file:
            for number, value, fault in array_rows(file, str(path)):
                yield Row(path, number, value, RowError(fault) if fault else None)
    except (OSError, EOFError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _lines(path: Path, progress: Progress | None) -> Iterator[Row]:
    with open_bytes(path, progress) as file:
        for number, line, fault in numbered_lines(file):
            try:
                if fault is not None:
                    raise ValueError(fault)
                yield Row(path, number, json.loads(line, parse_constant=_no_constant))
            except (ValueError, RecursionError) as error:
                text = line.decode(errors="replace").rstrip("\r\n")
                yield Row(path, number, text, RowError(f"not JSON: {error}"))


def _parquet(path: Path, progress: Progress | None) -> Iterator[Row]:
    parquet = extra("pyarrow.parquet", f"reading {path}")
    arrow = extra("pyarrow", f"reading {path}")
    try:
        number = 0
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_BATCH):
                for value, error in _values(batch):
                    number += 1
                    yield Row(path, number, value, error)
                if progress is not None:
                    progress(path.stat().st_size * batch.num_rows // file.metadata.num_rows)
    except (arrow.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as parquet after row {number}: {error}") from error


def _values(batch: Any) -> Iterator[tuple[Any, RowError | None]]:
    """The rows of a batch; nothing has checked that its text is UTF-8."""
    try:
        for value in batch.to_pylist():
            yield value, None
    except UnicodeDecodeError:
        for at in range(batch.num_rows):
            try:
                yield batch.slice(at, 1).to_pylist()[0], None
            except UnicodeDecodeError as error:
                yield "", RowError(f"not UTF-8: {error}")


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")
