"""`x @ weightᵀ` of weights of four bits, with a scale and a zero point for each group of a row. Refuses to know layers.

The packed weight is `[n, 32 * blocks]` int16. A block is 128 columns, and four bits of its 32 words are a plane of 32
neighbouring columns: word j holds, from its lowest bits up, the columns j, 32 + j, 64 + j and 96 + j. So a tile of
words is four tiles of weights by shift and mask, none of which has to change its place among threads: loaded as a
16-bit operand of a tensor-core product, it is widened where it lies. A code under the exponent of 128 is the bfloat16
128 + code (of 1024, the half 1024 + code); subtracting the zero point, moved alike, is exact. Scales are applied to a
group's sum.

A group's parameters are one int32, so that they can be copied ahead asynchronously: the bits of its float32 scale,
whose last eight are the zero point instead. A scale of 16 significant bits holds every half and every bfloat16.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from agentlm_kernels.int8_linear import MOST_TOKENS, NarrowConfig, bucket
from agentlm_kernels.tuning import tuned

BLOCK = 128
"""Columns that are packed together."""
WIDEST = 64
"""Most rows of the weight a program owns: of 128, Triton 3.6 compiles nothing for sm_100, and says nothing."""


def most_tokens(group: int) -> int:
    """Most rows of x of a program: of 128 in small groups, Triton 3.9 compiles nothing for sm_100, and says nothing."""
    return MOST_TOKENS if group >= BLOCK else MOST_TOKENS // 2


@triton.constexpr_function
def _assembly(plane: int, is_half: bool) -> str:
    """NVIDIA's instructions for two weights at a time: $1 words, $2 what is added, $0 weights."""
    magic, one, kind = (
        ("0x64006400", "0x3c003c00", "f16") if is_half else ("0x43004300", "0x3f803f80", "bf16")
    )
    shift = f"shr.b32 t, $1, {4 * plane};" if plane else "mov.b32 t, $1;"
    return (
        f"{{ .reg .b32 t, one; mov.b32 one, {one}; {shift} "
        f"lop3.b32 t, t, 0x000f000f, {magic}, 0xea; fma.rn.{kind}x2 $0, t, one, $2; }}"
    )


@triton.jit
def _plane(words, offset, PLANE: tl.constexpr, PACKED: tl.constexpr):
    """A plane of weights without their scales; `offset` is what `_offset` gives."""
    if PACKED:
        text: tl.constexpr = _assembly(PLANE, offset.dtype == tl.float16)
        return tl.inline_asm_elementwise(
            text, "=r,r,r", [words, offset], dtype=offset.dtype, is_pure=True, pack=2
        )
    codes = (words >> (4 * PLANE)) & 15
    if offset.dtype == tl.bfloat16:
        return (codes | 0x4300).to(tl.int16).to(tl.bfloat16, bitcast=True) + offset
    if offset.dtype == tl.float16:
        return (codes | 0x6400).to(tl.int16).to(tl.float16, bitcast=True) + offset
    return codes.to(offset.dtype) + offset


@triton.jit
def _offset(parameters, kind: tl.constexpr):
    """Minus the zero point, and minus the power of two that codes are moved up by."""
    zero = parameters & 255
    if kind == tl.bfloat16:
        return -((zero | 0x4300).to(tl.int16).to(tl.bfloat16, bitcast=True))
    if kind == tl.float16:
        return -((zero | 0x6400).to(tl.int16).to(tl.float16, bitcast=True))
    return -zero.to(kind)


@triton.jit
def _scale(parameters):
    return (parameters & -256).to(tl.float32, bitcast=True)


