"""The pass that reads whole rows, and the drawing from what it found. Refuses filters.

A draw is the largest value plus noise. The pass bounds that number from above in every subtile, with a few instructions
an id and no logarithm; the drawing then looks closely at the subtiles of the highest bounds until no other can hold the
winner, mostly at one or two. Logits are read from memory once.

With u the uniform number of an id's word and d = 1 - u, noise is -ln(-ln u) <= -ln d, and -log2 of a float32 is at most
127 - bits / 2^23. The bound is therefore `value * log2(e) / temperature + 127 - bits(d) / 2^23`.
"""

import triton
import triton.language as tl

from agentlm_kernels.sampling.adjust import clean
from agentlm_kernels.sampling.layout import (
    NO_ID,
    is_adjusted,
    real,
    word,
)
from agentlm_kernels.sampling.noise import gumbel, words_of
from agentlm_kernels.words import (
    FLAGS,
    GREEDY,
    LOGPROBS,
    MIN_P,
    PARALLEL_SAMPLE,
    RAW_LOGPROBS,
    RECORD_WORDS,
    SEED_HI,
    SEED_LO,
    TEMPERATURE,
    TOP_K,
    TOP_N,
    TOP_P,
    TYPICAL_P,
)

LOG2_E = tl.constexpr(1.4426950408889634)
ONE_BITS = tl.constexpr(0x3F800000)
MANTISSA = tl.constexpr(0x7FFFFF)


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
def _bound(drawn, x, by):
    """At least `x * by + noise * log2(e)`."""
    # The mantissa of 1 + the first 23 bits of ~drawn; 1 - 2^-24 less is 1 - u, exactly.
    bits = ((drawn >> 9) ^ MANTISSA) | ONE_BITS
    rest = bits.to(tl.float32, bitcast=True) - 0.99999994039535522
    return x * by + (127.0 - rest.to(tl.int32, bitcast=True).to(tl.float32) * 1.1920928955078125e-07)


