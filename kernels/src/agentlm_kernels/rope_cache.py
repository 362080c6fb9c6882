"""What attention wants done to q, k and v first, in one launch: norms of query and key, rotation, the write to the cache.

A program takes a few neighbouring heads of one token, so that each thread moves 16 bytes at a time. Queries stay in the row
of qkv, rotated; keys and values go straight to their slots. Refuses to know requests: a slot of -1 is written nowhere.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

LARGEST_FP8 = tl.constexpr(448.0)
GROUP = 8
"""Heads of a program."""


@triton.jit
def _store_heads(
    cache, scales, at, first, second, half: tl.constexpr, cells, is_stored, is_cell, SCALED: tl.constexpr
):
    """Heads' halves to the cache, at its rows `at`; narrowed by each head's largest value where the cache is float8."""
    if SCALED:
        largest = tl.maximum(tl.max(tl.abs(first), axis=1), tl.max(tl.abs(second), axis=1))
        scale = tl.maximum(largest / LARGEST_FP8, 1e-12)
        tl.store(scales + at, scale, mask=is_stored)
        first = first / scale[:, None]
        second = second / scale[:, None]
    into = cache + at[:, None] * 2 * half + cells[None, :]
    mask = is_stored[:, None] & is_cell[None, :]
    tl.store(into, first.to(cache.dtype.element_ty), mask=mask)
    tl.store(into + half, second.to(cache.dtype.element_ty), mask=mask)


@triton.jit
def _rope_cache(
    qkv, positions, slots, cos, sin, k_cache, v_cache, k_scale, v_scale, q_norm, k_norm, stride, eps,
    heads: tl.constexpr, kv_heads: tl.constexpr, half: tl.constexpr, HEADS: tl.constexpr, HALF: tl.constexpr,
    BLOCK: tl.constexpr, NORMED: tl.constexpr, SCALED: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    cells = tl.arange(0, HALF)
    is_cell = cells < half
    is_query = head < heads
    is_rotated = head < heads + kv_heads
    is_head = head < heads + 2 * kv_heads
    slot = tl.load(slots + token).to(tl.int64)
    position = tl.load(positions + token).to(tl.int64)
    row = qkv + token * stride + head[:, None] * 2 * half + cells[None, :]
    mask = is_head[:, None] & is_cell[None, :]
    first = tl.load(row, mask=mask, other=0.0).to(tl.float32)
    second = tl.load(row + half, mask=mask, other=0.0).to(tl.float32)
    if tl.program_id(1) * HEADS < heads + kv_heads:
        # Loaded for each head as its halves are, so that no thread hands anything to another.
        each = 0 * head[:, None] + cells[None, :]
        c = tl.load(cos + position * half + each, mask=mask, other=0.0)
        s = tl.load(sin + position * half + each, mask=mask, other=0.0)
        x = first
        y = second
        if NORMED:
            square = tl.sum(x * x, axis=1) + tl.sum(y * y, axis=1)
            scale = tl.rsqrt(square / (2 * half) + eps)[:, None]
            is_cell_of_query = is_query[:, None] & is_cell[None, :]
            weight = tl.load(q_norm + each, mask=is_cell_of_query, other=0.0)
            weight += tl.load(k_norm + each, mask=mask & ~is_query[:, None], other=0.0)
            x = x * scale * weight.to(tl.float32)
            weight = tl.load(q_norm + half + each, mask=is_cell_of_query, other=0.0)
            weight += tl.load(k_norm + half + each, mask=mask & ~is_query[:, None], other=0.0)
            y = y * scale * weight.to(tl.float32)
            # What is rotated is the norm as the activations' type holds it.
            x = x.to(qkv.dtype.element_ty).to(tl.float32)
            y = y.to(qkv.dtype.element_ty).to(tl.float32)
        # Values among them stay as they are.
        first = tl.where(is_rotated[:, None], x * c - y * s, first)
        second = tl.where(is_rotated[:, None], y * c + x * s, second)
        queries = is_query[:, None] & is_cell[None, :]
        tl.store(row, first.to(qkv.dtype.element_ty), mask=queries)
        tl.store(row + half, second.to(qkv.dtype.element_ty), mask=queries)
    if slot >= 0:
        own = slot // BLOCK * kv_heads
        within = slot % BLOCK
        if (tl.program_id(1) + 1) * HEADS > heads:
            at = (own + head - heads) * BLOCK + within
            is_key = is_rotated & (head >= heads)
            _store_heads(k_cache, k_scale, at, first, second, half, cells, is_key, is_cell, SCALED)
        if (tl.program_id(1) + 1) * HEADS > heads + kv_heads:
            at = (own + head - heads - kv_heads) * BLOCK + within
            is_value = is_head & (head >= heads + kv_heads)
            _store_heads(v_cache, v_scale, at, first, second, half, cells, is_value, is_cell, SCALED)


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
    wide = int(triton.next_power_of_2(half))
    all_heads = heads + 2 * kv_heads
    group = min(GROUP, int(triton.next_power_of_2(all_heads)))
    # Eight elements a thread are 16 bytes.
    warps = min(max(group * wide // 256, 1), 8)
    _rope_cache[(qkv.shape[0], triton.cdiv(all_heads, group))](
        qkv, positions, slots, cos, sin, k_cache, v_cache, k_scale, v_scale, q_norm, k_norm, qkv.stride(0), eps,
        heads, kv_heads, half, group, wide, k_cache.shape[2],
        NORMED=q_norm is not None, SCALED=k_scale is not None, num_warps=warps,
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
