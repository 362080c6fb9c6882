"""The record of a machine: one JSON file, written after every cell, so that a run can be taken up where it stopped.

Refuses to know how numbers are made and how they are shown.
"""

import json
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from bench.machine import commit, describe
from bench.roofline import Limits

FOLDER = Path(__file__).parent / "results"


@dataclass(slots=True)
class Measured:
    """What one engine did in one cell."""

    peer: str
    cell: str
    commit: str
    """Of this repository, also for other engines: the driver and the workload are ours."""
    values: list[float] = field(default_factory=list)
    """Tokens per second, one a repetition."""
    others: float | None = None
    """The largest share of the machine that other processes took during a repetition, 0 to 1."""
    limits: Limits | None = None
    """What the machine allowed just then: the mean of one measurement before and one after."""
    at_most: bool = False
    """The workload was cut, and is slower as a whole than the value says."""
    error: str | None = None

    @property
    def median(self) -> float | None:
        """The figure of the table, None after an error."""
        return statistics.median(self.values) if self.values and self.error is None else None


@dataclass(slots=True)
class Record:
    """Everything in a results file."""

    file: Path
    machine: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    limits: Limits | None = None
    measured: dict[tuple[str, str], Measured] = field(default_factory=dict)
    """By peer and cell."""

    @classmethod
    def open(cls, name: str) -> Self:
        """Reads a file of `results/`, or starts a new one."""
        file = FOLDER / f"{name}.json"
        record = cls(file)
        if file.is_file():
            read = json.loads(file.read_text(encoding="utf-8"))
            record.machine, record.versions = read["machine"], read["versions"]
            record.limits = Limits(**read["limits"])
            for one in read["measured"]:
                beside = one.pop("limits", None)
                record.put(Measured(**one, limits=Limits(**beside) if beside else None))
        return record

    def put(self, measured: Measured) -> None:
        """Takes a cell in, in the place of an earlier one."""
        self.measured[measured.peer, measured.cell] = measured

    def save(self) -> None:
        """Writes the file as a whole."""
        if self.limits is None:
            raise ValueError("limits are measured before anything else")
        written = {
            "machine": self.machine,
            "versions": self.versions,
            "limits": asdict(self.limits),
            "measured": [_rounded(asdict(one)) for _, one in sorted(self.measured.items())],
        }
        write_whole(self.file, json.dumps(written, indent=1) + "\n")


def keep_cell(file: Path, name: str, cell: dict[str, Any], threads: int) -> dict[str, Any]:
    """Puts a cell into a file of cells of any machines, with what it was measured on; returns all of the file."""
    held: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {"cells": {}}
    held["cells"][name] = cell | {"commit": commit(), "machine": describe(threads)}
    write_whole(file, json.dumps(held, indent=2) + "\n")
    return held


def write_whole(file: Path, text: str) -> None:
    """Puts a text in the place of a file's, all at once; makes the folder."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(file.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(file)


def _rounded(one: dict[str, Any]) -> dict[str, Any]:
    return {**one, "values": [float(f"{value:.5g}") for value in one["values"]]}
