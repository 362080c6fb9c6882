"""Paged attention: prefill and chunked prefill (`_prefill`), and split-KV decode (`_decode`), in one launch each.

A step's entries are ragged: entry e has `q_start[e + 1] - q_start[e]` queries, of which the last sees `context_len[e]`
keys. Entries of one query are the decode kernel's, longer ones the prefill kernel's. `paged_prefill` with `min_q=1` takes
them all: its result for a query depends on nothing but its own request. Both pack the query heads that share
a key-value head into the rows of one tile. Refuses to know models and requests.

Keys and values lie in blocks of 16 positions, `[num_blocks, kv_heads, 16, head_dim]`. With `k_scale` and `v_scale`
(float32 `[num_blocks, kv_heads, 16]`) they are float8 and multiplied by these: the scales go into the scores and into
the weights, so that no tile is converted twice.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from agentlm_kernels.tuning import tuned

BLOCK_SIZE = 16
"""Positions in one block."""
MASKED = tl.constexpr(-1.0e30)
"""Score of a key that is not seen: finite, so that a row of them is no NaN."""
LOG2E = 1.4426950408889634
MAX_SPLITS = 64
"""Most pieces of one decode's keys."""
AT_ONCE = 396
"""Pieces that a large GPU works on at a time: three a multiprocessor of an H200, as registers allow."""


