"""The skinny product, its beginnings and its ends, against float64 torch."""

import pytest
import torch

from agentlm_kernels.skinny_linear import (
    SkinnyConfig,
    candidates,
    choose,
    reference_skinny_linear,
    regimes,
    skinny_linear,
)

DOT = SkinnyConfig(16, 32, 4, 2, True)
FEW = SkinnyConfig(8, 32, 4, 2, False)
CLOSE = {torch.float32: {"atol": 1e-4, "rtol": 1e-4}, torch.bfloat16: {"atol": 6e-2, "rtol": 3e-2}}


def random(device, *shape, dtype=torch.float32, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(device, dtype)


@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize(("m", "config"), [(1, FEW), (2, FEW), (7, FEW), (1, DOT), (3, DOT), (16, DOT)])
@pytest.mark.parametrize("end", ["out", "residual", "swiglu"])
@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize(("n", "k"), [(50, 64), (16, 40)])
def test_products(device, guarded, dtype, m, config, end, normed, n, k):
    x = guarded((m, k), dtype)
    x.tensor.copy_(random(device, m, k, dtype=dtype))
    weight, bias = random(device, n, k, seed=1).div(k**0.5).to(dtype), random(device, n, dtype=dtype, seed=2)
    given = {"norm_weight": random(device, k, dtype=dtype, seed=3), "eps": 1e-5} if normed else {}
    swiglu = end == "swiglu"
    out = guarded((m, n // 2 if swiglu else n), dtype)
    if end == "residual":
        out.tensor.copy_(random(device, m, n, dtype=dtype, seed=4))
        given["residual"] = out.tensor
    expected = reference_skinny_linear(x.tensor, weight, bias, swiglu=swiglu, **given)
    if end != "residual":
        given["out"] = out.tensor
    skinny_linear(x.tensor, weight, bias, swiglu=swiglu, config=config, **given)
    out.check()
    torch.testing.assert_close(out.tensor.double(), expected, **CLOSE[dtype])


@pytest.mark.parametrize("config", [FEW, DOT])
def test_a_half_need_not_hold_x_times_the_norms_weight(device, config):
    x, weight = random(device, 2, 64, dtype=torch.float16), random(device, 16, 64, seed=1).div(8).half()
    x[0, 3], norm = 3000.0, torch.full((64,), 40.0, dtype=torch.float16, device=device)
    y = skinny_linear(x, weight, norm_weight=norm, eps=1e-5, config=config)
    expected = reference_skinny_linear(x, weight, norm_weight=norm, eps=1e-5)
    torch.testing.assert_close(y.double(), expected, atol=0.1, rtol=5e-3)


def test_regimes_stand_for_all_numbers_of_rows(monkeypatch):
    assert regimes(4096, 4096) == {1, 17}
    monkeypatch.setattr("agentlm_kernels.skinny_linear.tuned", lambda *_: {"rows": 6})
    assert regimes(4096, 4096) == {1, 2, 4, 6, 17}


def test_a_row_has_the_same_bits_in_any_company(device):
    x, weight = random(device, 9, 64), random(device, 48, 64, seed=1)
    together = skinny_linear(x, weight, config=DOT)
    for m in (1, 2, 5):
        assert torch.equal(skinny_linear(x[:m], weight, config=DOT), together[:m])


def test_logits_may_be_wider_than_their_operands(device):
    x, weight = random(device, 2, 64, dtype=torch.bfloat16), random(device, 32, 64, dtype=torch.bfloat16)
    logits = skinny_linear(x, weight, out_dtype=torch.float32, config=DOT)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, x.float() @ weight.float().t(), atol=1e-3, rtol=1e-3)


def test_more_rows_than_it_is_for_are_refused(device):
    with pytest.raises(ValueError, match=r"1 to 16 rows\. Given: 17"):
        skinny_linear(random(device, 17, 16), random(device, 16, 16))


@pytest.mark.parametrize("m", [1, 4, 16])
def test_every_shape_has_a_configuration(m):
    assert choose(m, 4096, 4096).columns >= choose(m, 8, 8).columns == 16
    assert all(
        config.rows * config.columns * m <= 4096 * config.warps or config.dot for config in candidates(m)
    )


@pytest.mark.parametrize("config", [FEW, DOT])
def test_rows_of_almost_nothing_are_held_by_eps(device, config):
    x, weight = random(device, 2, 64) * 1e-3, random(device, 16, 64, seed=1) / 8
    given = {"norm_weight": random(device, 64, seed=2), "eps": 1e-5}
    y = skinny_linear(x, weight, config=config, **given)
    torch.testing.assert_close(
        y.double(), reference_skinny_linear(x, weight, **given), **CLOSE[torch.float32]
    )


@pytest.mark.parametrize("config", [FEW, DOT])
def test_what_is_added_to_the_residual_is_the_product_as_it_would_be_kept(device, config):
    x, weight = (random(device, m, 64, dtype=torch.bfloat16, seed=m) for m in (3, 200))
    product = skinny_linear(x, weight, config=config)
    residual = random(device, 3, 200, dtype=torch.bfloat16, seed=4)
    expected = residual + product
    assert torch.equal(skinny_linear(x, weight, config=config, residual=residual), expected)