@triton.jit(do_not_specialize=["m"])
def _int4_dot(
    x, weight, parameters, bias, out, m, x_stride, out_stride,
    n_out: tl.constexpr, width: tl.constexpr, groups: tl.constexpr, GROUP: tl.constexpr,
    ROWS: tl.constexpr, PARTS: tl.constexpr, TOKENS: tl.constexpr, STAGES: tl.constexpr,
    EVEN: tl.constexpr, BIAS: tl.constexpr, PACKED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    words_in_row: tl.constexpr = (width + 127) // 128 * 32
    # Planes of a block that share their parameters.
    SHARING: tl.constexpr = 4 if GROUP >= 128 else GROUP // 32
    kind: tl.constexpr = x.dtype.element_ty
    blocks = tl.cdiv(m, TOKENS)
    n = tl.program_id(0) // blocks * ROWS + tl.arange(0, ROWS)
    tokens = tl.program_id(0) % blocks * TOKENS + tl.arange(0, TOKENS)
    # Rows past the end are computed twice and stored once.
    own = (n % n_out).to(tl.int64)
    is_token = tokens < m
    from_x = tokens.to(tl.int64) * x_stride
    word = tl.arange(0, 32)
    if PARTS == 1:
        acc = tl.zeros([ROWS, TOKENS], tl.float32)
        for start in tl.range(0, width, 128, num_stages=STAGES):
            at = weight + own[:, None] * words_in_row + (start // 4 + word)[None, :]
            words = tl.load(at, eviction_policy="evict_first")
            for p in tl.static_range(4):
                if p % SHARING == 0:
                    group = tl.minimum((start + 32 * p) // GROUP, groups - 1)
                    given = tl.load(parameters + own * groups + group)
                    offset = _offset(given, kind)[:, None]
                    part = tl.zeros([ROWS, TOKENS], tl.float32)
                k = start + 32 * p + word
                inside = is_token[:, None]
                if not EVEN:
                    inside = inside & (k < width)[None, :]
                values = tl.load(x + from_x[:, None] + k[None, :], mask=inside, other=0.0)
                part = tl.dot(
                    _plane(words, offset, p, PACKED), tl.trans(values), part, input_precision=PRECISION
                )
                if p % SHARING == SHARING - 1:
                    acc += part * _scale(given)[:, None]
    else:
        parts = tl.zeros([PARTS, ROWS, TOKENS], tl.float32)
        own_block = tl.arange(0, PARTS) * 128
        for step in tl.range(0, width, 128 * PARTS, num_stages=STAGES):
            start = step + own_block
            at = (
                weight + own[None, :, None] * words_in_row + (start[:, None] // 4 + word[None, :])[:, None, :]
            )
            if EVEN:
                words = tl.load(at, eviction_policy="evict_first")
            else:
                words = tl.load(
                    at, mask=(start < width)[:, None, None], other=0, eviction_policy="evict_first"
                )
            for p in tl.static_range(4):
                if p % SHARING == 0:
                    group = tl.minimum((start + 32 * p) // GROUP, groups - 1)
                    given = tl.load(parameters + own[None, :] * groups + group[:, None])
                    offset = _offset(given, kind)[:, :, None]
                    part = tl.zeros([PARTS, ROWS, TOKENS], tl.float32)
                k = start[:, None] + 32 * p + word[None, :]
                inside = is_token[None, :, None]
                if not EVEN:
                    inside = inside & (k < width)[:, None, :]
                values = tl.load(x + from_x[None, :, None] + k[:, None, :], mask=inside, other=0.0)
                across = tl.permute(values, 0, 2, 1)
                part = tl.dot(_plane(words, offset, p, PACKED), across, part, input_precision=PRECISION)
                if p % SHARING == SHARING - 1:
                    parts += part * _scale(given)[:, :, None]
        acc = tl.sum(parts, 0)
    if BIAS:
        acc += tl.load(bias + own).to(tl.float32)[:, None]
    at = out + tokens.to(tl.int64)[None, :] * out_stride + n[:, None]
    tl.store(at, acc.to(out.dtype.element_ty), mask=(n < n_out)[:, None] & is_token[None, :])


@triton.jit(do_not_specialize=["rows"])
def _int4_widen(
    weight, parameters, out, rows, width: tl.constexpr, groups: tl.constexpr, GROUP: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    words_in_row: tl.constexpr = (width + 127) // 128 * 32
    n = (tl.program_id(1) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    word = tl.arange(0, 32)
    start = tl.program_id(0) * 128
    at = weight + n[:, None] * words_in_row + (start // 4 + word)[None, :]
    words = tl.load(at, mask=(n < rows)[:, None], other=0)
    for p in tl.static_range(4):
        group = tl.minimum((start + 32 * p) // GROUP, groups - 1)
        given = tl.load(parameters + n * groups + group, mask=n < rows, other=0)
        codes = ((words >> (4 * p)) & 15).to(tl.int32)
        values = (codes - (given & 255)[:, None]).to(tl.float32) * _scale(given)[:, None]
        k = start + 32 * p + word
        inside = (n < rows)[:, None] & (k < width)[None, :]
        tl.store(out + n[:, None] * width + k[None, :], values.to(out.dtype.element_ty), mask=inside)


def widen_int4(weight: Tensor, parameters: Tensor, group: int, out: Tensor) -> Tensor:
    """The weight, `[n, k]` contiguous, in the float type of `out`."""
    rows, width = out.shape
    grid = (triton.cdiv(width, BLOCK), triton.cdiv(rows, 64))
    _int4_widen[grid](weight, parameters, out, rows, width, parameters.shape[1], group, 64, num_warps=4)
    return out


def int4_linear(
    x: Tensor, weight: Tensor, parameters: Tensor, group: int, bias: Tensor | None = None, out: Tensor | None = None,
    out_dtype: torch.dtype | None = None, config: NarrowConfig | None = None,
) -> Tensor:  # fmt: skip
    """`x @ weightᵀ + bias`.

    `x` is `[m, k]` with rows of any stride, `weight` what `pack` gives of `[n, k]`, `parameters` what `pack_parameters`
    gives of `[n, ceil(k / group)]`, `bias` `[n]`, `out` `[m, n]` of any float type, with rows of any stride. `group` is
    32, 64 or a multiple of 128. Up to 256 rows it is fast; it is right for any number.
    """
    m, width = x.shape
    n_out = weight.shape[0]
    if group not in (32, 64) and group % BLOCK:
        raise ValueError(f"a group is 32, 64 or a multiple of {BLOCK} columns. Given: {group}")
    if tuple(weight.shape) != (n_out, 32 * -(-width // BLOCK)):
        raise ValueError(f"x has {width} columns, which do not fit packed weights {list(weight.shape)}")
    out = torch.empty(m, n_out, dtype=out_dtype or x.dtype, device=x.device) if out is None else out
    if m == 0:
        return out
    config = config or choose(m, n_out, width, group)
    if config.rows > WIDEST:
        raise ValueError(f"a program owns at most {WIDEST} rows. Given: {config.rows}")
    if config.tokens > most_tokens(group):
        raise ValueError(
            f"a program multiplies at most {most_tokens(group)} rows of x with groups of {group}. Given: {config.tokens}"
        )
    grid = (triton.cdiv(n_out, config.rows) * triton.cdiv(m, config.tokens),)
    _int4_dot[grid](
        x, weight, parameters, bias, out, m, x.stride(0), out.stride(0), n_out, width, parameters.shape[1], group,
        ROWS=config.rows, PARTS=config.parts, TOKENS=config.tokens, STAGES=config.stages,
        EVEN=width % (BLOCK * config.parts) == 0, BIAS=bias is not None, PACKED=_is_nvidia(x),
        PRECISION="ieee" if x.dtype == torch.float32 else "tf32",
        num_warps=config.warps, num_stages=config.stages,
    )  # fmt: skip
    return out


def _is_nvidia(x: Tensor) -> bool:
    """Whether PTX can be written for this tensor's device and type."""
    if x.device.type == "cpu" or x.dtype == torch.float32:
        return False
    return bool(triton.runtime.driver.active.get_current_target().backend == "cuda")


def choose(m: int, n: int, k: int, group: int = BLOCK) -> NarrowConfig:
    """The configuration measured on this GPU, else one by rule."""
    size = min(bucket(m), most_tokens(group))
    if found := tuned("int4_linear", f"{size}/{n}/{k}") or tuned("int4_linear", f"{size}"):
        return NarrowConfig(**found)
    parts = 4 if k >= 4 * BLOCK else 1
    if size <= 16:
        return NarrowConfig(16 if n <= 8192 else 32, BLOCK, parts, 16, 4, 4 if n <= 8192 else 3)
    if size == 32:
        return NarrowConfig(32, BLOCK, parts, size, 4, 2)
    if size == 64:
        return NarrowConfig(64, BLOCK, 1, size, 4, 3)
    return NarrowConfig(WIDEST, BLOCK, 1, MOST_TOKENS, 4, 3)


def candidates(m: int) -> list[NarrowConfig]:
    """What is worth measuring on a GPU."""
    size = bucket(m)
    if size > 16:
        wide = ((WIDEST, 4, 4), (WIDEST, 4, 3), (WIDEST, 4, 2), (WIDEST, 8, 3))
        parted = [NarrowConfig(32, BLOCK, 4, size, 4, stages) for stages in (2, 3)] if size == 32 else []
        return parted + [NarrowConfig(rows, BLOCK, 1, size, warps, stages) for rows, warps, stages in wide]
    shapes = (
        (16, 4, 4, 3), (16, 4, 4, 4), (16, 2, 2, 4), (16, 8, 8, 3), (32, 4, 4, 3), (32, 2, 2, 4), (32, 8, 8, 2),
        (16, 4, 4, 5), (64, 1, 4, 5), (32, 1, 2, 5),
    )  # fmt: skip
    return [NarrowConfig(rows, BLOCK, parts, 16, warps, stages) for rows, parts, warps, stages in shapes]


def pack(codes: Tensor) -> Tensor:
    """Codes 0 to 15, `[n, k]` of any integer type, as the kernel reads them: `[n, 32 * ceil(k / 128)]` int16."""
    n, k = codes.shape
    padded = torch.nn.functional.pad(codes.to(torch.int32), (0, -k % BLOCK)).view(n, -1, 4, 32)
    words = padded[:, :, 0] | padded[:, :, 1] << 4 | padded[:, :, 2] << 8 | padded[:, :, 3] << 12
    return torch.where(words >= 1 << 15, words - (1 << 16), words).to(torch.int16).flatten(1).contiguous()


def unpack(weight: Tensor, k: int) -> Tensor:
    """The codes of what `pack` gave, `[n, k]` int32."""
    words = weight.to(torch.int32).view(weight.shape[0], -1, 1, 32)
    shifts = torch.arange(0, 16, 4, dtype=torch.int32, device=weight.device).view(1, 1, 4, 1)
    return (words >> shifts & 15).flatten(1)[:, :k]


def pack_parameters(scales: Tensor, zeros: Tensor) -> Tensor:
    """Scales, rounded to 16 significant bits, and zero points 0 to 127, `[n, groups]`, as the kernel reads them: int32."""
    bits = round_scales(scales).view(torch.int32)
    return (bits | zeros.to(torch.int32)).contiguous()


def round_scales(scales: Tensor) -> Tensor:
    """The nearest float32 of 16 significant bits."""
    return ((scales.float().contiguous().view(torch.int32) + 128) & -256).view(torch.float32)


def unpack_parameters(parameters: Tensor) -> tuple[Tensor, Tensor]:
    """Float32 scales and int32 zero points of what `pack_parameters` gave."""
    return (parameters & -256).view(torch.float32), parameters & 255


def reference_dequantize_int4(weight: Tensor, parameters: Tensor, group: int, k: int) -> Tensor:
    """The weight in float64, `[n, k]`."""
    scales, zeros = unpack_parameters(parameters)
    of_column = torch.arange(k, device=weight.device) // group
    return (unpack(weight, k) - zeros[:, of_column]).double() * scales.double()[:, of_column]


def reference_int4_linear(
    x: Tensor, weight: Tensor, parameters: Tensor, group: int, bias: Tensor | None = None
) -> Tensor:
    """The same in float64 torch."""
    y = x.double() @ reference_dequantize_int4(weight, parameters, group, x.shape[1]).t()
    return y if bias is None else y + bias.double()
