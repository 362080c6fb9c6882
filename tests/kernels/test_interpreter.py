"""The mended interpreter: what a GPU does with bfloat16."""

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from tests.kernels.interpreter import narrowed, widened


@triton.jit
def _round_trip(x, out, n: tl.constexpr):
    cells = tl.arange(0, n)
    tl.store(out + cells, tl.load(x + cells).to(tl.bfloat16))


@triton.jit
def _product(a, b, out):
    cells = tl.arange(0, 16)
    at = cells[:, None] * 16 + cells[None, :]
    tl.store(out + at, tl.dot(tl.load(a + at), tl.load(b + at)))


def test_narrowing_rounds_to_the_nearest(device):
    x = torch.randn(4096, device=device)
    x[:4] = torch.tensor([float("inf"), float("-inf"), float("nan"), 0.0])
    out = torch.empty(4096, dtype=torch.bfloat16, device=device)
    _round_trip[(1,)](x, out, 4096)
    assert torch.equal(out.nan_to_num(7), x.to(torch.bfloat16).nan_to_num(7))


def test_a_dot_multiplies_numbers_not_bits(device):
    a, b = (torch.randn(16, 16, device=device).to(torch.bfloat16) for _ in range(2))
    out = torch.empty(16, 16, device=device)
    _product[(1,)](a, b, out)
    torch.testing.assert_close(out, a.float() @ b.float(), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("value", [1.0, -3.5, 1e-40, 3.3e38])
def test_bits_and_numbers(value):
    bits = narrowed(np.array([value], dtype=np.float32))
    assert widened(bits)[0] == torch.tensor(value).to(torch.bfloat16).float().item()
