"""The run's memory on disk: one line for each episode that ended. Refuses to know models and tasks.

A line is written whole, flushed to the disk together with its neighbours, and only then does the episode count as
finished. A process that is killed leaves at most one torn line, which the next one cuts off.
"""

import asyncio
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentlm_evals.errors import RunError
from agentlm_evals.outcome import Outcome, Score

Key = tuple[str, int]
"""A sample's id and the epoch."""


@dataclass(frozen=True, slots=True)
class Record:
    """An episode that ended."""

    sample: str
    epoch: int
    category: str
    score: Score
    answer: Any = None
    """What `Task.solve` returned; None where it did not return."""
    messages: list[dict[str, Any]] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def key(self) -> Key:
        """Its name in the run."""
        return self.sample, self.epoch

    def to_json(self) -> dict[str, Any]:
        """As a line holds it."""
        return {
            "sample": self.sample,
            "epoch": self.epoch,
            "category": self.category,
            "outcome": self.score.outcome.value,
            "value": self.score.value,
            "details": dict(self.score.details),
            "answer": self.answer,
            "messages": self.messages,
            "calls": self.calls,
            "notes": self.notes,
            "seconds": round(self.seconds, 4),
        }

    @staticmethod
    def from_json(row: Mapping[str, Any]) -> "Record":
        """Reads a line; KeyError, ValueError or TypeError where it is none."""
        return Record(
            sample=str(row["sample"]),
            epoch=int(row["epoch"]),
            category=str(row["category"]),
            score=Score(Outcome(row["outcome"]), float(row["value"]), dict(row["details"])),
            answer=row["answer"],
            messages=list(row["messages"]),
            calls=list(row["calls"]),
            notes=dict(row["notes"]),
            seconds=float(row["seconds"]),
        )


def read(path: Path) -> dict[Key, Record]:
    """The last record of each episode. A torn last line is left out; the file is not changed.

    Raises:
        RunError: A line in the middle cannot be read.
    """
    if not path.is_file():
        return {}
    lines = path.read_bytes().split(b"\n")
    records: dict[Key, Record] = {}
    # What follows the last line feed is torn, or nothing.
    for number, line in enumerate(lines[:-1], 1):
        try:
            record = Record.from_json(json.loads(line))
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(
                f"{path}:{number} is not an episode's record ({error}); the file was changed by another hand"
            ) from error
        records[record.key] = record
    return records


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Keeps other processes from writing to the same run.

    Raises:
        RunError: One does already.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RunError(
                f"{directory} is in use by another process; wait for it, or choose another --out"
            ) from error
        yield


class Journal:
    """Appends records to a file. The disk is waited for in a thread, once for all records that came together."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab")
        whole = _whole_length(path)
        if whole != path.stat().st_size:
            self._file.truncate(whole)
        self._path = path
        self._lock = asyncio.Lock()
        self._waiting: list[bytes] = []
        self._failure: OSError | None = None

    async def write(self, record: Record) -> None:
        """Returns once the record is on the disk.

        Raises:
            RunError: The disk took it not, or took not what came before it.
        """
        text = json.dumps(record.to_json(), ensure_ascii=False, separators=(",", ":"))
        # A literal in a model's reply may stand for half a character, which is none.
        self._waiting.append(text.encode(errors="replace") + b"\n")
        async with self._lock:
            # Whoever held the lock before may have written this line, too.
            if self._waiting and self._failure is None:
                lines, self._waiting = self._waiting, []
                try:
                    await asyncio.to_thread(self._flush, b"".join(lines))
                except OSError as error:
                    self._failure = error
            if self._failure is not None:
                raise RunError(
                    f"{self._path} cannot be written: {self._failure}; run the same command again to go on"
                )

    def _flush(self, data: bytes) -> None:
        self._file.write(data)
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the file."""
        # What a full disk did not take is tried again by closing, and fails again: that was said already.
        with suppress(OSError) if self._failure is not None else nullcontext():
            self._file.close()


def _whole_length(path: Path) -> int:
    """Bytes up to and with the last line feed."""
    size = path.stat().st_size
    with path.open("rb") as file:
        while size:
            begin = max(size - 65536, 0)
            file.seek(begin)
            found = file.read(size - begin).rfind(b"\n")
            if found >= 0:
                return begin + found + 1
            size = begin
    return 0


def write_whole(path: Path, text: str) -> None:
    """Writes a file so that it is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
