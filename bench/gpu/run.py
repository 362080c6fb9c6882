"""Runs a part in a process of its own and ends it, with all that it started, in time. Refuses to know what parts do."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from bench.gpu.child import Setup, read_rows
from bench.gpu.record import Row
from bench.install import ROOT

TAIL_CHARACTERS = 3000
"""How much is kept of what a failed part said last."""
SOURCES = (".", "python", "kernels/src", "evals/src")
"""On the import path of a part, before what is installed."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a part's process ended."""

    status: str
    seconds: float
    rows: list[Row]
    error: str | None


def run(module: str, setup: Setup, seconds: float) -> Ended:
    """Runs `bench.gpu.<module>` for at most so many seconds."""
    return run_command([sys.executable, "-m", "bench.gpu.child", module, setup.to_json()], setup, seconds)


def run_command(command: list[str], setup: Setup, seconds: float) -> Ended:
    """Runs a command that appends to the setup's file of rows."""
    rows = Path(setup.rows)
    rows.unlink(missing_ok=True)
    log = rows.with_suffix(".log")
    start = time.monotonic()
    with log.open("wb") as said:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment(setup.rehearse),
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code: int | None = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            end(process)
    tail = log.read_text(encoding="utf-8", errors="replace")[-TAIL_CHARACTERS:]
    found = read_rows(rows)
    elapsed = time.monotonic() - start
    if code is None:
        return Ended("timeout", elapsed, found, f"ended after {seconds:.0f} s; it said last:\n{tail}")
    if code != 0:
        return Ended("failed", elapsed, found, f"ended with {code}; it said last:\n{tail}")
    status = "partial" if any("error" in row for row in found) else "done"
    return Ended(status, elapsed, found, None)


def last_words(code: int, said: str) -> str:
    """How a process ended, in a line: a traceback ends with its reason."""
    lines = [line for line in said.splitlines() if line.strip()]
    return f"ended with {code}: {lines[-1].strip()[:400] if lines else 'it said nothing'}"


def end(process: "subprocess.Popen[bytes]") -> None:
    """Ends a process that leads a session, and all in its group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def environment(rehearse: bool) -> dict[str, str]:
    """This process's, with the sources on the import path. Kernels are compiled unless it is a rehearsal."""
    path = os.pathsep.join([*(str(ROOT / folder) for folder in SOURCES), os.environ.get("PYTHONPATH", "")])
    found = {**os.environ, "PYTHONPATH": path.rstrip(os.pathsep), "PYTHONUNBUFFERED": "1"}
    found |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error"}
    found.pop("TRITON_INTERPRET", None)
    if rehearse:
        found["TRITON_INTERPRET"] = "1"
    return found
