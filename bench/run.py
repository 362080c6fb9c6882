"""Runs cells in workers, one engine with one model at a time, and keeps the record. Refuses to know engines."""

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from bench import models
from bench.cells import Cell
from bench.install import HOME, ROOT, Peers
from bench.peers import PeerInfo
from bench.results import Measured, Record
from bench.roofline import Limits

SILENT_SECONDS = 2400
"""A worker without a new line for so long is given up."""
LOGS = HOME / "logs"
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")


@dataclass(frozen=True, slots=True)
class Job:
    """One worker: an engine, a model, and the cells to measure with them."""

    peer: PeerInfo
    model: str
    precision: str
    cells: tuple[Cell, ...]


def jobs(cells: Sequence[Cell], peers: Sequence[PeerInfo], record: Record) -> list[Job]:
    """What is left to do, one job an engine and model."""
    found = []
    for model, precision in dict.fromkeys((cell.model, cell.precision) for cell in cells):
        for peer in peers:
            left = tuple(
                cell
                for cell in cells
                if (cell.model, cell.precision) == (model, precision)
                and peer.takes(cell)
                and (peer.name, cell.key) not in record.measured
            )
            if left:
                found.append(Job(peer, model, precision, left))
    return found


def run(job: Job, peers: Peers, threads: int, commit: str) -> Iterator[Measured]:
    """Runs one job; yields each cell as soon as it is complete, with the reason where it has no figure."""
    place = models.write_checkpoint(job.model, job.precision)
    if job.peer.form != "checkpoint":
        place = models.convert(peers.python, job.peer.form, job.model, job.precision)
    setup = {
        "name": job.peer.name,
        "model": str(place),
        "precision": job.precision,
        "threads": threads,
        "batch": max(cell.batch for cell in job.cells),
        "programs": str(peers.programs),
    }
    python = sys.executable if job.peer.ours else str(peers.python)
    command = [python, "-m", "bench.worker", json.dumps(setup), *(cell.key for cell in job.cells)]
    left = {cell.key: Measured(job.peer.name, cell.key, commit) for cell in job.cells}
    reason = "the worker ended without a figure"
    with _Worker(command, threads, LOGS / f"{job.peer.module}-{job.model}-{job.precision}.log") as worker:
        for line in worker.lines():
            if line is None:
                reason = f"nothing came back in {SILENT_SECONDS} s"
                break
            measured = left[line["cell"]]
            if "value" in line:
                measured.values.append(line["value"])
                measured.at_most |= line["at_most"]
                known = [share for share in (measured.others, line["others"]) if share is not None]
                measured.others = max(known, default=None)
                continue
            if "limits" in line:
                measured.limits = Limits(**line["limits"])
                continue
            measured.error = line.get("error")
            yield left.pop(measured.cell)
    for measured in left.values():
        measured.error = f"{reason}; its log is {worker.log.relative_to(ROOT)}"
        yield measured


class _Worker:
    """A process in a session of its own, whose end is the end of everything it started."""

    def __init__(self, command: list[str], threads: int, log: Path) -> None:
        environment = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(threads))}
        log.parent.mkdir(exist_ok=True)
        self.log = log
        with log.open("w", encoding="utf-8") as said:
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=said,
                start_new_session=True,
            )

    def lines(self) -> Iterator[dict[str, Any] | None]:
        """Its lines; None, as the last one, when it has been silent for too long. Other programs' prints are skipped."""
        pipe = self._process.stdout
        if pipe is None:
            return
        os.set_blocking(pipe.fileno(), False)
        rest = b""
        with selectors.DefaultSelector() as ready:
            ready.register(pipe, selectors.EVENT_READ)
            while True:
                if not ready.select(SILENT_SECONDS):
                    yield None
                    return
                read = os.read(pipe.fileno(), 1 << 16)
                if not read:
                    return
                *whole, rest = (rest + read).split(b"\n")
                for line in whole:
                    if line.startswith(b'{"cell"'):
                        yield json.loads(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            try:
                self._process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self._process.kill()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
