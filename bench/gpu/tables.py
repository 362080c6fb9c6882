"""Rows as tables, and a summary that fits where only the end of the output is read. Refuses to measure."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from bench.gpu.record import Record, Result, Row

SUMMARY_CHARACTERS = 11_000
"""The device tool returns the last 12,000 characters."""
HIDDEN = ("name", "minor", "error")
ERROR_CHARACTERS = 240
CUT = "… cut; all is in the JSON file"


def figure(value: Any) -> str:
    """A figure in three or four digits."""
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if isinstance(value, float):
        if value != 0 and abs(value) < 0.001:
            return f"{value:.1e}"
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)


def groups(rows: Iterable[Row]) -> Iterator[tuple[tuple[str, ...], list[Row]]]:
    """Neighbouring rows of the same figures, with these."""
    kept: list[Row] = []
    keys: tuple[str, ...] = ()
    for row in rows:
        own = tuple(key for key in row if key not in HIDDEN)
        if kept and own != keys:
            yield keys, kept
            kept = []
        keys = own
        kept.append(row)
    if kept:
        yield keys, kept


def table(rows: Sequence[Row]) -> str:
    """All rows of a part, in columns."""
    lines = []
    for keys, group in groups([row for row in rows if "error" not in row]):
        cells = [["", *keys]] + [[row["name"], *(figure(row[key]) for key in keys)] for row in group]
        widths = [max(len(line[i]) for line in cells) for i in range(len(keys) + 1)]
        for line in cells:
            numbers = (text.rjust(width) for text, width in zip(line[1:], widths[1:], strict=True))
            lines.append("  " + "  ".join([line[0].ljust(widths[0]), *numbers]))
    lines += [f"  {row['name']}: failed: {row['error']}" for row in rows if "error" in row]
    return "\n".join(lines)


def summary(
    record: Record, names: Sequence[str], notes: Sequence[str] = (), most: int = SUMMARY_CHARACTERS
) -> str:
    """The parts of these names, compactly. What does not fit is cut from the longest part, failures last."""
    blocks = {name: _block(record.results[name]) for name in names if name in record.results}
    tail = [*notes]
    while (
        size := sum(len(line) + 1 for block in blocks.values() for line in block) + sum(map(len, tail))
    ) > most:
        longest = max(blocks, key=lambda name: sum(map(len, blocks[name])))
        block = blocks[longest]
        if len(block) <= 2:
            # Nothing is left but first lines.
            return "\n".join([*(line for lines in blocks.values() for line in lines), *tail])[: most - 1]
        drop = max(1, min(len(block) - 2, (size - most) // max(len(block[-2]), 1)))
        kept = block[: len(block) - drop - (block[-1] == CUT)]
        blocks[longest] = [*kept, CUT]
    return "\n".join([*(line for block in blocks.values() for line in block), *tail])


def _block(result: Result) -> list[str]:
    """A part's lines: how it ended, what failed, then its figures."""
    state = result.status if result.status == "done" else result.status.upper()
    lines = [f"## {result.part}: {state}, {result.seconds:.0f} s"]
    if result.error:
        lines += [line for line in result.error.splitlines() if line.strip()][-6:]
    lines += [f"! {row['name']}: {row['error'][:ERROR_CHARACTERS]}" for row in result.rows if "error" in row]
    shown = [row for row in result.rows if "error" not in row and not row.get("minor")]
    for keys, group in groups(shown):
        if len(group) == 1:
            pairs = ", ".join(f"{key} {figure(group[0][key])}" for key in keys)
            lines.append(f"{group[0]['name']}: {pairs}")
            continue
        lines.append("| " + " | ".join(keys))
        lines += [" | ".join([row["name"], *(figure(row[key]) for key in keys)]) for row in group]
    return lines
