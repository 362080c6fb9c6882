"""What the host reads of a plan: which steps are decodes, and what sampling their rows need."""

from itertools import pairwise

import numpy as np
import pytest

from agentlm.runtime.cuda_steps import buckets
from agentlm.runtime.plan import Plan, RowFlags, needs_full
from agentlm_kernels import words

REALS = {"TEMPERATURE": 0.8, "TOP_P": 1.0, "TYPICAL_P": 1.0, "REPETITION_PENALTY": 1.0}


def init(row=0, flags=0, **given):
    """A row's init: drawn from all tokens unless `given` says otherwise."""
    made = np.zeros(words.RECORD_WORDS.value, dtype=np.int32)
    made[words.ROW.value], made[words.FLAGS.value] = row, flags
    for name, value in (REALS | given).items():
        as_real = name.endswith(("_P", "PENALTY")) or name == "TEMPERATURE"
        made[getattr(words, name).value] = np.float32(value).view(np.int32) if as_real else value
    return made


def plan(entries, inits=(), **given):
    """A plan of entries `(row, sample)`."""
    rows = np.zeros((len(entries), words.ENTRY_WORDS.value), dtype=np.int32)
    for at, (row, sample) in enumerate(entries):
        rows[at, words.ROW.value], rows[at, words.SAMPLE_INDEX.value] = row, sample
    counts = {
        "n_entries": len(entries), "n_tokens": len(entries), "n_samples": len(entries), "n_scores": 0,
        "n_inits": len(inits), "n_block_diffs": 0, "max_q_len": 1, "used_words": 0,
    }  # fmt: skip
    taken = np.stack(inits) if len(inits) else np.zeros((0, words.RECORD_WORDS.value), np.int32)
    return Plan(**counts | given, entries=rows, inits=taken)


@pytest.mark.parametrize(
    "wish",
    [
        {"flags": words.LOGPROBS.value}, {"flags": words.BAN_EOS.value}, {"flags": words.CONSTRAINED.value},
        {"flags": words.WATERMARK.value}, {"TOP_K": 1}, {"TOP_P": 0.99}, {"MIN_P": 0.01}, {"TYPICAL_P": 0.99},
        {"REPETITION_PENALTY": 1.1}, {"REPETITION_PENALTY": 0.9}, {"FREQUENCY_PENALTY": -0.1},
        {"PRESENCE_PENALTY": 0.1}, {"TOP_N": 1}, {"MIN_NEW_TOKENS": 1}, {"N_BIAS": 1},
    ],
    ids=str,
)  # fmt: skip
def test_each_wish_alone_needs_the_full_sampler(wish):
    assert needs_full(np.stack([init(), init(**wish)])).tolist() == [False, True]


def test_draws_from_all_tokens_and_greedy_rows_need_no_more_than_the_fast_one():
    plain = [
        init(TEMPERATURE=2.0),
        init(flags=words.GREEDY.value),
        init(SEED_LO=5, PARALLEL_SAMPLE=3, ADAPTER=1),
    ]
    assert not needs_full(np.stack(plain)).any()


def test_a_decode_samples_every_entry_and_scores_nothing():
    entries = [(0, 0), (1, 1)]
    assert plan(entries).is_decode
    assert not plan(entries, max_q_len=2).is_decode
    assert not plan(entries, n_samples=1).is_decode
    assert not plan(entries, n_scores=1).is_decode


def test_a_row_is_what_its_latest_request_wants():
    flags = RowFlags(4)
    flags.update(plan([], [init(1, flags=words.CONSTRAINED.value, ADAPTER=2), init(2)]))
    step = plan([(2, 0), (1, 1)])
    assert flags.needs_full(step)
    assert flags.has_adapters(step)
    assert flags.is_constrained(step)
    assert flags.constrained_samples(step) == [1]
    # A prefill that goes on samples nothing.
    assert flags.constrained_samples(plan([(1, -1), (2, 0)])) == []
    flags.update(plan([], [init(1)]))
    assert not any((flags.needs_full(step), flags.has_adapters(step), flags.is_constrained(step)))


@pytest.mark.parametrize("rows", [1, 3, 8, 100, 256, 257, 512, 4096])
def test_every_batch_size_has_a_captured_one_that_holds_it(rows):
    sizes = buckets(rows)
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == rows
    # Half of a batch is padding at most.
    assert all(larger <= 2 * size for size, larger in pairwise(sizes))
