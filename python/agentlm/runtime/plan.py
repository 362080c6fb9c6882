"""What a runner on a device reads of a plan on the host: counts, and what sampling its rows need. numpy only.

The offsets are those of `engine/core/src/arena.rs`. Refuses to know devices.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from agentlm.ops.triton import StepShape
    from agentlm_kernels.attention import SplitPolicy

Words = npt.NDArray[np.int32]
HEADER_WORDS = 17
ENTRY_WORDS = 8
INIT_WORDS = 24
LOGPROBS, BAN_EOS, CONSTRAINED, WATERMARK = 2, 16, 32, 64


@dataclass(frozen=True, slots=True)
class Plan:
    """One slot's header and its entries."""

    n_entries: int
    n_tokens: int
    n_samples: int
    n_scores: int
    n_inits: int
    n_block_diffs: int
    max_q_len: int
    used_words: int
    entries: Words
    """`[n_entries, 8]`, a view of the slot until its commit."""
    inits: Words
    """`[n_inits, 24]`."""

    @classmethod
    def read(cls, slot: Words) -> Self:
        """Reads a planned slot."""
        head = slot[:HEADER_WORDS].tolist()
        n_entries, n_inits = head[4], head[9]
        return cls(
            n_entries=n_entries,
            n_tokens=head[5],
            n_samples=head[6],
            n_scores=head[16],
            n_inits=n_inits,
            n_block_diffs=head[10],
            max_q_len=head[7],
            used_words=head[15],
            entries=slot[head[11] : head[11] + n_entries * ENTRY_WORDS].reshape(n_entries, ENTRY_WORDS),
            inits=slot[head[12] : head[12] + n_inits * INIT_WORDS].reshape(n_inits, INIT_WORDS),
        )

    @property
    def is_decode(self) -> bool:
        """Every entry computes one token and samples the next."""
        return self.max_q_len == 1 and self.n_samples == self.n_entries and self.n_scores == 0

    def shape(self, policy: "SplitPolicy") -> "StepShape":
        """The step as it is, without padding."""
        from agentlm.ops.triton import StepShape

        q_lens = self.entries[:, 2]
        return StepShape(
            entries=self.n_entries,
            tokens=self.n_tokens,
            rows=max(self.n_samples + self.n_scores, 1),
            has_decodes=bool((q_lens == 1).any()),
            has_prefills=self.max_q_len > 1,
            policy=policy,
        )


class RowFlags:
    """What is known on the host of each row's sampling."""

    def __init__(self, rows: int) -> None:
        self._full = np.zeros(rows, dtype=np.bool_)
        self._constrained = np.zeros(rows, dtype=np.bool_)

    def update(self, plan: Plan) -> None:
        """Takes the plan's new rows in."""
        if plan.n_inits:
            rows = plan.inits[:, 0]
            self._full[rows] = needs_full(plan.inits)
            self._constrained[rows] = (plan.inits[:, 4] & CONSTRAINED) != 0

    def needs_full(self, plan: Plan) -> bool:
        """Whether a row of the step wants more than its largest logit, or a draw from all of them."""
        return bool(self._full[plan.entries[:, 0]].any())

    def is_constrained(self, plan: Plan) -> bool:
        """Whether a row samples under a mask."""
        return bool(self._constrained[plan.entries[:, 0]].any())

    def constrained_samples(self, plan: Plan) -> list[int]:
        """Sample indices that have a mask."""
        samples: npt.NDArray[Any] = plan.entries[:, 4]
        chosen: list[int] = samples[self._constrained[plan.entries[:, 0]] & (samples >= 0)].tolist()
        return chosen


def needs_full(inits: Words) -> npt.NDArray[np.bool_]:
    """For each init `[n, 24]`, whether its row wants filters, penalties, biases, masks or log-probabilities."""
    floats = inits.view(np.float32)
    full: npt.NDArray[np.bool_] = (
        ((inits[:, 4] & (LOGPROBS | BAN_EOS | CONSTRAINED | WATERMARK)) != 0)
        | (inits[:, 6] > 0)
        | (floats[:, 7] < 1)
        | (floats[:, 8] > 0)
        | (floats[:, 9] < 1)
        | (floats[:, 10] != 1)
        | (floats[:, 11] != 0)
        | (floats[:, 12] != 0)
        | (inits[:, 16] > 0)
        | (inits[:, 17] > 0)
        | (inits[:, 18] > 0)
    )
    return full
