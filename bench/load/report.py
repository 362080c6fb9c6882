"""What a run of the load showed: the verdict, a table, and JSON beside it, written whole or not at all.

Refuses to know how it was measured.
"""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.load.served import Watched
from bench.load.traffic import Shape, Tally
from bench.results import write_whole

GROWTH_BYTES = 64 << 20
"""Resident memory may grow by so much between the second quarter of the run and its last one."""
FEWEST_SAMPLES = 8
"""Of resident memory, before its growth is judged."""


def quantile(values: Sequence[float], share: float) -> float | None:
    """The value that a share of all values does not exceed; None without values."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def _milliseconds(values: Sequence[float]) -> dict[str, float | None]:
    shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "most": 1.0}
    found = {name: quantile(values, share) for name, share in shares.items()}
    return {name: None if value is None else round(1000 * value, 1) for name, value in found.items()}


def growth_bytes(resident: Sequence[int]) -> int | None:
    """From the median of the second quarter to the median of the last one; None where there are too few samples."""
    if len(resident) < FEWEST_SAMPLES:
        return None
    quarter = len(resident) // 4
    early = statistics.median(resident[quarter : 2 * quarter])
    return round(statistics.median(resident[-quarter:]) - early)


def faults(tally: Tally, watched: Watched, blocks: dict[str, int], total_blocks: int) -> list[str]:
    """What must not be, one line each; empty when all is well."""
    found = []
    if tally.lost or tally.wrong or tally.refused:
        refused = sum(tally.refused.values())
        found.append(f"{tally.lost} answers lost, {tally.wrong} wrong, {refused} refused")
    if not tally.whole:
        found.append("no answer came")
    if blocks["held"] or blocks["limbo"]:
        found.append(f"{blocks['held']} blocks held and {blocks['limbo']} in limbo after the last answer")
    if sum(blocks.values()) != total_blocks:
        found.append(f"{sum(blocks.values())} blocks where there were {total_blocks}")
    growth = growth_bytes(watched.resident)
    if growth is not None and growth > GROWTH_BYTES:
        found.append(f"resident memory grew by {growth / 2**20:.0f} MiB")
    return found + tally.faults


def summary(
    shape: Shape, tally: Tally, watched: Watched, blocks: dict[str, int], client_cpu_seconds: float
) -> dict[str, Any]:
    """The numbers of one run."""
    growth = growth_bytes(watched.resident)
    resident = watched.resident
    step = max(len(resident) // 60, 1)
    return {
        "connections": shape.connections,
        "seconds": shape.seconds,
        "ramp_seconds": shape.ramp_seconds,
        "slow_share": shape.slow_share,
        "cut_share": shape.cut_share,
        "answer_tokens": list(shape.lengths),
        "asked": tally.asked,
        "whole": tally.whole,
        "cut": tally.cut,
        "lost": tally.lost,
        "wrong": tally.wrong,
        "refused": {str(status): count for status, count in sorted(tally.refused.items())},
        "tokens_of_whole_answers": tally.tokens,
        "first_event_ms": {"fast": _milliseconds(tally.first_fast), "slow": _milliseconds(tally.first_slow)},
        "client_loop_late_ms": _milliseconds(tally.lag),
        "most_open_connections": max(watched.open_connections, default=0),
        "most_unfinished": max(watched.unfinished, default=0),
        "blocks_afterwards": blocks,
        "resident_mib": {
            "second_quarter_to_last_growth": None if growth is None else round(growth / 2**20, 1),
            "most": round(max(resident, default=0) / 2**20, 1),
            "over_time": [round(value / 2**20, 1) for value in resident[::step]],
        },
        "server_cpu_seconds": round(watched.cpu_seconds, 1),
        "client_cpu_seconds": round(client_cpu_seconds, 1),
    }


def table(result: dict[str, Any]) -> str:
    """The results of all runs, as Markdown."""
    machine, runs = result["machine"], result["runs"]
    names = list(runs)
    about = (
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB, {machine['system']}; "
        f"commit {result['commit']}; agentlm {result['versions']['agentlm']}, Python {result['versions']['python']}; "
        f"{result['date']}. Client and server share the machine. Written by `python -m bench.load`."
    )
    lines = ["# Load", "", about, "", "| | " + " | ".join(names) + " |", "| --- |" + " --- |" * len(names)]

    def row(title: str, value: Any) -> None:
        lines.append(f"| {title} | " + " | ".join(str(value(runs[name])) for name in names) + " |")

    def first(kind: str) -> Any:
        return lambda run: " / ".join(
            str(run["first_event_ms"][kind][name]) for name in ("p50", "p99", "most")
        )

    row("server", lambda run: f"`{run['server']}`")
    row("connections, of them slow; seconds", lambda run: _shares(run))
    row("connections open at once", lambda run: run["most_open_connections"])
    row("answers asked for", lambda run: run["asked"])
    row("whole and right", lambda run: run["whole"])
    row("cut by the client", lambda run: run["cut"])
    row(
        "lost / wrong / refused",
        lambda run: f"{run['lost']} / {run['wrong']} / {sum(run['refused'].values())}",
    )
    row("tokens of whole answers", lambda run: run["tokens_of_whole_answers"])
    row("first event, fast readers, ms: p50 / p99 / most", first("fast"))
    row("first event, slow readers, ms: p50 / p99 / most", first("slow"))
    row("the client's own lateness, ms: p99", lambda run: run["client_loop_late_ms"]["p99"])
    row("blocks held, in limbo afterwards", lambda run: _held(run["blocks_afterwards"]))
    row("resident memory, MiB: most", lambda run: run["resident_mib"]["most"])
    row("… growth, second quarter to last", lambda run: run["resident_mib"]["second_quarter_to_last_growth"])
    row(
        "processor seconds: server, client",
        lambda run: f"{run['server_cpu_seconds']}, {run['client_cpu_seconds']}",
    )
    row("share of the machine that others took", lambda run: run["others_share"])
    row("verdict", lambda run: "held" if not run["faults"] else "; ".join(run["faults"]))
    return "\n".join(lines) + "\n"


def _shares(run: dict[str, Any]) -> str:
    return f"{run['connections']}, {round(run['connections'] * run['slow_share'])}; {run['seconds']:g}"


def _held(blocks: dict[str, int]) -> str:
    return f"{blocks['held']}, {blocks['limbo']}"


def write(result: dict[str, Any], folder: Path, slug: str) -> list[Path]:
    """Writes both files; each replaces what was there at once."""
    texts = {".json": json.dumps(result, indent=1) + "\n", ".md": table(result)}
    written = []
    for ending, text in texts.items():
        path = folder / f"load-{slug}{ending}"
        write_whole(path, text)
        written.append(path)
    return written
