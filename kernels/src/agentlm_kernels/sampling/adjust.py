"""What changes logits before they are sampled from: watermark, penalties, biases, masks. Refuses to draw.

`adjust` copies the rows that are changed, cleaned (NaN is minus infinity, plus infinity the largest finite number);
`penalise` then walks each one's history with one program, which counts by integer atomics and gives each id its penalty
once.
"""

import triton
import triton.language as tl

from agentlm_kernels.sampling.layout import (
    is_adjusted,
    real,
    word,
)
from agentlm_kernels.sampling.noise import words_of
from agentlm_kernels.words import (
    BAN_EOS,
    CONSTRAINED,
    FLAGS,
    FREQUENCY_PENALTY,
    MIN_NEW_TOKENS,
    N_BIAS,
    N_PROMPT,
    OPENAI_PENALTIES,
    PRESENCE_PENALTY,
    RECORD_WORDS,
    REPETITION_PENALTY,
    WATERMARK,
)

LARGEST = tl.constexpr(3.4028234663852886e38)
HASH_KEY_LO = tl.constexpr(15_485_863)
"""TGI's key of its watermark."""


@triton.jit
def clean(x):
    """NaN is minus infinity, plus infinity the largest finite number."""
    # Of a NaN and a number, either operation gives the number.
    return tl.minimum(tl.maximum(x, float("-inf")), LARGEST)


