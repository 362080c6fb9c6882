"""Weights of eight and four bits: how they are made and read, and `x @ weightᵀ` with them. Refuses to know layers.

Few rows of x are multiplied by kernels that widen the weight in registers (`int8_linear`, `int4_linear`). For many,
where arithmetic costs more than the weight's bytes, a piece of the weight that fits the cache is widened at a time and
multiplied by torch's general product.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from agentlm_kernels import int4_linear as four
from agentlm_kernels import int8_linear as eight
from agentlm_kernels.fp8_linear import LARGEST, fp8_linear, is_served
from agentlm_kernels.tuning import tuned

Kind = Literal["int8", "int4", "fp8"]

PIECE = 32 << 20
"""Bytes of weight that are widened at a time: they stay in an L2 cache of 50 MB."""
ROWS_AT_ONCE = 8192
"""Rows that are quantized at a time: in float32, they take little more memory than the weight itself."""
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which of eight columns the n-th four bits of an AWQ word hold."""


@dataclass(frozen=True, slots=True)
class QuantizedWeight:
    """A matrix `[rows, columns]` of narrow numbers."""

    kind: Kind
    data: Tensor
    """`[rows, columns]` int8 or float8_e4m3fn, or what `int4_linear.pack` gives."""
    scales: Tensor
    """`[rows]` float32, or what `int4_linear.pack_parameters` gives."""
    columns: int
    group: int = 0
    """Columns that share a scale; 0: all."""
    order: Tensor | None = None
    """Which column of x each column is for, `[columns]` int64, where they are not in their own order."""

    @property
    def rows(self) -> int:
        """Rows of the matrix."""
        return int(self.data.shape[0])

    @property
    def bytes(self) -> int:
        """Bytes of memory."""
        return self.data.nbytes + self.scales.nbytes + (0 if self.order is None else self.order.nbytes)


def quantize_int8(weight: Tensor) -> QuantizedWeight:
    """`weight` `[n, k]` as int8 with one scale a row, rounded to nearest."""
    data = torch.empty(weight.shape, dtype=torch.int8, device=weight.device)
    scales = torch.empty(weight.shape[0], dtype=torch.float32, device=weight.device)
    for rows, wide in _by_rows(weight):
        scales[rows] = _scale(wide.abs().amax(1), 127.0)
        data[rows] = (wide / scales[rows, None]).round_().clamp_(-127, 127).to(torch.int8)
    return QuantizedWeight("int8", data, scales, weight.shape[1])


def quantize_fp8(weight: Tensor) -> QuantizedWeight:
    """`weight` `[n, k]` as float8 (e4m3) with one scale a row, rounded to nearest."""
    data = torch.empty(weight.shape, dtype=torch.float8_e4m3fn, device=weight.device)
    scales = torch.empty(weight.shape[0], dtype=torch.float32, device=weight.device)
    for rows, wide in _by_rows(weight):
        scales[rows] = _scale(wide.abs().amax(1), LARGEST)
        data[rows] = (wide / scales[rows, None]).clamp_(-LARGEST, LARGEST).to(torch.float8_e4m3fn)
    return QuantizedWeight("fp8", data, scales, weight.shape[1])


def quantize_int4(weight: Tensor, group: int = 128) -> QuantizedWeight:
    """`weight` `[n, k]` as codes 0 to 15 with a scale and a zero point for `group` columns, rounded to nearest.

    A group's codes span its smallest to its largest number, zero among them, so that zero stays zero.
    """
    k = weight.shape[1]
    packed, parameters = [], []
    for _, wide in _by_rows(weight):
        grouped = torch.nn.functional.pad(wide, (0, -k % group)).view(wide.shape[0], -1, group)
        low, high = grouped.amin(2).clamp_max_(0), grouped.amax(2).clamp_min_(0)
        scales = four.round_scales(_scale(high - low, 15.0))
        zeros = (-low / scales).round_().clamp_(0, 15)
        codes = ((grouped / scales[..., None]).round_() + zeros[..., None]).clamp_(0, 15)
        packed.append(four.pack(codes.flatten(1)[:, :k]))
        parameters.append(four.pack_parameters(scales, zeros))
    return QuantizedWeight("int4", torch.cat(packed), torch.cat(parameters), k, group)


