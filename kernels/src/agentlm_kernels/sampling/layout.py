"""Where sampling reads and writes: the results slot, workspaces. Refuses to compute.

The results' offsets are those of `engine/core/src/results.rs`; the words of records are in `agentlm_kernels.words`.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from agentlm_kernels.words import (
    BAN_EOS,
    CONSTRAINED,
    FREQUENCY_PENALTY,
    MIN_NEW_TOKENS,
    N_BIAS,
    PRESENCE_PENALTY,
    REPETITION_PENALTY,
    WATERMARK,
)

FAILED = tl.constexpr(-1)
"""In place of a sampled id: the row has no finite logit."""
NO_ID = tl.constexpr(2147483647)
"""Larger than all ids, and as a bound of keys than all keys."""
SUBTILE = 256
"""Logits whose largest value and sum are kept: what is far below all that can matter is then never read again."""
PER_PROGRAM = 16
"""Subtiles of one program."""


@dataclass(frozen=True, slots=True)
class ResultsLayout:
    """Sizes of a results slot, int32 words: ids, log-probabilities, top-n ids and log-probabilities, then the scores'."""

    max_rows: int
    top_cap: int
    max_scores: int

    @property
    def score_start(self) -> int:
        """Offset of the scores' log-probabilities."""
        return 2 * self.max_rows * (1 + self.top_cap)

    @property
    def words(self) -> int:
        """Words of a slot."""
        return self.score_start + self.max_scores * (1 + 2 * self.top_cap)


@dataclass(frozen=True, slots=True)
class SamplerSettings:
    """What a sampler knows of the model."""

    eos_ids: Tensor
    """int32 `[n]`: ids that end a sequence; none is a tensor of no elements."""
    vocab: int
    """Ids that can be sampled; logits past them are ignored."""
    watermark_gamma: float = 0.5
    """Share of the ids that a watermark favours."""
    watermark_delta: float = 2.0
    """What it adds to their logits."""


@dataclass(frozen=True, slots=True)
class SamplerBuffers:
    """Workspaces for so many rows of logits."""

    work: Tensor
    """float32 `[samples, vocab]`: logits as they are sampled from."""
    counts: Tensor
    """int32 `[samples, vocab]`: how often each id occurs; all zero between launches."""
    stats: Tensor
    """float32 `[rows, 3, subtiles]`: largest value, bound of a draw, sum of exponentials below the largest. `rows` here and
    below is the larger of samples and scores."""
    raw_stats: Tensor
    """The same of logits that were not changed."""
    hits: Tensor
    """int32 `[rows, subtiles]`: subtiles that hold candidates."""
    candidate: Tensor
    """float32 `[rows, vocab]`: values that may matter, in the order of their ids."""
    candidate_id: Tensor
    """int32, the same shape."""

    @classmethod
    def allocate(
        cls, max_samples: int, max_scores: int, vocab: int, device: torch.device | str
    ) -> "SamplerBuffers":
        """Workspaces on `device`."""
        # Samples and scores are worked on one after the other.
        rows, subtiles = max(max_samples, max_scores), subtiles_of(vocab)

        def make(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(*shape, dtype=dtype, device=device)

        return cls(
            work=make(max_samples, vocab),
            counts=make(max_samples, vocab, dtype=torch.int32),
            stats=make(rows, 3, subtiles),
            raw_stats=make(rows, 3, subtiles),
            hits=make(rows, subtiles, dtype=torch.int32),
            candidate=make(rows, vocab),
            candidate_id=make(rows, vocab, dtype=torch.int32),
        )


def subtiles_of(vocab: int) -> int:
    """Subtiles of a row, a whole number of programs' worth."""
    return int(triton.cdiv(vocab, SUBTILE * PER_PROGRAM)) * PER_PROGRAM


@triton.jit
def word(record, at: tl.constexpr):
    """An integer of a record."""
    return tl.load(record + at)


@triton.jit
def real(record, at: tl.constexpr):
    """A float32 of a record, stored by its bits."""
    return tl.load(record + at).to(tl.float32, bitcast=True)


@triton.jit
def is_adjusted(record, flags):
    """Whether a row's logits are changed before it is sampled from; others are read where they lie."""
    changed = (flags & (WATERMARK | CONSTRAINED | BAN_EOS)) != 0
    changed = changed | (real(record, REPETITION_PENALTY) != 1.0) | (real(record, FREQUENCY_PENALTY) != 0.0)
    changed = changed | (real(record, PRESENCE_PENALTY) != 0.0)
    return changed | (word(record, MIN_NEW_TOKENS) > 0) | (word(record, N_BIAS) > 0)
