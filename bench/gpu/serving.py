"""The parts `engine…`: a model of a real shape with random weights, and an engine on it, opened cold and perhaps warm."""

import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.gpu.child import Say, Setup
from bench.gpu.run import environment, last_words
from bench.gpu.session import BATCHES, Job, command
from bench.install import ROOT

PLACES = ("/dev/shm", "/tmp")
CHECKPOINT_BYTES = 18 << 30


@dataclass(frozen=True, slots=True)
class Study:
    """What is asked of one model."""

    work: tuple[str, ...]
    batches: tuple[int, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    starts_again: bool = False
    """A second start, now that kernels are compiled; agents follow it, without a prefix cache."""


ALL = Study(("decode", "prefill", "throughput", "agents", "leaks"), BATCHES, starts_again=True)
STUDIES = {
    "llama-3-8b": Study(("decode", "prefill", "agents", "leaks"), BATCHES, starts_again=True),
    "qwen3-8b": Study(("throughput", "decode"), (1,)),
    "llama-2-7b": Study(("decode", "prefill"), (1, 32, 128)),
    "llama-3-8b/int4": Study(("decode",), (1, 32), {"quantize": "int4"}),
    "llama-3-8b/int8": Study(("decode",), (1, 32), {"quantize": "int8"}),
    "llama-3-8b/invariant": Study(("decode",), (1, 32), {"batch_invariant": True}),
}
"""By model, and setting."""


def run(setup: Setup, say: Say) -> None:
    """Writes the model, measures a first start with all that follows, then perhaps a second start."""
    label, (name, _, setting) = setup.argument, setup.argument.partition("/")
    study = STUDIES[label]
    if setup.rehearse:
        # A CPU narrows nothing, and is invariant.
        study = Study(study.work, (1, 2), {}, study.starts_again)
    elif setup.long and not setting:
        study = ALL
    start = time.perf_counter()
    directory = checkpoint(name, setup)
    seconds = time.perf_counter() - start
    nbytes = sum(file.stat().st_size for file in directory.glob("*.safetensors"))
    say(f"{name} checkpoint", gb=nbytes / 1e9, written_s=seconds, minor=True)
    cache = Path(setup.work) / f"triton-{label.replace('/', '-')}"
    shutil.rmtree(cache, ignore_errors=True)
    cold, warm = (f"{label} start, kernels {state}" for state in ("to be compiled", "compiled"))
    _session(
        setup,
        Job(str(directory), label, cold, time.time(), study.work, study.settings, study.batches),
        cache,
        say,
    )
    if study.starts_again and setup.left > 12:
        alone = {"prefix_cache": False}
        _session(
            setup,
            Job(str(directory), f"{label}, no prefix cache", warm, time.time(), ("agents",), alone),
            cache,
            say,
        )


def _session(setup: Setup, job: Job, cache: Path, say: Say) -> None:
    """Runs a job; kernels are compiled into `cache`. It writes its rows itself."""
    with say.case(job.start):
        done = subprocess.run(
            command(setup, job),
            cwd=ROOT,
            env=environment(setup.rehearse) | {"TRITON_CACHE_DIR": str(cache)},
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        print(done.stderr[-4000:], file=sys.stderr)
        if done.returncode != 0:
            raise ChildProcessError(last_words(done.returncode, done.stderr))


def checkpoint(name: str, setup: Setup) -> Path:
    """The model's directory, written if it is not there. Other models give way where there is no room for it."""
    if setup.rehearse:
        from agentlm.model.random import Shape, family_config, write_model

        place = Path(setup.work) / "models" / name
        if not (place / "config.json").is_file():
            family = "qwen3" if "qwen" in name else "llama3" if "3" in name else "llama2"
            # The vocabulary that the prompts are drawn from.
            shape = Shape(layers=2, hidden=64, inter=128, heads=4, kv_heads=2, vocab=32000, context=1024)
            write_model(place, family_config(family, shape, "float32"))  # type: ignore[arg-type]
        return place
    roots = [Path(place, "agentlm-bench-models") for place in PLACES if os.access(place, os.W_OK)]
    for root in roots:
        if (root / name / "config.json").is_file():
            return root / name
    root = max(roots, key=lambda root: _free(root.parent))
    if _free(root.parent) < CHECKPOINT_BYTES:
        shutil.rmtree(root, ignore_errors=True)
    # In a process of its own, which takes its memory on the GPU with it.
    code = "import sys, pathlib, bench.gpu.checkpoints as c; c.checkpoint(sys.argv[1], pathlib.Path(sys.argv[2]))"
    subprocess.run(
        [sys.executable, "-c", code, name, str(root)], cwd=ROOT, env=environment(False), check=True
    )
    return root / name


def _free(place: Path) -> int:
    """Bytes that can be written: memory is short where files lie in it."""
    free = shutil.disk_usage(place).free
    if str(place) == "/dev/shm":
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                # The engine's own staging and the page cache want some, too.
                return min(free, int(line.split()[1]) * 1024 - (16 << 30))
    return free
