"""The picture of a record: decode over the number of requests, beside the limit. Runs where matplotlib is.

python -m bench.plot RECORD FILE
"""

import sys
from pathlib import Path

import matplotlib as mpl

from bench.cells import MODELS, PRECISIONS
from bench.peers import PEERS
from bench.report import cells_of
from bench.results import Record
from bench.roofline import limit


def draw(record: Record, file: Path) -> None:
    """One panel a model and precision, short context; a line an engine. The same record gives the same bytes."""
    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "agentlm"
    from matplotlib import pyplot as plt

    limits = record.limits
    if limits is None:
        raise ValueError("the record holds no limits")
    cells = [cell for cell in cells_of(record) if cell.kind == "decode" and cell.context == "short"]
    panels = [
        (model, precision)
        for model in MODELS
        for precision in PRECISIONS
        if any((cell.model, cell.precision) == (model, precision) for cell in cells)
    ]
    figure, axes = plt.subplots(1, max(len(panels), 1), figsize=(4 * max(len(panels), 1), 3.2), squeeze=False)
    for axis, panel in zip(axes[0], panels, strict=False):
        group = [cell for cell in cells if (cell.model, cell.precision) == panel]
        batches = [cell.batch for cell in group]
        axis.plot(batches, [limit(cell, limits) for cell in group], "k--", label="limit")
        for peer in PEERS:
            points = [(cell.batch, record.measured.get((peer.name, cell.key))) for cell in group]
            known = [
                (batch, one.median) for batch, one in points if one is not None and one.median is not None
            ]
            if known:
                style = {"linewidth": 2.5} if peer.ours else {"linewidth": 1.2, "alpha": 0.8}
                axis.plot(*zip(*known, strict=True), marker="o", markersize=3, label=peer.name, **style)
        axis.set(title=", ".join(panel), xlabel="requests at once", xticks=batches, ylim=(0, None))
    axes[0][0].set_ylabel("decoded tokens/s")
    axes[0][0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})


if __name__ == "__main__":
    draw(Record.open(sys.argv[1]), Path(sys.argv[2]))
