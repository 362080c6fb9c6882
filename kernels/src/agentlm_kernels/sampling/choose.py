"""One program a sample: which token it is, its log-probability, and the most likely ones. Refuses whole rows where it can.

Values that may matter are gathered first, in the order of their ids: those at or above a bound that no filter can cut
higher than. Filters then search thresholds among these alone, bit by bit on the order-preserving integers of
their distances from the largest value, so that ties fall as they do on the CPU.
"""

import triton
import triton.language as tl

from agentlm_kernels.sampling.adjust import clean
from agentlm_kernels.sampling.draw import LOG2_E, draw, is_filtered, row_largest, scaled, temperature_of
from agentlm_kernels.sampling.layout import (
    FAILED,
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
    TOP_K,
    TOP_N,
    TOP_P,
    TYPICAL_P,
)


@triton.jit
def _gather(
    x, parts, hits, bound, values, ids,
    vocab: tl.constexpr, subtiles: tl.constexpr, SUBTILES: tl.constexpr, SUB: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Copies what is at or above `bound`, ids ascending; how many there are. `parts` are the subtiles' largest values."""
    cells = tl.arange(0, SUBTILES)
    is_hit = (parts >= bound) & (parts > float("-inf")) & (cells < subtiles)
    hit = is_hit.to(tl.int32)
    tl.store(hits + tl.cumsum(hit, 0) - hit, cells, mask=is_hit)
    n_hits = tl.sum(hit)
    tl.debug_barrier()
    found = 0
    lanes = tl.arange(0, TILE)
    for start in range(0, n_hits, TILE // SUB):
        which = start + lanes // SUB
        at = tl.load(hits + which, mask=which < n_hits, other=subtiles) * SUB + lanes % SUB
        v = clean(tl.load(x + at, mask=at < vocab, other=float("-inf")))
        is_kept = (at < vocab) & (v >= bound) & (v > float("-inf"))
        kept = is_kept.to(tl.int32)
        to = found + tl.cumsum(kept, 0) - kept
        tl.store(values + to, v, mask=is_kept)
        tl.store(ids + to, at, mask=is_kept)
        found += tl.sum(kept)
    tl.debug_barrier()
    return found


@triton.jit
def _kth_largest(parts, k):
    """The k-th largest of a block of values, minus infinity if there are fewer."""
    # Order-preserving integers of floats, two bits a turn, as large as leaves k values at or above them.
    bits = parts.to(tl.int32, bitcast=True)
    wide = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits).to(tl.int64) + 2147483648
    found = tl.zeros([], tl.int64)
    for turn in range(16):
        step = tl.full([], 1, tl.int64) << (30 - 2 * turn)
        # Three counts in one sum.
        above = (wide >= found + step).to(tl.int64) + ((wide >= found + 2 * step).to(tl.int64) << 20)
        counts = tl.sum(above + ((wide >= found + 3 * step).to(tl.int64) << 40))
        found += step * ((counts & 0xFFFFF) >= k).to(tl.int64)
        found += step * (((counts >> 20) & 0xFFFFF) >= k).to(tl.int64)
        found += step * ((counts >> 40) >= k).to(tl.int64)
    threshold = tl.min(tl.where(wide >= found, parts, float("inf")))
    return tl.where(tl.sum((parts > float("-inf")).to(tl.int32)) >= k, threshold, float("-inf"))


@triton.jit
def _at_least(parts, largest, k):
    """What the k largest values lie at or above, and all that equal the last of them once they are scaled and rounded."""
    bound = _kth_largest(parts, k)
    return bound - 3e-7 * tl.abs(largest - bound)


@triton.jit
def _key(distance):
    """The order-preserving integer of a number >= 0."""
    return distance.to(tl.int32, bitcast=True)


@triton.jit
def _kept(z, id, inside, cut_key, cut_id, log_total, entropy, reach):
    key = _key(tl.abs(z))
    kept = inside & ((key < cut_key) | ((key == cut_key) & (id <= cut_id)))
    return kept & (_key(tl.abs(log_total - z - entropy).to(tl.float32)) <= reach)


@triton.jit
def _sums(values, ids, n, largest, by, cut_key, cut_id, log_total, entropy, reach, TILE: tl.constexpr):
    """Of the kept candidates: their mass, and how many have the largest key that is kept."""
    mass = tl.zeros([TILE], tl.float64)
    tied = tl.zeros([TILE], tl.int32)
    cells = tl.arange(0, TILE)
    for start in range(0, n, TILE):
        inside = start + cells < n
        z = scaled(tl.load(values + start + cells, mask=inside, other=0.0), largest, by)
        id = tl.load(ids + start + cells, mask=inside, other=0)
        kept = _kept(z, id, inside, cut_key, cut_id, log_total, entropy, reach)
        mass += tl.where(kept, tl.exp(z).to(tl.float64), 0.0)
        tied += (kept & (_key(tl.abs(z)) == cut_key)).to(tl.int32)
    return tl.sum(mass), tl.sum(tied)


@triton.jit
def _search(
    values, ids, n, largest, by, target, cut_key, cut_id, log_total, entropy, KIND: tl.constexpr, TILE: tl.constexpr
):  # fmt: skip
    """The smallest number with which the kept candidates up to it reach `target` (float64).

    `KIND` 0: a key, by their count; 1: a key, by their mass; 2: an id, by the count of those with the key `cut_key`; 3: a
    key of the distance between surprise and entropy, by their mass.
    """
    found = 0
    cells = tl.arange(0, TILE)
    # Bit 30, then two bits a turn.
    for turn in range(16):
        step = 1 << (30 - 2 * turn)
        one = tl.where(turn == 0, 1073741824, found + step)
        two = tl.where(turn == 0, NO_ID, found + 2 * step)
        three = tl.where(turn == 0, NO_ID, found + 3 * step)
        at_one = tl.zeros([TILE], tl.float64)
        at_two = tl.zeros([TILE], tl.float64)
        at_three = tl.zeros([TILE], tl.float64)
        for start in range(0, n, TILE):
            inside = start + cells < n
            z = scaled(tl.load(values + start + cells, mask=inside, other=0.0), largest, by)
            number = _key(tl.abs(z))
            weight = tl.full([TILE], 1.0, tl.float64)
            if KIND == 2:
                inside = inside & (number == cut_key)
                number = tl.load(ids + start + cells, mask=inside, other=0)
            elif KIND == 3:
                id = tl.load(ids + start + cells, mask=inside, other=0)
                inside = _kept(z, id, inside, cut_key, cut_id, log_total, entropy, NO_ID)
                number = _key(tl.abs(log_total - z - entropy).to(tl.float32))
            else:
                inside = inside & (number <= cut_key)
            if KIND % 2 == 1:
                weight = tl.exp(z).to(tl.float64)
            at_one += tl.where(inside & (number < one), weight, 0.0)
            at_two += tl.where(inside & (number < two), weight, 0.0)
            at_three += tl.where(inside & (number < three), weight, 0.0)
        over = (tl.sum(at_one) < target).to(tl.int32)
        if turn > 0:
            over += (tl.sum(at_two) < target).to(tl.int32) + (tl.sum(at_three) < target).to(tl.int32)
        found += step * over
    return found


@triton.jit
def _top_n(
    values, ids, n, wanted, base, by, largest, top_ids, top_logprobs, cap,
    cut_key, cut_id, log_total, entropy, reach, TILE: tl.constexpr,
):  # fmt: skip
    """The `wanted` largest kept candidates, of equal ones the lower id first; unused cells hold no id.

    Equal is what is equal after scaling; where the CPU does not scale, `largest` is 0 and `by` 1.
    """
    cells = tl.arange(0, TILE)
    last = float("inf")
    last_id = -1
    for i in range(tl.minimum(wanted, cap)):
        best = tl.full([], float("-inf"), tl.float32)
        best_id = NO_ID
        for start in range(0, n, TILE):
            inside = start + cells < n
            v = scaled(tl.load(values + start + cells, mask=inside, other=0.0), largest, by)
            id = tl.load(ids + start + cells, mask=inside, other=NO_ID)
            kept = _kept(v, id, inside, cut_key, cut_id, log_total, entropy, reach)
            is_left = kept & ((v < last) | ((v == last) & (id > last_id)))
            top = tl.max(tl.where(is_left, v, float("-inf")))
            top_id = tl.min(tl.where(is_left & (v == top), id, NO_ID))
            is_better = (top > best) | ((top == best) & (top_id < best_id))
            best = tl.where(is_better, top, best)
            best_id = tl.where(is_better, top_id, best_id)
        exists = best_id != NO_ID
        tl.store(top_ids + i, tl.where(exists, best_id, FAILED))
        logprob = best.to(tl.float64) - base
        tl.store(top_logprobs + i, tl.where(exists, logprob, float("-inf")).to(tl.float32))
        last = best
        last_id = best_id


@triton.jit
def _total(stats, at, largest, by, subtiles: tl.constexpr, SUBTILES: tl.constexpr):
    """The sum of `exp((x - largest) / by)` over a row."""
    cells = tl.arange(0, SUBTILES)
    own = tl.load(stats + at * 3 * subtiles + cells, mask=cells < subtiles, other=float("-inf"))
    total = tl.load(stats + (at * 3 + 2) * subtiles + cells, mask=cells < subtiles, other=0.0)
    exists = own > float("-inf")
    share = tl.where(exists, total * tl.exp2(tl.where(exists, own - largest, 0.0) * (LOG2_E / by)), 0.0)
    return tl.sum(share.to(tl.float64))


@triton.jit
def choose(
    logits, work, stats, raw_stats, hits, candidate, candidate_id,
    sample_row, sample_position, records, row_tokens, results, max_rows, cap,
    logits_stride: tl.constexpr, work_stride: tl.constexpr, candidate_stride: tl.constexpr,
    tokens_stride: tl.constexpr, subtiles: tl.constexpr, vocab: tl.constexpr, SUBTILES: tl.constexpr,
    SUB: tl.constexpr, GATHER: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Program (sample): everything that `choose_fast` leaves out."""
    sample = tl.program_id(0)
    row = tl.load(sample_row + sample)
    if row >= 0:
        record = records + row.to(tl.int64) * RECORD_WORDS
        flags = word(record, FLAGS)
        position = tl.load(sample_position + sample)
        wanted = word(record, TOP_N)
        logprob_at = results + max_rows + sample
        top_ids = results + 2 * max_rows + sample * cap
        top_logprobs = (top_ids + max_rows * cap).to(tl.pointer_type(tl.float32))
        token_at = row_tokens + row.to(tl.int64) * tokens_stride + position
        largest, parts = row_largest(stats, sample, subtiles, SUBTILES)
        if largest == float("-inf"):
            tl.store(results + sample, FAILED)
            tl.store(logprob_at, tl.full([], float("-inf"), tl.float32).to(tl.int32, bitcast=True))
            tl.store(token_at, 0)
            for i in range(tl.minimum(wanted, cap)):
                tl.store(top_ids + i, FAILED)
                tl.store(top_logprobs + i, float("-inf"))
        else:
            by = temperature_of(record, flags)
            raw = logits + sample.to(tl.int64) * logits_stride
            own = tl.where(is_adjusted(record, flags), work + sample.to(tl.int64) * work_stride, raw)
            own_hits = hits + sample * subtiles
            values = candidate + sample.to(tl.int64) * candidate_stride
            ids = candidate_id + sample.to(tl.int64) * candidate_stride
            cells = tl.arange(0, TILE)
            has_logprobs = ((flags & LOGPROBS) != 0) | (wanted > 0)
            is_raw = (flags & RAW_LOGPROBS) != 0
            filtered = is_filtered(record, flags, vocab)
            cut_key = NO_ID
            cut_id = NO_ID
            # Only typical-p asks for the logarithm of what is kept.
            total = tl.zeros([], tl.float64)
            entropy = tl.zeros([], tl.float64)
            reach = NO_ID
            n = 0
            chosen = 0
            if filtered:
                k = word(record, TOP_K)
                has_k = (k > 0) & (k < vocab)
                p = real(record, TOP_P)
                min_p = real(record, MIN_P)
                typical = real(record, TYPICAL_P)
                bound = float("-inf")
                if has_k:
                    bound = tl.maximum(bound, _at_least(parts, largest, k))
                elif p < 1.0:
                    # All that is below holds less than 1 - p together, even if it were a whole vocabulary.
                    bound = largest + (tl.log((1.0 - p) / vocab) - 0.001) * by
                # Top-p's share of top-k's tokens counts those that min-p drops.
                if (min_p > 0.0) & ((has_k == 0) | (p >= 1.0)):
                    bound = tl.maximum(bound, largest + (tl.log(min_p) - 0.001) * by)
                n = _gather(own, parts, own_hits, bound, values, ids, vocab, subtiles, SUBTILES, SUB, GATHER)
                if has_k & (k < n):
                    cut_key = _search(
                        values, ids, n, largest, by, k.to(tl.float64), NO_ID, NO_ID, total, entropy, 0, TILE
                    )
                if p < 1.0:
                    # Of the sum itself: the exponential of its logarithm may lie above it, and ties at p keep one more.
                    if has_k:
                        held, _many = _sums(
                            values, ids, n, largest, by, cut_key, NO_ID, total, entropy, NO_ID, TILE
                        )
                    else:
                        held = _total(stats, sample, largest, by, subtiles, SUBTILES)
                    target = p.to(tl.float64) * held
                    found = _search(
                        values, ids, n, largest, by, target, cut_key, NO_ID, total, entropy, 1, TILE
                    )
                    if found < cut_key:
                        cut_key = found
                    _held, tied = _sums(
                        values, ids, n, largest, by, cut_key, NO_ID, total, entropy, NO_ID, TILE
                    )
                    if tied > 1:
                        # Equal ones are taken by their ids until the mass is reached.
                        before, _many = _sums(
                            values, ids, n, largest, by, cut_key - 1, NO_ID, total, entropy, NO_ID, TILE
                        )
                        each = tl.exp(-(cut_key.to(tl.float32, bitcast=True))).to(tl.float64)
                        needed = tl.maximum(tl.ceil((target - before) / each), 1.0)
                        cut_id = _search(
                            values, ids, n, largest, by, needed, cut_key, NO_ID, total, entropy, 2, TILE
                        )
                if min_p > 0.0:
                    most = _key(tl.abs(tl.minimum(tl.log(min_p), 0.0)))
                    if most < cut_key:
                        cut_key = most
                        cut_id = NO_ID
                if typical < 1.0:
                    # The kept ones' own distribution.
                    mass, _many = _sums(
                        values, ids, n, largest, by, cut_key, cut_id, total, entropy, NO_ID, TILE
                    )
                    total = tl.log(mass)
                    sums = tl.zeros([TILE], tl.float64)
                    for start in range(0, n, TILE):
                        inside = start + cells < n
                        z = scaled(tl.load(values + start + cells, mask=inside, other=0.0), largest, by)
                        id = tl.load(ids + start + cells, mask=inside, other=0)
                        kept = _kept(z, id, inside, cut_key, cut_id, total, entropy, NO_ID)
                        sums += tl.where(kept, tl.exp(z).to(tl.float64) / mass * (total - z), 0.0)
                    entropy = tl.sum(sums)
                    target = typical.to(tl.float64) * mass
                    reach = _search(
                        values, ids, n, largest, by, target, cut_key, cut_id, total, entropy, 3, TILE
                    )
                best = float("-inf")
                chosen = NO_ID
                sums = tl.zeros([TILE], tl.float64)
                for start in range(0, n, TILE):
                    inside = start + cells < n
                    z = scaled(tl.load(values + start + cells, mask=inside, other=0.0), largest, by)
                    id = tl.load(ids + start + cells, mask=inside, other=0)
                    kept = _kept(z, id, inside, cut_key, cut_id, total, entropy, reach)
                    sums += tl.where(kept, tl.exp(z).to(tl.float64), 0.0)
                    w0, w1, w2, w3 = words_of(
                        id // 4,
                        word(record, SEED_LO),
                        word(record, SEED_HI),
                        position,
                        word(record, PARALLEL_SAMPLE),
                    )
                    part = id % 4
                    drawn_word = tl.where(part == 0, w0, tl.where(part == 1, w1, tl.where(part == 2, w2, w3)))
                    noisy = tl.where(kept, z + gumbel(drawn_word), float("-inf"))
                    top = tl.max(noisy)
                    top_id = tl.min(tl.where(kept & (noisy == top), id, NO_ID))
                    if (top > best) | ((top == best) & (top_id < chosen)):
                        best = top
                        chosen = top_id
                base = tl.log(tl.sum(sums))
            else:
                chosen = draw(
                    own, stats, sample, parts, largest, by, record, flags, position, subtiles, vocab, SUBTILES, SUB
                )  # fmt: skip
                base = tl.log(_total(stats, sample, largest, by, subtiles, SUBTILES))
            tl.store(results + sample, chosen)
            tl.store(token_at, chosen)
            logprob = tl.zeros([], tl.float64)
            if has_logprobs:
                if is_raw:
                    # The model's own distribution, whatever was sampled from.
                    own = raw
                    largest, parts = row_largest(raw_stats, sample, subtiles, SUBTILES)
                    base = tl.log(_total(raw_stats, sample, largest, 1.0, subtiles, SUBTILES))
                    by = 1.0
                    cut_key = NO_ID
                    cut_id = NO_ID
                    reach = NO_ID
                if is_raw | (filtered == 0):
                    if is_raw | ((flags & GREEDY) != 0):
                        base += largest.to(tl.float64)
                        largest = 0.0
                    if wanted > 0:
                        bound = _at_least(parts, largest, wanted)
                        n = _gather(
                            own, parts, own_hits, bound, values, ids, vocab, subtiles, SUBTILES, SUB, GATHER
                        )
                logprob = scaled(clean(tl.load(own + chosen)), largest, by).to(tl.float64) - base
                if wanted > 0:
                    _top_n(
                        values, ids, n, wanted, base, by, largest, top_ids, top_logprobs, cap,
                        cut_key, cut_id, total, entropy, reach, TILE,
                    )  # fmt: skip
            tl.store(logprob_at, logprob.to(tl.float32).to(tl.int32, bitcast=True))


@triton.jit
def score(
    logits, stats, hits, candidate, candidate_id, score_row, score_next, records, results, start, cap, max_scores,
    logits_stride: tl.constexpr, candidate_stride: tl.constexpr, subtiles: tl.constexpr, vocab: tl.constexpr,
    SUBTILES: tl.constexpr, SUB: tl.constexpr, GATHER: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Program (score): the log-probability of a given token by the model's own logits, and the most likely ones."""
    at = tl.program_id(0)
    row = tl.load(score_row + at)
    if row >= 0:
        wanted = word(records + row.to(tl.int64) * RECORD_WORDS, TOP_N)
        following = tl.load(score_next + at)
        own = logits + at.to(tl.int64) * logits_stride
        values = candidate + at.to(tl.int64) * candidate_stride
        ids = candidate_id + at.to(tl.int64) * candidate_stride
        top_ids = results + start + max_scores + at * cap
        top_logprobs = (top_ids + max_scores * cap).to(tl.pointer_type(tl.float32))
        largest, parts = row_largest(stats, at, subtiles, SUBTILES)
        exists = (following >= 0) & (following < vocab) & (largest > float("-inf"))
        logprob = tl.full([], float("nan"), tl.float64)
        n = 0
        base = tl.zeros([], tl.float64)
        if exists:
            base = largest.to(tl.float64) + tl.log(_total(stats, at, largest, 1.0, subtiles, SUBTILES))
            logprob = clean(tl.load(own + following)).to(tl.float64) - base
            if wanted > 0:
                bound = _kth_largest(parts, wanted)
                n = _gather(
                    own, parts, hits + at * subtiles, bound, values, ids, vocab, subtiles, SUBTILES, SUB, GATHER
                )  # fmt: skip
        tl.store(results + start + at, logprob.to(tl.float32).to(tl.int32, bitcast=True))
        if wanted > 0:
            _top_n(
                values, ids, n, wanted, base, 1.0, 0.0, top_ids, top_logprobs, cap,
                NO_ID, NO_ID, base * 0, base * 0, NO_ID, TILE,
            )  # fmt: skip
