"""`x @ weightᵀ` of weights of one byte, int8 or float8 (e4m3), with one scale a row. Refuses to know how they are made.

The bytes are read once and widened in registers, where they are the first operand of a tensor-core product, so that the
widened weight is never written anywhere. Both types are exact in bfloat16; the scale of a row is applied to its sum. A
program owns `rows` rows of the weight. Where the rows of x are few, its warps share a step's columns instead of its
rows, and their sums are added at the end, in their order: with one configuration, a row's result does not depend on the
others.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from agentlm_kernels.tuning import tuned

MOST_TOKENS = 128
"""Rows of x that one program multiplies with at most."""
BUCKETS = (1, 8, 16, 32, 64, MOST_TOKENS)
"""Numbers of rows of x that configurations are measured for."""


@dataclass(frozen=True, slots=True)
class NarrowConfig:
    """How a narrow weight is walked."""

    rows: int
    """Rows of the weight a program owns."""
    columns: int
    """Columns of one step, of one part."""
    parts: int
    """Parts of a step whose sums are kept apart until the end; 0: multiplied in registers, for a single row of x."""
    tokens: int
    """Rows of x a program multiplies with."""
    warps: int
    stages: int
    """Steps in flight."""


@triton.jit
def _widen(tile, like):
    """In the type of `like`. From float8 by way of float32: half to bfloat16 is a slow instruction."""
    if tile.dtype == tl.float8e4nv:
        return tile.to(tl.float32).to(like.dtype)
    return tile.to(like.dtype)


@triton.jit(do_not_specialize=["m"])
def _byte_dot(
    x, weight, scales, bias, out, m, x_stride, out_stride,
    n_out: tl.constexpr, width: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, PARTS: tl.constexpr, TOKENS: tl.constexpr, STAGES: tl.constexpr,
    EVEN: tl.constexpr, BIAS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    blocks = tl.cdiv(m, TOKENS)
    n = tl.program_id(0) // blocks * ROWS + tl.arange(0, ROWS)
    tokens = tl.program_id(0) % blocks * TOKENS + tl.arange(0, TOKENS)
    # Rows past the end are computed twice and stored once.
    own = (n % n_out).to(tl.int64)
    is_token = tokens < m
    from_x = tokens.to(tl.int64) * x_stride
    columns = tl.arange(0, COLUMNS)
    if PARTS == 1:
        acc = tl.zeros([ROWS, TOKENS], tl.float32)
        for start in tl.range(0, width, COLUMNS, num_stages=STAGES):
            k = start + columns
            at = weight + own[:, None] * width + k[None, :]
            if EVEN:
                tile = tl.load(at, eviction_policy="evict_first")
                values = tl.load(x + from_x[:, None] + k[None, :], mask=is_token[:, None], other=0.0)
            else:
                tile = tl.load(at, mask=(k < width)[None, :], other=0.0, eviction_policy="evict_first")
                inside = is_token[:, None] & (k < width)[None, :]
                values = tl.load(x + from_x[:, None] + k[None, :], mask=inside, other=0.0)
            acc = tl.dot(_widen(tile, values), tl.trans(values), acc, input_precision=PRECISION)
    else:
        parts = tl.zeros([PARTS, ROWS, TOKENS], tl.float32)
        offset = tl.arange(0, PARTS)[:, None] * COLUMNS + columns[None, :]
        for start in tl.range(0, width, PARTS * COLUMNS, num_stages=STAGES):
            k = start + offset
            at = weight + own[None, :, None] * width + k[:, None, :]
            if EVEN:
                tile = tl.load(at, eviction_policy="evict_first")
                values = tl.load(
                    x + from_x[None, :, None] + k[:, None, :], mask=is_token[None, :, None], other=0.0
                )
            else:
                inside = (k < width)[:, None, :]
                tile = tl.load(at, mask=inside, other=0.0, eviction_policy="evict_first")
                inside = inside & is_token[None, :, None]
                values = tl.load(x + from_x[None, :, None] + k[:, None, :], mask=inside, other=0.0)
            across = tl.permute(values, 0, 2, 1)
            parts = tl.dot(_widen(tile, values), across, parts, input_precision=PRECISION)
        acc = tl.sum(parts, 0)
    y = acc * tl.load(scales + own)[:, None]
    if BIAS:
        y += tl.load(bias + own).to(tl.float32)[:, None]
    at = out + tokens.to(tl.int64)[None, :] * out_stride + n[:, None]
    tl.store(at, y.to(out.dtype.element_ty), mask=(n < n_out)[:, None] & is_token[None, :])


@triton.jit
def _byte_one(
    x, weight, scales, bias, out,
    n_out: tl.constexpr, width: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, STAGES: tl.constexpr, EVEN: tl.constexpr, BIAS: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    own = (n % n_out).to(tl.int64)
    columns = tl.arange(0, COLUMNS)
    acc = tl.zeros([ROWS, COLUMNS], tl.float32)
    for start in tl.range(0, width, COLUMNS, num_stages=STAGES):
        k = start + columns
        at = weight + own[:, None] * width + k[None, :]
        if EVEN:
            tile = tl.load(at, eviction_policy="evict_first")
            values = tl.load(x + k)
        else:
            tile = tl.load(at, mask=(k < width)[None, :], other=0.0, eviction_policy="evict_first")
            values = tl.load(x + k, mask=k < width, other=0.0)
        acc += tile.to(tl.float32) * values.to(tl.float32)[None, :]
    y = tl.sum(acc, 1) * tl.load(scales + own)
    if BIAS:
        y += tl.load(bias + own).to(tl.float32)
    tl.store(out + n, y.to(out.dtype.element_ty), mask=n < n_out)


@triton.jit(do_not_specialize=["rows"])
def _byte_widen(weight, scales, out, rows, width: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    n = (tl.program_id(1) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    k = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    inside = (n < rows)[:, None] & (k < width)[None, :]
    tile = tl.load(weight + n[:, None] * width + k[None, :], mask=inside, other=0.0).to(tl.float32)
    values = tile * tl.load(scales + n, mask=n < rows, other=0.0)[:, None]
    tl.store(out + n[:, None] * width + k[None, :], values.to(out.dtype.element_ty), mask=inside)


def widen_bytes(weight: Tensor, scales: Tensor, out: Tensor) -> Tensor:
    """The weight times its scales, `[n, k]` contiguous, in the float type of `out`."""
    rows, width = out.shape
    columns = min(256, max(16, int(triton.next_power_of_2(width))))
    grid = (triton.cdiv(width, columns), triton.cdiv(rows, 32))
    _byte_widen[grid](weight, scales, out, rows, width, 32, columns, num_warps=4)
    return out


def byte_linear(
    x: Tensor, weight: Tensor, scales: Tensor, bias: Tensor | None = None, out: Tensor | None = None,
    out_dtype: torch.dtype | None = None, config: NarrowConfig | None = None,
) -> Tensor:  # fmt: skip
    """`(x @ weightᵀ) * scales + bias`.

    `x` is `[m, k]` with rows of any stride, `weight` `[n, k]` contiguous int8 or float8_e4m3fn, `scales` `[n]` float32,
    `bias` `[n]`, `out` `[m, n]` of any float type, with rows of any stride. Up to 256 rows it is fast; it is right for
    any number.
    """
    m, width = x.shape
    n_out = weight.shape[0]
    out = torch.empty(m, n_out, dtype=out_dtype or x.dtype, device=x.device) if out is None else out
    if m == 0:
        return out
    config = config or choose(m, n_out, width)
    step = config.columns * max(config.parts, 1)
    switches = {
        "ROWS": config.rows,
        "COLUMNS": config.columns,
        "STAGES": config.stages,
        "EVEN": width % step == 0,
        "BIAS": bias is not None,
        "num_warps": config.warps,
        "num_stages": config.stages,
    }
    if config.parts == 0:
        if m > 1:
            raise ValueError(f"parts = 0 is for a single row of x. Given: {m}")
        _byte_one[(triton.cdiv(n_out, config.rows),)](x, weight, scales, bias, out, n_out, width, **switches)
    else:
        grid = (triton.cdiv(n_out, config.rows) * triton.cdiv(m, config.tokens),)
        _byte_dot[grid](
            x, weight, scales, bias, out, m, x.stride(0), out.stride(0), n_out, width,
            PARTS=config.parts, TOKENS=config.tokens, PRECISION="ieee" if x.dtype == torch.float32 else "tf32",
            **switches,
        )  # fmt: skip
    return out


def bucket(m: int) -> int:
    """The smallest number of rows that configurations are measured for and that holds `m`."""
    return next((b for b in BUCKETS if m <= b), MOST_TOKENS)


def choose(m: int, n: int, k: int) -> NarrowConfig:
    """The configuration measured on this GPU, else one by rule."""
    size = bucket(m)
    if found := tuned("byte_linear", f"{size}/{n}/{k}") or tuned("byte_linear", f"{size}"):
        return NarrowConfig(**found)
    widest = max(16, int(triton.next_power_of_2(k)))
    if size == 1:
        return NarrowConfig(8, min(1024, widest), 0, 1, 4, 2)
    if size <= 16:
        return NarrowConfig(16 if n <= 8192 else 32, min(64, widest), 4, 16, 4, 4)
    if size <= 32:
        return NarrowConfig(32, min(64, widest), 4, size, 4, 3)
    if size <= 64:
        return NarrowConfig(64, min(128, widest), 1, size, 4, 3)
    return NarrowConfig(128, min(64, widest), 1, 128, 8, 4)


def candidates(m: int) -> list[NarrowConfig]:
    """What is worth measuring on a GPU."""
    size = bucket(m)
    if size > 16:
        wide = (
            (64, 128, 1, 4, 4), (64, 64, 1, 4, 5), (128, 64, 1, 8, 4), (128, 128, 1, 8, 3), (128, 128, 1, 8, 2),
        )  # fmt: skip
        parted = ((32, 64, 4, 4, 3), (32, 128, 4, 4, 2)) if size == 32 else ()
        return [NarrowConfig(r, c, p, size, w, s) for r, c, p, w, s in parted + wide]
    dots = [
        NarrowConfig(rows, columns, parts, 16, warps, stages)
        for rows, columns, parts, warps, stages in (
            (16, 64, 4, 4, 4), (16, 128, 4, 4, 4), (32, 64, 4, 4, 4), (32, 128, 4, 4, 3), (16, 64, 8, 8, 4),
            (32, 128, 1, 2, 5), (64, 128, 1, 4, 5), (16, 128, 4, 4, 3), (64, 64, 4, 4, 3),
        )
    ]  # fmt: skip
    ones = [
        NarrowConfig(rows, columns, 0, 1, warps, stages)
        for rows, columns, warps, stages in (
            (8, 512, 4, 3), (4, 1024, 4, 3), (8, 1024, 4, 2), (4, 2048, 4, 2), (16, 512, 8, 3), (2, 2048, 4, 3),
            (1, 4096, 4, 2), (4, 1024, 2, 3),
        )
    ]  # fmt: skip
    return dots + (ones if m == 1 else [])


def reference_byte_linear(x: Tensor, weight: Tensor, scales: Tensor, bias: Tensor | None = None) -> Tensor:
    """The same in float64 torch."""
    y = x.double() @ (weight.double() * scales.double()[:, None]).t()
    return y if bias is None else y + bias.double()
