"""One program a sample: which token it is, its log-probability, and the most likely ones. Refuses whole rows where it can.

Values that may matter are gathered first, in the order of their ids: those at or above a bound that no filter can cut
higher than. Filters then search thresholds among these alone, bit by bit on the order-preserving integers of
their distances from the largest value, so that ties fall as they do on the CPU.
"""

import triton
import triton.language as tl

from agentlm_kernels.sampling.adjust import clean
from agentlm_kernels.sampling.draw import is_filtered, row_largest, temperature_of
from agentlm_kernels.sampling.layout import (
    FAILED,
    FLAGS,
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
    real,
    word,
)
from agentlm_kernels.sampling.noise import gumbel, words_of

NO_ID = tl.constexpr(2147483647)


@triton.jit
def _gather(
    x, parts, bound, values, ids, vocab: tl.constexpr, subtiles: tl.constexpr, SUB: tl.constexpr
):  # fmt: skip
    """Copies what is at or above `bound`, ids ascending; how many there are. `parts` are the subtiles' largest values."""
    found = 0
    cells = tl.arange(0, SUB)
    for subtile in range(subtiles):
        own = tl.load(parts + subtile * 2)
        if own >= bound:
            at = subtile * SUB + cells
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
def _kth_largest(parts, k, SUBTILES: tl.constexpr):
    """The k-th largest of a block of values, minus infinity if there are fewer."""
    # Order-preserving integers of floats; a bit more is taken as long as k values remain at or above it.
    bits = parts.to(tl.int32, bitcast=True)
    keys = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    wide = keys.to(tl.int64) + 2147483648
    found = tl.zeros([1], tl.int64)
    for bit in range(32):
        step = tl.full([1], 1, tl.int64) << (31 - bit)
        enough = tl.sum((wide >= tl.sum(found + step)).to(tl.int32)) >= k
        found = tl.where(enough, found + step, found)
    threshold = tl.min(tl.where(wide >= tl.sum(found), parts, float("inf")))
    return tl.where(tl.sum((parts > float("-inf")).to(tl.int32)) >= k, threshold, float("-inf"))


@triton.jit
def _key(distance):
    """The order-preserving integer of a number >= 0."""
    return distance.to(tl.int32, bitcast=True)


@triton.jit
def _weight_below(values, ids, n, largest, by, below, cut_key, cut_id, TILE: tl.constexpr):
    """How many kept candidates have a key below `below`, and their mass."""
    count = 0
    mass = tl.zeros([TILE], tl.float64)
    cells = tl.arange(0, TILE)
    for start in range(0, n, TILE):
        inside = start + cells < n
        z = (tl.load(values + start + cells, mask=inside, other=0.0) - largest) / by
        id = tl.load(ids + start + cells, mask=inside, other=0)
        key = _key(tl.abs(z))
        kept = inside & ((key < cut_key) | ((key == cut_key) & (id <= cut_id))) & (key < below)
        count += tl.sum(kept.to(tl.int32))
        mass += tl.where(kept, tl.exp(z).to(tl.float64), 0.0)
    return count, tl.sum(mass)


@triton.jit
def _kept(z, id, inside, cut_key, cut_id, log_total, entropy, reach):
    key = _key(tl.abs(z))
    kept = inside & ((key < cut_key) | ((key == cut_key) & (id <= cut_id)))
    return kept & (tl.abs(log_total - z - entropy) <= reach)


