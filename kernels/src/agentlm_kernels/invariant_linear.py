"""`x @ weightᵀ` whose every element is summed in one order, whatever the number of rows. Refuses to know layers.

A general library picks its tiles, and whether it splits the sum, by the shape, so that a row's bits depend on its company.
Here one tile shape, and so one instruction shape, serves every number of rows: along k in steps of `columns`, never split.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from agentlm_kernels.tuning import tuned


@triton.jit(do_not_specialize=["m"])
def _invariant(
    x, weight, bias, out, m, x_stride, out_stride,
    n_out: tl.constexpr, width: tl.constexpr,
    ROWS: tl.constexpr, OUT: tl.constexpr, COLUMNS: tl.constexpr, GROUP: tl.constexpr, STAGES: tl.constexpr,
    EVEN: tl.constexpr, BIAS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Programs go through `GROUP` blocks of rows before the next block of columns: both operands stay in the L2 cache."""
    blocks_m = tl.cdiv(m, ROWS)
    blocks_n: tl.constexpr = (n_out + OUT - 1) // OUT
    program = tl.program_id(0)
    group = program // (GROUP * blocks_n)
    in_group = tl.minimum(blocks_m - group * GROUP, GROUP)
    block_m = group * GROUP + program % (GROUP * blocks_n) % in_group
    block_n = program % (GROUP * blocks_n) // in_group
    rows = block_m * ROWS + tl.arange(0, ROWS)
    outs = block_n * OUT + tl.arange(0, OUT)
    # What lies past the end is computed twice and stored once.
    own_rows = (rows % m).to(tl.int64)
    own_outs = (outs % n_out).to(tl.int64)
    columns = tl.arange(0, COLUMNS)
    acc = tl.zeros([ROWS, OUT], tl.float32)
    for start in tl.range(0, width, COLUMNS, num_stages=STAGES):
        k = start + columns
        if EVEN:
            a = tl.load(x + own_rows[:, None] * x_stride + k[None, :])
            b = tl.load(weight + own_outs[None, :] * width + k[:, None])
        else:
            a = tl.load(x + own_rows[:, None] * x_stride + k[None, :], mask=(k < width)[None, :], other=0.0)
            b = tl.load(weight + own_outs[None, :] * width + k[:, None], mask=(k < width)[:, None], other=0.0)
        acc = tl.dot(a, b, acc, input_precision=PRECISION)
    if BIAS:
        acc += tl.load(bias + own_outs).to(tl.float32)[None, :]
    at = out + rows.to(tl.int64)[:, None] * out_stride + outs[None, :]
    tl.store(at, acc.to(out.dtype.element_ty), mask=(rows < m)[:, None] & (outs < n_out)[None, :])


def invariant_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, out: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> Tensor:  # fmt: skip
    """`x @ weightᵀ + bias`: `x` `[m, k]`, `weight` `[n, k]` contiguous, `bias` `[n]`, `out` `[m, n]` of any float type."""
    m, width = x.shape
    n = weight.shape[0]
    out = torch.empty(m, n, dtype=out_dtype or x.dtype, device=x.device) if out is None else out
    rows, outs, columns, warps, stages = _config(width, n, x.dtype)
    _invariant[(triton.cdiv(m, rows) * triton.cdiv(n, outs),)](
        x, weight, bias, out, m, x.stride(0), out.stride(0), n, width,
        ROWS=rows, OUT=outs, COLUMNS=columns, GROUP=8, STAGES=stages, EVEN=width % columns == 0,
        BIAS=bias is not None, PRECISION="ieee" if x.dtype == torch.float32 else "tf32",
        num_warps=warps, num_stages=stages,
    )  # fmt: skip
    return out


def _config(width: int, n: int, dtype: torch.dtype) -> tuple[int, int, int, int, int]:
    """Rows and columns of a tile, columns of x a step, warps, stages: never by the number of rows."""
    if found := tuned("invariant_linear", f"{n}/{width}") or tuned("invariant_linear", "any"):
        return found["rows"], found["outs"], found["columns"], found["warps"], found["stages"]
    if dtype == torch.float32:
        return 32, 64, 32, 4, 2
    return 64, 128, 64, 4, 4


def reference_invariant_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The same in float64 torch."""
    y = x.double() @ weight.double().t()
    return y if bias is None else y + bias.double()