@triton.jit
def adjust(
    logits, work, sample_row, sample_position, records, row_tokens, masks, favoured_below, delta, mask_stride,
    logits_stride: tl.constexpr, work_stride: tl.constexpr, tokens_stride: tl.constexpr, vocab: tl.constexpr,
    QUADS: tl.constexpr,
):  # fmt: skip
    """Program (tile, sample): copies `4 * QUADS` logits, cleaned, favoured and masked."""
    sample = tl.program_id(1)
    row = tl.load(sample_row + sample)
    if row >= 0:
        record = records + row.to(tl.int64) * RECORD_WORDS
        flags = word(record, FLAGS)
        if is_adjusted(record, flags):
            ids = tl.program_id(0) * (4 * QUADS) + tl.arange(0, 4 * QUADS)
            x = clean(
                tl.load(logits + sample.to(tl.int64) * logits_stride + ids, mask=ids < vocab, other=0.0)
            )
            position = tl.load(sample_position + sample)
            if ((flags & WATERMARK) != 0) & (position > 0):
                before = tl.load(row_tokens + row.to(tl.int64) * tokens_stride + position - 1)
                # The seed `15485863 * token`, in two words.
                product = before.to(tl.int64) * HASH_KEY_LO
                none = before * 0
                quads = tl.program_id(0) * QUADS + tl.arange(0, QUADS)
                w0, w1, w2, w3 = words_of(
                    quads, product.to(tl.int32), (product >> 32).to(tl.int32), none, none
                )
                drawn = tl.reshape(tl.join(tl.join(w0, w2), tl.join(w1, w3)), [4 * QUADS])
                x = tl.where(drawn.to(tl.int64) < favoured_below, x + delta, x)
            if (flags & CONSTRAINED) != 0:
                bits = tl.load(masks + sample * mask_stride + ids // 32, mask=ids < vocab, other=0)
                x = tl.where(((bits >> (ids % 32)) & 1) != 0, x, float("-inf"))
            tl.store(work + sample.to(tl.int64) * work_stride + ids, x, mask=ids < vocab)


@triton.jit
def _repeat(x, penalty):
    return tl.where(x < 0, x * penalty, x / penalty)


@triton.jit
def _count(tokens, counts, first, last, vocab: tl.constexpr, TILE: tl.constexpr):
    cells = tl.arange(0, TILE)
    for start in range(first, last, TILE):
        is_token = start + cells < last
        ids = tl.load(tokens + start + cells, mask=is_token, other=-1)
        tl.atomic_add(counts + ids, 1, mask=is_token & (ids >= 0) & (ids < vocab), sem="relaxed")


@triton.jit
def _penalise_row(
    own, own_counts, record, flags, position, tokens, pairs, mask, eos_ids, n_eos,
    vocab: tl.constexpr, TILE: tl.constexpr, EOS: tl.constexpr,
):  # fmt: skip
    n_prompt = word(record, N_PROMPT)
    repetition = real(record, REPETITION_PENALTY)
    frequency = real(record, FREQUENCY_PENALTY)
    is_openai = (flags & OPENAI_PENALTIES) != 0
    presence = tl.where(is_openai, real(record, PRESENCE_PENALTY), 0.0)
    cells = tl.arange(0, TILE)
    if (repetition != 1.0) | (frequency != 0.0) | (presence != 0.0):
        # First over all tokens (TGI's frequency penalty with them), then OpenAI's over the generated ones.
        for turn in range(2):
            first = tl.where(turn == 0, 0, tl.minimum(n_prompt, position))
            is_on = tl.where(turn == 0, (repetition != 1.0) | (is_openai == 0), is_openai)
            last = tl.where(is_on, position, first)
            _count(tokens, own_counts, first, last, vocab, TILE)
            tl.debug_barrier()
            for start in range(first, last, TILE):
                is_token = start + cells < last
                ids = tl.load(tokens + start + cells, mask=is_token, other=-1)
                is_token = is_token & (ids >= 0) & (ids < vocab)
                # Whoever takes the count out gives the penalty.
                count = tl.atomic_xchg(
                    own_counts + ids, tl.zeros([TILE], tl.int32), mask=is_token, sem="relaxed"
                )
                is_first = is_token & (count > 0)
                x = tl.load(own + ids, mask=is_first, other=0.0)
                by = count.to(tl.float32)
                if turn == 0:
                    x = _repeat(x, repetition)
                    if is_openai == 0:
                        x = x - frequency * (by / position.to(tl.float32))
                else:
                    x = x - (frequency * by + presence)
                tl.store(own + ids, x, mask=is_first)
                tl.debug_barrier()
            tl.debug_barrier()
    n_bias = word(record, N_BIAS)
    for start in range(0, n_bias, TILE):
        is_bias = start + cells < n_bias
        ids = tl.load(pairs + 2 * (start + cells), mask=is_bias, other=-1)
        is_bias = is_bias & (ids >= 0) & (ids < vocab)
        by = tl.load(pairs + 2 * (start + cells) + 1, mask=is_bias, other=0).to(tl.float32, bitcast=True)
        x = tl.load(own + ids, mask=is_bias, other=0.0)
        tl.store(own + ids, x + by, mask=is_bias)
    tl.debug_barrier()
    ends = tl.arange(0, EOS)
    is_end = ends < n_eos
    end_ids = tl.load(eos_ids + ends, mask=is_end, other=0)
    must_end = False
    if (flags & CONSTRAINED) != 0:
        # Where a grammar allows nothing but the end, the end comes.
        allowed = 0
        for start in range(0, vocab, 32 * TILE):
            at = start // 32 + cells
            bits = tl.load(mask + at, mask=at * 32 < vocab, other=0)
            left = vocab - at * 32
            inside = tl.where(left >= 32, -1, (1 << tl.maximum(tl.minimum(left, 31), 0)) - 1)
            bits = (bits & inside).to(tl.uint32, bitcast=True)
            bits = bits - ((bits >> 1) & 0x55555555)
            bits = (bits & 0x33333333) + ((bits >> 2) & 0x33333333)
            bits = (bits + (bits >> 4)) & 0x0F0F0F0F
            allowed += tl.sum(((bits * 0x01010101) >> 24).to(tl.int32))
        end_bits = tl.load(mask + end_ids // 32, mask=is_end, other=0)
        allowed_ends = tl.sum(tl.where(is_end, (end_bits >> (end_ids % 32)) & 1, 0))
        must_end = allowed <= allowed_ends
    generated = tl.maximum(position - n_prompt, 0)
    banned = ((flags & BAN_EOS) != 0) | (generated < word(record, MIN_NEW_TOKENS))
    if banned & (must_end == 0):
        tl.store(own + end_ids, tl.full([EOS], float("-inf"), tl.float32), mask=is_end)


@triton.jit
def penalise(
    work, counts, sample_row, sample_position, records, row_tokens, biases, masks, eos_ids, n_eos, mask_stride,
    work_stride: tl.constexpr, tokens_stride: tl.constexpr, biases_stride: tl.constexpr, vocab: tl.constexpr,
    TILE: tl.constexpr, EOS: tl.constexpr,
):  # fmt: skip
    """Program (sample): penalties over the history, biases, and whether the ends of sequence may come."""
    sample = tl.program_id(0)
    row = tl.load(sample_row + sample)
    if row >= 0:
        record = records + row.to(tl.int64) * RECORD_WORDS
        flags = word(record, FLAGS)
        if is_adjusted(record, flags):
            _penalise_row(
                work + sample.to(tl.int64) * work_stride, counts + sample.to(tl.int64) * work_stride, record, flags,
                tl.load(sample_position + sample), row_tokens + row.to(tl.int64) * tokens_stride,
                biases + row.to(tl.int64) * biases_stride, masks + sample * mask_stride, eos_ids, n_eos, vocab, TILE, EOS,
            )  # fmt: skip