@triton.jit
def _top_n(
    values, ids, n, wanted, base, by, largest, top_ids, top_logprobs, cap,
    cut_key, cut_id, log_total, entropy, reach, TILE: tl.constexpr,
):  # fmt: skip
    """The `wanted` largest kept candidates, of equal ones the lower id first; unused cells hold no id."""
    cells = tl.arange(0, TILE)
    last = float("inf")
    last_id = -1
    for i in range(tl.minimum(wanted, cap)):
        best = float("-inf")
        best_id = NO_ID
        for start in range(0, n, TILE):
            inside = start + cells < n
            v = tl.load(values + start + cells, mask=inside, other=float("-inf"))
            id = tl.load(ids + start + cells, mask=inside, other=NO_ID)
            kept = _kept((v - largest) / by, id, inside, cut_key, cut_id, log_total, entropy, reach)
            is_left = kept & ((v < last) | ((v == last) & (id > last_id)))
            top = tl.max(tl.where(is_left, v, float("-inf")))
            top_id = tl.min(tl.where(is_left & (v == top), id, NO_ID))
            is_better = (top > best) | ((top == best) & (top_id < best_id))
            best = tl.where(is_better, top, best)
            best_id = tl.where(is_better, top_id, best_id)
        exists = best_id != NO_ID
        tl.store(top_ids + i, tl.where(exists, best_id, FAILED))
        logprob = ((best - largest) / by).to(tl.float64) - base
        tl.store(top_logprobs + i, tl.where(exists, logprob, float("-inf")).to(tl.float32))
        last = best
        last_id = best_id


@triton.jit
def _log_total(stats, at, largest, by, subtiles: tl.constexpr, SUBTILES: tl.constexpr):
    """The logarithm of the sum of `exp((x - largest) / by)` over a row."""
    cells = tl.arange(0, SUBTILES)
    own = tl.load(stats + (at * subtiles + cells) * 2, mask=cells < subtiles, other=float("-inf"))
    total = tl.load(stats + (at * subtiles + cells) * 2 + 1, mask=cells < subtiles, other=0.0)
    exists = own > float("-inf")
    share = tl.where(exists, total * tl.exp(tl.where(exists, own - largest, 0.0) / by), 0.0)
    return tl.log(tl.sum(share.to(tl.float64)))


@triton.jit
def choose_fast(
    stats, drawn, drawn_id, sample_row, sample_position, row_tokens, results, max_rows,
    tokens_stride: tl.constexpr, subtiles: tl.constexpr, SUBTILES: tl.constexpr,
):  # fmt: skip
    """Program (sample): the winner of the subtiles' winners."""
    sample = tl.program_id(0)
    row = tl.load(sample_row + sample)
    if row >= 0:
        largest, _ = row_largest(stats, sample, subtiles, SUBTILES)
        cells = tl.arange(0, SUBTILES)
        value = tl.load(drawn + sample * subtiles + cells, mask=cells < subtiles, other=float("-inf"))
        ids = tl.load(drawn_id + sample * subtiles + cells, mask=cells < subtiles, other=NO_ID)
        chosen = tl.min(tl.where(value == tl.max(value), ids, NO_ID))
        failed = largest == float("-inf")
        tl.store(results + sample, tl.where(failed, FAILED, chosen))
        tl.store(results + max_rows + sample, tl.where(failed, float("-inf"), 0.0).to(tl.int32, bitcast=True))
        position = tl.load(sample_position + sample)
        tl.store(row_tokens + row.to(tl.int64) * tokens_stride + position, tl.where(failed, 0, chosen))


