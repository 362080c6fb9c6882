"""The sampler on the device against the one in torch: every feature, mixed in batches."""

from dataclasses import replace

import pytest
import torch

from agentlm_kernels.sampling import SamplerBuffers, score_rows
from agentlm_kernels.sampling.reference import reference_score
from tests.kernels.sampling_batches import UNTOUCHED, Batch, Request, check_results, record, settings

GREEDY, LOGPROBS, RAW, OPENAI, BAN_EOS, CONSTRAINED, WATERMARK = 1, 2, 4, 8, 16, 32, 64
INF = float("inf")


@pytest.fixture
def randoms():
    return torch.Generator().manual_seed(20)


def logits(randoms, vocab, spread=4.0):
    return spread * torch.randn(vocab, generator=randoms)


def history(randoms, vocab, n=30):
    """Tokens of which some are there again and again, some do not exist."""
    return [*torch.randint(0, min(vocab, 40), (n,), generator=randoms).tolist(), vocab + 5, vocab - 1]


# What a row may ask for, by name.
ROWS = {
    "greedy": record(GREEDY),
    "plain": record(),
    "cold": record(temperature=0.01),
    "hot": record(temperature=8.0, seed_lo=-3, seed_hi=-9, parallel_sample=2),
    "top_k": record(LOGPROBS, top_k=7, top_n=5),
    "top_k of one": record(LOGPROBS, top_k=1, top_n=3),
    "top_k of all": record(top_k=1 << 30),
    "many": record(top_k=900, top_p=0.99, temperature=3.0),
    "top_p": record(LOGPROBS, top_p=0.8, top_n=2),
    "top_p of nothing": record(top_p=1e-6),
    "min_p": record(LOGPROBS, min_p=0.05, top_n=8, temperature=2.0),
    "min_p of one": record(min_p=1.0),
    "typical": record(LOGPROBS, typical_p=0.6, top_n=4),
    "all filters": record(LOGPROBS, top_k=50, top_p=0.9, min_p=0.02, typical_p=0.9, top_n=3, temperature=1.5),
    "top_k, top_p and a high min_p": record(LOGPROBS, top_k=40, top_p=0.7, min_p=0.3, temperature=4.0, top_n=8),
    "greedy knows no filters": record(GREEDY | LOGPROBS, top_k=2, top_p=0.1, temperature=0.3, top_n=8),
    "raw": record(LOGPROBS | RAW, temperature=0.5, top_k=4, repetition_penalty=1.3, top_n=8),
    "raw and greedy": record(GREEDY | LOGPROBS | RAW, repetition_penalty=2.0, top_n=2),
    "TGI's penalties": record(LOGPROBS, repetition_penalty=1.3, frequency_penalty=0.7, presence_penalty=9.0, top_n=8),
    "OpenAI's penalties": record(
        LOGPROBS | OPENAI, n_prompt=10, repetition_penalty=1.1, frequency_penalty=0.2, presence_penalty=0.5, top_n=8
    ),
    "OpenAI's without repetition": record(OPENAI, n_prompt=20, frequency_penalty=1.5),
    "a prompt longer than its tokens": record(OPENAI, n_prompt=4000, presence_penalty=1.5),
    "banned ends": record(BAN_EOS | GREEDY, n_prompt=3),
    "no ends yet": record(GREEDY, n_prompt=30, min_new_tokens=3),
    "ends may come": record(GREEDY, n_prompt=30, min_new_tokens=2),
    "watermark": record(WATERMARK | LOGPROBS, top_n=8),
    "watermark and top_p": record(WATERMARK, top_p=0.5, temperature=2.0),
}  # fmt: skip


def mixed(randoms, vocab, names=tuple(ROWS)):
    requests = []
    for name in names:
        row = Request(ROWS[name], logits(randoms, vocab), history(randoms, vocab))
        if "end" in name:
            row.logits[2] = 90.0
        if "bias" in name or "penalties" in name:
            row.biases = [(3, 5.0), (vocab - 1, -7.5), (vocab + 1, 50.0), (0, 60.0)]
        requests.append(row)
    return requests