def from_gptq(
    qweight: Tensor,
    qzeros: Tensor,
    scales: Tensor,
    g_idx: Tensor | None = None,
    zeros_are_less_one: bool = True,
    group: int | None = None,
) -> QuantizedWeight:
    """A linear of a 4-bit GPTQ checkpoint.

    `qweight` is `[k / 8, n]` int32, with eight columns in a word; `qzeros` `[groups, n / 8]` int32; `scales` `[groups,
    n]`; `g_idx` `[k]`, the group of each column, if it is not their order (`desc_act`). Zero points are stored less one
    in the first version of the format (`checkpoint_format` "gptq"), as they are in the second ("gptq_v2"); none below
    zero is stored as fifteen. Groups are of `group` columns, by default equally many.
    """
    codes = _nibbles(qweight).permute(1, 0, 2).flatten(1)
    zeros = _nibbles(qzeros).flatten(1)
    if zeros_are_less_one:
        zeros = zeros + 1 & 15
    k, groups = codes.shape[1], scales.shape[0]
    group = group or -(-k // groups)
    order = None
    if g_idx is not None and not torch.equal(g_idx.long(), torch.arange(k, device=g_idx.device) // group):
        order = torch.argsort(g_idx.long(), stable=True)
        if not torch.equal(g_idx.long()[order], torch.arange(k, device=g_idx.device) // group):
            raise ValueError(f"g_idx gives the {groups} groups of {k} columns different sizes")
        codes = codes[:, order]
    return _from_codes(codes, scales, zeros, group, order)


def from_awq(qweight: Tensor, qzeros: Tensor, scales: Tensor, group: int | None = None) -> QuantizedWeight:
    """A linear of a 4-bit AWQ checkpoint (its "gemm" version).

    `qweight` is `[k, n / 8]` int32, with eight rows in a word, in AWQ's order; `qzeros` `[groups, n / 8]`, likewise;
    `scales` `[groups, n]`, of `group` columns, by default equally many.
    """
    place = torch.tensor(AWQ_ORDER, device=qweight.device).argsort()
    codes = _nibbles(qweight)[..., place].flatten(1).t()
    zeros = _nibbles(qzeros)[..., place].flatten(1)
    return _from_codes(codes, scales, zeros, group or -(-codes.shape[1] // scales.shape[0]), None)


def concatenate(weights: Sequence[QuantizedWeight]) -> QuantizedWeight:
    """The matrices one below the other; those that are read in an order of their own cannot be."""
    first = weights[0]
    for other in weights[1:]:
        if (other.kind, other.columns, other.group) != (first.kind, first.columns, first.group):
            raise ValueError("matrices of different kinds, widths or groups cannot be put together")
        if other.order is not first.order and (
            other.order is None or first.order is None or not torch.equal(other.order, first.order)
        ):
            raise ValueError("matrices whose columns are in different orders cannot be put together")
    data = [w.data.view(torch.int8) if w.kind == "fp8" else w.data for w in weights]
    return replace(
        first, data=torch.cat(data).view(first.data.dtype), scales=torch.cat([w.scales for w in weights])
    )


def quantized_linear(
    x: Tensor, weight: QuantizedWeight, bias: Tensor | None = None, out: Tensor | None = None,
    out_dtype: torch.dtype | None = None, *, narrow_x: bool = False, invariant: bool = False,
) -> Tensor:  # fmt: skip
    """`x @ weightᵀ + bias`.

    `x` is `[m, k]` with rows of any stride, `bias` `[n]`, `out` `[m, n]`. `narrow_x` lets float8 weights multiply x in
    float8 where that is faster (`fp8_linear`): less exact. With `invariant` a row's bits do not depend on how many there
    are: one configuration serves all. Up to `most_rows` rows, nothing is allocated if `out` is given and the columns are
    in their own order.
    """
    m = x.shape[0]
    if x.shape[1] != weight.columns:
        raise ValueError(f"x has {x.shape[1]} columns, the weight {weight.columns}")
    if weight.order is not None:
        x = x.index_select(1, weight.order)
    dtype = out_dtype or x.dtype if out is None else out.dtype
    if m > most_rows(weight.kind) and dtype == x.dtype and not invariant:
        if (
            narrow_x
            and weight.kind == "fp8"
            and dtype == torch.bfloat16
            and is_served(weight.rows, weight.columns)
        ):
            return fp8_linear(x, weight.data, weight.scales, bias, out)
        return _in_pieces(x, weight, bias, out)
    if weight.kind == "int4":
        shape = (weight.rows, weight.columns, weight.group)
        config = four.choose(eight.MOST_TOKENS, *shape) if invariant else None
        return four.int4_linear(x, weight.data, weight.scales, weight.group, bias, out, out_dtype, config)
    config = eight.choose(eight.MOST_TOKENS, weight.rows, weight.columns) if invariant else None
    return eight.byte_linear(x, weight.data, weight.scales, bias, out, out_dtype, config)


def regimes(kind: Kind) -> set[int]:
    """Numbers of rows that stand for all others: whatever the rows, what is launched is launched for one of these, too."""
    return {*eight.BUCKETS, most_rows(kind) + 1}


def most_rows(kind: Kind) -> int:
    """Most rows of x that are faster multiplied while the weight is widened in registers."""
    found = tuned("quantized_linear", f"most_rows/{kind}")
    return found["rows"] if found else 256


def dequantize(weight: QuantizedWeight, dtype: torch.dtype, rows: slice = slice(None)) -> Tensor:
    """Some rows of the matrix `[rows, columns]`, its columns in their own order."""
    count = weight.scales[rows].shape[0]
    out = torch.empty(count, weight.columns, dtype=dtype, device=weight.data.device)
    _widen(weight, rows, out)
    return out if weight.order is None else torch.empty_like(out).index_copy_(1, weight.order, out)


def _widen(weight: QuantizedWeight, rows: slice, out: Tensor) -> None:
    if weight.kind == "int4":
        four.widen_int4(weight.data[rows], weight.scales[rows], weight.group, out)
    else:
        eight.widen_bytes(weight.data[rows], weight.scales[rows], out)


def _in_pieces(x: Tensor, weight: QuantizedWeight, bias: Tensor | None, out: Tensor | None) -> Tensor:
    n, k = weight.rows, weight.columns
    out = torch.empty(x.shape[0], n, dtype=x.dtype, device=x.device) if out is None else out
    at_once = min(n, max(256, PIECE // (k * x.element_size()) // 256 * 256))
    piece = torch.empty(at_once, k, dtype=x.dtype, device=x.device)
    for start in range(0, n, at_once):
        end = min(start + at_once, n)
        wide = piece[: end - start]
        _widen(weight, slice(start, end), wide)
        if bias is None:
            torch.mm(x, wide.t(), out=out[:, start:end])
        else:
            torch.addmm(bias[start:end], x, wide.t(), out=out[:, start:end])
    return out


def reference_quantized_linear(x: Tensor, weight: QuantizedWeight, bias: Tensor | None = None) -> Tensor:
    """The same in float64 torch."""
    x = x if weight.order is None else x[:, weight.order]
    if weight.kind == "int4":
        return four.reference_int4_linear(x, weight.data, weight.scales, weight.group, bias)
    return eight.reference_byte_linear(x, weight.data, weight.scales, bias)


def _by_rows(weight: Tensor) -> Iterator[tuple[slice, Tensor]]:
    for start in range(0, weight.shape[0], ROWS_AT_ONCE):
        rows = slice(start, min(start + ROWS_AT_ONCE, weight.shape[0]))
        yield rows, weight[rows].float()


def _scale(span: Tensor, codes: float) -> Tensor:
    """What one code is worth; 1 where there is nothing to scale."""
    return torch.where(span > 0, span / codes, 1.0)


def _nibbles(words: Tensor) -> Tensor:
    """The eight four-bit numbers of each int32, lowest first: `[..., 8]` int32."""
    shifts = torch.arange(0, 32, 4, dtype=torch.int32, device=words.device)
    return words[..., None] >> shifts & 15


def _from_codes(
    codes: Tensor, scales: Tensor, zeros: Tensor, group: int, order: Tensor | None
) -> QuantizedWeight:
    """`codes` are `[n, k]`, `scales` and `zeros` `[groups, n]`."""
    n, k = codes.shape
    if scales.shape != (-(-k // group), n) or zeros.shape != scales.shape:
        raise ValueError(
            f"{list(codes.shape)} codes in groups of {group} need scales and zero points {[-(-k // group), n]}. "
            f"Given: {list(scales.shape)} and {list(zeros.shape)}"
        )
    parameters = four.pack_parameters(scales.t().float(), zeros.t())
    return QuantizedWeight("int4", four.pack(codes), parameters, k, group, order)