@triton.jit
def _each(x, PARTS: tl.constexpr):
    """The largest value of each of so many equal parts."""
    return tl.max(tl.reshape(x, [PARTS, x.numel // PARTS]), 1)


@triton.jit
def survey(
    logits, work, stats, sample_row, sample_position, records,
    KIND: tl.constexpr, logits_stride: tl.constexpr, work_stride: tl.constexpr, subtiles: tl.constexpr,
    vocab: tl.constexpr, SUB: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """Program (tile, row): of each subtile the largest value, the bound of a draw and the sum of exponentials.

    `KIND` 0: of logits, without sums; 1: of the rows that are sampled from, sums and bounds by their temperature, no bounds
    where there are filters; 2: of logits, sums only, for rows whose log-probabilities are raw; 3: for all rows.
    """
    at = tl.program_id(1)
    row = tl.load(sample_row + at)
    if row >= 0:
        record = records + row.to(tl.int64) * RECORD_WORDS
        flags = word(record, FLAGS)
        is_wanted = row >= 0
        if KIND == 2:
            is_wanted = ((flags & RAW_LOGPROBS) != 0) & (
                ((flags & LOGPROBS) != 0) | (word(record, TOP_N) > 0)
            )
        if is_wanted:
            QUADS: tl.constexpr = SUB * PARTS // 4
            quads = tl.program_id(0) * QUADS + tl.arange(0, QUADS)
            ids = (4 * quads)[:, None] + tl.arange(0, 4)[None, :]
            source = logits + at.to(tl.int64) * logits_stride
            if KIND == 1:
                source = tl.where(is_adjusted(record, flags), work + at.to(tl.int64) * work_stride, source)
            x = clean(tl.load(source + ids, mask=ids < vocab, other=float("-inf")))
            even, odd = tl.split(tl.reshape(x, [QUADS, 2, 2]))
            x0, x2 = tl.split(even)
            x1, x3 = tl.split(odd)
            largest = _each(tl.maximum(tl.maximum(x0, x1), tl.maximum(x2, x3)), PARTS)
            out = at * 3 * subtiles + tl.program_id(0) * PARTS + tl.arange(0, PARTS)
            tl.store(stats + out, largest)
            by = 1.0
            if KIND < 2:
                by = temperature_of(record, flags)
                is_noisy = (flags & GREEDY) == 0
                if KIND == 1:
                    is_noisy = is_noisy & (is_filtered(record, flags, vocab) == 0)
                if is_noisy:
                    w0, w1, w2, w3 = words_of(
                        quads, word(record, SEED_LO), word(record, SEED_HI), tl.load(sample_position + at),
                        word(record, PARALLEL_SAMPLE),
                    )  # fmt: skip
                    factor = LOG2_E / by
                    bound = tl.maximum(
                        tl.maximum(_bound(w0, x0, factor), _bound(w1, x1, factor)),
                        tl.maximum(_bound(w2, x2, factor), _bound(w3, x3, factor)),
                    )
                    tl.store(stats + out + subtiles, _each(bound, PARTS))
            if KIND > 0:
                base = tl.where(largest > float("-inf"), largest, 0.0)[:, None]
                base = tl.reshape(tl.broadcast_to(base, [PARTS, QUADS // PARTS]), [QUADS])
                factor = LOG2_E / by
                below = tl.exp2((x0 - base) * factor) + tl.exp2((x1 - base) * factor)
                below += tl.exp2((x2 - base) * factor) + tl.exp2((x3 - base) * factor)
                tl.store(stats + out + 2 * subtiles, tl.sum(tl.reshape(below, [PARTS, QUADS // PARTS]), 1))


@triton.jit
def row_largest(stats, at, subtiles: tl.constexpr, SUBTILES: tl.constexpr):
    """The largest value of a row, and those of its subtiles."""
    cells = tl.arange(0, SUBTILES)
    parts = tl.load(stats + at * 3 * subtiles + cells, mask=cells < subtiles, other=float("-inf"))
    return tl.max(parts), parts


@triton.jit
def scaled(x, largest, by):
    """What noise is added to: rounded as on the CPU, so that ties are the same."""
    return tl.div_rn(x - largest, by + tl.zeros_like(x))


@triton.jit
def draw(
    x, stats, at, parts, largest, by, record, flags, position,
    subtiles: tl.constexpr, vocab: tl.constexpr, SUBTILES: tl.constexpr, SUB: tl.constexpr,
):  # fmt: skip
    """The id of the largest value plus noise, of equal ones the lowest; greedy rows have no noise."""
    greedy = (flags & GREEDY) != 0
    cells = tl.arange(0, SUBTILES)
    factor = LOG2_E / by
    bounds = tl.load(stats + (at * 3 + 1) * subtiles + cells, mask=cells < subtiles, other=float("-inf"))
    bounds = bounds - largest * factor
    # Where numbers end, and fused or not the difference is none: such subtiles are looked at.
    bounds = tl.where(tl.abs(bounds) < float("inf"), bounds, 3e38)
    bounds = tl.where(greedy, tl.where(parts == largest, 0.0, float("-inf")), bounds)
    bounds = tl.where(parts > float("-inf"), bounds, float("-inf"))
    # More than all roundings of bounds and noise; greedy rows end with the first subtile.
    margin = tl.where(greedy, -1.0, 1e-3 + 1e-6 * tl.abs(largest * factor))
    best = tl.full([], float("-inf"), tl.float32)
    best_id = tl.full([], NO_ID, tl.int32)
    left = tl.max(bounds)
    seed_lo = word(record, SEED_LO)
    seed_hi = word(record, SEED_HI)
    parallel = word(record, PARALLEL_SAMPLE)
    while left > best * LOG2_E - margin:
        subtile = tl.min(tl.where(bounds == left, cells, SUBTILES))
        quads = subtile * (SUB // 4) + tl.arange(0, SUB // 4)
        w0, w1, w2, w3 = words_of(quads, seed_lo, seed_hi, position, parallel)
        for j in tl.static_range(4):
            if j == 0:
                noise = gumbel(w0)
            elif j == 1:
                noise = gumbel(w1)
            elif j == 2:
                noise = gumbel(w2)
            else:
                noise = gumbel(w3)
            ids = 4 * quads + j
            v = scaled(clean(tl.load(x + ids, mask=ids < vocab, other=float("-inf"))), largest, by)
            v = tl.where(greedy, v, v + noise)
            top = tl.max(v)
            top_id = tl.min(tl.where((v == top) & (ids < vocab), ids, NO_ID))
            is_better = (top > best) | ((top == best) & (top_id < best_id))
            best = tl.where(is_better, top, best)
            best_id = tl.where(is_better, top_id, best_id)
        bounds = tl.where(cells == subtile, float("-inf"), bounds)
        left = tl.max(bounds)
    return best_id


@triton.jit
def choose_fast(
    logits, stats, sample_row, sample_position, records, row_tokens, results, max_rows,
    logits_stride: tl.constexpr, tokens_stride: tl.constexpr, subtiles: tl.constexpr, vocab: tl.constexpr,
    SUBTILES: tl.constexpr, SUB: tl.constexpr,
):  # fmt: skip
    """Program (sample): draws from all tokens."""
    sample = tl.program_id(0)
    row = tl.load(sample_row + sample)
    if row >= 0:
        record = records + row.to(tl.int64) * RECORD_WORDS
        flags = word(record, FLAGS)
        position = tl.load(sample_position + sample)
        largest, parts = row_largest(stats, sample, subtiles, SUBTILES)
        chosen = draw(
            logits + sample.to(tl.int64) * logits_stride, stats, sample, parts, largest,
            temperature_of(record, flags), record, flags, position, subtiles, vocab, SUBTILES, SUB,
        )  # fmt: skip
        failed = largest == float("-inf")
        tl.store(results + sample, tl.where(failed, -1, chosen))
        tl.store(results + max_rows + sample, tl.where(failed, float("-inf"), 0.0).to(tl.int32, bitcast=True))
        tl.store(row_tokens + row.to(tl.int64) * tokens_stride + position, tl.where(failed, 0, chosen))
