"""What a runner on a device reads of a plan on the host: counts, and what sampling its rows need.

Refuses to know devices.
"""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from agentlm_kernels import words

Words = npt.NDArray[np.int32]
_ENTRY, _INIT = words.ENTRY_WORDS.value, words.RECORD_WORDS.value
_ROW, _SAMPLE, _FLAGS = words.ROW.value, words.SAMPLE_INDEX.value, words.FLAGS.value


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
        head = slot[: words.HEADER_WORDS.value].tolist()

        def records(offset: int, n: int, size: int) -> Words:
            return slot[offset : offset + n * size].reshape(n, size)

        n_entries, n_inits = head[words.N_ENTRIES.value], head[words.N_INITS.value]
        return cls(
            n_entries=n_entries,
            n_tokens=head[words.N_TOKENS.value],
            n_samples=head[words.N_SAMPLES.value],
            n_scores=head[words.N_SCORES_IN_ALL.value],
            n_inits=n_inits,
            n_block_diffs=head[words.N_BLOCK_DIFFS.value],
            max_q_len=head[words.MAX_Q_LEN.value],
            used_words=head[words.USED_WORDS.value],
            entries=records(head[words.OFF_ENTRIES.value], n_entries, _ENTRY),
            inits=records(head[words.OFF_INITS.value], n_inits, _INIT),
        )

    @property
    def is_decode(self) -> bool:
        """Every entry computes one token and samples the next."""
        return self.max_q_len == 1 and self.n_samples == self.n_entries and self.n_scores == 0


class RowFlags:
    """What is known on the host of each row's sampling."""

    def __init__(self, rows: int) -> None:
        self._full = np.zeros(rows, dtype=np.bool_)
        self._constrained = np.zeros(rows, dtype=np.bool_)
        self._adapted = np.zeros(rows, dtype=np.bool_)

    def update(self, plan: Plan) -> None:
        """Takes the plan's new rows in."""
        if plan.n_inits:
            rows = plan.inits[:, _ROW]
            self._full[rows] = needs_full(plan.inits)
            self._constrained[rows] = (plan.inits[:, _FLAGS] & words.CONSTRAINED.value) != 0
            self._adapted[rows] = plan.inits[:, words.ADAPTER.value] != 0

    def needs_full(self, plan: Plan) -> bool:
        """Whether a row of the step wants more than its largest logit, or a draw from all of them."""
        return bool(self._full[plan.entries[:, _ROW]].any())

    def has_adapters(self, plan: Plan) -> bool:
        """Whether a row of the step chose an adapter."""
        return bool(self._adapted[plan.entries[:, _ROW]].any())

    def is_constrained(self, plan: Plan) -> bool:
        """Whether a row samples under a mask."""
        return bool(self._constrained[plan.entries[:, _ROW]].any())

    def constrained_samples(self, plan: Plan) -> list[int]:
        """Sample indices that have a mask."""
        samples: npt.NDArray[Any] = plan.entries[:, _SAMPLE]
        chosen: list[int] = samples[self._constrained[plan.entries[:, _ROW]] & (samples >= 0)].tolist()
        return chosen


def needs_full(inits: Words) -> npt.NDArray[np.bool_]:
    """For each init `[n, 24]`, whether its row wants filters, penalties, biases, masks or log-probabilities."""
    floats = inits.view(np.float32)
    flags = words.LOGPROBS.value | words.BAN_EOS.value | words.CONSTRAINED.value | words.WATERMARK.value
    full: npt.NDArray[np.bool_] = (
        ((inits[:, _FLAGS] & flags) != 0)
        | (inits[:, words.TOP_K.value] > 0)
        | (floats[:, words.TOP_P.value] < 1)
        | (floats[:, words.MIN_P.value] > 0)
        | (floats[:, words.TYPICAL_P.value] < 1)
        | (floats[:, words.REPETITION_PENALTY.value] != 1)
        | (floats[:, words.FREQUENCY_PENALTY.value] != 0)
        | (floats[:, words.PRESENCE_PENALTY.value] != 0)
        | (inits[:, words.TOP_N.value] > 0)
        | (inits[:, words.MIN_NEW_TOKENS.value] > 0)
        | (inits[:, words.N_BIAS.value] > 0)
    )
    return full
