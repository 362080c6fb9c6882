"""The server under load: started with enough file descriptors, looked at every second, and asked at the end what it holds.

Linux only. Refuses to know the traffic.
"""

import os
import re
import resource
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.local import free_port, wait_until_ready

START_SECONDS = 120.0
SPARE_DESCRIPTORS = 200
"""Beside the connections: libraries, the log, the model's files."""
DRAIN_SECONDS = 30.0
METRICS_SECONDS = 10.0
BLOCK_STATES = ("free", "cached", "held", "limbo")


class TooFewDescriptorsError(RuntimeError):
    """The hard limit of file descriptors is below what the connections take."""


def allow_descriptors(connections: int) -> int:
    """Raises this process's soft limit, which the server inherits. Returns it; raises `TooFewDescriptorsError`."""
    need = connections + SPARE_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= need:
        return soft
    if hard not in (resource.RLIM_INFINITY,) and hard < need:
        raise TooFewDescriptorsError(
            f"{connections} connections take {need} file descriptors, but the hard limit is {hard}: "
            f"raise it (ulimit -Hn, LimitNOFILE=, --ulimit nofile=) or ask for fewer --connections"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (need, hard))
    return need


@dataclass(slots=True)
class Watched:
    """What was seen of the server, once a second."""

    resident: list[int] = field(default_factory=list)
    """Bytes."""
    open_connections: list[int] = field(default_factory=list)
    unfinished: list[int] = field(default_factory=list)
    cpu_seconds: float = 0.0


class Served:
    """A server process of this machine."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: int) -> None:
        self._process = process
        self.port = port

    def metrics(self) -> dict[str, float]:
        """Every sample of `/metrics` by its name with labels. Raises `OSError`."""
        with urllib.request.urlopen(
            f"http://127.0.0.1:{self.port}/metrics", timeout=METRICS_SECONDS
        ) as answer:
            text = answer.read().decode()
        lines = re.findall(r"^([a-z_]+(?:\{[^}]*\})?) (\S+)$", text, re.MULTILINE)
        return {name: float(value) for name, value in lines}

    def blocks(self) -> dict[str, int]:
        """KV blocks by state."""
        found = self.metrics()
        return {state: int(found[f'agentlm_blocks{{state="{state}"}}']) for state in BLOCK_STATES}

    def resident_bytes(self) -> int:
        """Resident memory."""
        status = Path(f"/proc/{self._process.pid}/status").read_text(encoding="ascii")
        found = re.search(r"^VmRSS:\s*(\d+) kB", status, re.MULTILINE)
        return int(found.group(1)) << 10 if found else 0

    def cpu_seconds(self) -> float:
        """Processor time of all its threads."""
        fields = (
            Path(f"/proc/{self._process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        )
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def wait_idle(self) -> dict[str, int]:
        """Waits, for a bounded time, until no request is left and no block is held. Returns the blocks by state."""
        until = time.monotonic() + DRAIN_SECONDS
        while True:
            found = self.blocks()
            busy = found["held"] or found["limbo"] or self.metrics()["agentlm_unfinished"]
            if not busy or time.monotonic() > until:
                return found
            time.sleep(0.2)

    @contextmanager
    def watched(self, every_seconds: float) -> Iterator[Watched]:
        """Looks at the server in a thread of its own."""
        seen, ended, cpu = Watched(), threading.Event(), self.cpu_seconds()

        def watch() -> None:
            while not ended.wait(every_seconds) and self.is_alive():
                seen.resident.append(self.resident_bytes())
                try:
                    metrics = self.metrics()
                except (OSError, urllib.error.URLError):
                    continue
                seen.open_connections.append(int(metrics["agentlm_open_connections"]))
                seen.unfinished.append(int(metrics["agentlm_unfinished"]))

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield seen
        finally:
            ended.set()
            thread.join()
            if self.is_alive():
                seen.cpu_seconds = self.cpu_seconds() - cpu


@contextmanager
def served(arguments: Sequence[str]) -> Iterator[Served]:
    """`agentlm serve` with these arguments, until the block ends. Raises `EngineBrokenError` when it does not start."""
    port = free_port()
    command = [sys.executable, "-m", "agentlm", "serve", "--hostname", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen([*command, "--log-level", "off", *arguments], stdin=subprocess.DEVNULL)
    try:
        wait_until_ready(process, port, START_SECONDS)
        yield Served(process, port)
    finally:
        process.terminate()
        process.wait()
