"""The report as one HTML file with its plots inside, for a browser without a network. Knows not how rows came about."""

import html as escaping
from io import StringIO
from typing import Any

from agentlm_evals.outcome import Outcome
from agentlm_evals.report.published import COLUMNS, SCORES
from agentlm_evals.report.rows import Row
from agentlm_evals.report.table import Report, markdown

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 78rem; padding: 0 1rem; color: #1c2733; }
table { border-collapse: collapse; display: block; overflow-x: auto; }
td, th { padding: .25rem .6rem; border-bottom: 1px solid #d7dde3; text-align: left; white-space: nowrap; }
th { background: #f3f5f7; } svg { max-width: 100%; height: auto; }
@media (prefers-color-scheme: dark) { body { background: #14191f; color: #dde4ea; } th { background: #1f272f; }
td, th { border-color: #33404c; } svg { background: #fff; border-radius: 4px; } }
"""
_COLOURS = {
    Outcome.RIGHT: "#2a7f62",
    Outcome.WRONG: "#c9563c",
    Outcome.FORMAT_OR_LIMIT: "#d9a441",
    Outcome.HARNESS_FAULT: "#6b7785",
}


def html(report: Report) -> str:
    """The whole page."""
    names = list(dict.fromkeys(row.model for row in report.rows))
    title = escaping.escape("agentlm report: " + ", ".join(names))
    parts = [_tables(markdown(report))]
    if report.rows:
        plots = f"<h2>Scores and their intervals</h2>{_scores(report.rows)}<h2>Outcomes</h2>{_outcomes(report.rows)}"
        parts.insert(0, plots)
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{title}</h1>{body}</body></html>\n"
    )


def _tables(text: str) -> str:
    """The Markdown that `table.markdown` writes, which has headings, tables, lists and plain lines only."""
    out: list[str] = []
    table: list[str] = []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            cells = [escaping.escape(cell.replace("\\|", "|")) for cell in _split(line)]
            if cells and set("".join(cells)) <= {"-"}:
                continue
            tag = "th" if not table else "td"
            table.append("<tr>" + "".join(f"<{tag}>{_bold(cell)}</{tag}>" for cell in cells) + "</tr>")
            continue
        if table:
            out.append("<table>" + "".join(table) + "</table>")
            table = []
        if line.startswith("#"):
            level = min(len(line) - len(line.lstrip("#")) + 1, 6)
            out.append(f"<h{level}>{escaping.escape(line.lstrip('# '))}</h{level}>")
        elif line:
            out.append(f"<p>{escaping.escape(line.removeprefix('- '))}</p>")
    return "\n".join(out)


def _split(line: str) -> list[str]:
    return [cell.replace("\0", "\\|").strip() for cell in line.strip("| ").replace("\\|", "\0").split(" | ")]


def _bold(cell: str) -> str:
    return f"<b>{cell[2:-2]}</b>" if cell.startswith("**") and cell.endswith("**") else cell


def _figure(width: float, height: float) -> tuple[Any, Any]:
    # Without pyplot nothing is shown and no state is left behind.
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    return figure, figure.add_subplot()


def _svg(figure: Any) -> str:
    text = StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]


def _scores(rows: list[Row]) -> str:
    figure, axes = _figure(9.0, 0.9 + 0.45 * len(rows))
    for at, row in enumerate(reversed(rows)):
        # Ratings from 1 to 10 share the axis with percentages.
        factor = 1.0 if row.unit.value == "%" else 10.0
        value, low, high = (factor * one for one in (row.estimate.value, row.estimate.low, row.estimate.high))
        if value == value:
            axes.errorbar(
                value, at, xerr=[[value - low], [high - value]], fmt="o", color="#1f5fa8", capsize=3, zorder=3
            )
        if not row.own_samples:
            axes.scatter(
                [factor * one for one in SCORES[row.task]],
                [at] * len(COLUMNS),
                marker="|",
                color="#9aa5b1",
                s=120,
            )
    axes.set_yticks(
        range(len(rows)), [f"{row.label}\n{row.model} ({row.protocol})" for row in reversed(rows)], fontsize=8
    )
    axes.set_xlim(0, 100)
    axes.set_xlabel("score (%; ratings x 10); grey marks: the published models")
    axes.grid(axis="x", alpha=0.3)
    return _svg(figure)


def _outcomes(rows: list[Row]) -> str:
    figure, axes = _figure(9.0, 0.9 + 0.4 * len(rows))
    for at, row in enumerate(reversed(rows)):
        left = 0.0
        for outcome, colour in _COLOURS.items():
            share = 100.0 * row.outcomes[outcome] / row.planned
            axes.barh(at, share, left=left, color=colour, label=outcome.value if at == 0 else None)
            left += share
    axes.set_yticks(range(len(rows)), [row.label for row in reversed(rows)], fontsize=8)
    axes.set_xlim(0, 100)
    axes.set_xlabel("share of planned episodes (%)")
    axes.legend(ncols=4, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return _svg(figure)