@pytest.mark.parametrize(
    ("vocab", "width"), [(1000, 1000), (5003, 5120), pytest.param(8192, 8192, marks=pytest.mark.slow)]
)
def test_a_batch_of_everything_is_the_references(device, guarded, randoms, vocab, width):
    batch = Batch(
        mixed(randoms, vocab), guarded, device, settings(vocab, device), width=width, padding=(0, 5, 29)
    )
    expected = batch.expected()
    batch.full()
    batch.check(expected)


def test_a_batch_twice_is_the_same(device, guarded, randoms):
    names = ("TGI's penalties", "OpenAI's penalties", "all filters", "raw")
    batch = Batch(mixed(randoms, 3000, names), guarded, device, settings(3000, device), width=3000)
    expected = batch.expected()
    batch.full()
    batch.full()
    batch.check(expected)


def test_masks_of_grammars(device, guarded, randoms):
    vocab = 2077
    few = [3, 31, 32, 63, 1000, vocab - 1]

    def row(rec, allowed, **given):
        return Request(rec, logits(randoms, vocab), history(randoms, vocab), allowed=allowed, **given)

    requests = [
        row(record(CONSTRAINED | LOGPROBS, top_n=8), few),
        row(record(CONSTRAINED | GREEDY, repetition_penalty=3.0), list(range(0, vocab, 3))),
        row(record(CONSTRAINED, top_p=0.6, min_p=0.1), list(range(1, vocab, 2))),
        # Where nothing but the ends is allowed, they come though they are banned.
        row(record(CONSTRAINED | BAN_EOS | LOGPROBS, top_n=3), [1, 2]),
        row(record(CONSTRAINED, min_new_tokens=1000, top_k=5), [2]),
        # Beyond that, they do not.
        row(record(CONSTRAINED | BAN_EOS | LOGPROBS, top_n=3), [1, 2, 9]),
        row(record(CONSTRAINED | BAN_EOS, temperature=0.5), [1, vocab - 1]),
        # A grammar that allows nothing, and one that allows only what the bias forbids.
        row(record(CONSTRAINED | LOGPROBS, top_n=2), []),
        row(record(CONSTRAINED), [7], biases=[(7, -INF)]),
        row(record(GREEDY), None),
        # Ids past the vocabulary may not come though their bits are set.
        row(record(CONSTRAINED | BAN_EOS | LOGPROBS, top_n=3), [1, 2, vocab, vocab + 1, vocab + 10]),
    ]
    batch = Batch(requests, guarded, device, settings(vocab, device), width=2090, padding=(3,))
    expected = batch.expected()
    assert expected[0][8] == -1
    assert expected[0][9] == -1
    batch.full()
    batch.check(expected)


def test_ties_fall_to_the_lowest_id_and_stay_together(device, guarded, randoms):
    vocab = 3000
    requests = []
    for rec in (
        record(GREEDY | LOGPROBS, top_n=8),
        record(LOGPROBS, top_k=5, top_n=8),
        record(LOGPROBS, top_k=40, top_p=0.5, top_n=8),
        record(LOGPROBS, top_p=0.3, top_n=8),
        record(LOGPROBS, top_p=0.9, typical_p=0.5, top_n=8),
        record(LOGPROBS, typical_p=0.3, top_n=8),
        record(LOGPROBS, min_p=0.3, top_n=8),
        record(LOGPROBS | RAW, top_n=8),
    ):
        for few in (False, True):
            # Few values, each many times; or all equal.
            x = (
                torch.randint(0, 4, (vocab,), generator=randoms).float()
                if few
                else torch.full((vocab,), -3.25)
            )
            requests.append(Request(rec, x, [5, 6, 7]))
    batch = Batch(requests, guarded, device, settings(vocab, device), width=vocab)
    expected = batch.expected()
    batch.full()
    batch.check(expected)


