"""The picture of `agentlm data stats`: how long the conversations of each group are, and what of them is trained.

Refuses to count. Needs matplotlib, of the extra `agentlm[tune]`.
"""

import tempfile
import warnings
from pathlib import Path

from agentlm.tuning.data.errors import DataError, extra
from agentlm.tuning.data.statistics import Statistics, class_names

FORMATS = (".png", ".svg", ".pdf")
"""Endings of pictures."""

LONGEST_NAME = 48
"""Characters of a name beside its bar."""
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
        sizes.barh(index, trained, color=colour)
        sizes.barh(index, size(name) - trained, left=trained, color=colour, alpha=0.35)
    sizes.set_yticks(range(len(names)), [_label(name) for name in names])
    lengths.tick_params(axis="x", rotation=45)
    lengths.set_ylim(0, 1.05 * max(*below, 1))
    lengths.set_xlabel(f"length in {unit}")
    lengths.set_ylabel("conversations")
    sizes.set_xlabel("tokens, the trained ones dark" if statistics.has_tokens else unit)
    sizes.xaxis.set_major_formatter("{x:,.0f}")
    sizes.tick_params(axis="x", rotation=45)
    sizes.invert_yaxis()
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=path.suffix, delete=False) as beside:
        made = Path(beside.name)
    try:
        with warnings.catch_warnings():
            # A letter that the font lacks is drawn as a box; nobody at the command line can do better.
            warnings.filterwarnings("ignore", "Glyph", UserWarning)
            figure.savefig(made, dpi=150)
        made.chmod(0o644)
        made.replace(path)
    finally:
        made.unlink(missing_ok=True)


def _label(name: str) -> str:
    """The name as it may stand beside a bar: matplotlib would read what is between two dollars as a formula."""
    shown = "".join(letter if letter.isprintable() else "?" for letter in name)
    return (shown if len(shown) <= LONGEST_NAME else shown[: LONGEST_NAME - 1] + "…").replace("$", r"\$")


def check(path: Path) -> None:
    """Refuses a file that no plot can be written to. Raises `DataError`, `MissingExtraError`."""
    if path.suffix.lower() not in FORMATS:
        raise DataError(f"a plot is written to a file that ends in {', '.join(FORMATS)}; given: {path}")
    if not path.parent.is_dir():
        raise DataError(f"{path}: the folder {path.parent} is not there; make it first")
    extra("matplotlib", "a plot")
