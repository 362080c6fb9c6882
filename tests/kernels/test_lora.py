"""Adapters of mixed batches against float64 torch."""

import math

import pytest
import torch

from agentlm_kernels.lora import lora, reference_lora, scratch_shape

CLOSE = {
    torch.float32: {"atol": 1e-4, "rtol": 1e-4},
    torch.bfloat16: {"atol": 4e-2, "rtol": 2e-2},
    torch.float16: {"atol": 6e-3, "rtol": 4e-3},
}


def random(device, *shape, dtype=torch.float32, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(device, dtype)


def adapters(device, count, rank, k, n, dtype):
    a = random(device, count, rank, k, dtype=dtype, seed=1) / k**0.5
    b = random(device, count, n, rank, dtype=dtype, seed=2) / rank**0.5
    return a, b, random(device, count, seed=3)


def numbers(device, values):
    return torch.tensor(values, dtype=torch.int32, device=device)


CASES = {
    "one token": [2],
    "one prompt": [1] * 20,
    "a mixed batch": [0, 3, 1, 1, 0, 2, 3, 0],
    "blocks with none": [0] * 16 + [2] + [0] * 20,
    "all different": [3, 2, 1],
    "none": [0, 0],
}


@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize("case", CASES)
def test_each_token_has_its_adapter(device, guarded, case, dtype):
    chosen = numbers(device, CASES[case])
    count, k, n, offset = len(chosen), 700, 150, 30
    x = random(device, count, k, dtype=dtype)
    # What has no adapter must not be read.
    x[chosen == 0] = math.nan
    factors = adapters(device, 3, 8, k, n, dtype)
    y, scratch = guarded((count, 200), dtype), guarded(scratch_shape(count, 8, k), torch.float32)
    y.tensor.copy_(random(device, count, 200, dtype=dtype, seed=4))
    before = y.tensor.clone()
    expected = reference_lora(x, chosen, *factors, before, offset)
    lora(x, chosen, *factors, y.tensor, offset, scratch.tensor)
    y.check()
    scratch.check()
    torch.testing.assert_close(y.tensor.double(), expected, **CLOSE[dtype])
    assert torch.equal(y.tensor[chosen == 0], before[chosen == 0])
    assert torch.equal(y.tensor[:, :offset], before[:, :offset])
    assert torch.equal(y.tensor[:, offset + n :], before[:, offset + n :])


@pytest.mark.parametrize(("rank", "k", "n"), [(1, 16, 16), (16, 1200, 130), (64, 512, 64), (40, 100, 20)])
def test_ranks_and_widths(device, rank, k, n):
    chosen = numbers(device, [1, 0, 2])
    x, y = random(device, 3, k), random(device, 3, n, seed=4)
    factors = adapters(device, 2, rank, k, n, torch.float32)
    expected = reference_lora(x, chosen, *factors, y)
    lora(x, chosen, *factors, y)
    torch.testing.assert_close(y.double(), expected, **CLOSE[torch.float32])


def test_rows_may_be_strided(device, guarded):
    whole, into = random(device, 4, 128), guarded((4, 300), torch.float32)
    into.tensor.zero_()
    chosen = numbers(device, [1, 1, 0, 1])
    factors = adapters(device, 1, 4, 64, 40, torch.float32)
    x, y = whole[:, 64:], into.tensor[:, 100:200]
    expected = reference_lora(x, chosen, *factors, y, 60)
    lora(x, chosen, *factors, y, 60)
    into.check()
    torch.testing.assert_close(y.double(), expected, **CLOSE[torch.float32])
    assert (into.tensor[:, 200:] == 0).all()


def test_a_token_does_not_depend_on_its_company(device):
    chosen = numbers(device, [1, 2, 1, 0, 2] * 5)
    x = random(device, 25, 600, dtype=torch.bfloat16)
    factors = adapters(device, 2, 8, 600, 48, torch.bfloat16)
    together = lora(x, chosen, *factors, torch.zeros(25, 48, dtype=torch.bfloat16, device=device))
    for token in (0, 1, 23, 24):
        only = slice(token, token + 1)
        alone = torch.zeros(1, 48, dtype=torch.bfloat16, device=device)
        assert torch.equal(lora(x[only], chosen[only], *factors, alone), together[only])


def test_no_tokens_change_nothing(device):
    factors = adapters(device, 1, 4, 32, 16, torch.float32)
    y = random(device, 0, 16)
    assert lora(random(device, 0, 32), numbers(device, []), *factors, y) is y


def test_matrices_that_do_not_fit_are_refused(device):
    a, b, scale = adapters(device, 1, 4, 32, 16, torch.float32)
    chosen, y = numbers(device, [1]), random(device, 1, 16)
    with pytest.raises(ValueError, match="do not fit"):
        lora(random(device, 1, 31), chosen, a, b, scale, y)
    with pytest.raises(ValueError, match="16 from 1 on are too many"):
        lora(random(device, 1, 32), chosen, a, b, scale, y, 1)
