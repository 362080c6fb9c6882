"""The small memory-bound kernels against plain torch."""

import pytest
import torch

from agentlm_kernels.embedding import embed, gather_rows, reference_embed
from agentlm_kernels.norm import add_rms_norm, reference_add_rms_norm, reference_rms_norm, rms_norm
from agentlm_kernels.rope_cache import reference_rope_cache, rope_cache
from agentlm_kernels.swiglu import reference_swiglu, swiglu

SHAPES = [(1, 16), (3, 100), (5, 4096)]
CLOSE = {torch.float32: {"atol": 1e-5, "rtol": 1e-5}, torch.bfloat16: {"atol": 1e-2, "rtol": 1e-2}}


def random(device, *shape, dtype=torch.float32, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(device, dtype)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", CLOSE)
def test_rms_norm(device, guarded, shape, dtype):
    x, weight = random(device, *shape, dtype=dtype), random(device, shape[1], dtype=dtype, seed=1)
    out = guarded(shape, dtype)
    rms_norm(x, weight, 1e-5, out.tensor)
    out.check()
    torch.testing.assert_close(out.tensor, reference_rms_norm(x, weight, 1e-5), **CLOSE[dtype])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", CLOSE)
def test_add_rms_norm(device, guarded, shape, dtype):
    x, weight = random(device, *shape, dtype=dtype), random(device, shape[1], dtype=dtype, seed=1)
    residual, out = guarded(shape, dtype), guarded(shape, dtype)
    residual.tensor.copy_(random(device, *shape, dtype=dtype, seed=2))
    total, normed = reference_add_rms_norm(residual.tensor, x, weight, 1e-5)
    add_rms_norm(residual.tensor, x, weight, 1e-5, out.tensor)
    residual.check()
    out.check()
    torch.testing.assert_close(residual.tensor, total, **CLOSE[dtype])
    torch.testing.assert_close(out.tensor, normed, **CLOSE[dtype])


def test_rows_of_almost_nothing_are_held_by_eps(device):
    # Their mean square is a millionth: eps decides.
    x, weight = random(device, 3, 100) * 1e-3, random(device, 100, seed=1)
    residual, nothing = x.clone(), torch.zeros_like(x)
    expected = reference_rms_norm(x, weight, 1e-5)
    torch.testing.assert_close(rms_norm(x, weight, 1e-5), expected, **CLOSE[torch.float32])
    torch.testing.assert_close(
        add_rms_norm(residual, nothing, weight, 1e-5), expected, **CLOSE[torch.float32]
    )


def test_what_is_normed_is_the_sum_as_it_is_kept(device):
    x, weight = (
        random(device, 4, 300, dtype=torch.bfloat16),
        random(device, 300, dtype=torch.bfloat16, seed=1),
    )
    residual = random(device, 4, 300, dtype=torch.bfloat16, seed=2)
    normed = add_rms_norm(residual, x, weight, 1e-5)
    assert torch.equal(normed, rms_norm(residual, weight, 1e-5))


@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize("shape", [(1, 8), (3, 100), (2, 5000)])
def test_swiglu(device, guarded, shape, dtype):
    gate_up = random(device, shape[0], 2 * shape[1], dtype=dtype)
    out = guarded(shape, dtype)
    swiglu(gate_up, out.tensor)
    out.check()
    torch.testing.assert_close(out.tensor, reference_swiglu(gate_up), **CLOSE[dtype])


def test_rows_are_taken_and_what_does_not_exist_is_zero(device, guarded):
    table = random(device, 50, 70)
    ids = torch.tensor([0, 49, 7, -1, 50, 7], dtype=torch.int32, device=device)
    out = guarded((6, 70), torch.float32)
    embed(table, ids, out.tensor)
    out.check()
    assert torch.equal(out.tensor, reference_embed(table, ids))
    assert (out.tensor[3:5] == 0).all()
    assert torch.equal(gather_rows(table, ids[:1]), table[:1])


@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(4, 2, 16), (7, 1, 12), (2, 2, 64)])
@pytest.mark.parametrize("dtype", CLOSE)
def test_heads_are_rotated_and_cached(device, guarded, heads, kv_heads, head_dim, normed, dtype):
    tokens, blocks = 5, 4
    width = (heads + 2 * kv_heads) * head_dim
    qkv = guarded((tokens, width), dtype)
    qkv.tensor.copy_(random(device, tokens, width, dtype=dtype))
    positions = torch.tensor([0, 1, 30, 5, 6], dtype=torch.int32, device=device)
    slots = torch.tensor([17, 18, -1, 0, 63], dtype=torch.int32, device=device)
    cos, sin = random(device, 31, head_dim // 2, seed=3), random(device, 31, head_dim // 2, seed=4)
    caches = [guarded((blocks, kv_heads, 16, head_dim), dtype) for _ in range(2)]
    expected = [cache.tensor.clone() for cache in caches]
    norms = [random(device, head_dim, dtype=dtype, seed=s) if normed else None for s in (5, 6)]
    given = (positions, slots, cos, sin)
    shape = (heads, kv_heads, head_dim, *norms, 1e-6)
    rotated = qkv.tensor.clone()
    reference_rope_cache(rotated, *given, *expected, *shape)
    rope_cache(qkv.tensor, *given, *(cache.tensor for cache in caches), *shape)
    for x in (qkv, *caches):
        x.check()
    close = CLOSE[dtype] if dtype == torch.float32 else {"atol": 4e-2, "rtol": 4e-2}
    q = heads * head_dim
    torch.testing.assert_close(qkv.tensor[:, :q], rotated[:, :q], **close)
    for cache, wanted in zip(caches, expected, strict=True):
        torch.testing.assert_close(cache.tensor, wanted, equal_nan=True, **close)


def test_heads_of_almost_nothing_are_held_by_eps(device):
    qkv = random(device, 2, 4 * 16) * 1e-3
    expected = qkv.clone()
    at = torch.arange(2, dtype=torch.int32, device=device)
    ones, nothing = torch.ones(2, 8, device=device), torch.zeros(2, 8, device=device)
    norms = [random(device, 16, seed=s) for s in (5, 6)]
    for rows, launch in ((qkv, rope_cache), (expected, reference_rope_cache)):
        caches = [torch.zeros(1, 1, 16, 16, device=device) for _ in range(2)]
        launch(rows, at, at, ones, nothing, *caches, 2, 1, 16, *norms, 1e-6)
    torch.testing.assert_close(qkv, expected, **CLOSE[torch.float32])


@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(4, 2, 16), (7, 1, 12), (6, 9, 64)])
def test_float8_caches_hold_each_head_by_a_scale_of_its_own(device, guarded, heads, kv_heads, head_dim):
    if device.type == "cuda" and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("this GPU has no float8")
    tokens, blocks, half = 4, 3, head_dim // 2
    all_heads = heads + 2 * kv_heads
    qkv = random(device, tokens, all_heads * head_dim)
    # Heads of all sizes, and one of nothing.
    sizes = 10.0 ** torch.arange(-4, all_heads - 4, device=device).remainder(7)
    qkv = (qkv.view(tokens, all_heads, head_dim) * sizes[:, None]).view(tokens, -1).contiguous()
    qkv[2, -head_dim:] = 0
    positions = torch.tensor([3, 4, 0, 9], dtype=torch.int32, device=device)
    slots = torch.tensor([17, 2, 47, -1], dtype=torch.int32, device=device)
    cos, sin = random(device, 10, half, seed=3), random(device, 10, half, seed=4)
    given, shape = (positions, slots, cos, sin), (heads, kv_heads, head_dim)
    wide = [torch.zeros(blocks, kv_heads, 16, head_dim, device=device) for _ in range(2)]
    reference_rope_cache(qkv.clone(), *given, *wide, *shape)
    caches = [guarded((blocks, kv_heads, 16, head_dim), torch.float8_e4m3fn, fill=0) for _ in range(2)]
    scales = [guarded((blocks, kv_heads, 16), torch.float32, fill=0) for _ in range(2)]
    rope_cache(
        qkv, *given, *(x.tensor for x in caches), *shape,
        k_scale=scales[0].tensor, v_scale=scales[1].tensor,
    )  # fmt: skip
    for cache, scale, expected in zip(caches, scales, wide, strict=True):
        cache.check()
        scale.check()
        largest = expected.abs().amax(-1)
        torch.testing.assert_close(scale.tensor * 448, largest, atol=1e-9, rtol=1e-5)
        kept = cache.tensor.float() * scale.tensor[..., None]
        # Half a unit in the last of four bits, and of the smallest float8.
        bound = expected.abs() / 16 * 1.001 + largest[..., None] / 448 * 2.0**-10
        assert ((kept - expected).abs() <= bound + 1e-9).all()
