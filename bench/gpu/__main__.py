"""The command `python -m bench.gpu`: runs the parts, keeps what they find, prints tables and a summary."""

import argparse
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from bench.gpu.child import Setup
from bench.gpu.plan import LIMITS_PART, MOST_SECONDS, PARTS, Part, choose, starts, with_limits
from bench.gpu.record import Record, Result, Row, commit, source_digest
from bench.gpu.run import run
from bench.gpu.tables import summary, table

DEFAULT_OUT = Path(".bench") / "gpu"
PACKAGES = ("torch", "triton", "transformers", "numpy", "safetensors")


def arguments() -> argparse.Namespace:
    """The command line."""
    known = ", ".join(part.name for part in PARTS)
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    add = parser.add_argument
    add("--out", type=Path, default=DEFAULT_OUT, metavar="FOLDER", help="where gpu.json is kept")
    add("--work", type=Path, metavar="FOLDER", help="logs and small models; by default a temporary folder's")
    add(
        "--only", nargs="+", default=[], metavar="PART", help=f"parts or patterns, run in this order: {known}"
    )
    add("--again", action="store_true", help="measure parts that were measured already")
    add("--budget", type=float, metavar="SECONDS", help="start only what should end within them")
    add("--long", action="store_true", help="more sizes, more models' details")
    add(
        "--rehearse", action="store_true", help="tiny sizes on the CPU, whether it runs; figures mean nothing"
    )
    add("--list", action="store_true", help="only list the parts")
    return parser.parse_args()


def describe(rehearse: bool) -> dict[str, Any]:
    """The machine and what is installed; nothing that names a user, a path or a host. `gpu` is None where there is none."""
    found: dict[str, Any] = {"gpu": "none, rehearsed" if rehearse else None}
    if not rehearse:
        code = "import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else '')"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        found["gpu"] = done.stdout.strip() or None
        if shutil.which("nvidia-smi"):
            asked = {
                "driver": "driver_version",
                "sm_clock": "clocks.max.sm",
                "memory_clock": "clocks.max.memory",
            }
            query = ["nvidia-smi", f"--query-gpu={','.join(asked.values())}", "--format=csv,noheader"]
            said = subprocess.run(query, capture_output=True, text=True).stdout.splitlines()
            found |= (
                dict(zip(asked, (word.strip() for word in said[0].split(",")), strict=False)) if said else {}
            )
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "missing"
    return found | {
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
    }


def measure(part: Part, seconds: float, given: argparse.Namespace, record: Record, gpu: str) -> Result:
    """Runs one part."""
    limits = record.figures(LIMITS_PART, gpu)
    work: Path = given.work
    setup = Setup(
        rows=str(work / f"{part.name}.rows"),
        work=str(work),
        deadline=time.time() + seconds,
        argument=part.argument,
        long=given.long,
        rehearse=given.rehearse,
        read_bytes_per_second=_limit(limits, "read", "gb_per_s", 1e9),
        copy_bytes_per_second=_limit(limits, "copy", "gb_per_s", 1e9),
        flops=_limit(limits, "matmul", "tflop_per_s", 1e12),
    )
    ended = run(part.module, setup, seconds)
    source, at = record.machine["source"], record.machine["commit"]
    return Result(
        part.name, ended.status, round(ended.seconds, 1), gpu, source, at, given.long, ended.rows, ended.error
    )


def main() -> int:
    """Runs the command; 1 where a part did not end well."""
    given = arguments()
    if given.list:
        for part in PARTS:
            print(f"{part.name:20} {part.seconds:4.0f} s  ({part.long_seconds:.0f} s long)  {part.what}")
        return 0
    try:
        parts = choose(given.only)
    except ValueError as error:
        sys.exit(str(error))
    # A terminated run takes the running part with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    begin = time.monotonic()
    machine = describe(given.rehearse)
    gpu = machine["gpu"]
    if gpu is None:
        sys.exit(
            "no NVIDIA GPU is usable: see `nvidia-smi`, and whether torch was built for CUDA; or give --rehearse"
        )
    record = Record.open(given.out)
    record.machine = machine | {"commit": commit(), "source": source_digest()}
    print(", ".join(f"{key} {value}" for key, value in record.machine.items()), flush=True)
    given.work = given.work or Path(tempfile.gettempdir()) / "agentlm-bench-gpu"
    given.work.mkdir(parents=True, exist_ok=True)
    parts = with_limits(parts, bool(record.figures(LIMITS_PART, gpu)))
    source = record.machine["source"]
    left = [part for part in parts if given.again or not record.is_done(part.name, gpu, source, given.long)]
    notes = [f"there already: {part.name}" for part in parts if part not in left]
    ended_well = True
    for start in starts(left, given.budget, given.long, lambda: time.monotonic() - begin):
        part = start.part
        if start.seconds is None:
            notes.append(f"not started, for it did not fit: {part.name} ({part.expected(given.long):.0f} s)")
            continue
        # A processor takes its time.
        seconds = MOST_SECONDS if given.rehearse else start.seconds
        print(f"\n== {part.name}: {part.what} (at most {seconds:.0f} s)", flush=True)
        result = measure(part, seconds, given, record, gpu)
        ended_well &= result.status == "done"
        record.put(result)
        print(table(result.rows))
        print(
            f"{result.error or ''}\n   {result.status} after {result.seconds:.0f} s".lstrip("\n"), flush=True
        )
    record.save()
    print(f"\n#### SUMMARY: {gpu}, commit {record.machine['commit']}, {time.monotonic() - begin:.0f} s")
    print(summary(record, [part.name for part in PARTS], notes))
    return 0 if ended_well else 1


def _limit(rows: Mapping[str, Row], name: str, key: str, unit: float) -> float | None:
    value = rows.get(name, {}).get(key)
    return None if value is None else float(value) * unit


if __name__ == "__main__":
    sys.exit(main())