@dataclass(frozen=True, slots=True)
class SplitPolicy:
    """How a decode's keys are cut: equal pieces of at least `min_chunk` keys, but no more than `max_splits`."""

    min_chunk: int
    max_splits: int

    def chunk(self, context: int) -> int:
        """Keys of one piece of so many: a multiple of 64."""
        pieces = min(max(context // self.min_chunk, 1), self.max_splits)
        longest = (context + pieces - 1) // pieces
        return (longest + 63) // 64 * 64

    @staticmethod
    def for_step(entries: int, kv_heads: int) -> "SplitPolicy":
        """Pieces in whole turns of what a large GPU works on at a time: a few more than a turn take as long as two.

        A long request is cut in six at least, so that the others do not wait for it. Where heads are more than a turn
        themselves, only long requests are cut.
        """
        heads = max(entries * kv_heads, 1)
        if heads > AT_ONCE:
            return SplitPolicy(min(4 << (heads.bit_length() - 1), 4096), 8)
        splits = next(found for turns in (1, 2, 4, 8) if (found := turns * AT_ONCE // heads) >= 6)
        return SplitPolicy(max(2 << (heads.bit_length() - 1), 128), min(splits, MAX_SPLITS))


def _power_of_2(n: int) -> int:
    return int(triton.next_power_of_2(max(n, 1)))


@triton.jit
def split_chunk(context, min_chunk, max_splits):
    """Keys of one piece: a multiple of 64 that depends on the request's own length only; pieces are about equal."""
    pieces = tl.minimum(tl.maximum(context // min_chunk, 1), max_splits)
    return tl.maximum(((context + pieces - 1) // pieces + 63) // 64 * 64, 64)


@triton.jit
def _tile_offsets(table, positions, end, kv_head, kv_heads: tl.constexpr, BLOCK: tl.constexpr):
    """Slots-of-a-head index of each position: `(block * kv_heads + kv_head) * 16 + offset`, in 64 bits."""
    block = tl.load(table + positions // BLOCK, mask=positions < end, other=0).to(tl.int64)
    return (block * kv_heads + kv_head) * BLOCK + positions % BLOCK


@triton.jit
def _attend_tile(
    q, m, total, acc, table, k_cache, v_cache, k_scale, v_scale,
    start, end, q_positions, kv_head, scale,
    kv_heads: tl.constexpr, head_dim: tl.constexpr, window: tl.constexpr,
    TILE: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr,
    MASK: tl.constexpr, SCALED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Takes keys `start .. start + TILE` into the running softmax; `end` bounds what may be read."""
    positions = start + tl.arange(0, TILE)
    dims = tl.arange(0, D)
    at = _tile_offsets(table, positions, end, kv_head, kv_heads, BLOCK)
    if head_dim == D and not MASK:
        k = tl.load(k_cache + at[None, :] * head_dim + dims[:, None])
    else:
        readable = (positions < end)[None, :] & (dims < head_dim)[:, None]
        k = tl.load(k_cache + at[None, :] * head_dim + dims[:, None], mask=readable, other=0.0)
    scores = tl.dot(q, k.to(q.dtype), input_precision=PRECISION)
    if SCALED:
        scores *= tl.load(k_scale + at, mask=positions < end, other=0.0)[None, :]
    if MASK:
        distance = q_positions[:, None] - positions[None, :]
        seen = (distance >= 0) & (positions < end)[None, :]
        if window > 0:
            seen = seen & (distance < window)
        scores = tl.where(seen, scores, MASKED)
    # The scale is positive: it is applied to the largest score, and in one operation with the subtraction.
    new_m = tl.maximum(m, tl.max(scores, 1) * scale)
    weights = tl.exp2(scores * scale - new_m[:, None])
    if MASK:
        weights = tl.where(seen, weights, 0.0)
    fade = tl.exp2(m - new_m)
    total = total * fade + tl.sum(weights, 1)
    acc = acc * fade[:, None]
    if SCALED:
        weights *= tl.load(v_scale + at, mask=positions < end, other=0.0)[None, :]
    if head_dim == D and not MASK:
        v = tl.load(v_cache + at[:, None] * head_dim + dims[None, :])
    else:
        readable = (positions < end)[:, None] & (dims < head_dim)[None, :]
        v = tl.load(v_cache + at[:, None] * head_dim + dims[None, :], mask=readable, other=0.0)
    if SCALED and q.dtype == tl.float16:
        # A weight times the scale of its value may be smaller than what a half holds.
        acc = tl.dot(weights.to(tl.bfloat16), v.to(tl.bfloat16), acc, input_precision=PRECISION)
    else:
        acc = tl.dot(weights.to(q.dtype), v.to(q.dtype), acc, input_precision=PRECISION)
    return new_m, total, acc


@triton.jit(do_not_specialize=["n_entries", "search"])
def _prefill(
    q, out, k_cache, v_cache, k_scale, v_scale,
    q_start, context_len, entry_row, block_tables,
    n_entries, search, q_stride, out_stride, table_stride, scale,
    heads: tl.constexpr, kv_heads: tl.constexpr, head_dim: tl.constexpr, window: tl.constexpr,
    GROUP: tl.constexpr, BLOCK_M: tl.constexpr, TILE: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr,
    MIN_Q: tl.constexpr, STAGES: tl.constexpr,
    SCALED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One program: `BLOCK_M / GROUP` consecutive queries of one entry, the query heads of one key-value head."""
    block_q: tl.constexpr = BLOCK_M // GROUP
    # In one dimension: the others end at 65,535 programs.
    kv_head = tl.program_id(0) % kv_heads
    # The last blocks of a request see the most keys: they start first.
    block = tl.num_programs(0) // kv_heads - 1 - tl.program_id(0) // kv_heads
    # Entry e starts at block `q_start[e] // block_q + e`, which leaves it enough blocks without anyone counting them.
    low = 0
    high = n_entries
    for _ in range(search):
        middle = (low + high) // 2
        starts = tl.load(q_start + middle, mask=middle < n_entries, other=0) // block_q + middle
        is_right = (middle < n_entries) & (starts <= block) & (low < high)
        high = tl.where((low < high) & (starts > block), middle, high)
        low = tl.where(is_right, middle + 1, low)
    entry = low - 1
    if entry < 0:
        return
    first = tl.load(q_start + entry)
    q_len = tl.load(q_start + entry + 1) - first
    local = (block - first // block_q - entry) * block_q
    if (local >= q_len) | (q_len < MIN_Q):
        return
    context = tl.load(context_len + entry)
    table = block_tables + tl.load(entry_row + entry).to(tl.int64) * table_stride

    rows = tl.arange(0, BLOCK_M)
    dims = tl.arange(0, D)
    token = local + rows // GROUP
    head = kv_head * (heads // kv_heads) + rows % GROUP
    is_row = (token < q_len) & (rows % GROUP < heads // kv_heads)
    is_cell = is_row[:, None] & (dims < head_dim)[None, :]
    at = (first + token).to(tl.int64)
    q_tile = tl.load(q + (at * q_stride + head * head_dim)[:, None] + dims[None, :], mask=is_cell, other=0.0)
    q_positions = context - q_len + token
    first_position = context - q_len + local
    end = tl.minimum(context, first_position + block_q)

    m = tl.full([BLOCK_M], MASKED, tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, D], tl.float32)
    start = 0
    whole = (first_position + 1) // TILE * TILE
    if window > 0:
        start = tl.maximum(first_position - window + 1, 0) // TILE * TILE
        whole = start
    for tile in tl.range(start, whole, TILE, num_stages=STAGES):
        m, total, acc = _attend_tile(
            q_tile, m, total, acc, table, k_cache, v_cache, k_scale, v_scale,
            tile, end, q_positions, kv_head, scale,
            kv_heads, head_dim, window, TILE, D, BLOCK, False, SCALED, PRECISION,
        )  # fmt: skip
    for tile in tl.range(whole, end, TILE, num_stages=1):
        m, total, acc = _attend_tile(
            q_tile, m, total, acc, table, k_cache, v_cache, k_scale, v_scale,
            tile, end, q_positions, kv_head, scale,
            kv_heads, head_dim, window, TILE, D, BLOCK, True, SCALED, PRECISION,
        )  # fmt: skip
    acc = acc / tl.where(total > 0, total, 1.0)[:, None]
    tl.store(
        out + (at * out_stride + head * head_dim)[:, None] + dims[None, :],
        acc.to(out.dtype.element_ty),
        mask=is_cell,
    )


@triton.jit
def _merge(
    out, parts, stats, n_splits,
    heads: tl.constexpr, head_dim: tl.constexpr, GROUP: tl.constexpr, D: tl.constexpr, SPLITS: tl.constexpr,
    PARALLEL: tl.constexpr,
):  # fmt: skip
    """Adds the pieces of one entry and key-value head, in the order of the keys; `PARALLEL` of them are read at a time.

    What other multiprocessors wrote is read past the first-level cache, which does not hear of it.
    """
    rows = tl.arange(0, GROUP)
    dims = tl.arange(0, D)
    splits = tl.arange(0, SPLITS)
    cells = splits[:, None] * GROUP + rows[None, :]
    is_split = (splits < n_splits)[:, None]
    all_m = tl.load(stats + cells * 2, mask=is_split, other=MASKED, cache_modifier=".cg")
    all_total = tl.load(stats + cells * 2 + 1, mask=is_split, other=0.0, cache_modifier=".cg")
    largest = tl.max(all_m, 0)
    sums = tl.sum(all_total * tl.exp2(all_m - largest[None, :]), 0)
    acc = tl.zeros([GROUP, D], tl.float32)
    some = tl.arange(0, PARALLEL)
    for start in range(0, n_splits, PARALLEL):
        at = (start + some)[:, None] * GROUP + rows[None, :]
        exists = (start + some < n_splits)[:, None]
        m = tl.load(stats + at * 2, mask=exists, other=MASKED, cache_modifier=".cg")
        part = tl.load(
            parts + at[:, :, None] * head_dim + dims[None, None, :],
            mask=exists[:, :, None] & (dims < head_dim)[None, None, :],
            other=0.0,
            cache_modifier=".cg",
        )
        acc += tl.sum(part * tl.exp2(m - largest[None, :])[:, :, None], 0)
    result = acc / tl.where(sums > 0, sums, 1.0)[:, None]
    tl.store(
        out + rows[:, None] * head_dim + dims[None, :],
        result.to(out.dtype.element_ty),
        mask=(rows < heads)[:, None] & (dims < head_dim)[None, :],
    )


@triton.jit(do_not_specialize=["min_chunk", "max_splits"])
def _decode(
    q, out, k_cache, v_cache, k_scale, v_scale,
    q_start, context_len, entry_row, block_tables, work, n_work,
    partial_out, partial_stats, arrivals,
    q_stride, out_stride, table_stride, scale, min_chunk, max_splits,
    heads: tl.constexpr, kv_heads: tl.constexpr, head_dim: tl.constexpr, window: tl.constexpr,
    GROUP: tl.constexpr, BLOCK_M: tl.constexpr, TILE: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr,
    STAGES: tl.constexpr, SPLITS: tl.constexpr, PARALLEL: tl.constexpr,
    SCALED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Programs walk the step's pieces; the one that ends an entry's last piece merges them, in the order of the keys."""
    n_items = tl.load(n_work) * kv_heads
    rows = tl.arange(0, BLOCK_M)
    dims = tl.arange(0, D)
    is_row = rows < heads // kv_heads
    is_cell = is_row[:, None] & (dims < head_dim)[None, :]
    for item in range(tl.program_id(0), n_items, tl.num_programs(0)):
        piece = tl.load(work + item // kv_heads)
        kv_head = item % kv_heads
        entry = piece // max_splits
        split = piece % max_splits
        context = tl.load(context_len + entry)
        token = tl.load(q_start + entry).to(tl.int64)
        table = block_tables + tl.load(entry_row + entry).to(tl.int64) * table_stride
        chunk = split_chunk(context, min_chunk, max_splits)
        n_splits = (context + chunk - 1) // chunk
        head = kv_head * (heads // kv_heads) + rows
        q_tile = tl.load(
            q + (token * q_stride + head * head_dim)[:, None] + dims[None, :], mask=is_cell, other=0.0
        )
        q_positions = context - 1 + tl.zeros([BLOCK_M], tl.int32)
        start = split * chunk
        end = tl.minimum(start + chunk, context)
        if window > 0:
            start = tl.maximum(start, tl.maximum(context - window, 0) // TILE * TILE)
        m = tl.full([BLOCK_M], MASKED, tl.float32)
        total = tl.zeros([BLOCK_M], tl.float32)
        acc = tl.zeros([BLOCK_M, D], tl.float32)
        for tile in tl.range(start, end, TILE, num_stages=STAGES):
            m, total, acc = _attend_tile(
                q_tile, m, total, acc, table, k_cache, v_cache, k_scale, v_scale,
                tile, end, q_positions, kv_head, scale,
                kv_heads, head_dim, window, TILE, D, BLOCK, True, SCALED, PRECISION,
            )  # fmt: skip
        if n_splits == 1:
            result = acc / tl.where(total > 0, total, 1.0)[:, None]
            tl.store(
                out + (token * out_stride + head * head_dim)[:, None] + dims[None, :],
                result.to(out.dtype.element_ty),
                mask=is_cell,
            )
        else:
            group = (entry * kv_heads + kv_head).to(tl.int64)
            at = (group * max_splits + split) * GROUP + rows
            is_kept = rows < GROUP
            tl.store(partial_stats + at * 2, m, mask=is_kept)
            tl.store(partial_stats + at * 2 + 1, total, mask=is_kept)
            tl.store(
                partial_out + at[:, None] * head_dim + dims[None, :],
                acc,
                mask=is_kept[:, None] & (dims < head_dim)[None, :],
            )
            # All threads' parts must lie in memory before this piece is counted.
            tl.debug_barrier()
            arrived = tl.atomic_add(arrivals + group, 1, sem="acq_rel", scope="gpu")
            if arrived == n_splits - 1:
                _merge(
                    out + token * out_stride + kv_head * (heads // kv_heads) * head_dim,
                    partial_out + group * max_splits * GROUP * head_dim,
                    partial_stats + group * max_splits * GROUP * 2,
                    n_splits, heads // kv_heads, head_dim, GROUP, D, SPLITS, PARALLEL,
                )  # fmt: skip
                tl.store(arrivals + group, 0)


@dataclass(frozen=True, slots=True)
class DecodeWorkspace:
    """Memory of the decode kernel between its pieces; `arrivals` is all zero between launches."""

    partial_out: Tensor
    """float32 `[max entries * splits, heads, head_dim]` or more."""
    partial_stats: Tensor
    """float32: largest score and sum of each row of `partial_out`."""
    arrivals: Tensor
    """int32 `[max entries * kv_heads]`."""

    @classmethod
    def allocate(
        cls, max_entries: int, heads: int, kv_heads: int, head_dim: int, device: torch.device | str
    ) -> "DecodeWorkspace":
        """Memory for steps of up to `max_entries` decodes."""
        group = _power_of_2(heads // kv_heads)
        most = max(n * SplitPolicy.for_step(n, kv_heads).max_splits for n in range(1, max_entries + 1))
        rows = most * kv_heads * group
        return cls(
            torch.empty(rows, head_dim, dtype=torch.float32, device=device),
            torch.empty(rows, 2, dtype=torch.float32, device=device),
            torch.zeros(max_entries * kv_heads, dtype=torch.int32, device=device),
        )


@dataclass(frozen=True, slots=True)
class AttentionStep:
    """What both kernels need to know of a step; all int32, on the device."""

    q_start: Tensor
    """`[entries + 1]`: prefix sum of the queries."""
    context_len: Tensor
    """`[entries]`: keys that an entry's last query sees; 0 for padding."""
    entry_row: Tensor
    """`[entries]`: the entry's row in `block_tables`."""
    block_tables: Tensor
    """`[rows, blocks]`."""
    work: Tensor
    """`[entries * max_splits]`: the decode pieces, `entry * max_splits + split`."""
    n_work: Tensor
    """`[1]`: how many there are."""


def paged_decode(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, step: AttentionStep, policy: SplitPolicy,
    workspace: DecodeWorkspace, *, heads: int, scale: float, window: int | None = None,
    k_scale: Tensor | None = None, v_scale: Tensor | None = None, out: Tensor,
) -> Tensor:  # fmt: skip
    """Attention of every entry of one query, from the pieces in `step.work`.

    `q` is `[tokens, ≥ heads * head_dim]` (a row may go on: qkv as it lies), `out` `[tokens, heads * head_dim]`; tokens
    of other entries are left as they are. `policy` is the one `step.work` was cut by.
    """
    _, kv_heads, block, head_dim = k_cache.shape
    group = _power_of_2(heads // kv_heads)
    tile, warps, stages, per_sm = _decode_config(head_dim, group, q.dtype, k_cache.dtype)
    entries = step.context_len.shape[0]
    # Elements of parts that are added at a time, as registers allow.
    added = 4096 if head_dim <= 128 else 2048
    programs = min(_multiprocessors(q.device) * per_sm, entries * kv_heads * policy.max_splits)
    _decode[(programs,)](
        q, out, k_cache, v_cache, k_scale, v_scale,
        step.q_start, step.context_len, step.entry_row, step.block_tables, step.work, step.n_work,
        workspace.partial_out, workspace.partial_stats, workspace.arrivals,
        q.stride(0), out.stride(0), step.block_tables.stride(0), scale * LOG2E,
        policy.min_chunk, policy.max_splits,
        heads, kv_heads, head_dim, window or 0,
        GROUP=group, BLOCK_M=max(group, 16), TILE=tile, D=max(_power_of_2(head_dim), 16), BLOCK=block,
        STAGES=stages, SPLITS=MAX_SPLITS, PARALLEL=max(added // (group * max(_power_of_2(head_dim), 16)), 2),
        SCALED=k_scale is not None, PRECISION=_precision(q.dtype),
        num_warps=warps, num_stages=stages, enable_fp_fusion=True,
    )  # fmt: skip
    return out


def paged_prefill(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, step: AttentionStep, *, heads: int, scale: float,
    window: int | None = None, k_scale: Tensor | None = None, v_scale: Tensor | None = None,
    out: Tensor, min_q: int = 2,
) -> Tensor:  # fmt: skip
    """Causal attention of every entry of at least `min_q` queries. Shapes as for `paged_decode`."""
    _, kv_heads, block, head_dim = k_cache.shape
    group = _power_of_2(heads // kv_heads)
    block_m, tile, warps, stages = _prefill_config(head_dim, group, q.dtype, k_scale is not None)
    entries = step.context_len.shape[0]
    blocks = q.shape[0] // (block_m // group) + entries
    _prefill[(kv_heads * blocks,)](
        q, out, k_cache, v_cache, k_scale, v_scale,
        step.q_start, step.context_len, step.entry_row, step.block_tables,
        entries, entries.bit_length() + 1, q.stride(0), out.stride(0), step.block_tables.stride(0), scale * LOG2E,
        heads, kv_heads, head_dim, window or 0,
        GROUP=group, BLOCK_M=block_m, TILE=tile, D=max(_power_of_2(head_dim), 16), BLOCK=block,
        MIN_Q=min_q, STAGES=stages,
        SCALED=k_scale is not None, PRECISION=_precision(q.dtype),
        num_warps=warps, num_stages=stages, enable_fp_fusion=True,
    )  # fmt: skip
    return out


def _precision(dtype: torch.dtype) -> str:
    return "ieee" if dtype == torch.float32 else "tf32"


def _decode_config(
    head_dim: int, group: int, dtype: torch.dtype, kv_dtype: torch.dtype
) -> tuple[int, int, int, int]:
    """Keys a tile, warps, stages and programs a multiprocessor."""
    if found := tuned("paged_decode", f"{head_dim}/{group}/{kv_dtype.itemsize}"):
        return found["tile"], found["warps"], found["stages"], found["per_sm"]
    if dtype == torch.float32 or head_dim > 128:
        return 32, 4, 2, 2
    return (32, 4, 5, 4) if group == 1 else (64, 4, 2, 8)


def _prefill_config(head_dim: int, group: int, dtype: torch.dtype, scaled: bool) -> tuple[int, int, int, int]:
    """Rows, keys a tile, warps and stages."""
    if found := tuned("paged_prefill", f"{head_dim}/{group}{'/fp8' if scaled else ''}"):
        return found["rows"], found["tile"], found["warps"], found["stages"]
    if dtype == torch.float32:
        # Four warps would keep most of it outside of the registers.
        return max(group, 32), 32, 8, 2
    if head_dim > 128:
        return max(group, 32), 32, 4, 2
    return max(group, 128), 64 if scaled else 128, 8, 3


_MULTIPROCESSORS: dict[int, int] = {}


def _multiprocessors(device: torch.device) -> int:
    if device.type != "cuda":
        # The interpreter runs programs one after the other, and compilation needs no number.
        return 2
    index = device.index or 0
    if index not in _MULTIPROCESSORS:
        _MULTIPROCESSORS[index] = torch.cuda.get_device_properties(index).multi_processor_count
    return _MULTIPROCESSORS[index]


def decode_work(q_start: Tensor, context_len: Tensor, policy: SplitPolicy) -> tuple[Tensor, Tensor]:
    """`AttentionStep.work` and `n_work` in torch, as the arena's expansion makes them; waits for the device."""
    pieces: list[int] = []
    lengths = (q_start[1:] - q_start[:-1]).tolist()
    for entry, (q_len, context) in enumerate(zip(lengths, context_len.tolist(), strict=True)):
        if q_len == 1 and context > 0:
            chunk = policy.chunk(context)
            pieces += [entry * policy.max_splits + split for split in range(-(-context // chunk))]
    work = torch.zeros(max(len(lengths), 1) * policy.max_splits, dtype=torch.int32)
    work[: len(pieces)] = torch.tensor(pieces, dtype=torch.int32)
    n_work = torch.tensor([len(pieces)], dtype=torch.int32)
    return work.to(q_start.device), n_work.to(q_start.device)


def reference_attention(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, step: AttentionStep, *, heads: int, scale: float,
    window: int | None = None, k_scale: Tensor | None = None, v_scale: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """What both kernels compute together, in float32 torch: `[tokens, heads, head_dim]`."""
    _, kv_heads, block, head_dim = k_cache.shape
    out = torch.zeros(q.shape[0], heads, head_dim, dtype=torch.float32, device=q.device)
    starts = step.q_start.tolist()
    for entry, context in enumerate(step.context_len.tolist()):
        first, last = starts[entry], starts[entry + 1]
        if context == 0 or first == last:
            continue
        cells = step.block_tables[int(step.entry_row[entry])][: -(-context // block)].long()
        keys, values = (
            cache[cells].float() * (1.0 if by is None else by[cells][..., None])
            for cache, by in ((k_cache, k_scale), (v_cache, v_scale))
        )
        keys, values = (x.transpose(0, 1).flatten(1, 2)[:, :context] for x in (keys, values))
        group = heads // kv_heads
        keys, values = (x.repeat_interleave(group, dim=0) for x in (keys, values))
        queries = q[first:last, : heads * head_dim].float().view(-1, heads, head_dim).transpose(0, 1)
        positions = torch.arange(context - (last - first), context, device=q.device)
        distance = positions[:, None] - torch.arange(context, device=q.device)
        seen = (distance >= 0) & (distance < (window or 2**31))
        scores = (queries @ keys.transpose(1, 2) * scale).masked_fill(~seen, float("-inf"))
        out[first:last] = (scores.softmax(-1) @ values).transpose(0, 1)
    return out
