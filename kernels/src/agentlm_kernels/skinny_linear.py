"""`x @ weightᵀ` for few rows of x: the weights are read once, as fast as the memory gives them. Refuses to know layers.

A program owns `rows` rows of the weight and walks along them, so that nothing is reduced across programs and every
output is summed in one order, whatever the number of x's rows. A few rows of x are multiplied in registers; up to 16
are the narrow side of a tensor-core product. What comes before and after is done on the way, for at batch 1 a launch of
its own costs as much as reading ten megabytes: the RMS norm of x (its scale is applied at the end, since it commutes
with the product), the bias, SwiGLU over [gate; up], and the addition to the residual.
"""

from dataclasses import asdict, dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from agentlm_kernels.norm import rms_norm
from agentlm_kernels.tuning import tuned

MAX_ROWS = 16
"""Most rows of x."""


@dataclass(frozen=True, slots=True)
class SkinnyConfig:
    """How the weight is walked."""

    rows: int
    """Rows of the weight a program owns; of each half under SwiGLU."""
    columns: int
    """Columns of one step."""
    warps: int
    stages: int
    """Steps in flight."""
    dot: bool
    """On tensor cores; else multiplied in registers."""


@triton.jit
def _tile(weight, n, k, width: tl.constexpr, EVEN: tl.constexpr):
    at = weight + n.to(tl.int64)[:, None] * width + k[None, :]
    if EVEN:
        return tl.load(at, eviction_policy="evict_first")
    return tl.load(at, mask=(k < width)[None, :], other=0.0, eviction_policy="evict_first")


