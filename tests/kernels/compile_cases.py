"""Launches that the compile gate compiles: production launchers at the shapes of 7B and 8B models, on meta tensors.

A case names what each of its kernels must contain: `matrix` (any matrix product), `wgmma` (the widest of the target),
`async16` (asynchronous copies of 16 bytes), `load16`, `store16` (16 bytes a thread), `handover` (what programs leave for
each other is ordered). Kernels are imported inside cases, so that one that does not import is one fault.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True)
class Case:
    """A launch, or several that belong together."""

    run: Callable[[], Any]
    needs: tuple[str, ...]
    skip: tuple[str, ...]
    """Targets that cannot do what it does."""
    gaps: dict[str, str]
    """Targets for which it is known to fail, and why: shown, but no fault."""


CASES: dict[str, Case] = {}
BF16, FP32, INT32, FP8 = torch.bfloat16, torch.float32, torch.int32, torch.float8_e4m3fn
NO_FP8 = ("sm_80", "gfx942")
TOO_LARGE = {"gfx942": "the tiles and stages are chosen for more than AMD's 64 KiB of shared memory"}

NARROW_STORES = {"gfx942": "twice as many threads a warp: a head's elements are 8 bytes for each"}


def case(
    name: str, *needs: str, skip: tuple[str, ...] = (), gaps: dict[str, str] | None = None
) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    """Registers a launch under a name."""

    def register(run: Callable[[], Any]) -> Callable[[], Any]:
        if name in CASES:
            raise ValueError(f"two cases are called {name}")
        CASES[name] = Case(run, needs, skip, gaps or {})
        return run

    return register


def meta(*shape: int, dtype: torch.dtype = BF16) -> torch.Tensor:
    """A tensor without memory."""
    return torch.empty(*shape, dtype=dtype, device="meta")


def ints(*shape: int) -> torch.Tensor:
    """The same of int32."""
    return meta(*shape, dtype=INT32)


# --- small kernels of a layer -----------------------------------------------------------------------------------------


@case("norm", "load16", "store16")
def _norm() -> None:
    from agentlm_kernels.norm import add_rms_norm, rms_norm

    rms_norm(meta(64, 4096), meta(4096), 1e-5)
    add_rms_norm(meta(64, 4096), meta(64, 4096), meta(4096), 1e-5)


@case("swiglu/7b", "load16", "store16")
def _swiglu() -> None:
    from agentlm_kernels.swiglu import swiglu

    swiglu(meta(64, 2 * 11008))


@case("embedding", "load16", "store16")
def _embedding() -> None:
    from agentlm_kernels.embedding import embed

    embed(meta(128256, 4096), ints(64))


def rope_cache(heads: int, kv_heads: int, *, normed: bool = False, cache: torch.dtype = BF16) -> None:
    """One launch at head dimension 128."""
    from agentlm_kernels.rope_cache import rope_cache as launch

    tokens, d, blocks = 64, 128, 4096
    scales = [meta(blocks, kv_heads, 16, dtype=FP32) if cache == FP8 else None for _ in range(2)]
    norms = [meta(d) if normed else None for _ in range(2)]
    launch(
        meta(tokens, (heads + 2 * kv_heads) * d), ints(tokens), ints(tokens),
        meta(8192, d // 2, dtype=FP32), meta(8192, d // 2, dtype=FP32),
        meta(blocks, kv_heads, 16, d, dtype=cache), meta(blocks, kv_heads, 16, d, dtype=cache),
        heads, kv_heads, d, *norms, 1e-6, *scales,
    )  # fmt: skip


@case("rope_cache/llama", "load16", "store16", gaps=NARROW_STORES)
def _rope_cache_llama() -> None:
    rope_cache(32, 8)


@case("rope_cache/qwen3", "load16", "store16", gaps=NARROW_STORES)
def _rope_cache_qwen3() -> None:
    rope_cache(32, 8, normed=True)


@case("rope_cache/fp8", "load16", skip=NO_FP8)
def _rope_cache_fp8() -> None:
    rope_cache(32, 8, cache=FP8)


# --- attention --------------------------------------------------------------------------------------------------------


def attention(
    what: str,
    heads: int,
    kv_heads: int,
    head_dim: int = 128,
    *,
    window: int | None = None,
    cache: torch.dtype = BF16,
    dtype: torch.dtype = BF16,
) -> None:
    """One launch of `paged_decode` or `paged_prefill`."""
    from agentlm_kernels.attention import (
        AttentionStep,
        DecodeWorkspace,
        SplitPolicy,
        paged_decode,
        paged_prefill,
    )

    entries, blocks = 8, 4096
    policy = SplitPolicy.for_step(entries, kv_heads)
    step = AttentionStep(
        ints(entries + 1),
        ints(entries),
        ints(entries),
        ints(257, 512),
        ints(entries * policy.max_splits),
        ints(1),
    )
    caches = [meta(blocks, kv_heads, 16, head_dim, dtype=cache) for _ in range(2)]
    given: dict[str, Any] = {"heads": heads, "scale": head_dim**-0.5, "window": window}
    if cache == FP8:
        given |= {name: meta(blocks, kv_heads, 16, dtype=FP32) for name in ("k_scale", "v_scale")}
    tokens = entries if what == "decode" else 2048
    q = meta(tokens, (heads + 2 * kv_heads) * head_dim, dtype=dtype)
    out = meta(tokens, heads * head_dim, dtype=dtype)
    if what == "decode":
        workspace = DecodeWorkspace.allocate(entries, heads, kv_heads, head_dim, "meta")
        paged_decode(q, *caches, step, policy, workspace, out=out, **given)
    else:
        paged_prefill(q, *caches, step, out=out, **given)


@case("decode/gqa4", "matrix", "async16", "handover")
def _decode_gqa() -> None:
    attention("decode", 32, 8)


@case("decode/mha", "matrix", "async16", "handover")
def _decode_mha() -> None:
    attention("decode", 32, 32)


@case("decode/window", "matrix", "handover")
def _decode_window() -> None:
    attention("decode", 32, 8, window=4096)


@case("decode/fp8", "matrix", "handover", skip=NO_FP8)
def _decode_fp8() -> None:
    attention("decode", 32, 8, cache=FP8)


@case("decode/head256", "matrix", "handover")
def _decode_wide() -> None:
    attention("decode", 16, 8, 256)


@case("prefill/gqa4", "wgmma", "async16", gaps=TOO_LARGE)
def _prefill_gqa() -> None:
    attention("prefill", 32, 8)


@case("prefill/mha", "wgmma", "async16", gaps=TOO_LARGE)
def _prefill_mha() -> None:
    attention("prefill", 32, 32)


@case("prefill/window", "matrix")
def _prefill_window() -> None:
    attention("prefill", 32, 8, window=4096)


@case("prefill/float32")
def _prefill_float32() -> None:
    attention("prefill", 32, 8, cache=FP32, dtype=FP32)


@case("prefill/fp8", "matrix", skip=NO_FP8)
def _prefill_fp8() -> None:
    attention("prefill", 32, 8, cache=FP8)


# --- products ---------------------------------------------------------------------------------------------------------


def skinny(m: int, n: int, k: int, **given: Any) -> None:
    """One skinny product in bfloat16."""
    from agentlm_kernels.skinny_linear import skinny_linear

    skinny_linear(meta(m, k), meta(n, k), **given)


@case("skinny/qkv", "load16")
def _skinny_qkv() -> None:
    skinny(1, 6144, 4096, norm_weight=meta(4096), eps=1e-5)
    skinny(8, 6144, 4096, norm_weight=meta(4096), eps=1e-5)


@case("skinny/out", "load16")
def _skinny_out() -> None:
    skinny(1, 4096, 4096, residual=meta(1, 4096))
    skinny(8, 4096, 4096, residual=meta(8, 4096))


@case("skinny/gate_up", "load16")
def _skinny_gate_up() -> None:
    skinny(1, 2 * 14336, 4096, norm_weight=meta(4096), eps=1e-5, swiglu=True)
    skinny(8, 2 * 14336, 4096, norm_weight=meta(4096), eps=1e-5, swiglu=True)


@case("skinny/down", "load16")
def _skinny_down() -> None:
    skinny(1, 4096, 11008, residual=meta(1, 4096))


@case("skinny/logits", "load16", gaps=TOO_LARGE)
def _skinny_logits() -> None:
    skinny(1, 128256, 4096, out_dtype=FP32)


def tuned_products() -> dict[str, tuple[int, int, int, bool]]:
    """Rows, outputs, columns, SwiGLU or not, by the keys of every table of tuned skinny products."""
    import agentlm_kernels

    keys = {
        key
        for file in (Path(agentlm_kernels.__file__).parent / "tuned").glob("*.json")
        for key in json.loads(file.read_text())["skinny_linear"]
        if not key.startswith("most_rows")
    }
    return {
        key: (int(m), int(n), int(k), bool(swiglu))
        for key in sorted(keys)
        for m, n, k, *swiglu in [key.split("/")]
    }


# Only Hopper has a table.
@case("skinny/tuned", "load16", skip=("sm_80", "sm_100", "gfx942"))
def _skinny_tuned() -> None:
    for m, n, k, swiglu in tuned_products().values():
        skinny(m, n, k, swiglu=swiglu)


@case("invariant/qkv", "wgmma", "async16", gaps=TOO_LARGE)
def _invariant_qkv() -> None:
    from agentlm_kernels.invariant_linear import invariant_linear

    invariant_linear(meta(64, 4096), meta(6144, 4096))


@case("invariant/logits", "wgmma", "async16", gaps=TOO_LARGE)
def _invariant_logits() -> None:
    from agentlm_kernels.invariant_linear import invariant_linear

    invariant_linear(meta(8, 4096), meta(128256, 4096), out_dtype=FP32)


def narrow(dtype: torch.dtype) -> None:
    """Products with one byte a weight, from one row of x to many."""
    from agentlm_kernels.int8_linear import byte_linear

    for m in (1, 8, 64, 128):
        byte_linear(meta(m, 4096), meta(6144, 4096, dtype=dtype), meta(6144, dtype=FP32))


@case("narrow/int8", "load16", gaps=TOO_LARGE)
def _narrow_int8() -> None:
    narrow(torch.int8)


@case("narrow/fp8", "load16", skip=NO_FP8)
def _narrow_fp8() -> None:
    narrow(FP8)


def four_bits(group: int, dtype: torch.dtype, rows: tuple[int, ...]) -> None:
    """Products with four bits a weight."""
    from agentlm_kernels.int4_linear import int4_linear

    packed, parameters = meta(6144, 4096 // 4, dtype=torch.int16), ints(6144, 4096 // group)
    for m in rows:
        int4_linear(meta(m, 4096, dtype=dtype), packed, parameters, group)


@case("narrow/int4", "matrix", "load16", gaps=TOO_LARGE)
def _narrow_int4() -> None:
    four_bits(128, BF16, (1, 32, 64, 128))


@case("narrow/int4 of halves", "matrix", "load16")
def _narrow_int4_of_halves() -> None:
    four_bits(128, torch.float16, (1, 64))


@case("narrow/int4 in small groups", "matrix", "load16")
def _narrow_int4_in_small_groups() -> None:
    # As many rows as there can be: Triton made nothing of more of them at a time.
    four_bits(32, BF16, (1, 128))
    four_bits(64, BF16, (128,))


@case("widen/int8", "store16")
def _widen_int8() -> None:
    from agentlm_kernels.int8_linear import widen_bytes

    widen_bytes(meta(6144, 4096, dtype=torch.int8), meta(6144, dtype=FP32), meta(6144, 4096))


@case("widen/fp8", "store16", skip=NO_FP8)
def _widen_fp8() -> None:
    from agentlm_kernels.int8_linear import widen_bytes

    widen_bytes(meta(6144, 4096, dtype=FP8), meta(6144, dtype=FP32), meta(6144, 4096))


@case("widen/int4")
def _widen_int4() -> None:
    from agentlm_kernels.int4_linear import widen_int4

    widen_int4(meta(6144, 4096 // 4, dtype=torch.int16), ints(6144, 4096 // 128), 128, meta(6144, 4096))


@case("fp8/narrow_rows", "load16", skip=NO_FP8)
def _narrow_rows() -> None:
    from agentlm_kernels.fp8_linear import narrow_rows

    narrow_rows(meta(512, 4096))


# --- the loss ---------------------------------------------------------------------------------------------------------


@case("loss", "load16", "store16")
def _loss() -> None:
    from agentlm_kernels.cross_entropy import softmax_loss

    logits, targets, logprobs = meta(512, 128256), meta(512, dtype=torch.int64), meta(512, dtype=FP32)
    softmax_loss(logits, targets, logprobs, meta(1, dtype=FP32), logits)


@case("loss/backward", "load16", "store16")
def _loss_backward() -> None:
    from agentlm_kernels.cross_entropy import multiply

    multiply(meta(512, 4096), meta(1, dtype=FP32))


@case("loss/logprobs", "load16")
def _loss_logprobs() -> None:
    from agentlm_kernels.cross_entropy import softmax_loss

    softmax_loss(meta(512, 128256), meta(512, dtype=torch.int64), meta(512, dtype=FP32))


# --- adapters ---------------------------------------------------------------------------------------------------------


@case("lora", "matrix")
def _lora() -> None:
    from agentlm_kernels.lora import lora

    for tokens, rank in ((1, 16), (64, 16), (4096, 64)):
        a, b = meta(4, rank, 4096), meta(4, 14336, rank)
        lora(meta(tokens, 4096), ints(tokens), a, b, meta(4, dtype=FP32), meta(tokens, 28672), 14336)


# --- the plan ---------------------------------------------------------------------------------------------------------


@case("arena")
def _arena() -> None:
    from agentlm_kernels.arena import Expansion, Rows, apply_changes, expand
    from agentlm_kernels.attention import SplitPolicy

    rows = Rows.allocate(256, 8192, "meta")
    arena = ints(65536)
    apply_changes(arena, rows, 4)
    expand(arena, rows, Expansion.allocate(256, 4096, 64, "meta"), 64, SplitPolicy.for_step(64, 8))


# --- sampling ---------------------------------------------------------------------------------------------------------


def sampling(what: str, vocab: int, rows: int = 64) -> None:
    """`sample_fast`, `sample_full` or `score_rows` of float32 logits, with settings as a server has them."""
    from agentlm_kernels.sampling import (
        ResultsLayout,
        SamplerBuffers,
        SamplerSettings,
        sample_fast,
        sample_full,
        score_rows,
    )
    from agentlm_kernels.words import RECORD_WORDS

    layout = ResultsLayout(256, 20, 64)
    buffers = SamplerBuffers.allocate(256, 64, vocab, "meta")
    settings = SamplerSettings(ints(2), vocab)
    logits, results, records = (
        meta(rows, vocab, dtype=FP32),
        ints(layout.words),
        ints(257, RECORD_WORDS.value),
    )
    row_tokens = ints(257, 8192)
    if what == "fast":
        sample_fast(logits, ints(rows), ints(rows), records, row_tokens, buffers, settings, results, layout)
    elif what == "full":
        biases, masks = ints(257, 2048), ints(rows, 4096)
        sample_full(
            logits, ints(rows), ints(rows), records, row_tokens, biases, masks, buffers, settings, results, layout
        )  # fmt: skip
    else:
        score_rows(logits, ints(rows), ints(rows), records, buffers, settings, results, layout)


@case("sampling/fast")
def _sampling_fast() -> None:
    sampling("fast", 128256)


@case("sampling/full", gaps={"gfx942": "Triton 3.6 has no atomic exchange of this type for AMD"})
def _sampling_full() -> None:
    sampling("full", 128256)


@case("sampling/score")
def _sampling_score() -> None:
    sampling("score", 128256)
