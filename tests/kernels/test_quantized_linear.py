"""Weights of eight and four bits against float64 torch, and the layouts of checkpoints that they are read from."""

import math
from dataclasses import replace

import pytest
import torch

from agentlm_kernels import int4_linear as four
from agentlm_kernels import int8_linear as eight
from agentlm_kernels import quantized_linear as quantized
from agentlm_kernels.fp8_linear import fp8_linear, narrow_rows, reference_narrow_rows
from agentlm_kernels.int8_linear import NarrowConfig
from agentlm_kernels.quantized_linear import (
    concatenate,
    dequantize,
    from_awq,
    from_gptq,
    quantize_fp8,
    quantize_int4,
    quantize_int8,
    quantized_linear,
    reference_quantized_linear,
)

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
CLOSE = {
    torch.float32: {"atol": 1e-4, "rtol": 1e-4},
    torch.bfloat16: {"atol": 3e-2, "rtol": 1e-2},
    torch.float16: {"atol": 4e-3, "rtol": 2e-3},
}
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which column of eight is in each four bits of a word, lowest first: as the format says, whatever the package thinks."""
KINDS = {"int8": quantize_int8, "fp8": quantize_fp8, "int4": quantize_int4}


def random(device, *shape, dtype=torch.float32, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(device, dtype)


def padded(x):
    """The same numbers in rows that are longer, and followed by more of them: what is not x is NaN."""
    m, k = x.shape
    wide = torch.full((m + 1, k + 16), math.nan, dtype=x.dtype, device=x.device)
    wide[:m, :k] = x
    return wide[:m, :k]


def check(device, guarded, weight, m, dtype, *, biased=False, out_dtype=None, **given):
    x = padded(random(device, m, weight.columns, dtype=dtype, seed=1))
    bias = random(device, weight.rows, dtype=dtype, seed=2) if biased else None
    out = guarded((m, weight.rows), out_dtype or dtype)
    if given:
        launch = four.int4_linear if weight.kind == "int4" else eight.byte_linear
        more = (weight.group,) if weight.kind == "int4" else ()
        launch(x, weight.data, weight.scales, *more, bias, out.tensor, **given)
    else:
        quantized_linear(x, weight, bias, out.tensor)
    out.check()
    expected = reference_quantized_linear(x, weight, bias)
    size = expected.abs().max()
    torch.testing.assert_close((out.tensor.double() / size), expected / size, **CLOSE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("m", "n", "k"), [(1, 100, 512), (3, 72, 640), (20, 64, 128)])
def test_products_with_narrow_weights(device, guarded, kind, m, n, k, dtype):
    weight = KINDS[kind](random(device, n, k, dtype=dtype))
    check(device, guarded, weight, m, dtype, biased=m == 3)


@pytest.mark.parametrize("kind", KINDS)
def test_an_invariant_product_gives_a_row_the_same_bits_in_any_company(device, kind, monkeypatch):
    monkeypatch.setattr(quantized, "most_rows", lambda _: 16)
    weight, x = KINDS[kind](random(device, 48, 256)), random(device, 40, 256, seed=1)
    together = quantized_linear(x, weight, invariant=True)
    for m in (1, 3, 17):
        assert torch.equal(quantized_linear(x[:m], weight, invariant=True), together[:m])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "k"), [(5, 16), (1, 130), (17, 1000)])
def test_odd_sizes_are_masked(device, guarded, kind, n, k):
    weight = KINDS[kind](random(device, n, k))
    check(device, guarded, weight, 2, torch.float32, biased=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("group", [32, 64, 256, 384])
def test_groups_of_other_sizes(device, guarded, group, dtype):
    weight = quantize_int4(random(device, 24, 384, dtype=dtype), group)
    check(device, guarded, weight, 2, dtype)


@pytest.mark.parametrize("group", [32, 64])
def test_small_groups_multiply_fewer_rows_at_a_time(device, guarded, group):
    weight = quantize_int4(random(device, 40, 256), group)
    check(device, guarded, weight, 70, torch.float32)
    x = random(device, 1, 256)
    together = quantized_linear(torch.cat([x] * 70), weight, invariant=True)
    assert torch.equal(quantized_linear(x, weight, invariant=True), together[69:])
    assert [four.choose(m, 4096, 4096, group).tokens for m in (8, 64, 500)] == [16, 64, 64]
    assert four.choose(500, 4096, 4096).tokens == 128
    with pytest.raises(ValueError, match=rf"at most 64 rows of x with groups of {group}. Given: 128"):
        four.int4_linear(x, weight.data, weight.scales, group, config=NarrowConfig(64, 128, 1, 128, 4, 3))


LOP3 = [(a, b, c) for a in (0, 1) for b in (0, 1) for c in (0, 1)]


def run_assembly(text, word, added, dtype):
    """What NVIDIA's instructions make of a word of two and of two numbers: `mov`, `shr`, `lop3` and packed `fma`."""

    def halves(bits):
        packed = torch.tensor([bits & 0xFFFF, bits >> 16], dtype=torch.int32)
        return torch.where(packed >= 1 << 15, packed - (1 << 16), packed).short().view(dtype)

    held = {"$1": word}
    for line in text.strip(" {}").split(";"):
        name, _, operands = line.strip().partition(" ")
        into, *given = [operand.strip() for operand in operands.split(",")]
        if name in ("", ".reg"):
            continue
        if name.startswith("fma"):
            assert name.endswith("bf16x2" if dtype == torch.bfloat16 else "f16x2")
            a, b = (halves(held[operand]).float() for operand in given[:2])
            assert (into, given[2]) == ("$0", "$2")
            return (a * b + added.float()).to(dtype)
        values = [held[x] if x in held else int(x, 0) for x in given]
        if name == "mov.b32":
            held[into] = values[0]
        elif name == "shr.b32":
            held[into] = values[0] >> values[1]
        else:
            assert name == "lop3.b32"
            every = 0xFFFFFFFF
            picked = [i for i in range(8) if values[3] >> i & 1]
            held[into] = 0
            for i in picked:
                a, b, c = (x if on else x ^ every for x, on in zip(values[:3], LOP3[i], strict=True))
                held[into] |= a & b & c
    raise AssertionError("nothing was multiplied")


