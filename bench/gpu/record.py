"""The record of a run: one JSON file, written as a whole after each part. Refuses to know how figures are made.

A part counts as done for one GPU and one state of the sources; it failed where it says so, keeping the rows that it had.
"""

import hashlib
import json
import os
import subprocess
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from bench.install import ROOT
from bench.results import write_whole

FILE = "gpu.json"
MEASURED = ("kernels/src/agentlm_kernels", "python/agentlm")
"""Folders whose files decide a figure."""
SUFFIXES = (".py", ".json", ".so")

Row = dict[str, Any]
"""A name and figures, units in the keys. `minor` rows are not in the summary; `error` says why there are no figures."""


@dataclass(slots=True)
class Result:
    """One part."""

    part: str
    status: str
    """"done", "partial" (some rows are errors), "failed" (it raised, or its process died) or "timeout"."""
    seconds: float
    gpu: str
    source: str
    """The digest of the sources, see `source_digest`."""
    commit: str
    long: bool = False
    rows: list[Row] = field(default_factory=list)
    error: str | None = None
    """The last lines that it said, where it failed."""


@dataclass(slots=True)
class Record:
    """Everything in a file."""

    file: Path
    results: dict[str, Result] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Reads a folder's record, or starts one."""
        record = cls(folder / FILE)
        if record.file.is_file():
            read = json.loads(record.file.read_text(encoding="utf-8"))
            record.machine = read["machine"]
            record.results = {one["part"]: Result(**one) for one in read["parts"]}
        return record

    def put(self, result: Result) -> None:
        """Takes a part in, in the place of an earlier one, and writes the file."""
        self.results[result.part] = result
        self.save()

    def save(self) -> None:
        """Writes the file as a whole."""
        written = {"machine": self.machine, "parts": [asdict(one) for one in self.results.values()]}
        write_whole(self.file, json.dumps(written, indent=1) + "\n")

    def is_done(self, part: str, gpu: str, source: str, long: bool) -> bool:
        """Whether a part need not be measured again: a long run is worth a short one, not the other way round."""
        one = self.results.get(part)
        return (
            one is not None
            and one.status == "done"
            and (one.gpu, one.source) == (gpu, source)
            and (one.long or not long)
        )

    def figures(self, part: str, gpu: str) -> dict[str, Row]:
        """A part's rows by name, if it was measured on this GPU."""
        one = self.results.get(part)
        return {row["name"]: row for row in one.rows} if one is not None and one.gpu == gpu else {}


def source_digest(root: Path = ROOT) -> str:
    """Twelve digits that change with any file that decides a figure: a tree with changes has no commit of its own."""
    digest = hashlib.sha256()
    for folder in MEASURED:
        for file in sorted((root / folder).rglob("*")):
            if file.suffix in SUFFIXES and file.is_file():
                digest.update(str(file.relative_to(root)).encode())
                digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:12]


def commit() -> str:
    """The commit, with "+" where sources differ. Without a repository the variable AGENTLM_COMMIT, or "unknown"."""
    try:
        head, status = (
            subprocess.run(
                ["git", "-C", str(ROOT), *words], check=True, capture_output=True, text=True
            ).stdout.strip()
            for words in (["rev-parse", "--short=12", "HEAD"], ["status", "--porcelain", "--", *MEASURED])
        )
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("AGENTLM_COMMIT", "unknown")
    return head + "+" if status else head
