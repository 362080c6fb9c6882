"""The study's table: means over seeds and items with 95 % intervals. Refuses to train and to play."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.nano_study.plan import ETAS, Cell, Size

DRAWS = 4_000
"""Bootstrap samples; seeds and items are both drawn anew in each."""
GROUPS = ("held-in", "held-out", "general")


def matrix(
    results: Mapping[str, Mapping[str, Any]], eta: float | None, group: str, seeds: int
) -> npt.NDArray[np.float64]:
    """Scores `[seeds, items]`; items are the same for every seed, and the one base stands for every seed."""
    rows = [results[Cell(eta, seed).name][group] for seed in range(1, seeds + 1)]
    names = sorted(rows[0])
    return np.array([[row[name] for name in names] for row in rows], dtype=np.float64)


def interval(scores: npt.NDArray[np.float64]) -> tuple[float, float]:
    """The 2.5th and 97.5th percentile of the mean, seeds and items drawn with replacement."""
    rng = np.random.default_rng(0)
    seeds, items = scores.shape
    means = np.empty(DRAWS)
    for draw in range(DRAWS):
        chosen = scores[rng.integers(seeds, size=seeds)][:, rng.integers(items, size=items)]
        means[draw] = chosen.mean()
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def summarise(results: Mapping[str, Mapping[str, Any]], size: Size) -> list[dict[str, Any]]:
    """One row a variant: each group's mean and interval in per cent, and its difference from agent-only."""
    rows: list[dict[str, Any]] = []
    for eta in (None, *ETAS):
        row: dict[str, Any] = {"variant": Cell(eta).title}
        for group in GROUPS:
            scores = matrix(results, eta, group, size.seeds)
            low, high = interval(scores)
            row[group] = [round(100 * value, 1) for value in (float(scores.mean()), low, high)]
            # Items are the same in both, so that their differences are what is drawn from.
            paired = scores - matrix(results, 1.0, group, size.seeds)
            low, high = interval(paired)
            row[f"{group} beyond agent only"] = [
                round(100 * value, 1) for value in (float(paired.mean()), low, high)
            ]
        rows.append(row)
    return rows


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown."""
    lines = ["| model | held-in | held-out | general |", "| --- | --- | --- | --- |"]
    for row in rows:
        shown = (f"{row[group][0]:.1f} ({row[group][1]:.1f} to {row[group][2]:.1f})" for group in GROUPS)
        lines.append(f"| {row['variant']} | {' | '.join(shown)} |")
    lines.append("")
    lines.append("Beyond agent only, item by item:")
    lines.append("")
    lines += ["| model | held-in | held-out | general |", "| --- | --- | --- | --- |"]
    for row in rows:
        paired = (row[f"{group} beyond agent only"] for group in GROUPS)
        shown = (f"{mean:+.1f} ({low:+.1f} to {high:+.1f})" for mean, low, high in paired)
        lines.append(f"| {row['variant']} | {' | '.join(shown)} |")
    return "\n".join(lines)
