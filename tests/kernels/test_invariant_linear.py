"""The batch-invariant product against float64 torch, and its promise."""

import pytest
import torch

from agentlm_kernels.invariant_linear import invariant_linear, reference_invariant_linear
from tests.kernels.test_skinny_linear import CLOSE, random


@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize(("m", "n", "k"), [(1, 16, 32), (5, 70, 40), (70, 130, 96)])
def test_products(device, guarded, dtype, m, n, k):
    x, bias = random(device, m, k, dtype=dtype), random(device, n, dtype=dtype, seed=2)
    weight = random(device, n, k, seed=1).div(k**0.5).to(dtype)
    out = guarded((m, n), dtype)
    invariant_linear(x, weight, bias, out.tensor)
    out.check()
    expected = reference_invariant_linear(x, weight, bias)
    torch.testing.assert_close(out.tensor.double(), expected, **CLOSE[dtype])


def test_a_row_has_the_same_bits_in_any_company(device):
    x, weight = random(device, 70, 64), random(device, 96, 64, seed=1)
    together = invariant_linear(x, weight)
    for m in (1, 2, 33):
        assert torch.equal(invariant_linear(x[:m], weight), together[:m])
