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
