"""The table, the goals and the plot from a record. Refuses to measure."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.cells import Cell
from bench.peers import PEERS
from bench.results import Measured, Record
from bench.roofline import Limits, bound, limit

BESIDE_BEST = 0.97
"""Our worst allowed ratio to the best peer at the same precision."""
AGENTS_WITHOUT_CACHE = 3.0
AGENTS_WITH_CACHE = 1.2
NOISY = 0.04
"""Above this share of other processes a figure is marked with ~."""
OURS = next(peer.name for peer in PEERS if peer.ours)


@dataclass(frozen=True, slots=True)
class Goal:
    """One promise and whether it is kept."""

    what: str
    wanted: float
    reached: float

    @property
    def met(self) -> bool:
        """Whether it is kept."""
        return self.reached >= self.wanted


def cells_of(record: Record) -> list[Cell]:
    """The cells that were measured, in the table's order."""
    cells = {Cell.from_key(key) for _, key in record.measured}
    order = ["prefill", "decode", "agents"]
    return sorted(
        cells, key=lambda c: (c.model, c.precision, order.index(c.kind), len(c.context), c.context, c.batch)
    )


def goals(record: Record, limits: Limits) -> Iterator[Goal]:
    """Every goal that the record can say something about."""
    for cell in cells_of(record):
        ours = record.measured.get((OURS, cell.key))
        if ours is None or ours.median is None:
            continue
        beside = ours.limits or limits
        share_wanted, most = _share_goal(cell), limit(cell, beside)
        if share_wanted and most:
            yield Goal(
                f"{cell.key}: share of the {bound(cell, beside)} limit", share_wanted, ours.median / most
            )
        for cached, wanted in ((False, AGENTS_WITHOUT_CACHE), (True, AGENTS_WITH_CACHE)):
            best = _best_peer(record, cell, cached if cell.kind == "agents" else None)
            if best is None or (best.median or 0) <= 0 or (cell.kind != "agents" and cached):
                continue
            least = wanted if cell.kind == "agents" else BESIDE_BEST
            yield Goal(f"{cell.key}: times {best.peer}", least, ours.median / (best.median or 1))


def _share_goal(cell: Cell) -> float | None:
    half = cell.precision == "float16"
    if cell.kind == "prefill" and half:
        return 0.95
    if cell.kind == "decode" and cell.batch == 1 and half:
        return 0.90
    if cell.kind == "decode" and cell.batch == 16:
        return 0.80 if half else 0.75
    return None


def _best_peer(record: Record, cell: Cell, prefix_cache: bool | None) -> Measured | None:
    found = [
        record.measured[peer.name, cell.key]
        for peer in PEERS
        if not peer.ours
        and (prefix_cache is None or peer.prefix_cache == prefix_cache)
        and (peer.name, cell.key) in record.measured
    ]
    return max(
        (one for one in found if one.median is not None), key=lambda one: one.median or 0, default=None
    )


def picture(machine: str) -> str:
    """The name of a machine's picture, beside the page."""
    return f"benchmarks-{machine}.svg"


