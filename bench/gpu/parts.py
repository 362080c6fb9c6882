"""What can be measured, the most valuable first. Imports what a part needs when it runs."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Run = Callable[[dict[str, Any], Path], Any]


@dataclass(frozen=True, slots=True)
class Part:
    """One part; `seconds` is its limit."""

    seconds: int
    run: Run


def _machine(_found: dict[str, Any], _models: Path) -> Any:
    from bench.gpu.machine import measure

    return measure()


def _check(_found: dict[str, Any], _models: Path) -> Any:
    import importlib.util
    import subprocess
    import sys

    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "tests/kernels",
        "-p",
        "no:cacheprovider",
        "--maxfail=12",
        "-o",
        "addopts=--import-mode=importlib",
    ]
    if importlib.util.find_spec("xdist"):
        command += ["-n", "8"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return {"code": done.returncode, "tail": done.stdout[-4000:]}


def _linear(_found: dict[str, Any], _models: Path) -> Any:
    from bench.gpu.linear import SHAPES, measure

    return measure(SHAPES[:5])


def _linear_others(_found: dict[str, Any], _models: Path) -> Any:
    from bench.gpu.linear import SHAPES, measure

    return measure(SHAPES[5:])


def _decode(_found: dict[str, Any], _models: Path) -> Any:
    from bench.gpu.attention import decode

    return decode(())


def _prefill(_found: dict[str, Any], _models: Path) -> Any:
    from bench.gpu.attention import prefill

    return prefill(())


def _small(_found: dict[str, Any], _models: Path) -> Any:
    from bench.gpu.small import elementwise, sampling

    return {"elementwise": elementwise(), "sampling": sampling()}


def _correct(_found: dict[str, Any], models: Path) -> Any:
    from bench.gpu.correct import measure

    return measure("tiny", models)


def _engine(
    name: str,
    decodes: tuple[int, ...],
    prefills: tuple[int, ...] = (),
    throughput: tuple[int, int, int] | None = None,
) -> Run:
    def run(found: dict[str, Any], models: Path) -> Any:
        from bench.gpu.engine import measure

        read = found.get("machine", {}).get("result", {}).get("read_gb_s", 4587.0)
        return measure(name, models, decodes, prefills, throughput, read)

    return run


def _narrow(kind: str) -> Run:
    def run(found: dict[str, Any], models: Path) -> Any:
        from bench.gpu.engine import measure

        read = found.get("machine", {}).get("result", {}).get("read_gb_s", 4587.0)
        return measure("llama-3-8b", models, (1,), (), None, read, quantize=kind, max_total_tokens=4096)

    return run


PARTS = {
    "machine": Part(60, _machine),
    "check": Part(120, _check),
    "engine-llama-3-8b": Part(150, _engine("llama-3-8b", (1, 8, 32, 128), (1024, 8000), None)),
    "engine-qwen3-8b": Part(240, _engine("qwen3-8b", (1,), (), (256, 1024, 1024))),
    "decode": Part(60, _decode),
    "correct": Part(90, _correct),
    "small": Part(60, _small),
    "prefill": Part(60, _prefill),
    "engine-int4": Part(60, _narrow("int4")),
    "engine-int8": Part(60, _narrow("int8")),
    "engine-llama-2-7b": Part(150, _engine("llama-2-7b", (1, 32), (1024,), None)),
    "linear": Part(150, _linear),
    "linear-others": Part(200, _linear_others),
}
