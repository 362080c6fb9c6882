"""The part `invariant`: the batch-invariant product beside cuBLAS, and whether a row's bits depend on its company."""

import torch
from torch import Tensor

from agentlm_kernels.invariant_linear import invariant_linear
from bench.gpu.child import Say, Setup
from bench.gpu.timing import seconds_of, sets_for

SHAPES = ((6144, 4096), (28672, 4096), (4096, 14336))
ROWS = (1, 16, 256, 4096)


def run(setup: Setup, say: Say) -> None:
    """Every shape at every number of rows."""
    for n, k in ((64, 128),) if setup.rehearse else SHAPES:
        sets = min(sets_for(n * k * 2, setup.rehearse), 8)
        weights = [torch.randn(n, k, dtype=setup.dtype, device=setup.device) * k**-0.5 for _ in range(sets)]
        rows = (1, 3) if setup.rehearse else ROWS
        x = torch.randn(max(rows), k, dtype=setup.dtype, device=setup.device)
        whole = invariant_linear(x, weights[0])
        for m in rows:
            with say.case(f"{n}x{k}, {m} rows"):
                _measure(x[:m], weights, say)
                # From the end: those rows lie in other tiles of the whole.
                alone = invariant_linear(x[-m:].contiguous(), weights[0])
                say(
                    f"{n}x{k}, {m} rows alone and among {max(rows)}",
                    equal=bool(torch.equal(alone, whole[-m:])),
                )


def _measure(x: Tensor, weights: list[Tensor], say: Say) -> None:
    (m, k), n = x.shape, weights[0].shape[0]
    out = torch.empty(m, n, dtype=x.dtype, device=x.device)
    own = seconds_of(lambda i: invariant_linear(x, weights[i], out=out), len(weights))
    general = seconds_of(lambda i: torch.nn.functional.linear(x, weights[i]), len(weights))
    say(
        f"{n}x{k}, {m} rows",
        us=own * 1e6,
        tflop_per_s=2 * m * n * k / own / 1e12,
        times_cublas=general / own,
    )
