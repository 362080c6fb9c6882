"""The sampler: from logits, records of rows and their tokens to ids, log-probabilities and the next step's tokens.

The order is TGI's: watermark, repetition, frequency and presence penalty, bias, a grammar's mask, the ban of the ends of
sequence, temperature, top-k, top-p, min-p, typical-p; then the largest of value plus noise (`noise`). Greedy rows take the
largest value and know no temperature and filters. What a sample is depends on its row alone. It computes what
`engine/cpu/src/sampler` does, up to rounding. Refuses to know models and text.

Two ways: `sample_fast` where every row only wants its next token, greedily or from the whole distribution; `sample_full`
for everything. Both read logits float32 `[n, width]` of the samples `sample_row` (int32 `[n]`, -1 is padding) at
`sample_position`, write ids to `results` (int32, as `ResultsLayout` says) and to `row_tokens` `[rows, length]`.
"""

import math

import triton
from torch import Tensor

from agentlm_kernels.sampling import adjust as _adjust
from agentlm_kernels.sampling import choose as _choose
from agentlm_kernels.sampling import draw as _draw
from agentlm_kernels.sampling.layout import (
    PER_PROGRAM,
    SUBTILE,
    ResultsLayout,
    SamplerBuffers,
    SamplerSettings,
    subtiles_of,
)

__all__ = ["ResultsLayout", "SamplerBuffers", "SamplerSettings", "sample_fast", "sample_full", "score_rows"]


_BOUNDS, _SAMPLED, _RAW, _ALL = range(4)
"""Kinds of a survey."""
GATHER = 4096
"""Logits that are looked at together when candidates are gathered."""
TILE = 2048
"""Candidates that are looked at together."""


def _survey(
    kind: int, logits: Tensor, work: Tensor, stats: Tensor, rows: Tensor, positions: Tensor, records: Tensor, vocab: int
) -> None:  # fmt: skip
    subtiles = subtiles_of(vocab)
    _draw.survey[(subtiles // PER_PROGRAM, rows.shape[0])](
        logits, work, stats, rows, positions, records, kind, logits.stride(0), work.stride(0), subtiles, vocab,
        SUBTILE, PER_PROGRAM, num_warps=4,
    )  # fmt: skip


def sample_fast(
    logits: Tensor, sample_row: Tensor, sample_position: Tensor, records: Tensor, row_tokens: Tensor,
    buffers: SamplerBuffers, settings: SamplerSettings, results: Tensor, layout: ResultsLayout,
) -> None:  # fmt: skip
    """Samples rows that are greedy or drawn from all tokens, without log-probabilities (they are given as 0)."""
    vocab = settings.vocab
    subtiles = subtiles_of(vocab)
    _survey(_BOUNDS, logits, logits, buffers.stats, sample_row, sample_position, records, vocab)
    _draw.choose_fast[(sample_row.shape[0],)](
        logits, buffers.stats, sample_row, sample_position, records, row_tokens, results, layout.max_rows,
        logits.stride(0), row_tokens.stride(0), subtiles, vocab, int(triton.next_power_of_2(subtiles)), SUBTILE,
        num_warps=1,
    )  # fmt: skip


def sample_full(
    logits: Tensor, sample_row: Tensor, sample_position: Tensor, records: Tensor, row_tokens: Tensor, biases: Tensor,
    masks: Tensor, buffers: SamplerBuffers, settings: SamplerSettings, results: Tensor, layout: ResultsLayout,
) -> None:  # fmt: skip
    """Samples any rows. `masks` is int32 `[n, ≥ vocab / 32]`: one bit an id, read for constrained rows only."""
    vocab, n = settings.vocab, sample_row.shape[0]
    subtiles = subtiles_of(vocab)
    padded = int(triton.next_power_of_2(subtiles))
    favoured_below = math.ceil(settings.watermark_gamma * (2.0**32 - 1))
    _adjust.adjust[(triton.cdiv(vocab, 4096), n)](
        logits, buffers.work, sample_row, sample_position, records, row_tokens, masks,
        favoured_below, settings.watermark_delta, masks.stride(0),
        logits.stride(0), buffers.work.stride(0), row_tokens.stride(0), vocab, 1024, num_warps=4,
    )  # fmt: skip
    _adjust.penalise[(n,)](
        buffers.work, buffers.counts, sample_row, sample_position, records, row_tokens, biases, masks,
        settings.eos_ids, settings.eos_ids.shape[0], masks.stride(0),
        buffers.work.stride(0), row_tokens.stride(0), biases.stride(0), vocab, 1024,
        int(triton.next_power_of_2(max(settings.eos_ids.shape[0], 2))), num_warps=8,
    )  # fmt: skip
    _survey(_SAMPLED, logits, buffers.work, buffers.stats, sample_row, sample_position, records, vocab)
    _survey(_RAW, logits, buffers.work, buffers.raw_stats, sample_row, sample_position, records, vocab)
    _choose.choose[(n,)](
        logits, buffers.work, buffers.stats, buffers.raw_stats, buffers.hits,
        buffers.candidate, buffers.candidate_id, sample_row, sample_position, records, row_tokens, results,
        layout.max_rows, layout.top_cap,
        logits.stride(0), buffers.work.stride(0), buffers.candidate.stride(0), row_tokens.stride(0), subtiles, vocab,
        padded, SUBTILE, GATHER, TILE, num_warps=16,
    )  # fmt: skip


def score_rows(
    logits: Tensor, score_row: Tensor, score_next: Tensor, records: Tensor,
    buffers: SamplerBuffers, settings: SamplerSettings, results: Tensor, layout: ResultsLayout,
) -> None:  # fmt: skip
    """Log-probabilities of given tokens: of `score_next[i]` by row i of `logits`, and the most likely ones."""
    vocab, n = settings.vocab, score_row.shape[0]
    subtiles = subtiles_of(vocab)
    _survey(_ALL, logits, logits, buffers.raw_stats, score_row, score_next, records, vocab)
    _choose.score[(n,)](
        logits, buffers.raw_stats, buffers.hits, buffers.candidate, buffers.candidate_id, score_row, score_next, records,
        results,
        layout.score_start, layout.top_cap, layout.max_scores,
        logits.stride(0), buffers.candidate.stride(0), subtiles, vocab,
        int(triton.next_power_of_2(subtiles)), SUBTILE, GATHER, TILE, num_warps=8,
    )  # fmt: skip
