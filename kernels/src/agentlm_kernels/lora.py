"""`y += scale * (x Aᵀ) Bᵀ` with an adapter (LoRA) of its own for each token. Refuses to know requests and files.

Tokens are taken 16 at a time, and the adapters that are among them one after the other, so that a long prompt reads its
adapter once for 16 tokens and a mixed batch is right. A token's result does not depend on the others. Blocks without
any adapter end at once. Two launches: the first leaves `x Aᵀ` in pieces along x's columns, so that there is work for
many programs when tokens are few, and the second adds the pieces in their order.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

TOKENS = 16
"""Tokens of a program."""
PIECE = 512
"""Columns of x of a program."""


@triton.jit
def _after(numbers, last):
    """The smallest adapter number of these that is larger than `last`; 2³¹ - 1 if there is none."""
    return tl.min(tl.where(numbers > last, numbers, 2147483647))


@triton.jit(do_not_specialize=["count"])
def _shrink(
    x, token_adapter, a, pieces, count, x_stride,
    rank: tl.constexpr, width: tl.constexpr, SIZE: tl.constexpr,
    RANK: tl.constexpr, COLUMNS: tl.constexpr, BLOCK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    tokens = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    numbers = tl.load(token_adapter + tokens, mask=tokens < count, other=0)
    current = _after(numbers, 0)
    if current == 2147483647:
        return
    piece = tl.program_id(1)
    ranks = tl.arange(0, RANK)
    from_x = tokens.to(tl.int64)[:, None] * x_stride
    total = tl.zeros([BLOCK, RANK], tl.float32)
    while current < 2147483647:
        matrix = a + (current - 1).to(tl.int64) * rank * width
        acc = tl.zeros([BLOCK, RANK], tl.float32)
        for start in range(0, SIZE, COLUMNS):
            k = piece * SIZE + start + tl.arange(0, COLUMNS)
            inside = (numbers == current)[:, None] & (k < width)[None, :]
            values = tl.load(x + from_x + k[None, :], mask=inside, other=0.0)
            inside = (ranks < rank)[None, :] & (k < width)[:, None]
            factor = tl.load(matrix + ranks[None, :] * width + k[:, None], mask=inside, other=0.0)
            acc = tl.dot(values, factor, acc, input_precision=PRECISION)
        total = tl.where((numbers == current)[:, None], acc, total)
        current = _after(numbers, current)
    at = pieces + (piece.to(tl.int64) * count + tokens[:, None]) * RANK + ranks[None, :]
    tl.store(at, total, mask=(numbers > 0)[:, None])


@triton.jit(do_not_specialize=["count"])
def _expand(
    pieces, token_adapter, b, scale, y, count, y_stride,
    rank: tl.constexpr, n_out: tl.constexpr, PIECES: tl.constexpr,
    RANK: tl.constexpr, OUT: tl.constexpr, BLOCK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    tokens = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    numbers = tl.load(token_adapter + tokens, mask=tokens < count, other=0)
    current = _after(numbers, 0)
    if current == 2147483647:
        return
    ranks = tl.arange(0, RANK)
    outs = tl.program_id(1) * OUT + tl.arange(0, OUT)
    has_adapter = numbers > 0
    narrow = tl.zeros([BLOCK, RANK], tl.float32)
    for piece in range(PIECES):
        at = pieces + (piece * count + tokens[:, None]).to(tl.int64) * RANK + ranks[None, :]
        narrow += tl.load(at, mask=has_adapter[:, None], other=0.0)
    factors = tl.load(scale + numbers - 1, mask=has_adapter, other=0.0)
    total = tl.zeros([BLOCK, OUT], tl.float32)
    while current < 2147483647:
        matrix = b + (current - 1).to(tl.int64) * n_out * rank
        inside = (ranks < rank)[:, None] & (outs < n_out)[None, :]
        factor = tl.load(matrix + outs[None, :] * rank + ranks[:, None], mask=inside, other=0.0)
        acc = tl.dot(narrow.to(factor.dtype), factor, input_precision=PRECISION)
        total = tl.where((numbers == current)[:, None], acc, total)
        current = _after(numbers, current)
    at = y + tokens.to(tl.int64)[:, None] * y_stride + outs[None, :]
    inside = has_adapter[:, None] & (outs < n_out)[None, :]
    before = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    tl.store(at, (before + factors[:, None] * total).to(y.dtype.element_ty), mask=inside)


def lora(
    x: Tensor, token_adapter: Tensor, a: Tensor, b: Tensor, scale: Tensor, y: Tensor, offset: int = 0,
    scratch: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Adds each token's adapter to `y[:, offset : offset + n]`, in place; gives y.

    `x` is `[t, k]` and `y` `[t, ...]`, with rows of any stride; `token_adapter` `[t]` int32, from 1, 0 for none;
    adapter i is `a[i - 1]`, `b[i - 1]`, `scale[i - 1]`: `a` `[adapters, rank, k]`, `b` `[adapters, n, rank]`
    contiguous, in x's type, `scale` `[adapters]` float32; no token may name one that is not there. Adapters of lower
    ranks are filled up with zeros. Rows of x without an adapter are not read. `scratch` is float32 of `scratch_shape`;
    without it, it is allocated.
    """
    count, width = x.shape
    adapters, rank, _ = a.shape
    n_out = b.shape[1]
    if a.shape != (adapters, rank, width) or b.shape != (adapters, n_out, rank) or scale.shape != (adapters,):
        raise ValueError(
            f"a {list(a.shape)}, b {list(b.shape)} and scale {list(scale.shape)} "
            f"do not fit each other and x {list(x.shape)}"
        )
    if offset + n_out > y.shape[1]:
        raise ValueError(f"y has {y.shape[1]} columns: {n_out} from {offset} on are too many")
    shape = scratch_shape(count, rank, width)
    pieces = torch.empty(shape, dtype=torch.float32, device=x.device) if scratch is None else scratch
    if count == 0:
        return y
    part = y[:, offset : offset + n_out]
    blocks = triton.cdiv(count, TOKENS)
    precision = "ieee" if x.dtype == torch.float32 else "tf32"
    columns = min(128, max(16, int(triton.next_power_of_2(width))))
    _shrink[(blocks, shape[0])](
        x, token_adapter, a, pieces, count, x.stride(0), rank, width, PIECE,
        RANK=shape[2], COLUMNS=columns, BLOCK=TOKENS, PRECISION=precision, num_warps=4, num_stages=4,
    )  # fmt: skip
    out = min(128 if shape[2] <= 64 else 64, max(16, int(triton.next_power_of_2(n_out))))
    _expand[(blocks, triton.cdiv(n_out, out))](
        pieces, token_adapter, b, scale, part, count, y.stride(0), rank, n_out, shape[0],
        RANK=shape[2], OUT=out, BLOCK=TOKENS, PRECISION=precision, num_warps=4, num_stages=2,
    )  # fmt: skip
    return y


def scratch_shape(count: int, rank: int, width: int) -> tuple[int, int, int]:
    """Pieces, tokens, and the rank as tensor cores want it."""
    return triton.cdiv(width, PIECE), count, max(16, int(triton.next_power_of_2(rank)))


def reference_lora(
    x: Tensor, token_adapter: Tensor, a: Tensor, b: Tensor, scale: Tensor, y: Tensor, offset: int = 0
) -> Tensor:
    """The same in float64 torch; gives the new y instead of changing it."""
    result = y.double().clone()
    for token, number in enumerate(token_adapter.tolist()):
        if number:
            narrow = a[number - 1].double() @ x[token].double()
            result[token, offset : offset + b.shape[1]] += scale[number - 1].double() * (
                b[number - 1].double() @ narrow
            )
    return result
