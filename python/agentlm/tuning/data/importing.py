"""From anybody's files to one file of records, one row in memory at a time. Refuses to know any format itself."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from agentlm.tuning.data import formats, outputs, rows
from agentlm.tuning.data.errors import DataError, RowError
from agentlm.tuning.data.formats import Format
from agentlm.tuning.data.formats.context import Context
from agentlm.tuning.data.rejects import Rejects
from agentlm.tuning.data.repair import repaired, without_html
from agentlm.tuning.line_reading import Progress
from agentlm.tuning.record import Conversation, RecordError, Writer


@dataclass(frozen=True, slots=True)
class ImportSettings:
    """How files are imported; wrong values raise `DataError`."""

    format: str | None = None
    """One of `formats.NAMES`; None finds it out for each row."""
    source: str | None = None
    """Source of the records; None takes the row's own where it is a record, else the file's name without its ending."""
    tags: tuple[str, ...] = ()
    """Added to each record's."""
    task: str | None = None
    """Task of records whose rows do not say one."""
    html: bool = False
    """Whether remnants of web pages are taken out of answers."""
    repair: bool = False
    """Whether turns are dropped and joined until they alternate."""

    def __post_init__(self) -> None:
        if self.format is not None and self.format not in formats.NAMES:
            raise DataError(f"format must be one of {', '.join(formats.NAMES)}; it is {self.format!r}")
        if self.source == "" or self.task == "" or "" in self.tags:
            raise DataError("source, task and tags must not be empty")


@dataclass(slots=True)
class ImportReport:
    """What was imported."""

    taken: int = 0
    """Records written."""
    formats: Counter[str] = field(default_factory=Counter)
    """Of them, how many came in each format."""
    rejected: Counter[str] = field(default_factory=Counter)
    """Rows that were rejected, by reason."""


def run(
    paths: Sequence[str | Path],
    output: str | Path,
    rejects: str | Path,
    settings: ImportSettings,
    *,
    progress: Progress | None = None,
) -> ImportReport:
    """Imports files (or folders of them) into one file of records; both outputs are written whole or not at all.

    `progress` is told of the files' bytes as they are read.

    Raises:
        DataError: A file cannot be read, or an output is also an input.
        MissingExtraError: A file is parquet and pyarrow is not installed.
    """
    inputs = rows.files(paths)
    outputs.check(inputs, output, rejects)
    forced = formats.named(settings.format) if settings.format else None
    report = ImportReport()
    with Writer(output) as writer, Rejects(rejects) as rejected:
        for path in inputs:
            source = settings.source or source_of(path)
            for row in rows.read(path, progress):
                context = Context(source, f"{source}-{row.line}", settings.tags, settings.task)
                try:
                    if row.error is not None:
                        raise row.error
                    found, record = _imported(row.value, context, settings, forced)
                    writer.add(record)
                    report.taken += 1
                    report.formats[found.name] += 1
                except (RowError, RecordError) as error:
                    reason = "json" if row.error is not None else "format"
                    rejected.add(path, row.line, reason, str(error), row.value)
        report.rejected = rejected.reasons
    return report


def source_of(path: Path) -> str:
    """The source that a file's records have by default: its name up to its ending."""
    name = path.name.removesuffix(".gz")
    return "stdin" if name == "-" else Path(name).stem or name


def _imported(
    row: object, context: Context, settings: ImportSettings, forced: Format | None
) -> tuple[Format, Conversation]:
    found, record = formats.convert(row, context, forced)
    if settings.source is not None:
        record = replace(record, source=settings.source)
    if settings.html:
        record = without_html(record)
    if settings.repair:
        record = repaired(record)
    return found, record if record.id else replace(record, id=context.fallback_id)
