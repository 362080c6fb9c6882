"""`x @ weightᵀ` in float8: both with a scale a row, x narrowed on the way. Refuses to know layers.

The product itself is that of torch's libraries; it is for many rows, where arithmetic is what costs. Few rows are
better served by `int8_linear`, which keeps x as it is.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

LARGEST = 448.0
"""Of float8_e4m3fn."""


@triton.jit
def _narrow_rows(x, out, scales, x_stride, width: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    k = tl.arange(0, BLOCK)
    largest = tl.zeros([BLOCK], tl.float32)
    for start in tl.range(0, width, BLOCK):
        values = tl.load(x + row * x_stride + start + k, mask=start + k < width, other=0.0).to(tl.float32)
        largest = tl.maximum(largest, tl.abs(values))
    scale = tl.maximum(tl.max(largest), 1e-12) / 448.0
    tl.store(scales + row, scale)
    for start in tl.range(0, width, BLOCK):
        inside = start + k < width
        values = tl.load(x + row * x_stride + start + k, mask=inside, other=0.0).to(tl.float32) / scale
        values = tl.minimum(tl.maximum(values, -448.0), 448.0)
        tl.store(out + row * width + start + k, values.to(out.dtype.element_ty), mask=inside)


def narrow_rows(x: Tensor, out: Tensor | None = None, scales: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """`x` `[m, k]`, rows of any stride, as float8_e4m3fn `[m, k]` and float32 scales `[m]`: a row's largest is 448."""
    m, width = x.shape
    out = torch.empty(m, width, dtype=torch.float8_e4m3fn, device=x.device) if out is None else out
    scales = torch.empty(m, dtype=torch.float32, device=x.device) if scales is None else scales
    if m:
        block = min(4096, max(16, int(triton.next_power_of_2(width))))
        _narrow_rows[(m,)](x, out, scales, x.stride(0), width, block, num_warps=8 if block >= 4096 else 4)
    return out, scales


def is_served(n: int, k: int) -> bool:
    """Whether the float8 product exists for a weight of this shape."""
    return n % 16 == 0 and k % 16 == 0


def fp8_linear(
    x: Tensor, weight: Tensor, scales: Tensor, bias: Tensor | None = None, out: Tensor | None = None
) -> Tensor:
    """`(narrowed x @ weightᵀ) * scales + bias`.

    `x` is `[m, k]` bfloat16 with rows of any stride, `weight` `[n, k]` contiguous float8_e4m3fn, `scales` `[n]`
    float32, `bias` `[n]` and `out` `[m, n]` contiguous bfloat16. On a GPU, n and k are multiples of 16 (`is_served`).
    """
    narrow, row_scales = narrow_rows(x)
    if x.device.type == "cpu":
        y = (narrow.float() @ weight.float().t()) * row_scales[:, None] * scales
        y = (y if bias is None else y + bias.float()).to(x.dtype)
        return y if out is None else out.copy_(y)
    given = (narrow, weight.t(), row_scales[:, None], scales[None, :])
    if out is None:
        return torch._scaled_mm(*given, bias=bias, out_dtype=x.dtype, use_fast_accum=True)
    return torch._scaled_mm(*given, bias=bias, out_dtype=x.dtype, use_fast_accum=True, out=out)


def reference_narrow_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """The same in torch."""
    wide = x.float()
    scales = wide.abs().amax(1).clamp_min(1e-12) / LARGEST
    return (wide / scales[:, None]).clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn), scales
