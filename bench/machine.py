"""What a number was measured on: processor, commit, versions, limits, and how much of the machine others took.

Refuses to know workloads. Nothing here names a user, a path or a host.
"""

import json
import os
import platform
import re
import subprocess
import time
from pathlib import Path
from typing import Any

from bench.install import HOME, ROOT
from bench.roofline import Limits

FLAGS = ("avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "asimd")


def describe(threads: int) -> dict[str, Any]:
    """Processor, memory and system, as far as the system tells."""
    cpuinfo = _read("/proc/cpuinfo")
    model = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    has = set(flags.group(1).split()) if flags else set()
    memory = re.search(r"^MemTotal:\s*(\d+) kB", _read("/proc/meminfo"), re.MULTILINE)
    return {
        "processor": model.group(1).strip() if model else platform.processor() or platform.machine(),
        "architecture": platform.machine(),
        "instruction_sets": [flag for flag in FLAGS if flag in has],
        "cores": os.cpu_count(),
        "threads": threads,
        "memory_gib": round(int(memory.group(1)) / 2**20) if memory else None,
        "system": f"{platform.system()} {platform.release()}",
    }


def slug(machine: dict[str, Any]) -> str:
    """A file name for the results of a machine."""
    name = re.sub(r"\(r\)|\(tm\)|cpu|processor", " ", machine["processor"].lower())
    return re.sub(r"[^a-z0-9.]+", "-", f"{name} {machine['threads']} threads").strip("-")


def commit() -> str:
    """The commit of this tree, with "+" when the engine or the package differ from it."""
    head = _git("rev-parse", "--short=12", "HEAD")
    return head + "+" if _git("status", "--porcelain", "--", "engine", "python", "kernels") else head


def versions(python: Path) -> dict[str, str]:
    """Versions of the peers' packages and of the tools that built ours."""
    ask = (
        "import importlib.metadata as m, json; "
        "print(json.dumps({n: m.version(n) for n in ('torch', 'transformers', 'ctranslate2', 'gguf')}))"
    )
    found: dict[str, str] = json.loads(_output([str(python), "-c", ask]))
    pins = (ROOT / "bench" / "peers.txt").read_text(encoding="utf-8")
    pin = re.search(r"^llama-cpp-python==(.+)$", pins, re.MULTILINE)
    if pin:
        found["llama.cpp"] = f"as in llama-cpp-python {pin.group(1)}"
    found["python"] = platform.python_version()
    found["rustc"] = _output(["rustc", "--version"]).split()[1]
    return found


SHORTEST_SECONDS = 0.2
"""The system counts in hundredths of a second."""
LIMITS_PROGRAM = HOME / "limits"


def build_limits() -> None:
    """Compiles `limits.c`. Raises `CalledProcessError` where there is no C compiler."""
    HOME.mkdir(exist_ok=True)
    source = ROOT / "bench" / "limits.c"
    flags = ["-O3", "-march=native", "-std=gnu11", "-pthread"]
    subprocess.run([os.environ.get("CC", "cc"), *flags, "-o", str(LIMITS_PROGRAM), str(source)], check=True)


def measure_limits(threads: int) -> Limits:
    """Runs what `build_limits` built: about a second."""
    return Limits(**json.loads(_output([str(LIMITS_PROGRAM), str(threads)])))


class Others:
    """What share of the machine processes outside a session took while measuring. Linux only; None elsewhere."""

    def __init__(self, session: int) -> None:
        self._session = session
        self._start = self._sample()

    def restart(self) -> None:
        """Counts from now on."""
        self._start = self._sample()

    def share(self) -> float | None:
        """Share of all cores, 0 to 1, since the start; None when that is too short to tell."""
        if self._start is None or (end := self._sample()) is None:
            return None
        started, busy, own = self._start
        elapsed = end[0] - started
        if elapsed < SHORTEST_SECONDS:
            return None
        cores = os.cpu_count() or 1
        return round(max(end[1] - busy - (end[2] - own), 0.0) / (elapsed * cores), 3)

    def _sample(self) -> tuple[float, float, float] | None:
        stat = _read("/proc/stat").split("\n", 1)[0].split()
        if not stat:
            return None
        tick = os.sysconf("SC_CLK_TCK")
        user, nice, system, _idle, _iowait, irq, softirq, steal = (int(word) for word in stat[1:9])
        busy = (user + nice + system + irq + softirq + steal) / tick
        return time.monotonic(), busy, self._own_ticks() / tick

    def _own_ticks(self) -> int:
        total = 0
        for process in Path("/proc").glob("[0-9]*/stat"):
            # The command's name is in brackets and may hold anything.
            fields = _read(process).rpartition(")")[2].split()
            if len(fields) > 14 and int(fields[3]) == self._session:
                total += sum(int(fields[i]) for i in range(11, 15))
        return total


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _git(*arguments: str) -> str:
    return _output(["git", "-C", str(ROOT), *arguments]).strip()


def _output(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