def markdown(record: Record) -> str:
    """The whole report of one machine."""
    limits = record.limits
    if limits is None:
        return "Nothing was measured."
    machine, lines = record.machine, []
    memory = f", {machine['memory_gib']} GiB" if machine["memory_gib"] else ""
    sets = ", ".join(machine["instruction_sets"]) or "no wide instruction set"
    threads = f"{machine['threads']} threads of {machine['cores']}"
    commits = ", ".join(sorted({one.commit for one in record.measured.values()}))
    versions = ", ".join(f"{name} {version}" for name, version in sorted(record.versions.items()))
    gigabytes, gigaflops = limits.bytes_per_second / 1e9, limits.flops / 1e9
    lines += [f"### {machine['processor']}, {threads}", ""]
    lines.append(f"{machine['architecture']}{memory}; {sets}; {machine['system']}.")
    lines.append(f"Commits: {commits}. Versions: {versions}.")
    lines.append(
        f"Limits: at best {gigabytes:.1f} GB/s read, {gigaflops:.0f} GFLOP/s of fp32 multiply-adds; beside the figures "
        f"{_range(record)}."
    )
    lines.append("")
    lines.append("Tokens per second (median), and the share of what the limits beside the figure allow.")
    lines.append(
        f"`~`: other processes took more than {NOISY:.0%} of the machine in some repetition. "
        "`≤`: cut after the first, cheaper turns."
    )
    lines += ["", f"![decode at a short context, beside the limit]({picture(record.file.stem)})"]
    cells = cells_of(record)
    for model, precision in dict.fromkeys((cell.model, cell.precision) for cell in cells):
        group = [cell for cell in cells if (cell.model, cell.precision) == (model, precision)]
        peers = [
            peer.name for peer in PEERS if any((peer.name, cell.key) in record.measured for cell in group)
        ]
        lines += ["", f"**{model}, {precision}**", "", f"| workload | {' | '.join(peers)} |"]
        lines.append("| --- |" + " ---: |" * len(peers))
        lines += [_row(record, cell, peers, limits) for cell in group]
    found = list(goals(record, limits))
    if found:
        lines += ["", "| goal | wanted | reached | |", "| --- | ---: | ---: | --- |"]
        lines += [
            f"| {goal.what} | {goal.wanted:.2f} | {goal.reached:.2f} | {'met' if goal.met else '**missed**'} |"
            for goal in found
        ]
    return "\n".join(lines)


def _range(record: Record) -> str:
    found = [one.limits for one in record.measured.values() if one.limits]
    if not found:
        return "not measured"
    gigabytes = sorted(limits.bytes_per_second / 1e9 for limits in found)
    gigaflops = sorted(limits.flops / 1e9 for limits in found)
    return f"{gigabytes[0]:.1f} to {gigabytes[-1]:.1f} GB/s and {gigaflops[0]:.0f} to {gigaflops[-1]:.0f} GFLOP/s"


def _row(record: Record, cell: Cell, peers: list[str], limits: Limits) -> str:
    measured = [record.measured.get((peer, cell.key)) for peer in peers]
    shown = [_figure(one, limit(cell, (one and one.limits) or limits)) for one in measured]
    return f"| {_workload(cell)} | {' | '.join(shown)} |"


def _workload(cell: Cell) -> str:
    if cell.kind == "prefill":
        return f"prefill, {cell.context}"
    if cell.kind == "decode":
        return f"decode, {cell.batch} at once, {cell.context}"
    return f"{cell.batch} agents, {cell.context} turns"


def _figure(one: Measured | None, most: float | None) -> str:
    if one is None:
        return ""
    if one.median is None:
        return "failed"
    mark = "~" if (one.others or 0) > NOISY else ""
    share = f" ({one.median / most:.0%})" if most else ""
    bound = "≤ " if one.at_most else ""
    number = f"{one.median:.3g}" if one.median < 100 else f"{one.median:.0f}"
    return f"{mark}{bound}{number}{share}"


def write_machine(page: Path, machine: str, text: str) -> None:
    """Puts a machine's report among the page's results: where it was, else before the others.

    Raises `ValueError` where the page has no marks.
    """
    name = f"results of {machine}"
    old = page.read_text(encoding="utf-8")
    if f"<!-- {name}: begin -->" not in old:
        begin = "<!-- results: begin -->"
        if begin not in old:
            raise ValueError(f"{page} has no line {begin!r}")
        block = f"{begin}\n\n<!-- {name}: begin -->\n<!-- {name}: end -->"
        page.write_text(old.replace(begin, block), encoding="utf-8")
    write_page(page, name, text)


def write_page(page: Path, name: str, text: str) -> None:
    """Puts a text between the marks of that name. Raises `ValueError` where the page has none."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    old = page.read_text(encoding="utf-8")
    if begin not in old or end not in old:
        raise ValueError(f"{page} has no lines {begin!r} and {end!r}")
    block = f"{begin}\n\n{text}\n\n{end}"
    page.write_text(re.sub(f"{begin}.*{end}", lambda _: block, old, flags=re.DOTALL), encoding="utf-8")
