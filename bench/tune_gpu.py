"""How fast one GPU trains an 8 B shape at 4 k, full and LoRA, layers compiled or not: tokens a second, MFU, memory.

Random weights and random conversations, packed; what is timed is whole optimizer steps. Goals: 10 k tokens a second for all
weights, 15 k for LoRA, on an H200. Each way runs in a process of its own and is written down when it ends. Refuses to know
peers: `bench.tune` compares.

    python -m bench.tune_gpu --record                 # minutes
    python -m bench.tune_gpu --only full lora         # some of the ways
    python -m bench.tune_gpu --rehearse               # tiny sizes on this processor: whether all of it runs
"""

import argparse
import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from agentlm.model.random import SHAPES, Shape, family_config
from bench.gpu.checkpoints import MODELS
from bench.machine import commit
from bench.results import write_whole
from bench.tune import Conversations, rendered_of

WAYS = ("full", "lora", "full-compiled", "lora-compiled")
LORA_RANK = 16
PACKS = 8
"""Packs an optimizer step, one at a time."""
STEPS, WARM = 6, 2
"""Steps in all, and those before the clock."""
SECONDS = 420
"""Longest that one way may take."""


def measure(way: str, model: str, rehearse: bool) -> dict[str, Any]:
    """Trains a few steps and tells the median of those after the warm ones."""
    import statistics

    import numpy as np
    import torch

    from agentlm.model.config import ModelConfig
    from agentlm.ops.packed import local
    from agentlm.tuning.config import LoraSection, TrainingSection
    from agentlm.tuning.mixture import Stream
    from agentlm.tuning.model import TrainableDecoder
    from agentlm.tuning.optimizer import make_optimizer
    from agentlm.tuning.parallel import Ranks, lay_out
    from agentlm.tuning.plan import make_plan
    from agentlm.tuning.trainer import Trainer
    from agentlm.tuning.work import peak, step_operations

    family, shape = ("llama3", SHAPES["small"]) if rehearse else MODELS[model]
    assert isinstance(shape, Shape)
    length = 256 if rehearse else 4096
    device = torch.device("cpu" if rehearse else "cuda")
    config = ModelConfig.from_json(family_config(family, shape, "bfloat16"))  # type: ignore[arg-type]
    is_lora = way.startswith("lora")
    training = TrainingSection(
        steps=STEPS,
        batch=PACKS,
        dtype="bfloat16",
        optimizer_state="float32" if is_lora else "bfloat16",
        activation_checkpointing="layers",
        compile=way.endswith("compiled"),
    )
    ranks = Ranks.join(device, 1, sharded=True)
    with torch.device("meta"):
        decoder = TrainableDecoder(config)
        if is_lora:
            lora = LoraSection(rank=LORA_RANK)
            decoder.add_lora(lora.targets, lora.rank, lora.alpha / lora.rank)
    for parameter in decoder.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.to(torch.bfloat16)
    lay_out(decoder, ranks, torch.bfloat16)
    decoder.to_empty(device=device)
    with torch.no_grad():
        for parameter in decoder.parameters():
            own = local(parameter)
            own.normal_(0, 0.02) if own.dim() > 1 else own.fill_(1)
    for layer in decoder.layers:
        layer.checkpointed = True
    if training.compile:
        decoder.compile_layers()
    count = STEPS * PACKS * length // 200
    rendered = rendered_of(Conversations.make(count, config.vocab, length))
    plan = make_plan(
        rendered.lengths,
        [Stream(0, np.arange(count), 1.0)],
        seed=0,
        batch=PACKS,
        capacity=length,
        steps=STEPS,
    )
    trainer = Trainer(
        decoder, make_optimizer(decoder.named_parameters(), training), training, rendered, plan, ranks
    )
    results = [trainer.step(index) for index in range(STEPS)]
    ranks.leave()
    timed = results[WARM:]
    best = None if rehearse else peak(torch.cuda.get_device_name())
    rates = [one.tokens / one.seconds for one in timed]
    work = [
        step_operations(config, tokens=one.tokens, trained=one.trained, attended=one.attended, lora=is_lora)
        / one.seconds
        for one in timed
    ]
    return {
        "tokens_per_second": statistics.median(rates),
        "trained_tokens_per_second": statistics.median(one.trained / one.seconds for one in timed),
        "mfu": None if best is None else statistics.median(work) / best,
        "peak_gib": None if rehearse else torch.cuda.max_memory_allocated() / 2**30,
        "first_step_seconds": results[0].seconds,
        "step_seconds": [one.seconds for one in timed],
        "losses": [one.loss for one in results],
        "device": "rehearsed" if rehearse else torch.cuda.get_device_name(),
        "torch": importlib.metadata.version("torch"),
        "commit": commit(),
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.tune_gpu", description=__doc__)
    parser.add_argument("--model", choices=sorted(MODELS), default="llama-3-8b")
    parser.add_argument("--only", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--out", type=Path, default=Path("tune-gpu.json"), help="Where the figures go.")
    parser.add_argument("--record", action="store_true", help="Keep them in bench/results/gpu instead.")
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--worker", choices=WAYS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        print(json.dumps(measure(given.worker, given.model, given.rehearse)))
        return
    out = Path(__file__).parent / "results" / "gpu" / "tune.json" if given.record else given.out
    held: dict[str, Any] = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else {}
    for way in given.only:
        words = ["--worker", way, "--model", given.model, *(["--rehearse"] if given.rehearse else [])]
        try:
            done = subprocess.run(
                [sys.executable, "-m", "bench.tune_gpu", *words],
                capture_output=True,
                text=True,
                timeout=SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            print(f"{way}: not done within {SECONDS} s", flush=True)
            continue
        if done.returncode != 0:
            print(f"{way} failed:\n{done.stderr[-2000:]}", flush=True)
            continue
        cell = json.loads(done.stdout.splitlines()[-1])
        held[f"{given.model} {way}"] = cell
        mfu = "" if cell["mfu"] is None else f", MFU {cell['mfu']:.0%}, {cell['peak_gib']:.0f} GiB"
        print(f"{given.model} {way}: {cell['tokens_per_second']:,.0f} tokens/s{mfu}", flush=True)
        if not given.rehearse:
            write_whole(out, json.dumps(held, indent=2) + "\n")


if __name__ == "__main__":
    main()
