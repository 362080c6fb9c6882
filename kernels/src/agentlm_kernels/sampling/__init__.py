"""The sampler: from logits, records of rows and their tokens to ids, log-probabilities and the next step's tokens.

The order is TGI's: watermark, repetition, frequency and presence penalty, bias, a grammar's mask, the ban of the ends of
sequence, temperature, top-k, top-p, min-p, typical-p; then the largest of value plus noise (`noise`). Greedy rows take the
largest value and know no temperature and filters. What a sample is depends on its row alone. It computes what
`engine/cpu/src/sampler` does, up to rounding. Refuses to know models and text.

Two ways: `sample_fast` where every row only wants its next token, greedily or from the whole distribution; `sample_full` for
everything. Both read logits float32 `[n, width]` of the samples `sample_row` (int32 `[n]`, -1 is padding) at
`sample_position`, write ids to `results` (int32, as `ResultsLayout` says) and to `row_tokens` `[rows, length]`.
"""

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


def _stats(
    x: Tensor, stats: Tensor, rows: Tensor, records: Tensor, vocab: int, scaled: bool
) -> None:
    subtiles = subtiles_of(vocab)
    _draw.row_stats[(subtiles // PER_PROGRAM, rows.shape[0])](
        x, stats, rows, records, scaled, x.stride(0), subtiles, vocab, SUBTILE, PER_PROGRAM, num_warps=4,
    )


def _noisy(
    x: Tensor, sample_row: Tensor, sample_position: Tensor, records: Tensor, buffers: SamplerBuffers, vocab: int
) -> None:
    subtiles = subtiles_of(vocab)
    _draw.draw[(subtiles // PER_PROGRAM, sample_row.shape[0])](
        x, buffers.stats, buffers.drawn, buffers.drawn_id, sample_row, sample_position, records,
        x.stride(0), subtiles, vocab, int(triton.next_power_of_2(subtiles)), SUBTILE // 4, PER_PROGRAM, num_warps=4,
    )  # fmt: skip


def sample_fast(
    logits: Tensor, sample_row: Tensor, sample_position: Tensor, records: Tensor, row_tokens: Tensor,
    buffers: SamplerBuffers, settings: SamplerSettings, results: Tensor, layout: ResultsLayout,
) -> None:  # fmt: skip
    """Samples rows that are greedy or drawn from all tokens, without log-probabilities (they are given as 0)."""
    vocab = settings.vocab
    subtiles = subtiles_of(vocab)
    _stats(logits, buffers.stats, sample_row, records, vocab, False)
    _noisy(logits, sample_row, sample_position, records, buffers, vocab)
    _choose.choose_fast[(sample_row.shape[0],)](
        buffers.stats, buffers.drawn, buffers.drawn_id, sample_row, sample_position, row_tokens, results, layout.max_rows,
        row_tokens.stride(0), subtiles, int(triton.next_power_of_2(subtiles)), num_warps=1,
    )  # fmt: skip


def sample_full(
    logits: Tensor, sample_row: Tensor, sample_position: Tensor, records: Tensor, row_tokens: Tensor, biases: Tensor,
    masks: Tensor, buffers: SamplerBuffers, settings: SamplerSettings, results: Tensor, layout: ResultsLayout,
) -> None:  # fmt: skip
    """Samples any rows. `masks` is int32 `[n, ≥ vocab / 32]`: one bit an id, read for constrained rows only."""
    vocab, n = settings.vocab, sample_row.shape[0]
    subtiles = subtiles_of(vocab)
    padded = int(triton.next_power_of_2(subtiles))
    gamma = settings.watermark_gamma * (2.0**32 - 1)
    _adjust.adjust[(triton.cdiv(vocab, 4096), n)](
        logits, buffers.work, sample_row, sample_position, records, row_tokens, masks,
        gamma, settings.watermark_delta, masks.stride(0),
        logits.stride(0), buffers.work.stride(0), row_tokens.stride(0), vocab, 1024, num_warps=4,
    )  # fmt: skip
    _adjust.penalise[(n,)](
        buffers.work, buffers.counts, sample_row, sample_position, records, row_tokens, biases, masks,
        settings.eos_ids, settings.eos_ids.shape[0], masks.stride(0),
        buffers.work.stride(0), row_tokens.stride(0), biases.stride(0), vocab, 1024,
        int(triton.next_power_of_2(max(settings.eos_ids.shape[0], 2))), num_warps=8,
    )  # fmt: skip
    _stats(buffers.work, buffers.stats, sample_row, records, vocab, True)
    _stats(logits, buffers.raw_stats, sample_row, records, vocab, False)
    _noisy(buffers.work, sample_row, sample_position, records, buffers, vocab)
    _choose.choose[(n,)](
        logits, buffers.work, buffers.stats, buffers.raw_stats, buffers.drawn, buffers.drawn_id,
        buffers.candidate, buffers.candidate_id, sample_row, sample_position, records, row_tokens, results,
        layout.max_rows, layout.top_cap,
        logits.stride(0), buffers.work.stride(0), buffers.candidate.stride(0), row_tokens.stride(0), subtiles, vocab,
        padded, SUBTILE, 2048, num_warps=8,
    )  # fmt: skip


def score_rows(
    logits: Tensor, score_row: Tensor, score_next: Tensor, records: Tensor,
    buffers: SamplerBuffers, settings: SamplerSettings, results: Tensor, layout: ResultsLayout,
) -> None:  # fmt: skip
    """Log-probabilities of given tokens: of `score_next[i]` by row i of `logits`, and the most likely ones."""
    vocab, n = settings.vocab, score_row.shape[0]
    subtiles = subtiles_of(vocab)
    _stats(logits, buffers.raw_stats, score_row, records, vocab, False)
    _choose.score[(n,)](
        logits, buffers.raw_stats, buffers.candidate, buffers.candidate_id, score_row, score_next, records, results,
        layout.score_start, layout.top_cap, layout.max_scores,
        logits.stride(0), buffers.candidate.stride(0), subtiles, vocab,
        int(triton.next_power_of_2(subtiles)), SUBTILE, 2048, num_warps=8,
    )  # fmt: skip
