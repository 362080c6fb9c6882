"""The part `elementwise`: the kernels that only move memory, by the bytes that they must read and write."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from agentlm_kernels.embedding import embed
from agentlm_kernels.norm import add_rms_norm, rms_norm
from agentlm_kernels.rope_cache import rope_cache
from agentlm_kernels.swiglu import swiglu
from bench.gpu.child import Say, Setup
from bench.gpu.timing import microseconds, sets_for

TOKENS = (1, 256, 4096, 8192)
EPS = 1e-5


@dataclass(frozen=True, slots=True)
class Sizes:
    """Llama-3-8B's, or tiny ones."""

    hidden: int = 4096
    inter: int = 14336
    heads: int = 32
    kv_heads: int = 8
    head_dim: int = 128
    vocab: int = 128256


TINY = Sizes(64, 96, 4, 2, 16, 128)
Make = Callable[[int, Sizes, Setup], Callable[[], object]]
"""From tokens: new operands, and the launch over them."""


def run(setup: Setup, say: Say) -> None:
    """Every kernel at every number of tokens."""
    sizes = TINY if setup.rehearse else Sizes()
    for name, make, bytes_a_token in kernels(sizes, setup):
        for tokens in (2,) if setup.rehearse else TOKENS:
            with say.case(f"{name} {tokens}"):
                moved = tokens * bytes_a_token
                launches = [make(tokens, sizes, setup) for _ in range(sets_for(moved, setup.rehearse))]
                seconds = microseconds(launches) / 1e6
                say(
                    f"{name} {tokens}",
                    us=seconds * 1e6,
                    gb_per_s=moved / seconds / 1e9,
                    of_copy=setup.of_copy(moved / seconds),
                    minor=tokens in (256, 4096),
                )


def kernels(sizes: Sizes, setup: Setup) -> list[tuple[str, Make, int]]:
    """Name, operands and bytes a token (read and written) of each."""
    element = setup.dtype.itemsize
    qkv = (sizes.heads + 2 * sizes.kv_heads) * sizes.head_dim
    # Queries and keys are read, values too, all are written; a row of cosines and sines is read.
    rotated = 2 * qkv * element + 4 * sizes.head_dim + 8
    return [
        ("rms_norm", _rms_norm, 2 * sizes.hidden * element),
        ("add_rms_norm", _add_rms_norm, 4 * sizes.hidden * element),
        ("swiglu", _swiglu, 3 * sizes.inter * element),
        ("rope_cache", _rope_cache, rotated),
        ("rope_cache, normed", _rope_cache_normed, rotated),
        ("embed", _embed, 2 * sizes.hidden * element + 4),
    ]


def _random(setup: Setup, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=setup.dtype, device=setup.device)


def _rms_norm(tokens: int, sizes: Sizes, setup: Setup) -> Callable[[], object]:
    x, weight = _random(setup, tokens, sizes.hidden), _random(setup, sizes.hidden)
    out = torch.empty_like(x)
    return lambda: rms_norm(x, weight, EPS, out)


def _add_rms_norm(tokens: int, sizes: Sizes, setup: Setup) -> Callable[[], object]:
    residual, x = (_random(setup, tokens, sizes.hidden) for _ in range(2))
    weight, out = _random(setup, sizes.hidden), torch.empty_like(x)
    return lambda: add_rms_norm(residual, x, weight, EPS, out)


def _swiglu(tokens: int, sizes: Sizes, setup: Setup) -> Callable[[], object]:
    x, out = _random(setup, tokens, 2 * sizes.inter), _random(setup, tokens, sizes.inter)
    return lambda: swiglu(x, out)


def _rope_cache(tokens: int, sizes: Sizes, setup: Setup, normed: bool = False) -> Callable[[], object]:
    place, block = setup.device, 16
    qkv = _random(setup, tokens, (sizes.heads + 2 * sizes.kv_heads) * sizes.head_dim)
    cos, sin = (torch.rand(tokens, sizes.head_dim // 2, dtype=torch.float32, device=place) for _ in range(2))
    positions = torch.arange(tokens, dtype=torch.int32, device=place)
    blocks = -(-tokens // block)
    order = torch.randperm(blocks, device=place).to(torch.int32)
    slots = order[positions.long() // block] * block + positions % block
    keys, values = (_random(setup, blocks, sizes.kv_heads, block, sizes.head_dim) for _ in range(2))
    weights = [_random(setup, sizes.head_dim) if normed else None for _ in range(2)]
    return lambda: rope_cache(
        qkv, positions, slots, cos, sin, keys, values, sizes.heads, sizes.kv_heads, sizes.head_dim,
        q_norm=weights[0], k_norm=weights[1], eps=EPS,
    )  # fmt: skip


def _rope_cache_normed(tokens: int, sizes: Sizes, setup: Setup) -> Callable[[], object]:
    return _rope_cache(tokens, sizes, setup, normed=True)


_TABLES: dict[int, torch.Tensor] = {}


def _embed(tokens: int, sizes: Sizes, setup: Setup) -> Callable[[], object]:
    if sizes.vocab not in _TABLES:
        _TABLES[sizes.vocab] = _random(setup, sizes.vocab, sizes.hidden)
    table = _TABLES[sizes.vocab]
    ids = torch.randint(0, sizes.vocab, (tokens,), dtype=torch.int32, device=setup.device)
    out = _random(setup, tokens, sizes.hidden)
    return lambda: embed(table, ids, out)