@triton.jit(do_not_specialize=["m"])
def _skinny_dot(
    x, weight, bias, norm_weight, residual, out, m, x_stride, out_stride, eps,
    n_out: tl.constexpr, width: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, STAGES: tl.constexpr, EVEN: tl.constexpr,
    NORM: tl.constexpr, BIAS: tl.constexpr, RESIDUAL: tl.constexpr, SWIGLU: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    # Rows past the end are computed twice and stored once.
    own = n % n_out
    tokens = tl.arange(0, 16)
    is_token = tokens < m
    columns = tl.arange(0, COLUMNS)
    acc = tl.zeros([ROWS, 16], tl.float32)
    acc_up = tl.zeros([ROWS, 16], tl.float32)
    square = tl.zeros([16], tl.float32)
    for start in tl.range(0, width, COLUMNS, num_stages=STAGES):
        k = start + columns
        tile = _tile(weight, own, k, width, EVEN)
        inside = is_token[:, None] & (k < width)[None, :]
        values = tl.load(x + tokens[:, None] * x_stride + k[None, :], mask=inside, other=0.0)
        if NORM:
            wide = values.to(tl.float32)
            square += tl.sum(wide * wide, 1)
            factor = tl.load(norm_weight + k, mask=k < width, other=0.0).to(tl.float32)
            values = (wide * factor[None, :]).to(values.dtype)
        across = tl.trans(values).to(tile.dtype)
        acc = tl.dot(tile, across, acc, input_precision=PRECISION)
        if SWIGLU:
            acc_up = tl.dot(
                _tile(weight, own + n_out, k, width, EVEN), across, acc_up, input_precision=PRECISION
            )
    scale = tl.full([16], 1.0, tl.float32)
    if NORM:
        scale = tl.rsqrt(square / width + eps)
    y = acc * scale[None, :]
    if BIAS:
        y += tl.load(bias + own).to(tl.float32)[:, None]
    if SWIGLU:
        up = acc_up * scale[None, :]
        if BIAS:
            up += tl.load(bias + n_out + own).to(tl.float32)[:, None]
        y = y / (1.0 + tl.exp(-y)) * up
    is_cell = (n < n_out)[:, None] & is_token[None, :]
    at = tokens[None, :] * out_stride + n[:, None]
    if RESIDUAL:
        # As a product of its own would be: rounded, then added.
        y = y.to(residual.dtype.element_ty).to(tl.float32)
        y += tl.load(residual + at, mask=is_cell, other=0.0).to(tl.float32)
        tl.store(residual + at, y.to(residual.dtype.element_ty), mask=is_cell)
    else:
        tl.store(out + at, y.to(out.dtype.element_ty), mask=is_cell)


@triton.jit(do_not_specialize=["m"])
def _skinny_few(
    x, weight, bias, norm_weight, residual, out, m, x_stride, out_stride, eps,
    n_out: tl.constexpr, width: tl.constexpr, M: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, STAGES: tl.constexpr, EVEN: tl.constexpr,
    NORM: tl.constexpr, BIAS: tl.constexpr, RESIDUAL: tl.constexpr, SWIGLU: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    own = n % n_out
    tokens = tl.arange(0, M)
    is_token = tokens < m
    columns = tl.arange(0, COLUMNS)
    acc = tl.zeros([M, ROWS, COLUMNS], tl.float32)
    acc_up = tl.zeros([M, ROWS, COLUMNS], tl.float32)
    square = tl.zeros([M, COLUMNS], tl.float32)
    for start in tl.range(0, width, COLUMNS, num_stages=STAGES):
        k = start + columns
        tile = _tile(weight, own, k, width, EVEN)
        inside = is_token[:, None] & (k < width)[None, :]
        values = tl.load(x + tokens[:, None] * x_stride + k[None, :], mask=inside, other=0.0)
        wide = values.to(tl.float32)
        if NORM:
            square += wide * wide
            factor = tl.load(norm_weight + k, mask=k < width, other=0.0).to(tl.float32)
            # Not rounded: a half may not hold it.
            wide = wide * factor[None, :]
        acc += tile.to(tl.float32)[None, :, :] * wide[:, None, :]
        if SWIGLU:
            acc_up += _tile(weight, own + n_out, k, width, EVEN).to(tl.float32)[None, :, :] * wide[:, None, :]
    y = tl.sum(acc, 2)
    scale = tl.full([M], 1.0, tl.float32)
    if NORM:
        scale = tl.rsqrt(tl.sum(square, 1) / width + eps)
        y *= scale[:, None]
    if BIAS:
        y += tl.load(bias + own).to(tl.float32)[None, :]
    if SWIGLU:
        up = tl.sum(acc_up, 2) * scale[:, None]
        if BIAS:
            up += tl.load(bias + n_out + own).to(tl.float32)[None, :]
        y = y / (1.0 + tl.exp(-y)) * up
    is_cell = is_token[:, None] & (n < n_out)[None, :]
    at = tokens[:, None] * out_stride + n[None, :]
    if RESIDUAL:
        y = y.to(residual.dtype.element_ty).to(tl.float32)
        y += tl.load(residual + at, mask=is_cell, other=0.0).to(tl.float32)
        tl.store(residual + at, y.to(residual.dtype.element_ty), mask=is_cell)
    else:
        tl.store(out + at, y.to(out.dtype.element_ty), mask=is_cell)


def skinny_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *,
    norm_weight: Tensor | None = None, eps: float = 0.0, residual: Tensor | None = None, swiglu: bool = False,
    out: Tensor | None = None, out_dtype: torch.dtype | None = None, config: SkinnyConfig | None = None,
) -> Tensor:  # fmt: skip
    """`norm(x) @ weightᵀ + bias` of 1 to 16 rows.

    `x` is `[m, k]` with rows of any stride, `weight` `[n, k]` contiguous, `bias` `[n]`. With `norm_weight` `[k]`, x is
    normed first. With `swiglu`, `weight` holds gate above up and the result is `silu(gate) * up`, `[m, n / 2]`. With
    `residual` `[m, n]` the result is added to it in place, and it is what is returned. `out` may be wider than x's type.
    """
    m, width = x.shape
    n_out = weight.shape[0] // 2 if swiglu else weight.shape[0]
    if not 1 <= m <= MAX_ROWS:
        raise ValueError(f"a skinny product has 1 to {MAX_ROWS} rows. Given: {m}")
    if residual is not None:
        target = residual
    else:
        target = torch.empty(m, n_out, dtype=out_dtype or x.dtype, device=x.device) if out is None else out
    config = config or choose(m, weight.shape[0], width, swiglu)
    if norm_weight is not None and config.dot and x.dtype == torch.float16:
        # x times the norm's weight is an operand there, before it is scaled, and may be more than a half holds.
        x, norm_weight = rms_norm(x, norm_weight, eps), None
    grid = (triton.cdiv(n_out, config.rows),)
    switches = {
        "ROWS": config.rows,
        "COLUMNS": config.columns,
        "STAGES": config.stages,
        "EVEN": width % config.columns == 0,
        "NORM": norm_weight is not None,
        "BIAS": bias is not None,
        "RESIDUAL": residual is not None,
        "SWIGLU": swiglu,
        "num_warps": config.warps,
        "num_stages": config.stages,
    }
    if config.dot:
        _skinny_dot[grid](
            x, weight, bias, norm_weight, residual, target, m, x.stride(0), target.stride(0), eps, n_out, width,
            PRECISION="ieee" if weight.dtype == torch.float32 else "tf32", **switches,
        )  # fmt: skip
    else:
        _skinny_few[grid](
            x, weight, bias, norm_weight, residual, target, m, x.stride(0), target.stride(0), eps, n_out, width,
            M=int(triton.next_power_of_2(m)), **switches,
        )  # fmt: skip
    return target


def key(m: int, n: int, k: int, swiglu: bool) -> str:
    """The name of a shape in the tables of tuned configurations."""
    bucket = 1 if m == 1 else 4 if m <= 4 else 8 if m <= 8 else 16
    return f"{bucket}/{n}/{k}{'/swiglu' if swiglu else ''}"


def choose(m: int, n: int, k: int, swiglu: bool = False) -> SkinnyConfig:
    """The configuration measured on this GPU, else one by rule."""
    if found := tuned("skinny_linear", key(m, n, k, swiglu)):
        return SkinnyConfig(
            found["rows"], found["columns"], found["warps"], found["stages"], bool(found["dot"])
        )
    columns = max(16, int(triton.next_power_of_2(k)))
    if m <= 4:
        return SkinnyConfig(8, min(256, columns), 4, 4, False)
    return SkinnyConfig(16 if swiglu or n <= 8192 else 32, min(256, columns), 4, 4, True)


def is_faster(m: int, n: int, k: int) -> bool:
    """Whether this kernel beats a general product for `m` rows."""
    found = tuned("skinny_linear", f"most_rows/{n}/{k}") or tuned("skinny_linear", "most_rows")
    return m <= min(found["rows"] if found else 1, MAX_ROWS)


def regimes(n: int, k: int) -> set[int]:
    """Numbers of rows that stand for all others: whatever the rows, what is launched is launched for one of these, too."""
    by_size = {int(triton.next_power_of_2(m)): m for m in range(1, MAX_ROWS + 1) if is_faster(m, n, k)}
    return {*by_size.values(), MAX_ROWS + 1}


def candidates(m: int, swiglu: bool = False) -> list[SkinnyConfig]:
    """What is worth measuring on a GPU."""
    dots = [
        SkinnyConfig(rows, columns, warps, stages, True)
        for rows, columns, warps, stages in (
            (16, 256, 4, 4), (16, 512, 4, 3), (16, 256, 2, 5), (16, 128, 2, 6),
            (32, 128, 4, 5), (32, 256, 4, 3), (32, 256, 8, 4), (64, 128, 4, 4), (64, 64, 4, 6),
        )
    ]  # fmt: skip
    few = [
        SkinnyConfig(rows, columns, warps, stages, False)
        for rows, columns, warps, stages in (
            (4, 512, 4, 3), (4, 1024, 4, 3), (8, 512, 4, 3), (2, 1024, 4, 4), (4, 1024, 8, 3), (4, 1024, 8, 4),
            (8, 512, 8, 4), (8, 1024, 8, 3), (16, 256, 4, 4), (8, 256, 4, 4), (4, 256, 2, 5), (4, 1024, 8, 1),
            (2, 2048, 8, 1), (1, 4096, 8, 1), (2, 4096, 8, 1), (1, 2048, 4, 1),
        )
        if rows * columns * m <= 4096 * warps and (m <= 4 or rows * columns <= 1024)
    ]  # fmt: skip
    if swiglu:
        dots = [c for c in dots if c.rows <= 32]
    return dots + (few if m <= 8 else [])


def as_entry(config: SkinnyConfig) -> dict[str, int]:
    """The configuration as a table of tuned ones holds it."""
    return {name: int(value) for name, value in asdict(config).items()}


def reference_skinny_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *,
    norm_weight: Tensor | None = None, eps: float = 0.0, residual: Tensor | None = None, swiglu: bool = False,
) -> Tensor:  # fmt: skip
    """The same in float64 torch; gives the new residual instead of changing it."""
    wide = x.double()
    if norm_weight is not None:
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps) * norm_weight.double()
    y = wide @ weight.double().t()
    if bias is not None:
        y = y + bias.double()
    if swiglu:
        gate, up = y.chunk(2, dim=-1)
        y = torch.nn.functional.silu(gate) * up
    return y if residual is None else residual.double() + y
