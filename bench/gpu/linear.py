"""The skinny product beside cuBLAS at the shapes of 7B and 8B models, and which of its configurations is best."""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import torch

from agentlm_kernels.skinny_linear import as_entry, candidates, key, skinny_linear
from bench.gpu.timing import copies, microseconds

SHAPES = (
    (6144, 4096, False), (4096, 4096, False), (28672, 4096, True), (4096, 14336, False), (128256, 4096, False),
    (12288, 4096, False), (22016, 4096, True), (4096, 11008, False),
    (24576, 4096, True), (4096, 12288, False), (151936, 4096, False), (32000, 4096, False),
)  # fmt: skip
"""Rows and columns of the weight, and whether it is [gate; up]: Llama-3-8B, Llama-2-7B, Qwen3-8B."""
ROWS = (1, 4, 8, 16)


def _compile(job: tuple[int, int, bool, int]) -> int:
    """Compiles every candidate of a shape into the cache on disk."""
    n, k, swiglu, m = job
    x = torch.zeros(m, k, dtype=torch.bfloat16, device="cuda")
    weight = torch.zeros(n, k, dtype=torch.bfloat16, device="cuda")
    out = torch.zeros(m, n // 2 if swiglu else n, dtype=torch.bfloat16, device="cuda")
    done = 0
    for config in candidates(m, swiglu):
        try:
            skinny_linear(x, weight, swiglu=swiglu, config=config, out=out)
            done += 1
        except Exception:
            pass
    torch.cuda.synchronize()
    return done


def measure(
    shapes: tuple[tuple[int, int, bool], ...] = SHAPES, rows: tuple[int, ...] = ROWS
) -> dict[str, Any]:
    """The best configuration and GB/s of weights for each shape and number of rows; cuBLAS beside it."""
    jobs = [(n, k, swiglu, m) for n, k, swiglu in shapes for m in (1, 16)]
    with ProcessPoolExecutor(12, mp_context=get_context("spawn")) as pool:
        list(pool.map(_compile, jobs))
    found: dict[str, Any] = {}
    for n, k, swiglu in shapes:
        weights = [
            torch.randn(n, k, dtype=torch.bfloat16, device="cuda") * k**-0.5 for _ in range(copies(2 * n * k))
        ]
        for m in rows:
            x = torch.randn(m, k, dtype=torch.bfloat16, device="cuda")
            out = torch.empty(m, n // 2 if swiglu else n, dtype=torch.bfloat16, device="cuda")
            whole = torch.empty(m, n, dtype=torch.bfloat16, device="cuda")
            cublas = microseconds([lambda w=w: torch.mm(x, w.t(), out=whole) for w in weights], 5)
            results = []
            for config in candidates(m, swiglu):
                try:
                    us = microseconds(
                        [
                            lambda w=w, c=config: skinny_linear(x, w, swiglu=swiglu, config=c, out=out)
                            for w in weights
                        ],
                        3,
                    )
                except Exception as error:
                    results.append((float("inf"), config, f"{type(error).__name__}"))
                    continue
                results.append((us, config, ""))
            us, best, _ = min(results, key=lambda r: r[0])
            found[key(m, n, k, swiglu)] = {
                "us": round(us, 2),
                "gb_s": round(2 * n * k / us / 1e3, 1),
                "cublas_us": round(cublas, 2),
                "cublas_gb_s": round(2 * n * k / cublas / 1e3, 1),
                "config": as_entry(best),
                "all": [[round(r[0], 2), *map(int, as_entry(r[1]).values())] for r in results],
            }
    return found
