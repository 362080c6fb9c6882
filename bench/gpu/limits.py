"""The part `machine`: what the GPU allows. Its figures are what all others are held against.

Reading is a sum over several gigabytes by a Triton kernel that does nothing else, copying is torch's, multiplying is
cuBLAS on random bfloat16 (zeros run faster). Launching is an empty kernel in a graph.
"""

import statistics

import torch
import triton
import triton.language as tl

from bench.gpu.child import Say, Setup
from bench.gpu.timing import seconds_of, sets_for

SIDE = 8192


@triton.jit
def _sum(x, out, BLOCK: tl.constexpr, STEPS: tl.constexpr):
    """Program i adds `STEPS` blocks that lie one behind the other."""
    start = tl.program_id(0).to(tl.int64) * BLOCK * STEPS
    cells = tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.int32)
    for step in tl.static_range(STEPS):
        total += tl.load(x + start + step * BLOCK + cells, eviction_policy="evict_first")
    tl.store(out + tl.program_id(0), tl.sum(total))


@triton.jit
def _nothing(out):
    tl.store(out, 1)


CONFIGS = ((4096, 8, 4), (4096, 16, 4), (8192, 8, 8), (2048, 16, 4), (2048, 4, 2), (8192, 2, 4))
"""Elements of a block, blocks of a program, warps."""


def read_seconds(x: torch.Tensor, sets: int, block: int, steps: int, warps: int) -> float:
    """Seconds of reading one of `sets` equal slices of `x` (int32) once."""
    n = x.numel() // sets // (block * steps) * (block * steps)
    slices = [x[i * n : (i + 1) * n] for i in range(sets)]
    out = torch.empty(n // (block * steps), dtype=torch.int32, device=x.device)
    grid = (n // (block * steps),)
    seconds = seconds_of(lambda i: _sum[grid](slices[i], out, block, steps, num_warps=warps), sets)
    return seconds * (x.numel() // sets) / n


def run(setup: Setup, say: Say) -> None:
    """Measures reading, copying, multiplying and launching."""
    total = 1 << 18 if setup.rehearse else (8 << 30 if setup.long else 4 << 30)
    with say.case("read"):
        # Random: a GPU may move zeros faster.
        _read_and_copy(
            torch.randint(-(2**31), 2**31 - 1, (total // 4,), dtype=torch.int32, device=setup.device),
            setup,
            say,
        )
    with say.case("matmul"):
        _multiply(setup, say)
    with say.case("launch"):
        _launch(setup, say)


def _read_and_copy(x: torch.Tensor, setup: Setup, say: Say) -> None:
    by_config = {
        config: x.nbytes / read_seconds(x, 1, *config)
        for config in (CONFIGS[:1] if setup.rehearse else CONFIGS)
    }
    best_config = max(by_config, key=lambda config: by_config[config])
    best, floats = by_config[best_config], x.view(torch.float32)
    for name, seconds in (
        ("sum", seconds_of(lambda _: torch.sum(floats))),
        ("amax", seconds_of(lambda _: torch.amax(floats))),
    ):
        say(f"read by torch.{name}", gb_per_s=x.nbytes / seconds / 1e9, minor=True)
        best = max(best, x.nbytes / seconds)
    say("read", gb_per_s=best / 1e9, config="/".join(map(str, best_config)))
    half = x.numel() // 2
    seconds = seconds_of(lambda _: x[half:].copy_(x[:half]))
    say("copy", gb_per_s=x.nbytes / seconds / 1e9)
    for megabytes in () if setup.rehearse else (32, 96, 224, 1024):
        bytes_read = megabytes << 20
        sets = min(sets_for(bytes_read), x.nbytes // bytes_read)
        seconds = read_seconds(x[: sets * bytes_read // 4], sets, *best_config)
        say(f"read of {megabytes} MiB", us=seconds * 1e6, gb_per_s=bytes_read / seconds / 1e9)


def _multiply(setup: Setup, say: Say) -> None:
    side = 64 if setup.rehearse else SIDE
    a, b, out = (torch.randn(side, side, dtype=setup.dtype, device=setup.device) for _ in range(3))
    seconds = statistics.median(seconds_of(lambda _: torch.mm(a, b.t(), out=out)) for _ in range(3))
    say("matmul", tflop_per_s=2 * side**3 / seconds / 1e12)


def _launch(setup: Setup, say: Say) -> None:
    one = torch.zeros(1, dtype=torch.int32, device=setup.device)
    say("empty kernel in a graph", us=1e6 * seconds_of(lambda _: _nothing[(1,)](one)))
    say("empty kernel launched by Python", us=1e6 * seconds_of(lambda _: _nothing[(1,)](one), captured=False))
