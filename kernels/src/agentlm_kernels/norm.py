"""RMS norm of each row, alone and behind the addition to the residual. Refuses to know layers.

One program a row, which stays in registers: read once, written once, reduced in one order whatever the batch. The sum is
rounded to the residual's type before it is normed, as what the next layer reads.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _rms_norm(
    x,
    weight,
    out,
    x_stride,
    out_stride,
    eps,
    width: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    cells = tl.arange(0, BLOCK)
    is_cell = cells < width
    values = tl.load(x + row * x_stride + cells, mask=is_cell, other=0.0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(values * values) / width + eps)
    normed = values * scale * tl.load(weight + cells, mask=is_cell, other=0.0).to(tl.float32)
    tl.store(out + row * out_stride + cells, normed.to(out.dtype.element_ty), mask=is_cell)


@triton.jit
def _add_rms_norm(
    residual, x, weight, out, residual_stride, x_stride, out_stride, eps, width: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    cells = tl.arange(0, BLOCK)
    is_cell = cells < width
    added = tl.load(x + row * x_stride + cells, mask=is_cell, other=0.0).to(tl.float32)
    total = tl.load(residual + row * residual_stride + cells, mask=is_cell, other=0.0).to(tl.float32) + added
    kept = total.to(residual.dtype.element_ty)
    tl.store(residual + row * residual_stride + cells, kept, mask=is_cell)
    values = kept.to(tl.float32)
    scale = tl.rsqrt(tl.sum(values * values) / width + eps)
    normed = values * scale * tl.load(weight + cells, mask=is_cell, other=0.0).to(tl.float32)
    tl.store(out + row * out_stride + cells, normed.to(out.dtype.element_ty), mask=is_cell)


def rms_norm(x: Tensor, weight: Tensor, eps: float, out: Tensor | None = None) -> Tensor:
    """`x / sqrt(mean(x²) + eps) * weight` of each row of `x` `[rows, width]`; `weight` is `[width]`, any float types."""
    out = torch.empty_like(x) if out is None else out
    block, warps = _launch(x.shape[1])
    _rms_norm[(x.shape[0],)](
        x, weight, out, x.stride(0), out.stride(0), eps, x.shape[1], block, num_warps=warps
    )
    return out


def add_rms_norm(
    residual: Tensor, x: Tensor, weight: Tensor, eps: float, out: Tensor | None = None
) -> Tensor:
    """Adds `x` to `residual` in place, both `[rows, width]`, and gives the norm of the sum, of `x`'s type."""
    out = torch.empty_like(x) if out is None else out
    block, warps = _launch(x.shape[1])
    _add_rms_norm[(x.shape[0],)](
        residual, x, weight, out, residual.stride(0), x.stride(0), out.stride(0), eps, x.shape[1], block,
        num_warps=warps,
    )  # fmt: skip
    return out


def _launch(width: int) -> tuple[int, int]:
    block = int(triton.next_power_of_2(width))
    return block, min(max(block // 512, 1), 16)


def reference_rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """The same in torch, rounded once."""
    wide = x.double()
    return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps) * weight.double()).to(x.dtype)


def reference_add_rms_norm(residual: Tensor, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The new residual and its norm."""
    total = (residual.double() + x.double()).to(residual.dtype)
    return total, reference_rms_norm(total, weight, eps).to(x.dtype)
