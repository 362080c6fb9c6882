"""The mended interpreter: what a GPU does with narrow floats; and the guards around tensors."""

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from tests.kernels.interpreter import narrowed, widened


@triton.jit
def _cast(x, out, n, block: tl.constexpr):
    cells = tl.arange(0, block)
    values = tl.load(x + cells, mask=cells < n, other=0.0)
    tl.store(out + cells, values.to(out.dtype.element_ty), mask=cells < n)


@triton.jit
def _product(a, b, out, m: tl.constexpr, n: tl.constexpr, k: tl.constexpr):
    rows, columns, inner = tl.arange(0, m), tl.arange(0, n), tl.arange(0, k)
    left = tl.load(a + rows[:, None] * k + inner[None, :])
    right = tl.load(b + inner[:, None] * n + columns[None, :])
    tl.store(out + rows[:, None] * n + columns[None, :], tl.dot(left, right, input_precision="ieee"))


@triton.jit
def _arithmetic(x, y, out, is_less, block: tl.constexpr):
    cells = tl.arange(0, block)
    left, right = tl.load(x + cells), tl.load(y + cells)
    value = tl.where(left < right, left * right + 1.0, -left / right)
    tl.store(out + cells, tl.maximum(tl.abs(value), left) - right)
    less = (left < right) & (cells >= 0)
    tl.store(is_less + cells, less.to(tl.int32))


@triton.jit
def _write(out, start, n, block: tl.constexpr):
    cells = start + tl.arange(0, block)
    tl.store(out + cells, cells.to(out.dtype.element_ty), mask=cells < n)


def values(device, n=4096):
    """Float32 of all magnitudes, ties between two bfloat16, and what is special."""
    generator = torch.Generator().manual_seed(0)
    random = torch.randn(n, generator=generator) * 2.0 ** torch.randint(-30, 30, (n,), generator=generator)
    ties = (torch.randint(0x3F00, 0x4100, (n,), generator=generator) << 16 | 0x8000).int().view(torch.float32)
    special = torch.tensor([0.0, -0.0, float("inf"), -float("inf"), float("nan"), 1e-40, 3.4e38, -3.4e38])
    return torch.cat((random, ties, special)).to(device)


def cast(x, out):
    _cast[(1,)](x, out.tensor, len(x), triton.next_power_of_2(len(x)))
    out.check()
    return out.tensor


def test_narrowing_rounds_to_the_nearest(device, guarded):
    x = values(device)
    out = cast(x, guarded(x.shape, torch.bfloat16))
    torch.testing.assert_close(out, x.to(torch.bfloat16), atol=0, rtol=0, equal_nan=True)


def test_widening_is_exact(device, guarded):
    x = torch.arange(2**16, dtype=torch.int32).short().view(torch.bfloat16).to(device)
    out = cast(x, guarded(x.shape, torch.float32))
    torch.testing.assert_close(out, x.float(), atol=0, rtol=0, equal_nan=True)


def test_integers_become_the_nearest_numbers(device, guarded):
    x = torch.arange(-1000, 1000, dtype=torch.int32, device=device)
    assert torch.equal(cast(x, guarded(x.shape, torch.bfloat16)), x.to(torch.bfloat16))


def test_float8_is_rounded_and_saturates(device, guarded):
    if device.type == "cuda" and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("this GPU has no float8")
    x = values(device).nan_to_num(0)
    out = cast(x, guarded(x.shape, torch.float8_e4m3fn))
    expected = x.clamp(-448, 448).to(torch.float8_e4m3fn)
    assert torch.equal(out.float(), expected.float())
    assert torch.equal(cast(expected, guarded(x.shape, torch.float32)), expected.float())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_dot_multiplies_numbers_not_bits(device, guarded, dtype):
    generator = torch.Generator().manual_seed(1)
    a, b = torch.randn(32, 64, generator=generator), torch.randn(64, 16, generator=generator)
    a, b = a.to(device, dtype), b.to(device, dtype)
    out = guarded((32, 16), torch.float32)
    _product[(1,)](a, b, out.tensor, 32, 16, 64)
    out.check()
    torch.testing.assert_close(out.tensor.double(), a.double() @ b.double(), atol=5e-5, rtol=1e-5)


def test_arithmetic_of_bfloat16_is_rounded_after_each_operation_at_most(device, guarded):
    generator = torch.Generator().manual_seed(2)
    x, y = (torch.randn(512, generator=generator).to(device, torch.bfloat16) for _ in range(2))
    out, is_less = guarded((512,), torch.bfloat16), guarded((512,), torch.int32)
    _arithmetic[(1,)](x, y, out.tensor, is_less.tensor, 512)
    wide, other = x.float(), y.float()
    value = torch.where(wide < other, wide * other + 1.0, -wide / other)
    expected = torch.maximum(value.abs(), wide) - other
    # Each of up to four roundings is half a unit in the last of eight bits, of values that may cancel.
    error = (out.tensor.float() - expected).abs()
    assert (error <= 2**-7 * (value.abs() + other.abs() + 1)).all()
    assert torch.equal(is_less.tensor, (x < y).int())


@pytest.mark.parametrize("value", [1.0, -3.5, 1e-40, 3.3e38])
def test_bits_and_numbers(value):
    bits = narrowed(np.array([value], dtype=np.float32))
    assert widened(bits)[0] == torch.tensor(value).to(torch.bfloat16).float().item()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int32, torch.int8])
def test_guards_notice_writes_around_a_tensor(device, guarded, dtype):
    out = guarded((3, 5), dtype, fill=0)
    assert (out.tensor == 0).all()
    _write[(1,)](out.tensor, 0, 15, 16)
    out.check()
    _write[(1,)](out.tensor, 0, 16, 16)
    with pytest.raises(AssertionError, match="past its end"):
        out.check()
    unwritten = guarded((3, 5), dtype)
    assert not dtype.is_floating_point or unwritten.tensor.isnan().all()
    _write[(1,)](unwritten.tensor, -1, 15, 16)
    with pytest.raises(AssertionError, match="before its beginning"):
        unwritten.check()
