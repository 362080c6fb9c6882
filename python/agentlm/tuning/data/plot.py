"""The picture of `agentlm data stats`: how long the conversations of each group are, and what of them is trained.

Refuses to count. Needs matplotlib, of the extra `agentlm[tune]`.
"""

import tempfile
from pathlib import Path

from agentlm.tuning.data.errors import DataError, extra
from agentlm.tuning.data.statistics import Statistics, class_names

FORMATS = (".png", ".svg", ".pdf")
"""Endings of pictures."""

MOST_GROUPS = 20
"""Groups that are drawn, the largest first; more would not be told apart."""


def draw(statistics: Statistics, path: Path) -> None:
    """Draws the statistics into a file, whole or not at all.

    Raises:
        DataError: The file's ending is none of `FORMATS`, or there is no conversation.
        MissingExtraError: matplotlib is not installed.
    """
    check(path)
    if not statistics.groups:
        raise DataError("there is no conversation to draw")
    figures = extra("matplotlib.figure", "a plot")
    unit = "tokens" if statistics.has_tokens else "characters"

    def size(name: str) -> int:
        counts = statistics.groups[name]
        return counts.tokens if statistics.has_tokens else counts.characters

    names = sorted(statistics.groups, key=size, reverse=True)[:MOST_GROUPS]
    used = [index for index, count in enumerate(statistics.all.classes()) if count]
    shown = slice(used[0], used[-1] + 1) if used else slice(0, 1)
    labels = class_names()[shown]
    figure = figures.Figure(figsize=(11, max(3.5, 1.5 + 0.3 * len(names))), layout="constrained")
    lengths, sizes = figure.subplots(1, 2)
    below = [0] * len(labels)
    for index, name in enumerate(names):
        counts, colour = statistics.groups[name], f"C{index % 10}"
        classes = counts.classes()[shown]
        lengths.bar(labels, classes, bottom=below, color=colour)
        below = [before + more for before, more in zip(below, classes, strict=True)]
        trained = counts.trained_tokens if statistics.has_tokens else 0
        sizes.barh(name, trained, color=colour)
        sizes.barh(name, size(name) - trained, left=trained, color=colour, alpha=0.35)
    lengths.tick_params(axis="x", rotation=45)
    lengths.set_ylim(0, 1.05 * max(*below, 1))
    lengths.set_xlabel(f"length in {unit}")
    lengths.set_ylabel("conversations")
    sizes.set_xlabel("tokens, the trained ones dark" if statistics.has_tokens else unit)
    sizes.ticklabel_format(axis="x", style="plain")
    sizes.invert_yaxis()
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=path.suffix, delete=False) as beside:
        made = Path(beside.name)
    try:
        figure.savefig(made, dpi=150)
        made.chmod(0o644)
        made.replace(path)
    finally:
        made.unlink(missing_ok=True)


def check(path: Path) -> None:
    """Refuses a file that no plot can be written to. Raises `DataError`, `MissingExtraError`."""
    if path.suffix.lower() not in FORMATS:
        raise DataError(f"a plot is written to a file that ends in {', '.join(FORMATS)}; given: {path}")
    if not path.parent.is_dir():
        raise DataError(f"{path}: the folder {path.parent} is not there; make it first")
    extra("matplotlib", "a plot")
