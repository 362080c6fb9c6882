"""Rows that were not taken: each written to a file with its place and the reason, and counted. Refuses to know why."""

import json
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from agentlm.tuning.record import LineWriter


class Rejects:
    """A file of rejected rows, one JSON object a line, whole or not there; empty when nothing was rejected.

    `file`, `line` (in a JSON array the element's number, in parquet the row's; from 1), `reason` (one word), `detail`, and
    `row`: the row, or its text where it is no JSON.
    """

    def __init__(self, path: str | Path) -> None:
        self.reasons: Counter[str] = Counter()
        """How many for each reason."""
        self._writer = LineWriter(path)

    @property
    def path(self) -> Path:
        """Where the rows go."""
        return self._writer.path

    @property
    def count(self) -> int:
        """Rejected so far."""
        return sum(self.reasons.values())

    def add(self, file: str | Path, line: int, reason: str, detail: str, row: Any) -> None:
        """Adds one row."""
        self.reasons[reason] += 1
        # ASCII: the row may hold what UTF-8 cannot (half a character), which may be why it is here.
        made = {"file": str(file), "line": line, "reason": reason, "detail": detail, "row": row}
        self._writer.write(json.dumps(made, default=str))

    def __enter__(self) -> Self:
        self._writer.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.__exit__(kind, error, trace)
