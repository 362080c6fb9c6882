"""Rows of a table by token id, and rows of an activation by index; both are part of every step. Refuses to know texts."""

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit(do_not_specialize=["n_rows"])
def _take(
    table,
    index,
    out,
    n_rows,
    table_stride,
    width: tl.constexpr,
    BLOCK: tl.constexpr,
):
    # In one dimension: the others end at 65,535 programs, and a step may have a million tokens.
    pieces: tl.constexpr = (width + BLOCK - 1) // BLOCK
    row = (tl.program_id(0) // pieces).to(tl.int64)
    cells = tl.program_id(0) % pieces * BLOCK + tl.arange(0, BLOCK)
    is_cell = cells < width
    at = tl.load(index + row).to(tl.int64) + tl.zeros([BLOCK], tl.int64)
    exists = is_cell & (at >= 0) & (at < n_rows)
    values = tl.load(table + at * table_stride + cells, mask=exists, other=0.0)
    tl.store(out + row * width + cells, values, mask=is_cell)


def embed(table: Tensor, token_ids: Tensor, out: Tensor | None = None) -> Tensor:
    """The rows of `table` `[vocab, width]` that `token_ids` (int32 `[tokens]`) name; zeros for ids that do not exist."""
    rows, width = token_ids.shape[0], table.shape[1]
    out = torch.empty(rows, width, dtype=table.dtype, device=table.device) if out is None else out
    block = min(int(triton.next_power_of_2(width)), 2048)
    _take[(triton.cdiv(width, block) * rows,)](
        table, token_ids, out, table.shape[0], table.stride(0), width, block, num_warps=4
    )
    return out


def gather_rows(x: Tensor, index: Tensor, out: Tensor | None = None) -> Tensor:
    """The rows of `x` `[rows, width]` at `index` (int32 `[n]`); zeros where it is -1."""
    return embed(x, index, out)


def reference_embed(table: Tensor, token_ids: Tensor) -> Tensor:
    """The same in torch."""
    exists = (token_ids >= 0) & (token_ids < table.shape[0])
    rows = table[token_ids.long().clamp(0, table.shape[0] - 1)]
    return torch.where(exists[:, None], rows, torch.zeros_like(rows))
