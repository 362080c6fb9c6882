"""What the GPU gives: read and copy bandwidth, matmul peak. All fractions of the other parts are of these."""

from typing import Any

import torch
import triton
import triton.language as tl

from bench.gpu.timing import microseconds


@triton.jit
def _read(x, out, BLOCK: tl.constexpr, STEPS: tl.constexpr):
    """Each program sums its own stretch, so that every byte is read once and hardly anything is written."""
    cells = tl.program_id(0).to(tl.int64) * BLOCK * STEPS + tl.arange(0, BLOCK)
    acc = tl.zeros([BLOCK], tl.int32)
    for step in tl.static_range(STEPS):
        acc ^= tl.load(x + cells + step * BLOCK, eviction_policy="evict_first")
    tl.store(out + tl.program_id(0), tl.sum(acc))


def measure() -> dict[str, Any]:
    """GB/s read and copied, TFLOP/s of a bf16 product of random operands."""
    words = 1 << 30
    x = torch.randint(-(2**31), 2**31 - 1, (words,), dtype=torch.int32, device="cuda")
    rates = []
    for block, steps, warps in ((2048, 8, 4), (4096, 8, 8), (1024, 16, 4), (4096, 4, 8)):
        programs = words // (block * steps)
        out = torch.empty(programs, dtype=torch.int32, device="cuda")
        us = microseconds(
            [lambda p=programs, o=out, b=block, s=steps, w=warps: _read[(p,)](x, o, b, s, num_warps=w)]
        )
        rates.append(4 * words / us / 1e3)
    y = torch.empty_like(x)
    copy = 8 * words / microseconds([lambda: y.copy_(x)]) / 1e3
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    us = microseconds([lambda: a @ b] * 4)
    properties = torch.cuda.get_device_properties(0)
    return {
        "gpu": properties.name,
        "multiprocessors": properties.multi_processor_count,
        "memory_bytes": properties.total_memory,
        "cuda": torch.version.cuda,
        "torch": torch.__version__,
        "triton": triton.__version__,
        "read_gb_s": round(max(rates), 1),
        "copy_gb_s": round(copy, 1),
        "matmul_tflop_s": round(2 * 8192**3 / us / 1e6, 1),
    }