@triton.jit
def choose(
    logits, work, stats, raw_stats, drawn, drawn_id, candidate, candidate_id,
    sample_row, sample_position, records, row_tokens, results, max_rows, cap,
    logits_stride: tl.constexpr, work_stride: tl.constexpr, candidate_stride: tl.constexpr,
    tokens_stride: tl.constexpr, subtiles: tl.constexpr, vocab: tl.constexpr, SUBTILES: tl.constexpr,
    SUB: tl.constexpr, TILE: tl.constexpr,
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
            own = work + sample.to(tl.int64) * work_stride
            values = candidate + sample.to(tl.int64) * candidate_stride
            ids = candidate_id + sample.to(tl.int64) * candidate_stride
            cells = tl.arange(0, TILE)
            has_logprobs = ((flags & LOGPROBS) != 0) | (wanted > 0)
            is_raw = (flags & RAW_LOGPROBS) != 0
            filtered = is_filtered(record, flags, vocab)
            cut_key = NO_ID
            cut_id = NO_ID
            total = _log_total(stats, sample, largest, by, subtiles, SUBTILES)
            entropy = tl.zeros([], tl.float64)
            reach = tl.full([], float("inf"), tl.float64)
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
                    bound = tl.maximum(bound, _kth_largest(parts, k, SUBTILES))
                elif p < 1.0:
                    # All that is below holds less than 1 - p together, even if it were a whole vocabulary.
                    bound = largest + (tl.log((1.0 - p) / vocab) - 0.001) * by
                if min_p > 0.0:
                    bound = tl.maximum(bound, largest + (tl.log(min_p) - 0.001) * by)
                parts_at = stats + sample * subtiles * 2
                n = _gather(own, parts_at, bound, values, ids, vocab, subtiles, SUB)
                if has_k:
                    if k < n:
                        # The smallest key below which there are fewer than k: that of the k-th.
                        found = 0
                        for bit in range(31):
                            step = 1 << (30 - bit)
                            count, _ = _weight_below(values, ids, n, largest, by, found + step, NO_ID, NO_ID, TILE)
                            found = tl.where(count < k, found + step, found)
                        cut_key = found
                    _, mass = _weight_below(values, ids, n, largest, by, NO_ID, cut_key, NO_ID, TILE)
                    total = tl.log(mass)
                if p < 1.0:
                    target = p.to(tl.float64) * tl.exp(total)
                    found = 0
                    for bit in range(31):
                        step = 1 << (30 - bit)
                        _, mass = _weight_below(values, ids, n, largest, by, found + step, cut_key, NO_ID, TILE)
                        found = tl.where(mass < target, found + step, found)
                    if found < cut_key:
                        cut_key = found
                    # Equal ones are taken by their ids until the mass is reached.
                    _, before = _weight_below(values, ids, n, largest, by, cut_key, cut_key, NO_ID, TILE)
                    each = tl.exp(-(cut_key.to(tl.float32, bitcast=True))).to(tl.float64)
                    needed = tl.maximum(tl.ceil((target - before) / each), 1.0)
                    found = 0
                    for bit in range(31):
                        step = 1 << (30 - bit)
                        count = tl.zeros([TILE], tl.int32)
                        for start in range(0, n, TILE):
                            inside = start + cells < n
                            z = (tl.load(values + start + cells, mask=inside, other=0.0) - largest) / by
                            id = tl.load(ids + start + cells, mask=inside, other=0)
                            tied = inside & (_key(tl.abs(z)) == cut_key) & (id < found + step)
                            count += tied.to(tl.int32)
                        found = tl.where(tl.sum(count).to(tl.float64) < needed, found + step, found)
                    cut_id = found
                if min_p > 0.0:
                    most = _key(tl.abs(tl.minimum(tl.log(min_p), 0.0)))
                    if most < cut_key:
                        cut_key = most
                        cut_id = NO_ID
                # The kept ones' own distribution.
                _, mass = _weight_below(values, ids, n, largest, by, NO_ID, cut_key, cut_id, TILE)
                total = tl.log(mass)
                if typical < 1.0:
                    sums = tl.zeros([TILE], tl.float64)
                    for start in range(0, n, TILE):
                        inside = start + cells < n
                        z = (tl.load(values + start + cells, mask=inside, other=0.0) - largest) / by
                        id = tl.load(ids + start + cells, mask=inside, other=0)
                        kept = _kept(z, id, inside, cut_key, cut_id, total, entropy, reach)
                        share = tl.exp(z).to(tl.float64) / mass
                        sums += tl.where(kept, share * (total - z), 0.0)
                    entropy = tl.sum(sums)
                    target = typical.to(tl.float64) * mass
                    found = 0
                    for bit in range(31):
                        step = 1 << (30 - bit)
                        sums = tl.zeros([TILE], tl.float64)
                        for start in range(0, n, TILE):
                            inside = start + cells < n
                            z = (tl.load(values + start + cells, mask=inside, other=0.0) - largest) / by
                            id = tl.load(ids + start + cells, mask=inside, other=0)
                            kept = _kept(z, id, inside, cut_key, cut_id, total, entropy, reach)
                            near = _key(tl.abs(total - z - entropy).to(tl.float32)) < found + step
                            sums += tl.where(kept & near, tl.exp(z).to(tl.float64), 0.0)
                        found = tl.where(tl.sum(sums) < target, found + step, found)
                    # Rounded up: a distance that became this number when it was narrowed is within.
                    reach = (found + 1).to(tl.float32, bitcast=True).to(tl.float64)
                best = float("-inf")
                chosen = NO_ID
                sums = tl.zeros([TILE], tl.float64)
                for start in range(0, n, TILE):
                    inside = start + cells < n
                    z = (tl.load(values + start + cells, mask=inside, other=0.0) - largest) / by
                    id = tl.load(ids + start + cells, mask=inside, other=0)
                    kept = _kept(z, id, inside, cut_key, cut_id, total, entropy, reach)
                    sums += tl.where(kept, tl.exp(z).to(tl.float64), 0.0)
                    w0, w1, w2, w3 = words_of(
                        id // 4, word(record, SEED_LO), word(record, SEED_HI), position, word(record, PARALLEL_SAMPLE)
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
                subs = tl.arange(0, SUBTILES)
                value = tl.load(drawn + sample * subtiles + subs, mask=subs < subtiles, other=float("-inf"))
                drawn_ids = tl.load(drawn_id + sample * subtiles + subs, mask=subs < subtiles, other=NO_ID)
                chosen = tl.min(tl.where(value == tl.max(value), drawn_ids, NO_ID))
                base = total
            tl.store(results + sample, chosen)
            tl.store(token_at, chosen)
            logprob = tl.zeros([], tl.float64)
            if has_logprobs:
                if is_raw:
                    # The model's own distribution, whatever was sampled from.
                    raw = logits + sample.to(tl.int64) * logits_stride
                    raw_largest, raw_parts = row_largest(raw_stats, sample, subtiles, SUBTILES)
                    base = _log_total(raw_stats, sample, raw_largest, 1.0, subtiles, SUBTILES)
                    logprob = (clean(tl.load(raw + chosen)) - raw_largest).to(tl.float64) - base
                    if wanted > 0:
                        bound = _kth_largest(raw_parts, wanted, SUBTILES)
                        tl.debug_barrier()
                        n = _gather(raw, raw_stats + sample * subtiles * 2, bound, values, ids, vocab, subtiles, SUB)
                        _top_n(
                            values, ids, n, wanted, base, 1.0, raw_largest, top_ids, top_logprobs, cap,
                            NO_ID, NO_ID, base * 0, base * 0, base * 0 + float("inf"), TILE,
                        )  # fmt: skip
                else:
                    logprob = ((clean(tl.load(own + chosen)) - largest) / by).to(tl.float64) - base
                    if wanted > 0:
                        if filtered == 0:
                            bound = _kth_largest(parts, wanted, SUBTILES)
                            n = _gather(own, stats + sample * subtiles * 2, bound, values, ids, vocab, subtiles, SUB)
                        _top_n(
                            values, ids, n, wanted, base, by, largest, top_ids, top_logprobs, cap,
                            cut_key, cut_id, total, entropy, reach, TILE,
                        )  # fmt: skip
            tl.store(logprob_at, logprob.to(tl.float32).to(tl.int32, bitcast=True))


@triton.jit
def score(
    logits, stats, candidate, candidate_id, score_row, score_next, records, results, start, cap, max_scores,
    logits_stride: tl.constexpr, candidate_stride: tl.constexpr, subtiles: tl.constexpr, vocab: tl.constexpr,
    SUBTILES: tl.constexpr, SUB: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Program (score): the log-probability of a given token by the model's own logits, and the most likely ones."""
    at = tl.program_id(0)
    row = tl.load(score_row + at)
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
        base = _log_total(stats, at, largest, 1.0, subtiles, SUBTILES)
        logprob = (clean(tl.load(own + following)) - largest).to(tl.float64) - base
        if wanted > 0:
            bound = _kth_largest(parts, wanted, SUBTILES)
            n = _gather(own, stats + at * subtiles * 2, bound, values, ids, vocab, subtiles, SUB)
    tl.store(results + start + at, logprob.to(tl.float32).to(tl.int32, bitcast=True))
    if wanted > 0:
        _top_n(
            values, ids, n, wanted, base, 1.0, largest, top_ids, top_logprobs, cap,
            NO_ID, NO_ID, base * 0, base * 0, base * 0 + float("inf"), TILE,
        )  # fmt: skip