@pytest.mark.parametrize("top_k", [0, 5])
def test_equal_ones_at_exactly_p_are_as_many_as_reach_it(device, guarded, randoms, top_k):
    """The exponential of a sum's logarithm is often more than the sum."""
    vocab = 3000
    requests = []
    for n in (10, 22, 24, 30, 58):
        xs = torch.full((vocab,), -200.0)
        xs[torch.randperm(vocab)[:n]] = 5.0
        requests.append(
            Request(record(LOGPROBS, top_k=top_k, top_p=0.5, top_n=8), xs, history(randoms, vocab))
        )
    batch = Batch(requests, guarded, device, settings(vocab, device), width=vocab)
    expected = batch.expected()
    batch.full()
    batch.check(expected)


def test_values_that_scaling_makes_equal_stay_together(device, guarded, randoms):
    vocab = 3000
    xs = torch.full((vocab,), -50.0)
    xs[0] = 30.0
    xs[400] = 0.1
    xs[300] = torch.nextafter(torch.tensor(0.1), torch.tensor(0.0))
    requests = [
        Request(record(LOGPROBS, top_k=2, top_n=3), xs, history(randoms, vocab)),
        Request(record(LOGPROBS, top_n=3), xs.clone(), history(randoms, vocab)),
    ]
    batch = Batch(requests, guarded, device, settings(vocab, device), width=vocab)
    expected = batch.expected()
    batch.full()
    batch.check(expected)


def test_a_sample_does_not_depend_on_its_neighbours(device, guarded, randoms):
    vocab = 4100
    requests = mixed(randoms, vocab, ("plain", "all filters", "TGI's penalties", "watermark", "top_p"))
    together = Batch(requests, guarded, device, settings(vocab, device), width=vocab)
    together.full()
    rows = together.layout.max_rows
    for i, request in enumerate(requests):
        alone = Batch([request], guarded, device, settings(vocab, device), width=vocab, padding=(0,))
        alone.full()
        assert alone.results.tensor[1] == together.results.tensor[i]
        assert alone.results.tensor[alone.layout.max_rows + 1] == together.results.tensor[rows + i]


def test_settings_without_ends_and_with_another_watermark(device, guarded, randoms):
    vocab = 2000
    names = ("watermark", "banned ends", "no ends yet")
    batch = Batch(
        mixed(randoms, vocab, names), guarded, device,
        settings(vocab, device, (), watermark_gamma=0.1, watermark_delta=8.0), width=vocab,
    )  # fmt: skip
    expected = batch.expected()
    batch.full()
    batch.check(expected)


def test_scores(device, guarded, randoms):
    vocab, n = 3001, 8
    batch = Batch(
        mixed(randoms, vocab, ("greedy",)), guarded, device, settings(vocab, device), width=vocab
    )  # For its layout.
    layout = replace(batch.layout, max_scores=n)
    x = torch.stack([logits(randoms, vocab) for _ in range(n)])
    x[3, 7] = INF
    x[4, ::2] = float("nan")
    x[5] = -INF
    records = torch.stack([record(), record(top_n=5), record(LOGPROBS, top_n=8, temperature=0.1)])
    rows = torch.tensor([0, 1, 2, 1, 2, 1, -1, 2], dtype=torch.int32)
    following = torch.tensor([5, 3000, 0, 7, 2, 1, 4, vocab], dtype=torch.int32)
    expected = torch.full((layout.words,), UNTOUCHED, dtype=torch.int32)
    reference_score(x, rows, following, records, batch.settings, expected, layout)
    buffers = SamplerBuffers.allocate(0, n, vocab, device)
    results = guarded((layout.words,), torch.int32, UNTOUCHED)
    given = [y.to(device) for y in (x, rows, following, records)]
    score_rows(*given, buffers, batch.settings, results.tensor, layout)
    results.check()
    check_results(results.tensor.cpu(), expected, layout)
