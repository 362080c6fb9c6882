"""Elementwise kernels in GB/s, and sampling in microseconds a step."""

from collections.abc import Callable
from typing import Any

import torch

from agentlm_kernels.embedding import embed
from agentlm_kernels.norm import add_rms_norm, rms_norm
from agentlm_kernels.rope_cache import rope_cache
from agentlm_kernels.sampling import ResultsLayout, SamplerBuffers, SamplerSettings, sample_fast, sample_full
from agentlm_kernels.swiglu import swiglu
from bench.gpu.timing import copies, microseconds

HIDDEN, INTER, HEADS, KV_HEADS, HEAD_DIM = 4096, 14336, 32, 8, 128


def elementwise(tokens: tuple[int, ...] = (1, 256, 4096, 8192)) -> dict[str, Any]:
    """Each kernel at so many tokens of an 8B model; bytes read and written once each."""
    found: dict[str, Any] = {}

    def bf16(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)

    for t in tokens:
        weight, width = bf16(HIDDEN), (HEADS + 2 * KV_HEADS) * HEAD_DIM
        n = copies(2 * t * HIDDEN, 8)
        xs, ys = [bf16(t, HIDDEN) for _ in range(n)], [bf16(t, HIDDEN) for _ in range(n)]
        gates, qkvs = [bf16(t, 2 * INTER) for _ in range(min(n, 4))], [bf16(t, width) for _ in range(n)]
        table, ids = bf16(128256, HIDDEN), torch.randint(0, 128256, (t,), device="cuda", dtype=torch.int32)
        cos = torch.randn(t, HEAD_DIM // 2, device="cuda")
        slots = torch.arange(t, device="cuda", dtype=torch.int32)
        cache = [bf16(t // 16 + 1, KV_HEADS, 16, HEAD_DIM) for _ in range(2)]
        cases: dict[str, tuple[list[Callable[[], object]], int]] = {
            "rms_norm": ([lambda x=x: rms_norm(x, weight, 1e-5) for x in xs], 4 * t * HIDDEN),
            "add_rms_norm": (
                [lambda x=x, y=y: add_rms_norm(x, y, weight, 1e-5) for x, y in zip(xs, ys, strict=True)],
                8 * t * HIDDEN,
            ),
            "swiglu": ([lambda g=g: swiglu(g) for g in gates], 6 * t * INTER),
            "embed": ([lambda: embed(table, ids)], 4 * t * HIDDEN),
            "rope_cache": (
                [
                    lambda q=q: rope_cache(
                        q, slots, slots, cos, cos, cache[0], cache[1], HEADS, KV_HEADS, HEAD_DIM
                    )
                    for q in qkvs
                ],
                4 * t * width,
            ),
        }
        for name, (launches, nbytes) in cases.items():
            us = microseconds(launches)
            found[f"{name} {t}"] = {"us": round(us, 2), "gb_s": round(nbytes / us / 1e3, 1)}
    return found


def sampling(vocab: int = 151936) -> dict[str, Any]:
    """A step's sampling, fast and full (top-k 50, top-p 0.9, temperature 0.8)."""
    found: dict[str, Any] = {}
    for n in (1, 64, 256):
        logits = torch.randn(n, vocab, device="cuda") * 3
        records = torch.zeros(n + 1, 24, dtype=torch.int32, device="cuda")
        floats = records.view(torch.float32)
        floats[:, 5] = 0.8
        floats[:, 7], floats[:, 9], floats[:, 10] = 1.0, 1.0, 1.0
        rows = torch.arange(n, dtype=torch.int32, device="cuda")
        positions = torch.full((n,), 7, dtype=torch.int32, device="cuda")
        tokens = torch.zeros(n + 1, 64, dtype=torch.int32, device="cuda")
        layout = ResultsLayout(n, 5, 16)
        results = torch.zeros(layout.words, dtype=torch.int32, device="cuda")
        buffers = SamplerBuffers.allocate(n, 16, vocab, "cuda")
        settings = SamplerSettings(torch.tensor([2], dtype=torch.int32, device="cuda"), vocab)
        given = (logits, rows, positions, records, tokens)
        out = (buffers, settings, results, layout)
        found[f"fast {n}"] = round(microseconds([lambda: sample_fast(*given, *out)] * 4), 2)
        biases = torch.zeros(n + 1, 2048, dtype=torch.int32, device="cuda")
        masks = torch.zeros(n, -(-vocab // 32), dtype=torch.int32, device="cuda")
        for name, k, p in (("top-k top-p", 50, 0.9), ("top-p", 0, 0.9)):
            records[:, 6] = k
            floats[:, 7] = p
            found[f"full {name} {n}"] = round(
                microseconds([lambda: sample_full(*given, biases, masks, *out)] * 2), 2
            )
    return found
