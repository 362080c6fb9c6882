"""Draws from all tokens: the fast way, odd logits, and the noise itself."""

import pytest
import torch
import triton
import triton.language as tl

from agentlm_kernels.sampling.choose import _kth_largest
from agentlm_kernels.sampling.noise import philox
from agentlm_kernels.sampling.reference import reference_philox
from tests.kernels.sampling_batches import Batch, Request, record, settings

GREEDY, LOGPROBS, RAW, OPENAI, BAN_EOS, CONSTRAINED, WATERMARK = 1, 2, 4, 8, 16, 32, 64
INF = float("inf")


@pytest.fixture
def randoms():
    return torch.Generator().manual_seed(20)


def logits(randoms, vocab, spread=4.0):
    return spread * torch.randn(vocab, generator=randoms)


def odd_rows(randoms, vocab):
    """Logits that are not numbers as they should be."""
    rows = {
        name: logits(randoms, vocab) for name in ("nan", "inf", "two infs", "none", "one", "low", "all nan")
    }
    rows["nan"][::3] = float("nan")
    rows["inf"][17] = INF
    rows["two infs"][[2500, 40]] = INF
    rows["none"][:] = -INF
    rows["one"][:] = -INF
    rows["one"][vocab - 1] = -1e30
    rows["low"] -= 1e6
    rows["all nan"][:] = float("nan")
    return rows


@pytest.mark.parametrize("rec", [record(GREEDY), record(), record(LOGPROBS, top_k=3, top_p=0.9, top_n=4)])
def test_odd_logits(device, guarded, randoms, rec):
    vocab = 3000
    requests = [Request(rec, x, [4, 2]) for x in odd_rows(randoms, vocab).values()]
    batch = Batch(requests, guarded, device, settings(vocab, device), width=vocab, padding=(1,))
    expected = batch.expected()
    assert expected[0][: batch.layout.max_rows].tolist().count(-1) == 2
    batch.full()
    batch.check(expected)


@pytest.mark.parametrize(
    ("vocab", "width"), [(900, 1000), (3001, 3072), pytest.param(16384, 16384, marks=pytest.mark.slow)]
)
def test_the_fast_way_is_the_full_way(device, guarded, randoms, vocab, width):
    requests = []
    for i, rec in enumerate(
        (
            record(GREEDY), record(), record(temperature=0.3), record(temperature=30.0), record(seed_lo=1 << 30),
            record(temperature=0.01, parallel_sample=5), record(GREEDY, temperature=0.2, parallel_sample=1),
        )
    ):  # fmt: skip
        for spread in (0.0, 0.1, 4.0, 1e4):
            requests.append(Request(rec, logits(randoms, vocab, spread), [i] * (i + 1)))
    if vocab > 2500:
        requests += [Request(record(), x, [4]) for x in odd_rows(randoms, vocab).values()]
        requests += [Request(record(GREEDY), x, [4]) for x in odd_rows(randoms, vocab).values()]
    batch = Batch(requests, guarded, device, settings(vocab, device), width=width, padding=(0, 9))
    expected = batch.expected()
    batch.fast()
    batch.check(expected)
    batch.full()
    batch.check(expected)


@triton.jit
def _philox(given, out):
    at = tl.arange(0, 2)
    w0, w1, w2, w3 = philox(
        tl.load(given + at * 0).to(tl.uint32, bitcast=True),
        tl.load(given + at * 0 + 1).to(tl.uint32, bitcast=True),
        tl.load(given + at * 0 + 2).to(tl.uint32, bitcast=True),
        tl.load(given + at * 0 + 3).to(tl.uint32, bitcast=True),
        tl.load(given + at * 0 + 4).to(tl.uint32, bitcast=True),
        tl.load(given + at * 0 + 5).to(tl.uint32, bitcast=True),
    )
    tl.store(out + at, w0.to(tl.int32, bitcast=True))
    tl.store(out + 2 + at, w1.to(tl.int32, bitcast=True))
    tl.store(out + 4 + at, w2.to(tl.int32, bitcast=True))
    tl.store(out + 6 + at, w3.to(tl.int32, bitcast=True))


def philox_on(device, counter, key):
    """The kernels' words, every second of two equal lanes."""
    given = torch.tensor([*counter, *key], dtype=torch.int64)
    given = torch.where(given >= 1 << 31, given - (1 << 32), given).int().to(device)
    out = torch.zeros(8, dtype=torch.int32, device=device)
    _philox[(1,)](given, out)
    return [x & 0xFFFFFFFF for x in out.tolist()[::2]]


def test_the_noise_is_the_published_philox(device):
    # Known answers that the authors of Philox publish with their implementation (Random123, `kat_vectors`).
    ones = 0xFFFFFFFF
    for counter, key, expected in (
        ((0, 0, 0, 0), (0, 0), [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ((ones,) * 4, (ones,) * 2, [0x408F276D, 0x41C8_3B0E, 0xA20B_C7C6, 0x6D54_51FD]),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0),
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ):  # fmt: skip
        assert [int(x) for x in reference_philox(counter, key)] == expected
        assert philox_on(device, counter, key) == expected


def test_of_few_likely_tokens_each_may_be_drawn(device, guarded):
    # Noise far below its bound: the subtile of the highest bound is often not the winner's.
    vocab, likely = 2048, [3, 300, 700, 1100, 1500, 1900]
    x = torch.full((vocab,), -40.0)
    x[likely] = torch.tensor([1.0, 1.2, 0.8, 1.1, 0.9, 1.0])
    requests = [Request(record(seed_lo=seed, temperature=0.7), x, [seed]) for seed in range(120)]
    batch = Batch(requests, guarded, device, settings(vocab, device), width=vocab)
    expected = batch.expected()
    batch.fast()
    batch.check(expected)
    assert set(batch.results.tensor[: len(requests)].tolist()) == set(likely)


def test_bounds_of_large_logits_are_no_lower_than_what_is_drawn(device, guarded):
    # A bound past twenty million is rounded to an even number; noise is not. Without a margin, seed 13
    # draws another id.
    vocab = 2048
    requests = [
        Request(record(seed_lo=seed, temperature=0.25), torch.full((vocab,), 4e6), [seed]) for seed in (3, 13)
    ]
    batch = Batch(requests, guarded, device, settings(vocab, device), width=vocab)
    expected = batch.expected()
    batch.fast()
    batch.check(expected)


@triton.jit
def _kth(values, k, out):
    tl.store(out, _kth_largest(tl.load(values + tl.arange(0, 16)), k))


def test_the_kth_largest_is_no_lower(device):
    # A lower bound would be right too, and gather more than is needed.
    apart = [3, -2, 3, 0.5, -0.5, 1e-3, 7, 3, -INF, 1e30, -1e-30, 4, -7, 2, -INF, 1]
    close = (torch.arange(16, dtype=torch.int32) + 0x40490FD0).view(torch.float32)
    out = torch.zeros(1, device=device)
    for values in (torch.tensor(apart), close, -close):
        given, ordered = values.to(device), values.sort(descending=True).values.tolist()
        for k in range(1, 17):
            _kth[(1,)](given, k, out)
            assert out.item() == ordered[k - 1]
