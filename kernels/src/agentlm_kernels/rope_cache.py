"""What attention wants done to q, k and v first, in one launch: norms of query and key, rotation, the write to the cache.

A program takes one head of one token. Queries stay in the row of qkv, rotated; keys and values go straight to their slots.
Refuses to know requests: a slot of -1 is written nowhere.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

LARGEST_FP8 = tl.constexpr(448.0)


@triton.jit
def _store_head(cache, scales, at, first, second, half: tl.constexpr, cells, is_cell, SCALED: tl.constexpr):
    """One head's halves to the cache, at its row `at`; narrowed by their largest value where the cache is float8."""
    if SCALED:
        largest = tl.maximum(
            tl.max(tl.where(is_cell, tl.abs(first), 0.0)), tl.max(tl.where(is_cell, tl.abs(second), 0.0))
        )
        scale = tl.maximum(largest / LARGEST_FP8, 1e-12)
        tl.store(scales + at, scale)
        first = first / scale
        second = second / scale
    tl.store(cache + at * 2 * half + cells, first.to(cache.dtype.element_ty), mask=is_cell)
    tl.store(cache + at * 2 * half + half + cells, second.to(cache.dtype.element_ty), mask=is_cell)


@triton.jit
def _rope_cache(
    qkv, positions, slots, cos, sin, k_cache, v_cache, k_scale, v_scale, q_norm, k_norm, stride, eps,
    heads: tl.constexpr, kv_heads: tl.constexpr, half: tl.constexpr, HALF: tl.constexpr,
    BLOCK: tl.constexpr, NORMED: tl.constexpr, SCALED: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    cells = tl.arange(0, HALF)
    is_cell = cells < half
    row = qkv + token * stride + head * 2 * half
    slot = tl.load(slots + token).to(tl.int64)
    first = tl.load(row + cells, mask=is_cell, other=0.0).to(tl.float32)
    second = tl.load(row + half + cells, mask=is_cell, other=0.0).to(tl.float32)
    if head < heads + kv_heads:
        if NORMED:
            square = tl.sum(first * first) + tl.sum(second * second)
            scale = tl.rsqrt(square / (2 * half) + eps)
            weight = q_norm
            if head >= heads:
                weight = k_norm
            first = first * scale * tl.load(weight + cells, mask=is_cell, other=0.0).to(tl.float32)
            second = second * scale * tl.load(weight + half + cells, mask=is_cell, other=0.0).to(tl.float32)
            # What is rotated is the norm as the activations' type holds it.
            first = first.to(qkv.dtype.element_ty).to(tl.float32)
            second = second.to(qkv.dtype.element_ty).to(tl.float32)
        position = tl.load(positions + token).to(tl.int64)
        c = tl.load(cos + position * half + cells, mask=is_cell, other=0.0)
        s = tl.load(sin + position * half + cells, mask=is_cell, other=0.0)
        rotated = first * c - second * s
        second = second * c + first * s
        first = rotated
    if head < heads:
        tl.store(row + cells, first.to(qkv.dtype.element_ty), mask=is_cell)
        tl.store(row + half + cells, second.to(qkv.dtype.element_ty), mask=is_cell)
    elif slot >= 0:
        if head < heads + kv_heads:
            at = (slot // BLOCK * kv_heads + head - heads) * BLOCK + slot % BLOCK
            _store_head(k_cache, k_scale, at, first, second, half, cells, is_cell, SCALED)
        else:
            at = (slot // BLOCK * kv_heads + head - heads - kv_heads) * BLOCK + slot % BLOCK
            _store_head(v_cache, v_scale, at, first, second, half, cells, is_cell, SCALED)


def rope_cache(
    qkv: Tensor, positions: Tensor, slots: Tensor, cos: Tensor, sin: Tensor, k_cache: Tensor, v_cache: Tensor,
    heads: int, kv_heads: int, head_dim: int, q_norm: Tensor | None = None, k_norm: Tensor | None = None,
    eps: float = 0.0, k_scale: Tensor | None = None, v_scale: Tensor | None = None,
) -> None:  # fmt: skip
    """Norms (where weights `[head_dim]` are given), rotates q and k, and writes k and v to the cache.

    `qkv` is `[tokens, (heads + 2 * kv_heads) * head_dim]`, whose queries are changed in place; `positions`, `slots` are
    int32 `[tokens]`; `cos` and `sin` float32 `[positions, head_dim / 2]`; the caches
    `[blocks, kv_heads, 16, head_dim]`.
    Halves of a head are rotated against each other. With `k_scale` and `v_scale`, float32 `[blocks, kv_heads, 16]`, the
    caches are float8 (e4m3) and each head of each slot has its own scale.
    """
    half = head_dim // 2
    _rope_cache[(qkv.shape[0], heads + 2 * kv_heads)](
        qkv, positions, slots, cos, sin, k_cache, v_cache, k_scale, v_scale, q_norm, k_norm, qkv.stride(0), eps,
        heads, kv_heads, half, int(triton.next_power_of_2(half)), k_cache.shape[2],
        NORMED=q_norm is not None, SCALED=k_scale is not None, num_warps=1,
    )  # fmt: skip


def reference_rope_cache(
    qkv: Tensor, positions: Tensor, slots: Tensor, cos: Tensor, sin: Tensor, k_cache: Tensor, v_cache: Tensor,
    heads: int, kv_heads: int, head_dim: int, q_norm: Tensor | None = None, k_norm: Tensor | None = None,
    eps: float = 0.0,
) -> None:  # fmt: skip
    """The same in torch, in place, for caches that are not float8."""
    x = qkv.view(qkv.shape[0], heads + 2 * kv_heads, head_dim)
    parts = list(torch.split(x, [heads, kv_heads, kv_heads], dim=1))
    for i, weight in enumerate((q_norm, k_norm)):
        if weight is not None:
            wide = parts[i].double()
            wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps) * weight.double()
            parts[i] = wide.to(qkv.dtype)
        first, second = parts[i].float().chunk(2, dim=-1)
        c, s = cos[positions.long(), None], sin[positions.long(), None]
        parts[i] = torch.cat((first * c - second * s, second * c + first * s), -1).to(qkv.dtype)
    x[:, :heads] = parts[0]
    kept = slots >= 0
    at = slots[kept].long()
    for cache, part in ((k_cache, parts[1]), (v_cache, parts[2])):
        cache[at // cache.shape[2], :, at % cache.shape[2]] = part[kept].to(cache.dtype)
