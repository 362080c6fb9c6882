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
    import subprocess
    import sys

    command = [sys.executable, "-m", "pytest", "-q", "tests/kernels", "-p", "no:cacheprovider", "--maxfail=12", "-o", "addopts=--import-mode=importlib"]
    try:
        import xdist  # noqa: F401

        command += ["-n", "8"]
    except ImportError:
        pass
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

    return decode(((64, 4, 2, 3), (64, 4, 4, 3), (64, 4, 3, 2), (32, 4, 3, 4), (32, 4, 5, 4), (128, 8, 3, 2), (64, 2, 3, 4), (32, 2, 4, 6)))  # fmt: skip


def _prefill(_found: dict[str, Any], _models: Path) -> Any:
    from bench.gpu.attention import prefill

    return prefill(((128, 64, 8, 2), (128, 64, 8, 4), (128, 128, 8, 2), (128, 128, 8, 3), (64, 64, 4, 3), (128, 32, 8, 4)))  # fmt: skip


def _small(_found: dict[str, Any], _models: Path) -> Any:
    from bench.gpu.small import elementwise, sampling

    return {"elementwise": elementwise(), "sampling": sampling()}


def _correct(_found: dict[str, Any], models: Path) -> Any:
    from bench.gpu.correct import measure

    return measure("tiny", models)


def _engine(name: str, *what: Any) -> Run:
    def run(found: dict[str, Any], models: Path) -> Any:
        from bench.gpu.engine import measure

        read = found.get("machine", {}).get("result", {}).get("read_gb_s", 4000.0)
        return measure(name, models, *what, read)

    return run


PARTS = {
    "machine": Part(60, _machine),
    "check": Part(240, _check),
    "correct": Part(120, _correct),
    "engine-llama-3-8b": Part(150, _engine("llama-3-8b", (1, 8, 32, 128), (1024, 8192), None)),
    "linear": Part(150, _linear),
    "decode": Part(120, _decode),
    "prefill": Part(90, _prefill),
    "small": Part(60, _small),
    "engine-qwen3-8b": Part(240, _engine("qwen3-8b", (1, 256), (), (256, 1024, 1024))),
    "engine-llama-2-7b": Part(150, _engine("llama-2-7b", (1, 32), (1024,), None)),
    "linear-others": Part(200, _linear_others),
}