@pytest.mark.parametrize(("dtype", "power"), [(torch.bfloat16, 128), (torch.float16, 1024)])
@pytest.mark.parametrize("plane", range(4))
def test_nvidias_instructions_unpack_what_was_packed(dtype, power, plane):
    # The interpreter takes another way, and no GPU is asked here.
    text = four._assembly(plane, dtype == torch.float16)
    numbers = torch.Generator().manual_seed(plane)
    for _ in range(20):
        codes = torch.randint(0, 16, (2, 4), generator=numbers).tolist()
        zeros = torch.randint(0, 17, (2,), generator=numbers)
        low, high = (sum(code << 4 * at for at, code in enumerate(word)) for word in codes)
        found = run_assembly(
            str(getattr(text, "value", text)), high << 16 | low, -(zeros + power).to(dtype), dtype
        )
        assert found.tolist() == [
            word[plane] - zero for word, zero in zip(codes, zeros.tolist(), strict=True)
        ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tokens", [16, 64])
@pytest.mark.parametrize("parts", [1, 2])
def test_every_shape_of_program_gives_the_same(device, guarded, kind, tokens, parts):
    weight = KINDS[kind](random(device, 150, 256))
    config = NarrowConfig(64, 128, parts, tokens, 4, 3)
    check(device, guarded, weight, 70 if tokens == 64 else 17, torch.float32, config=config)


def test_products_in_registers_and_on_tensor_cores_agree(device, guarded):
    weight = quantize_int8(random(device, 40, 300))
    for parts in (0, 1, 4):
        check(
            device,
            guarded,
            weight,
            1,
            torch.float32,
            biased=True,
            config=NarrowConfig(8, 64, parts, 16, 4, 3),
        )


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_does_not_depend_on_its_company(device, kind):
    dtype = torch.bfloat16
    weight = KINDS[kind](random(device, 48, 512))
    x = random(device, 16, 512, dtype=dtype, seed=1)
    config = NarrowConfig(16, 128, 2, 16, 2, 3)
    launch = four.int4_linear if kind == "int4" else eight.byte_linear
    more = (weight.group,) if kind == "int4" else ()
    whole = launch(x, weight.data, weight.scales, *more, config=config)
    for m in (1, 5):
        assert torch.equal(launch(x[:m], weight.data, weight.scales, *more, config=config), whole[:m])


@pytest.mark.parametrize("kind", KINDS)
def test_many_rows_are_multiplied_in_pieces(device, guarded, kind, monkeypatch):
    monkeypatch.setattr(quantized, "most_rows", lambda _: 4)
    monkeypatch.setattr(quantized, "PIECE", 1)
    weight = KINDS[kind](random(device, 300, 256))
    check(device, guarded, weight, 5, torch.float32)
    check(device, guarded, weight, 5, torch.float32, biased=True)


def test_logits_are_wider_than_what_they_are_made_of(device, guarded):
    weight = quantize_int8(random(device, 33, 128))
    check(device, guarded, weight, 2, torch.bfloat16, out_dtype=torch.float32)


def test_no_rows_give_none(device):
    weight = quantize_int4(random(device, 8, 128))
    assert quantized_linear(random(device, 0, 128), weight).shape == (0, 8)


def test_columns_that_do_not_fit_are_refused(device):
    weight = quantize_int4(random(device, 8, 128))
    with pytest.raises(ValueError, match="64 columns, the weight 128"):
        quantized_linear(random(device, 1, 64), weight)


@pytest.mark.parametrize(("kind", "error"), [("int8", 0.012), ("fp8", 0.04), ("int4", 0.14)])
def test_quantizing_loses_little(device, kind, error):
    weight = random(device, 40, 256) * torch.logspace(-6, 2, 40, device=device)[:, None]
    weight[3] = 0
    narrow = dequantize(KINDS[kind](weight), torch.float32)
    difference = (narrow - weight).norm(dim=1) / weight.norm(dim=1).clamp_min(1e-30)
    assert difference.max() < error
    assert (narrow[3] == 0).all()


def test_codes_survive_packing(device):
    codes = torch.randint(0, 16, (9, 200), generator=torch.Generator().manual_seed(0)).to(device)
    packed = four.pack(codes)
    assert packed.shape == (9, 64)
    assert packed.dtype == torch.int16
    assert torch.equal(four.unpack(packed, 200), codes.int())


def test_a_scale_of_sixteen_bits_is_kept_beside_its_zero_point(device):
    scales = random(device, 4, 7).half().float().abs()
    zeros = torch.randint(0, 128, (4, 7), generator=torch.Generator().manual_seed(0)).to(device)
    back = four.unpack_parameters(four.pack_parameters(scales, zeros))
    assert torch.equal(back[0], scales)
    assert torch.equal(back[1], zeros.int())


def words(codes, order=range(8)):
    """`[..., 8 * n]` codes as int32 words, the n-th four bits being the column `order[n]`."""
    total = sum(codes.unflatten(-1, (-1, 8))[..., column].long() << 4 * at for at, column in enumerate(order))
    return torch.where(total >= 1 << 31, total - (1 << 32), total).int()


def checkpoint(device, n=24, k=256, group=64):
    numbers = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 16, (k, n), generator=numbers).to(device)
    zeros = torch.randint(0, 16, (k // group, n), generator=numbers).to(device)
    scales = (torch.rand(k // group, n, generator=numbers) + 0.1).half().to(device)
    return codes, zeros, scales


@pytest.mark.parametrize("less_one", [True, False])
@pytest.mark.parametrize("is_ordered", [True, False])
def test_gptq_checkpoints(device, guarded, less_one, is_ordered):
    codes, zeros, scales = checkpoint(device)
    of_column = torch.arange(256, device=device) // 64
    if not is_ordered:
        of_column = of_column[torch.randperm(256, generator=torch.Generator().manual_seed(1)).to(device)]
    weight = from_gptq(
        words(codes.t()).t(), words(zeros - 1 & 15 if less_one else zeros), scales, of_column.int(), less_one
    )
    expected = ((codes - zeros[of_column]) * scales.float()[of_column]).t()
    assert (weight.order is None) == is_ordered
    torch.testing.assert_close(dequantize(weight, torch.float32), expected)
    check(device, guarded, weight, 2, torch.float32)
    x = random(device, 2, 256)
    torch.testing.assert_close(quantized_linear(x, weight), x @ expected.t(), atol=1e-3, rtol=1e-4)


def test_awq_checkpoints(device, guarded):
    codes, zeros, scales = checkpoint(device)
    weight = from_awq(words(codes, AWQ_ORDER), words(zeros, AWQ_ORDER), scales)
    of_column = torch.arange(256, device=device) // 64
    expected = ((codes - zeros[of_column]) * scales.float()[of_column]).t()
    torch.testing.assert_close(dequantize(weight, torch.float32), expected)
    check(device, guarded, weight, 2, torch.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_matrices_are_put_one_below_the_other(device, kind):
    parts = [random(device, n, 128, seed=n) for n in (8, 3, 5)]
    together = concatenate([KINDS[kind](p) for p in parts])
    whole = KINDS[kind](torch.cat(parts))
    assert torch.equal(dequantize(together, torch.float32), dequantize(whole, torch.float32))
    with pytest.raises(ValueError, match="different kinds"):
        concatenate([together, KINDS[kind](random(device, 8, 256))])


def test_matrices_whose_columns_are_in_different_orders_are_not_put_together(device):
    weight = quantize_int4(random(device, 8, 128))
    orders = [None, torch.arange(128), torch.arange(128).flip(0)]
    for one in orders:
        for other in orders:
            pair = [replace(weight, order=order) for order in (one, other)]
            if one is other:
                assert concatenate(pair).order is one
            else:
                with pytest.raises(ValueError, match="different orders"):
                    concatenate(pair)
    assert concatenate([replace(weight, order=torch.arange(128)) for _ in range(2)]).rows == 16


def test_rows_are_narrowed_to_float8(device, guarded):
    x = padded(random(device, 3, 200, dtype=torch.bfloat16))
    x[1] = 0
    out, scales = guarded((3, 200), torch.float8_e4m3fn), guarded((3,), torch.float32)
    narrow_rows(x, out.tensor, scales.tensor)
    out.check()
    scales.check()
    expected = reference_narrow_rows(x)
    torch.testing.assert_close(scales.tensor, expected[1])
    difference = (out.tensor.float() - expected[0].float()).abs()
    # Where division rounds in another way, the neighbour.
    assert (difference <= expected[0].float().abs() / 8 + 2**-9).all()
    assert (difference > 0).float().mean() < 0.01


def test_products_in_float8(device):
    x, weight = random(device, 32, 256, dtype=torch.bfloat16), quantize_fp8(random(device, 64, 256, seed=1))
    y = fp8_linear(x, weight.data, weight.scales).double()
    expected = reference_quantized_linear(x, weight)
    assert (y - expected).norm() / expected.norm() < 0.04
