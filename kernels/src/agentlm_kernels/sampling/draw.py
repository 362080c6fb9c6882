"""The two passes that read whole rows: statistics of each subtile, and the noisy maximum of each. Refuses filters.

A row's largest value is known before noise is added, so that `(logit - largest) / temperature + noise` is what the CPU
computes; subtiles that cannot hold the winner are not read again.
"""

import triton
import triton.language as tl

from agentlm_kernels.sampling.adjust import clean
from agentlm_kernels.sampling.layout import (
    FLAGS,
    GREEDY,
    MIN_P,
    PARALLEL_SAMPLE,
    RECORD_WORDS,
    SEED_HI,
    SEED_LO,
    TEMPERATURE,
    TOP_K,
    TOP_P,
    TYPICAL_P,
    real,
    word,
)
from agentlm_kernels.sampling.noise import gumbel, words_of

HOPELESS = tl.constexpr(-19.5)
"""Noise lies in (-2.82, 16.64): a value so far below the largest never wins."""


@triton.jit
def temperature_of(record, flags):
    """1 where none applies."""
    return tl.where((flags & GREEDY) != 0, 1.0, real(record, TEMPERATURE))


@triton.jit
def is_filtered(record, flags, vocab: tl.constexpr):
    """Whether fewer than all tokens may be drawn."""
    k = word(record, TOP_K)
    some = ((k > 0) & (k < vocab)) | (real(record, TOP_P) < 1.0) | (real(record, MIN_P) > 0.0)
    return (some | (real(record, TYPICAL_P) < 1.0)) & ((flags & GREEDY) == 0)


@triton.jit
def row_stats(
    x, stats, rows, records, SCALED: tl.constexpr,
    stride: tl.constexpr, subtiles: tl.constexpr, vocab: tl.constexpr, SUB: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """Program (tile, row): the largest value of each subtile and the sum of exponentials below it.

    With `SCALED` the exponents are divided by the row's temperature; rows of -1 are left out.
    """
    at = tl.program_id(1)
    row = tl.load(rows + at)
    if row >= 0:
        by = 1.0
        if SCALED:
            record = records + row.to(tl.int64) * RECORD_WORDS
            by = temperature_of(record, word(record, FLAGS))
        ids = tl.program_id(0) * SUB * PARTS + tl.arange(0, SUB * PARTS)
        values = clean(tl.load(x + at.to(tl.int64) * stride + ids, mask=ids < vocab, other=float("-inf")))
        parts = tl.reshape(values, [PARTS, SUB])
        largest = tl.max(parts, 1)
        base = tl.where(largest > float("-inf"), largest, 0.0)
        total = tl.sum(tl.exp((parts - base[:, None]) / by), 1)
        out = (at * subtiles + tl.program_id(0) * PARTS + tl.arange(0, PARTS)) * 2
        tl.store(stats + out, largest)
        tl.store(stats + out + 1, total)


@triton.jit
def row_largest(stats, at, subtiles: tl.constexpr, SUBTILES: tl.constexpr):
    """The largest value of a row, and those of its subtiles."""
    cells = tl.arange(0, SUBTILES)
    parts = tl.load(stats + (at * subtiles + cells) * 2, mask=cells < subtiles, other=float("-inf"))
    return tl.max(parts), parts


@triton.jit
def draw(
    x, stats, drawn, drawn_id, sample_row, sample_position, records,
    stride: tl.constexpr, subtiles: tl.constexpr, vocab: tl.constexpr, SUBTILES: tl.constexpr,
    QUADS: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """Program (tile, sample): the largest noisy value of each subtile and its id; greedy rows have no noise."""
    sample = tl.program_id(1)
    row = tl.load(sample_row + sample)
    if row >= 0:
        record = records + row.to(tl.int64) * RECORD_WORDS
        flags = word(record, FLAGS)
        greedy = (flags & GREEDY) != 0
        if is_filtered(record, flags, vocab) == 0:
            by = temperature_of(record, flags)
            largest, _ = row_largest(stats, sample, subtiles, SUBTILES)
            position = tl.load(sample_position + sample)
            seed_lo = word(record, SEED_LO)
            seed_hi = word(record, SEED_HI)
            parallel = word(record, PARALLEL_SAMPLE)
            for part in range(PARTS):
                subtile = tl.program_id(0) * PARTS + part
                own = tl.load(stats + (sample * subtiles + subtile) * 2)
                out = sample * subtiles + subtile
                reach = tl.where(greedy, 0.0, HOPELESS)
                if (own - largest) / by < reach:
                    tl.store(drawn + out, float("-inf"))
                    tl.store(drawn_id + out, 2147483647)
                else:
                    quads = subtile * QUADS + tl.arange(0, QUADS)
                    best = tl.full([QUADS], float("-inf"), tl.float32)
                    best_id = tl.full([QUADS], 2147483647, tl.int32)
                    w0, w1, w2, w3 = words_of(quads, seed_lo, seed_hi, position, parallel)
                    for j in tl.static_range(4):
                        ids = 4 * quads + j
                        value = tl.load(x + sample.to(tl.int64) * stride + ids, mask=ids < vocab, other=float("-inf"))
                        value = (clean(value) - largest) / by
                        if j == 0:
                            noise = gumbel(w0)
                        elif j == 1:
                            noise = gumbel(w1)
                        elif j == 2:
                            noise = gumbel(w2)
                        else:
                            noise = gumbel(w3)
                        value = tl.where(greedy, value, value + noise)
                        is_better = (ids < vocab) & (value > best)
                        best = tl.where(is_better, value, best)
                        best_id = tl.where(is_better, ids, best_id)
                    top = tl.max(best)
                    tl.store(drawn + out, top)
                    tl.store(drawn_id + out, tl.min(tl.where(best == top, best_id, 2147483647)))
