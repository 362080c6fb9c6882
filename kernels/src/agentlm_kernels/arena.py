"""The arena on the device: what a step's plan changes, and its expansion into ids, positions, slots and lengths.

A plan is one slot of 32-bit words, as `engine/core/src/arena.rs` lays it out (`words`). Rows are a request's fixed place in
device memory. `apply_changes` takes in what is new (rows that begin, block-table cells), `expand` says what to compute.
Both read every count from the slot itself, so that a captured launch serves any plan. Refuses to know models and
sampling.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from agentlm_kernels.attention import MAX_SPLITS, AttentionStep, SplitPolicy, split_chunk
from agentlm_kernels.words import (
    ADAPTER,
    BIAS_START,
    COMPUTED,
    DIFF_WORDS,
    ENTRY_WORDS,
    N_BIAS,
    N_BLOCK_DIFFS,
    N_ENTRIES,
    N_INITS,
    N_KNOWN,
    N_SAMPLES,
    N_SCORES,
    N_SCORES_IN_ALL,
    N_TOKENS,
    OFF_BLOCK_DIFFS,
    OFF_ENTRIES,
    OFF_INITS,
    OFF_TOKENS,
    Q_LEN,
    Q_START,
    RECORD_WORDS,
    ROW,
    SAMPLE_INDEX,
    SAMPLE_POSITION,
    SCORE_INDEX,
    TOKENS_START,
)

BLOCK_SIZE = tl.constexpr(16)

MAX_BIASES = 1024
"""Biases of logits that a row can have."""


@dataclass(frozen=True, slots=True)
class Rows:
    """The device state of requests, int32. The last row is nobody's: padding points at it."""

    tokens: Tensor
    """`[rows, max_model_len]`: known token ids."""
    block_tables: Tensor
    """`[rows, blocks]`."""
    records: Tensor
    """`[rows, RECORD_WORDS]`."""
    biases: Tensor
    """`[rows, 2 * MAX_BIASES]`: ids and float32 bits."""

    @classmethod
    def allocate(cls, max_rows: int, max_model_len: int, device: torch.device | str) -> "Rows":
        """Rows for `max_rows` requests and nobody."""
        rows, blocks = max_rows + 1, -(-max_model_len // BLOCK_SIZE.value)

        def ints(width: int) -> Tensor:
            return torch.zeros(rows, width, dtype=torch.int32, device=device)

        return cls(ints(max_model_len), ints(blocks), ints(RECORD_WORDS.value), ints(2 * MAX_BIASES))


@dataclass(frozen=True, slots=True)
class Expansion:
    """What a step computes, int32, at fixed addresses; its first entries and tokens are the step's, the rest is padding."""

    token_ids: Tensor
    """`[tokens]`."""
    positions: Tensor
    """`[tokens]`."""
    slots: Tensor
    """`[tokens]`: `block * 16 + offset`; -1 is padding."""
    token_adapter: Tensor
    """`[tokens]`: the number of the token's adapter; 0 is none."""
    q_start: Tensor
    """`[entries + 1]`."""
    context_len: Tensor
    """`[entries]`; 0 is padding."""
    entry_row: Tensor
    """`[entries]`."""
    work: Tensor
    """`[entries * splits]`: see `AttentionStep`."""
    n_work: Tensor
    """`[1]`."""
    logits_token: Tensor
    """`[entries + scores]`: whose logits are wanted: the samples', then the scores'."""
    sample_row: Tensor
    """`[entries]`; -1 is padding."""
    sample_position: Tensor
    """`[entries]`: where the sampled id goes in its row."""
    score_row: Tensor
    """`[scores]`."""
    score_next: Tensor
    """`[scores]`: the token whose log-probability is wanted."""

    @classmethod
    def allocate(
        cls, max_entries: int, max_tokens: int, max_scores: int, device: torch.device | str
    ) -> "Expansion":
        """Memory for steps of these sizes."""

        def ints(n: int) -> Tensor:
            return torch.zeros(n, dtype=torch.int32, device=device)

        return cls(
            token_ids=ints(max_tokens),
            positions=ints(max_tokens),
            slots=ints(max_tokens),
            token_adapter=ints(max_tokens),
            q_start=ints(max_entries + 1),
            context_len=ints(max_entries),
            entry_row=ints(max_entries),
            work=ints(max_entries * MAX_SPLITS),
            n_work=ints(1),
            logits_token=ints(max_entries + max_scores),
            sample_row=ints(max_entries),
            sample_position=ints(max_entries),
            score_row=ints(max_scores),
            score_next=ints(max_scores),
        )

    def attention(self, entries: int, block_tables: Tensor) -> AttentionStep:
        """The first `entries` of the step, as attention wants them."""
        return AttentionStep(
            self.q_start[: entries + 1],
            self.context_len[:entries],
            self.entry_row[:entries],
            block_tables,
            self.work,
            self.n_work,
        )


@triton.jit
def _copy(source, target, n, TILE: tl.constexpr):
    cells = tl.arange(0, TILE)
    for start in range(0, n, TILE):
        is_cell = start + cells < n
        tl.store(target + start + cells, tl.load(source + start + cells, mask=is_cell), mask=is_cell)


@triton.jit
def _apply(
    arena, tokens, block_tables, records, biases,
    tokens_stride: tl.constexpr, tables_stride: tl.constexpr, biases_stride: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Program 0 walks the block diffs, which are ragged; each other one takes the inits of its turn."""
    slab = arena + tl.load(arena + OFF_TOKENS)
    if tl.program_id(0) == 0:
        diff = arena + tl.load(arena + OFF_BLOCK_DIFFS)
        n_diffs = tl.load(arena + N_BLOCK_DIFFS)
        for _ in range(n_diffs):
            row = tl.load(diff).to(tl.int64)
            start = tl.load(diff + 1)
            n = tl.load(diff + 2)
            _copy(diff + DIFF_WORDS, block_tables + row * tables_stride + start, n, TILE)
            diff += DIFF_WORDS + n
    else:
        inits = arena + tl.load(arena + OFF_INITS)
        n_inits = tl.load(arena + N_INITS)
        for index in range(tl.program_id(0) - 1, n_inits, tl.num_programs(0) - 1):
            init = inits + index * RECORD_WORDS
            row = tl.load(init).to(tl.int64)
            _copy(init, records + row * RECORD_WORDS, RECORD_WORDS, 32)
            _copy(
                slab + tl.load(init + TOKENS_START),
                tokens + row * tokens_stride,
                tl.load(init + N_KNOWN),
                TILE,
            )
            _copy(
                slab + tl.load(init + BIAS_START),
                biases + row * biases_stride,
                2 * tl.load(init + N_BIAS),
                TILE,
            )


def apply_changes(arena: Tensor, rows: Rows, n_inits: int) -> None:
    """Takes the inits and block diffs of the plan in `arena` (int32) into `rows`; `n_inits` only sizes the launch."""
    _apply[(1 + min(max(n_inits, 1), 64),)](
        arena, rows.tokens, rows.block_tables, rows.records, rows.biases,
        rows.tokens.stride(0), rows.block_tables.stride(0), rows.biases.stride(0), TILE=1024,
    )  # fmt: skip


@triton.jit(do_not_specialize=["min_chunk", "max_splits", "nobody"])
def _expand(
    arena, tokens, block_tables, records,
    token_ids, positions, slots, token_adapter, q_start, context_len, entry_row, work, n_work,
    logits_token, sample_row, sample_position, score_row, score_next,
    min_chunk, max_splits, nobody,
    tokens_stride: tl.constexpr, tables_stride: tl.constexpr,
    ENTRIES: tl.constexpr, SPLITS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """One program an entry; those beyond the plan's make padding of one token each."""
    index = tl.program_id(0)
    n_entries = tl.load(arena + N_ENTRIES)
    n_samples = tl.load(arena + N_SAMPLES)
    entries = arena + tl.load(arena + OFF_ENTRIES)
    if index >= n_entries:
        at = tl.load(arena + N_TOKENS) + index - n_entries
        tl.store(token_ids + at, 0)
        tl.store(positions + at, 0)
        tl.store(slots + at, -1)
        tl.store(token_adapter + at, 0)
        tl.store(q_start + index, at)
        tl.store(q_start + index + 1, at + 1)
        tl.store(context_len + index, 0)
        tl.store(entry_row + index, nobody)
        sample = n_samples + index - n_entries
        tl.store(sample_row + sample, -1)
        tl.store(sample_position + sample, 0)
        tl.store(logits_token + sample, at)
        if (index == 0) & (n_entries == 0):
            tl.store(n_work, 0)
    else:
        # Every program counts all pieces of decodes, so that each knows where its own begin.
        others = tl.arange(0, ENTRIES)
        is_other = others < n_entries
        q_lens = tl.load(entries + others * ENTRY_WORDS + Q_LEN, mask=is_other, other=0)
        contexts = tl.load(entries + others * ENTRY_WORDS + COMPUTED, mask=is_other, other=0) + q_lens
        chunks = split_chunk(contexts, min_chunk, max_splits)
        pieces = tl.where(q_lens == 1, (contexts + chunks - 1) // chunks, 0)
        first_piece = tl.sum(tl.where(others < index, pieces, 0))
        own = tl.sum(tl.where(others == index, pieces, 0))
        splits = tl.arange(0, SPLITS)
        tl.store(work + first_piece + splits, index * max_splits + splits, mask=splits < own)
        if index == 0:
            tl.store(n_work, tl.sum(pieces))
            if n_samples + tl.load(arena + N_SCORES_IN_ALL) == 0:
                # A launch has one row of logits at least.
                tl.store(logits_token, 0)

        entry = entries + index * ENTRY_WORDS
        row = tl.load(entry + ROW)
        start = tl.load(entry + Q_START)
        n = tl.load(entry + Q_LEN)
        computed = tl.load(entry + COMPUTED)
        tl.store(q_start + index, start)
        tl.store(q_start + index + 1, start + n)
        tl.store(context_len + index, computed + n)
        tl.store(entry_row + index, row)
        sample = tl.load(entry + SAMPLE_INDEX)
        if sample >= 0:
            tl.store(sample_row + sample, row)
            tl.store(sample_position + sample, tl.load(entry + SAMPLE_POSITION))
            tl.store(logits_token + sample, start + n - 1)
        own_tokens = tokens + row.to(tl.int64) * tokens_stride
        table = block_tables + row.to(tl.int64) * tables_stride
        adapter = tl.load(records + row.to(tl.int64) * RECORD_WORDS + ADAPTER)
        cells = tl.arange(0, TILE)
        for tile in range(0, n, TILE):
            at = tile + cells
            position = computed + at
            is_token = at < n
            block = tl.load(table + position // BLOCK_SIZE, mask=is_token, other=0)
            tl.store(
                token_ids + start + at, tl.load(own_tokens + position, mask=is_token, other=0), mask=is_token
            )
            tl.store(positions + start + at, position, mask=is_token)
            tl.store(slots + start + at, block * BLOCK_SIZE + position % BLOCK_SIZE, mask=is_token)
            tl.store(token_adapter + start + at, adapter + 0 * at, mask=is_token)
        n_scores = tl.load(entry + N_SCORES)
        score = tl.load(entry + SCORE_INDEX)
        for tile in range(0, n_scores, TILE):
            at = tile + cells
            is_score = at < n_scores
            following = tl.load(own_tokens + computed + at + 1, mask=is_score, other=0)
            tl.store(score_row + score + at, row + 0 * at, mask=is_score)
            tl.store(score_next + score + at, following, mask=is_score)
            tl.store(logits_token + n_samples + score + at, start + at, mask=is_score)


def expand(arena: Tensor, rows: Rows, into: Expansion, entries: int, policy: SplitPolicy) -> None:
    """Expands the plan in `arena` into its first `entries` entries; those beyond the plan's own become padding.

    A padded plan has no scores and one token an entry. `policy` cuts the decodes' keys into `into.work`.
    """
    most = rows.tokens.shape[0] - 1
    _expand[(entries,)](
        arena, rows.tokens, rows.block_tables, rows.records,
        into.token_ids, into.positions, into.slots, into.token_adapter,
        into.q_start, into.context_len, into.entry_row, into.work, into.n_work,
        into.logits_token, into.sample_row, into.sample_position, into.score_row, into.score_next,
        policy.min_chunk, policy.max_splits, most,
        rows.tokens.stride(0), rows.block_tables.stride(0),
        ENTRIES=triton.next_power_of_2(most), SPLITS=MAX_SPLITS, TILE=256,
    )  # fmt: skip


def reference_expand(
    plan: list[int], rows: Rows, entries: int, policy: SplitPolicy
) -> dict[str, list[int]]:  # fmt: skip
    """`apply_changes` (to `rows`, in place) and `expand` of a plan's words, in Python; what is padding is left out."""
    h = {name: plan[at] for name, at in _HEADER.items()}
    slab = h["tokens"]
    for i in range(h["n_inits"]):
        at = h["inits"] + RECORD_WORDS.value * i
        init = plan[at : at + RECORD_WORDS.value]
        row, start, known = init[0], slab + init[2], init[1]
        rows.records[row] = torch.tensor(init, dtype=torch.int64).to(torch.int32)
        rows.tokens[row, :known] = torch.tensor(plan[start : start + known], dtype=torch.int32)
        start, n = slab + init[19], 2 * init[18]
        rows.biases[row, :n] = torch.tensor(plan[start : start + n], dtype=torch.int64).to(torch.int32)
    at = h["diffs"]
    for _ in range(h["n_diffs"]):
        row, start, n = plan[at : at + 3]
        rows.block_tables[row, start : start + n] = torch.tensor(plan[at + 3 : at + 3 + n], dtype=torch.int32)
        at += 3 + n
    out: dict[str, list[int]] = {name: [] for name in Expansion.__slots__}
    out["q_start"].append(0)
    scores: list[int] = []
    for i in range(min(h["n_entries"], entries)):
        row, start, n, computed, sample, position, _, n_scores = plan[h["entries"] + 8 * i :][:8]
        cells = range(computed, computed + n)
        table, tokens = rows.block_tables[row].tolist(), rows.tokens[row].tolist()
        out["token_ids"] += [tokens[p] for p in cells]
        out["positions"] += list(cells)
        out["slots"] += [table[p // 16] * 16 + p % 16 for p in cells]
        out["token_adapter"] += [int(rows.records[row, ADAPTER.value])] * n
        out["q_start"].append(start + n)
        out["context_len"].append(computed + n)
        out["entry_row"].append(row)
        if sample != 2**32 - 1:
            out["logits_token"].append(start + n - 1)
            out["sample_row"].append(row)
            out["sample_position"].append(position)
        out["score_row"] += [row] * n_scores
        out["score_next"] += [tokens[computed + s + 1] for s in range(n_scores)]
        scores += [start + s for s in range(n_scores)]
        if n == 1:
            context = computed + n
            chunk = policy.chunk(context)
            out["work"] += [i * policy.max_splits + s for s in range(-(-context // chunk))]
    out["logits_token"] += scores
    out["n_work"] = [len(out["work"])]
    return out


_HEADER = {
    "n_entries": N_ENTRIES.value,
    "n_inits": N_INITS.value,
    "n_diffs": N_BLOCK_DIFFS.value,
    "entries": OFF_ENTRIES.value,
    "inits": OFF_INITS.value,
    "diffs": OFF_BLOCK_DIFFS.value,
    "tokens": OFF_TOKENS.value,
}
