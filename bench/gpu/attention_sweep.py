"""The part `attention-sweep`: configurations of both attention kernels, for a table of tuned ones."""

from collections.abc import Callable

import torch

from agentlm_kernels import attention as ours
from bench.gpu.attention import Case, decode_case, prefill_case
from bench.gpu.child import Say, Setup
from bench.gpu.timing import seconds_of

KV_HEADS = 8
DECODES = ((1, 8192), (8, 4096), (32, 2048), (64, 4096))
DECODE_CONFIGS = ((64, 4, 2, 8), (64, 4, 3, 8), (32, 4, 3, 8), (32, 4, 4, 8), (128, 4, 2, 8), (64, 2, 3, 12))
"""Keys a tile, warps, stages, programs a multiprocessor; the first is the rule's."""
PREFILLS = ((1, 8192), (8, 2048))
PREFILL_CONFIGS = (
    (128, 128, 8, 3),
    (128, 128, 8, 2),
    (128, 64, 8, 3),
    (128, 64, 8, 2),
    (64, 64, 4, 3),
    (64, 128, 4, 2),
)
"""Rows, keys a tile, warps, stages; the first is the rule's. The narrow ones let two programs share a multiprocessor."""


def run(setup: Setup, say: Say) -> None:
    """Every size by every configuration."""
    if setup.rehearse:
        say("sweep", error="needs a GPU")
        return
    for name, sizes, make, chooser, configs in (
        ("decode", DECODES, decode_case, "_decode_config", DECODE_CONFIGS),
        ("prefill", PREFILLS, prefill_case, "_prefill_config", PREFILL_CONFIGS),
    ):
        for requests, positions in sizes:
            with say.case(f"{name} {requests}x{positions}"):
                _sweep(
                    f"{name} {requests}x{positions}",
                    make(requests, positions, KV_HEADS, setup),
                    chooser,
                    configs,
                    say,
                )


def _sweep(name: str, case: Case, chooser: str, configs: tuple[tuple[int, ...], ...], say: Say) -> None:
    own: Callable[..., tuple[int, ...]] = getattr(ours, chooser)
    by_rule = 0.0
    try:
        for config in configs:
            setattr(ours, chooser, lambda *_, config=config: config)
            with say.case(f"{name} {'/'.join(map(str, config))}"):
                seconds = seconds_of(case.launch, case.sets, replays=5)
                case.check()
                by_rule = by_rule or seconds
                say(
                    f"{name} {'/'.join(map(str, config))}",
                    us=seconds * 1e6,
                    gb_or_tflop_per_s=case.work / seconds / (1e12 if name.startswith("prefill") else 1e9),
                    times_rule=by_rule / seconds,
                )
    finally:
        setattr(ours, chooser, own)
        torch.cuda.empty_cache()
