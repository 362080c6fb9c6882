"""The table of one or several runs, in text, Markdown and JSON. Refuses to know how rows came about."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from agentlm_evals import __version__
from agentlm_evals.outcome import Outcome
from agentlm_evals.report import elementary
from agentlm_evals.report.compare import Comparison, compare
from agentlm_evals.report.published import COLUMNS, GROUP_TASKS, OVERALL, SCORES, overall
from agentlm_evals.report.rows import Row, load_run
from agentlm_evals.report.statistics import Estimate
from agentlm_evals.task import Group, Unit
from agentlm_evals.tasks import entry

_SHORT = {
    Outcome.RIGHT: "right",
    Outcome.WRONG: "wrong",
    Outcome.FORMAT_OR_LIMIT: "format/limit",
    Outcome.HARNESS_FAULT: "fault",
}


@dataclass(frozen=True, slots=True)
class GroupLine:
    """A run's Overall of a group and protocol, or how far it is from one."""

    run: str
    model: str
    protocol: str
    group: Group
    complete: int
    """Tasks with a whole official row."""
    of: int
    overall: Estimate | None
    subset: bool
    """Whether some of its tasks ran on fewer samples than the published set has."""


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that is shown."""

    rows: list[Row]
    groups: list[GroupLine]
    comparisons: list[Comparison]


def load_runs(directories: Sequence[Path]) -> Report:
    """Reads runs' directories.

    Raises:
        RunError: One cannot be read.
    """
    # Two runs of one name in different places are two runs.
    count = Counter(directory.resolve().name for directory in directories)
    names = [None if count[one.resolve().name] == 1 else str(one) for one in directories]
    rows = [
        row for directory, name in zip(directories, names, strict=True) for row in load_run(directory, name)
    ]
    return Report(rows, _groups(rows), compare(rows))


def _groups(rows: Sequence[Row]) -> list[GroupLine]:
    """Protocols are never mixed: each has its own line."""
    lines = []
    for run, protocol in dict.fromkeys((row.run, row.protocol) for row in rows):
        mine = [row for row in rows if (row.run, row.protocol) == (run, protocol)]
        for group, tasks in GROUP_TASKS.items():
            official = [row for row in mine if row.task in tasks and row.is_official]
            if not any(row.task in tasks for row in mine):
                continue
            value = overall({row.task: row.estimate for row in official}, group)
            subset = any(row.samples < row.total for row in official)
            lines.append(
                GroupLine(run, mine[0].model, protocol, group, len(official), len(tasks), value, subset)
            )
    return lines


def number(estimate: Estimate) -> str:
    """A value with its interval."""
    if math.isnan(estimate.value):
        return "-"
    return f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"


def _cells(row: Row) -> list[str]:
    outcomes = " / ".join(str(row.outcomes[outcome]) for outcome in _SHORT)
    unit = "" if math.isnan(row.estimate.value) else " %" if row.unit is Unit.PERCENT else " of 10"
    return [row.label, row.protocol, number(row.estimate) + unit, outcomes]


_HEAD = ["task", "protocol", "score [95 % interval]", "right / wrong / format or limit / fault"]


def terminal(report: Report) -> str:
    """The table as plain text."""
    lines: list[str] = []
    for run in dict.fromkeys(row.run for row in report.rows):
        rows = [row for row in report.rows if row.run == run]
        lines += [f"{rows[0].model}  ({run}), weights {_weights(rows[0])}"]
        table = [_HEAD, *(_cells(row) for row in rows)]
        widths = [max(len(line[at]) for line in table) for at in range(len(_HEAD))]
        lines += [
            "  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in table
        ]
        for row in rows:
            lines += [f"    {row.title}: {note}" for note in row.notes]
            lines += [f"    {row.title}: {name} {value:.4g}" for name, value in row.numbers.items()]
        lines += [f"  {_group_text(line)}" for line in report.groups if line.run == run]
    lines += [comparison.text() for comparison in report.comparisons]
    return "\n".join(lines)


def _weights(row: Row) -> str:
    """Enough of the digest to tell weights apart; all of it is in the JSON."""
    return row.weights[:12] if row.weights else "unknown"


def _group_text(line: GroupLine) -> str:
    if line.overall is None:
        return f"{line.group.value} ({line.protocol}): {line.complete} of {line.of} tasks, so no Overall"
    subset = ", from fewer samples than the published sets have" if line.subset else ""
    return f"{line.group.value} ({line.protocol}): Overall {number(line.overall)}{subset}"


def markdown(report: Report) -> str:
    """The table beside the published one."""
    runs = list(dict.fromkeys((row.run, row.protocol) for row in report.rows))
    names = [
        f"{next(row.model for row in report.rows if row.run == run)} ({protocol})" for run, protocol in runs
    ]
    head = ["task", *names, *COLUMNS]
    lines = ["# AgentTuning's table", "", _line(head), _line(["---"] * len(head))]
    for group, tasks in GROUP_TASKS.items():
        for task in tasks:
            for own in (False, True):
                rows = [row for row in report.rows if row.task == task and row.own_samples is own]
                if own and not rows:
                    continue
                cells = [
                    next(
                        (number(row.estimate) + _mark(row) for row in rows if (row.run, row.protocol) == run),
                        "",
                    )
                    for run in runs
                ]
                published = [""] * len(COLUMNS) if own else [f"{value:g}" for value in SCORES[task]]
                lines.append(
                    _line([entry(task).title + (" (own samples)" if own else ""), *cells, *published])
                )
        cells = []
        for run in runs:
            found = next(
                (one for one in report.groups if (one.run, one.protocol, one.group) == (*run, group)), None
            )
            cells.append(
                ""
                if found is None
                else number(found.overall) + (" (fewer samples)" if found.subset else "")
                if found.overall
                else f"{found.complete} of {found.of}"
            )
        lines.append(_line([f"**{group.value}**", *cells, *(f"{value:.2f}" for value in OVERALL[group])]))
    lines += [
        "",
        "Published: arXiv 2310.12823. Intervals are 95 %: Wilson's for shares, else a bootstrap's. †: see the notes below.",
        "",
    ]
    lines += [
        "## Rows",
        "",
        _line(["run", *_HEAD, "data", "versions", "notes"]),
        _line(["---"] * (len(_HEAD) + 4)),
    ]
    for row in report.rows:
        versions = ", ".join(
            f"{name} {value}"
            for name, value in {
                "weights": _weights(row),
                "protocol": row.protocol_version,
                **row.versions,
            }.items()
        )
        lines.append(_line([row.run, *_cells(row), row.data[:12], versions, "; ".join(row.notes)]))
    lines += [
        "",
        "## Elementary errors",
        "",
        "Shares of episodes, by rules of our own (not the paper's).",
        "",
    ]
    lines += [_line(["run", "task", *elementary.NAMES]), _line(["---"] * 5)]
    lines += [
        _line(
            [
                row.run,
                row.label,
                *(f"{row.elementary.get(name, math.nan):.3f}" for name in elementary.NAMES),
            ]
        )
        for row in report.rows
    ]
    with_categories = [row for row in report.rows if row.categories]
    if with_categories:
        lines += [
            "",
            "## Categories",
            "",
            _line(["run", "task", "category", "score", "samples"]),
            _line(["---"] * 5),
        ]
        lines += [
            _line([row.run, row.label, category, number(value), str(value.count)])
            for row in with_categories
            for category, value in row.categories.items()
        ]
    if report.comparisons:
        lines += ["", "## Differences", "", *(f"- {comparison.text()}" for comparison in report.comparisons)]
    return "\n".join(lines) + "\n"


def _mark(row: Row) -> str:
    return " †" if row.notes else ""


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def to_json(report: Report) -> str:
    """Everything, for programs. Keys are the dataclasses' fields; a number that does not exist is null."""
    rows = []
    for row in report.rows:
        body = asdict(row)
        body["outcomes"] = {_SHORT[outcome]: row.outcomes[outcome] for outcome in _SHORT}
        body["notes"] = row.notes
        body["published"] = None if row.own_samples else dict(zip(COLUMNS, SCORES[row.task], strict=True))
        rows.append(body)
    document = {
        "agentlm_evals": __version__,
        "rows": rows,
        "groups": [asdict(line) for line in report.groups],
        "comparisons": [asdict(comparison) for comparison in report.comparisons],
    }
    return json.dumps(_plain(document), indent=1, ensure_ascii=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value
