"""The audit of files: every conversation looked at, findings counted, a fair sample kept for people to look at.

Refuses to know what is looked at (`checks.py`) and how samples are shown.
"""

import os
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from agentlm.tuning.data import outputs
from agentlm.tuning.data.audit.checks import REASONS, Auditor
from agentlm.tuning.data.rejects import Rejects
from agentlm.tuning.data.rendering import Rendered
from agentlm.tuning.line_reading import Progress
from agentlm.tuning.record import Conversation, RecordError, Writer, read_rows

KEPT_FINDINGS = 1000
"""Findings that a report holds in full; all are counted, and `refused` files hold all."""


_GROUP = 128
"""Conversations in memory at a time."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault of one conversation."""

    file: str
    line: int
    id: str
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Sample:
    """A conversation that is shown."""

    file: str
    line: int
    conversation: Conversation
    rendered: Rendered
    faults: tuple[tuple[str, str], ...]


@dataclass(slots=True)
class AuditReport:
    """What the audit saw."""

    reference: str
    """What drift was judged by, or why it was not."""
    conversations: int = 0
    refused: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    longest: int = 0
    """Tokens of the longest conversation."""
    reasons: Counter[str] = field(default_factory=Counter)
    """Conversations with each kind of fault, allowed ones too."""
    findings: list[Finding] = field(default_factory=list)
    """The first `KEPT_FINDINGS`."""
    samples: list[Sample] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON, without the samples."""
        return {
            "conversations": self.conversations,
            "refused": self.refused,
            "tokens": self.tokens,
            "trained_tokens": self.trained_tokens,
            "longest": self.longest,
            "drift_judged_by": self.reference,
            "reasons": dict(self.reasons.most_common()),
            "findings": [
                {
                    "file": each.file,
                    "line": each.line,
                    "id": each.id,
                    "reason": each.reason,
                    "detail": each.detail,
                }
                for each in self.findings
            ],
            "meaning": dict(REASONS),
        }


def run(
    paths: Sequence[str | Path],
    auditor: Auditor,
    *,
    show: int = 0,
    lines: frozenset[int] = frozenset(),
    passed: str | Path | None = None,
    refused: str | Path | None = None,
    progress: Progress | None = None,
) -> AuditReport:
    """Audits files of records.

    Of the conversations `show` are kept as samples: those at `lines` if given, else drawn evenly with a fixed seed, up to
    half of them from the refused ones. `passed` and `refused` name files for the conversations of either kind. `progress`
    is told of the files' bytes as they are read.

    Raises:
        DataError: An output is also an input.
        RecordError: A file cannot be read.
    """
    inputs = [Path(path) for path in paths]
    outputs.check(inputs, passed, refused)
    report = AuditReport(auditor.reference)
    sound, faulty = _Drawn(show - show // 2), _Drawn(show // 2)
    if lines:
        sound, faulty = _Drawn(show), _Drawn(0)
    with ExitStack() as stack:
        writer = None if passed is None else stack.enter_context(Writer(passed))
        rejects = None if refused is None else stack.enter_context(Rejects(refused))
        for path in inputs:
            for number, text, row, rendered, faults in _looked_at(path, auditor, progress):
                report.conversations += 1
                is_refused = _count(report, path, number, row, faults, auditor.settings.allow)
                if rendered is not None and isinstance(row, Conversation):
                    report.tokens += len(rendered.ids)
                    report.trained_tokens += rendered.trained_tokens
                    report.longest = max(report.longest, len(rendered.ids))
                    if not lines or number in lines:
                        sample = Sample(str(path), number, row, rendered, tuple(faults))
                        (faulty if faults and not lines else sound).offer(sample)
                if is_refused and rejects is not None:
                    kept = text if isinstance(row, RecordError) else row.to_dict()
                    reason, detail = next(fault for fault in faults if fault[0] not in auditor.settings.allow)
                    rejects.add(path, number, reason, detail, kept)
                elif not is_refused and writer is not None and isinstance(row, Conversation):
                    writer.add(row)
    report.samples = [*faulty.drawn(), *sound.drawn()]
    return report


_Looked = tuple[int, str, Conversation | RecordError, Rendered | None, list[tuple[str, str]]]


def _looked_at(path: Path, auditor: Auditor, progress: Progress | None) -> Iterator[_Looked]:
    """Each row of a file with what the auditor says of it, in the file's order; the renderer works on all cores."""

    def look(numbered: tuple[int, str, Conversation | RecordError]) -> _Looked:
        number, text, row = numbered
        if isinstance(row, RecordError):
            return number, text, row, None, [("record", str(row))]
        return number, text, row, *auditor.faults(row)

    rows = read_rows(path, progress)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        while group := list(islice(rows, _GROUP)):
            yield from pool.map(look, group)


def _count(
    report: AuditReport,
    path: Path,
    line: int,
    row: Conversation | RecordError,
    faults: Sequence[tuple[str, str]],
    allowed: Sequence[str],
) -> bool:
    """Counts a conversation's faults; whether it is refused."""
    report.reasons.update({reason for reason, _ in faults})
    name = row.id if isinstance(row, Conversation) else ""
    for reason, detail in faults:
        if len(report.findings) < KEPT_FINDINGS:
            report.findings.append(Finding(str(path), line, name, reason, detail))
    is_refused = any(reason not in allowed for reason, _ in faults)
    report.refused += is_refused
    return is_refused


class _Drawn:
    """A sample of fixed size of a stream of unknown length, every element equally likely."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._offered = 0
        self._kept: list[Sample] = []
        self._random = random.Random(0)

    def offer(self, sample: Sample) -> None:
        self._offered += 1
        if len(self._kept) < self._size:
            self._kept.append(sample)
        elif (place := self._random.randrange(self._offered)) < self._size:
            self._kept[place] = sample

    def drawn(self) -> list[Sample]:
        """What was drawn, in the stream's order."""
        return sorted(self._kept, key=lambda sample: (sample.file, sample.line))
