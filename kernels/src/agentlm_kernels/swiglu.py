"""SwiGLU: `silu(gate) * up` of rows that hold both halves. Refuses to know layers."""

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _swiglu(
    gate_up,
    out,
    width: tl.constexpr,
    BLOCK: tl.constexpr,
):
    # In one dimension: the others end at 65,535 programs, and a step may have a million tokens.
    pieces: tl.constexpr = (width + BLOCK - 1) // BLOCK
    row = (tl.program_id(0) // pieces).to(tl.int64)
    cells = tl.program_id(0) % pieces * BLOCK + tl.arange(0, BLOCK)
    is_cell = cells < width
    gate = tl.load(gate_up + row * 2 * width + cells, mask=is_cell, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * width + width + cells, mask=is_cell, other=0.0).to(tl.float32)
    value = gate / (1.0 + tl.exp(-gate)) * up
    tl.store(out + row * width + cells, value.to(out.dtype.element_ty), mask=is_cell)


def swiglu(gate_up: Tensor, out: Tensor | None = None) -> Tensor:
    """`silu(gate) * up` of `gate_up` `[rows, gate | up]`, contiguous: `[rows, width]`, computed in float32."""
    rows, width = gate_up.shape[0], gate_up.shape[1] // 2
    out = torch.empty(rows, width, dtype=gate_up.dtype, device=gate_up.device) if out is None else out
    block = min(int(triton.next_power_of_2(width)), 2048)
    _swiglu[(triton.cdiv(width, block) * rows,)](gate_up, out, width, block, num_warps=4)
    return out


def reference_swiglu(gate_up: Tensor) -> Tensor:
    """The same in torch, rounded once."""
    gate, up = gate_up.double().chunk(2, dim=-1)
    return (torch.nn.functional.silu(gate) * up).to(gate_up.dtype)
