"""A plan taken in and expanded on the device, against the same in Python."""

import random

import pytest
import torch

from agentlm_kernels import words
from agentlm_kernels.arena import Expansion, Rows, apply_changes, expand, reference_expand
from agentlm_kernels.attention import SplitPolicy

MAX_ROWS, MAX_MODEL_LEN = 6, 160
POLICY = SplitPolicy(64, 8)


def plan(entries, seed=0):
    """The words of a plan: each entry `(row, queries, computed, samples, scores)` begins its row as well."""
    rng = random.Random(seed)
    inits, diffs, slab, records = [], [], [], []
    n_tokens = n_samples = n_scores = 0
    for row, n, computed, samples, scores in entries:
        known, biases = computed + n + (1 if scores else 0), rng.randrange(3)
        init = [rng.randrange(2**32) for _ in range(words.RECORD_WORDS.value)]
        init[0], init[words.N_KNOWN.value], init[words.TOKENS_START.value] = row, known, len(slab)
        slab += [rng.randrange(1000) for _ in range(known)]
        init[words.N_BIAS.value], init[words.BIAS_START.value] = biases, len(slab)
        slab += [rng.randrange(2**32) for _ in range(2 * biases)]
        inits += init
        blocks = -(-(computed + n) // 16)
        diffs += [row, 0, blocks, *(rng.randrange(500) for _ in range(blocks))]
        sample = n_samples if samples else 2**32 - 1
        records += [row, n_tokens, n, computed, sample, computed + n, n_scores, scores]
        n_tokens, n_samples, n_scores = n_tokens + n, n_samples + samples, n_scores + scores
    head = [0] * words.HEADER_WORDS.value
    offsets = [len(head)]
    for section in (records, inits, diffs):
        offsets.append(offsets[-1] + len(section))
    for word, value in (
        (words.N_ENTRIES, len(entries)), (words.N_TOKENS, n_tokens), (words.N_SAMPLES, n_samples),
        (words.N_SCORES_IN_ALL, n_scores), (words.N_INITS, len(entries)), (words.N_BLOCK_DIFFS, len(entries)),
        (words.OFF_ENTRIES, offsets[0]), (words.OFF_INITS, offsets[1]), (words.OFF_BLOCK_DIFFS, offsets[2]),
        (words.OFF_TOKENS, offsets[3]),
    ):  # fmt: skip
        head[word.value] = value
    return [*head, *records, *inits, *diffs, *slab]


def run(device, given, n_inits, entries):
    rows = Rows.allocate(MAX_ROWS, MAX_MODEL_LEN, device)
    into = Expansion.allocate(MAX_ROWS, 256, 16, device)
    arena = torch.tensor(given, dtype=torch.int64).to(torch.int32).to(device)
    apply_changes(arena, rows, n_inits)
    expand(arena, rows, into, entries, POLICY)
    return rows, into


@pytest.mark.parametrize(
    "entries",
    [
        [(3, 1, 0, 1, 0)],
        [(0, 1, 130, 1, 0), (5, 20, 0, 0, 0), (2, 40, 64, 1, 3), (1, 1, 15, 1, 0)],
        [(4, 33, 16, 0, 0)],
    ],
)
def test_a_plan_is_expanded_as_python_does(device, entries):
    given = plan(entries)
    rows, into = run(device, given, len(entries), len(entries))
    expected_rows = Rows.allocate(MAX_ROWS, MAX_MODEL_LEN, "cpu")
    for name, values in reference_expand(given, expected_rows, len(entries), POLICY).items():
        assert getattr(into, name)[: len(values)].tolist() == values, name
    for name in Rows.__slots__:
        assert torch.equal(getattr(rows, name).cpu(), getattr(expected_rows, name)), name


def test_what_is_beyond_the_plan_is_padding(device):
    _, into = run(device, plan([(1, 1, 70, 1, 0), (0, 1, 3, 1, 0)]), 2, 5)
    assert into.q_start[:6].tolist() == [0, 1, 2, 3, 4, 5]
    assert into.slots[2:5].tolist() == [-1] * 3
    assert into.context_len[:5].tolist() == [71, 4, 0, 0, 0]
    assert into.entry_row[2:5].tolist() == [MAX_ROWS] * 3
    assert into.sample_row[:5].tolist() == [1, 0, -1, -1, -1]


def test_a_plan_without_samples_has_a_row_of_logits_all_the_same(device):
    _, into = run(device, plan([(1, 20, 0, 0, 0)]), 1, 1)
    assert into.logits_token[0] == 0


def test_a_plan_of_nothing_is_padding_alone(device):
    rows = Rows.allocate(MAX_ROWS, MAX_MODEL_LEN, device)
    into = Expansion.allocate(MAX_ROWS, 256, 16, device)
    # What the step before left.
    into.n_work.fill_(9)
    into.context_len.fill_(70)
    expand(torch.zeros(64, dtype=torch.int32, device=device), rows, into, 3, POLICY)
    assert into.n_work.item() == 0
    assert into.context_len[:3].tolist() == [0, 0, 0]
    assert into.slots[:3].tolist() == [-1] * 3
    assert into.sample_row[:3].tolist() == [-1] * 3
