"""The parts `engine…`: a model of a real shape with random weights, and an engine opened on it twice, cold and warm."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from bench.gpu.child import Say, Setup
from bench.gpu.run import environment, last_words
from bench.gpu.session import BATCHES, Job, command
from bench.install import ROOT

PLACES = ("/dev/shm", "/tmp")
CHECKPOINT_BYTES = 18 << 30
MOST_DETAIL = "llama-3-8b"


def run(setup: Setup, say: Say) -> None:
    """Writes the model, measures a first start with all that follows, then a second start without a prefix cache."""
    start = time.perf_counter()
    directory = checkpoint(setup.argument, setup)
    seconds = time.perf_counter() - start
    nbytes = sum(file.stat().st_size for file in directory.glob("*.safetensors"))
    say(f"{setup.argument} checkpoint", gb=nbytes / 1e9, written_s=seconds, minor=True)
    detail = setup.long or setup.rehearse or setup.argument == MOST_DETAIL
    batches = (1, 2) if setup.rehearse else BATCHES if detail else (1, 32, 128)
    work = ("decode", "prefill", "throughput", "agents") if detail else ("decode", "prefill")
    cache = Path(setup.work) / f"triton-{setup.argument}"
    shutil.rmtree(cache, ignore_errors=True)
    label = setup.argument
    cold, warm = (f"{label} start, kernels {state}" for state in ("to be compiled", "compiled"))
    _session(setup, Job(str(directory), label, cold, time.time(), work, batches=batches), cache, say)
    again, alone = ("agents",) if detail else (), {"prefix_cache": False}
    if setup.left > 12:
        _session(
            setup,
            Job(str(directory), f"{label}, no prefix cache", warm, time.time(), again, alone),
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
