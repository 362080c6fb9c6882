//! The results: one step's sampled ids as flat 32-bit words. A runner writes them, the core reads them in `commit`.
//!
//! Sections, each `max_rows` (or `max_rows × top_cap`) words, indexed by an entry's `SAMPLE_INDEX`:
//! ids (u32), log-probabilities (f32 bits), top-n ids (u32, most likely first), top-n log-probabilities (f32 bits).
//! Behind them the scores, `max_scores` (or `max_scores × top_cap`) words each, indexed by `SCORE_INDEX` and on:
//! log-probabilities, top-n ids, top-n log-probabilities.

/// In place of a sampled id: the row had no finite logit, so its request cannot go on. In the top-n ids: an unused cell.
pub const FAILED: u32 = u32::MAX;

/// Sizes from which the sections' offsets follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The most samples in a step.
    pub max_rows: u32,
    /// The most top-n entries a sample can ask for.
    pub top_cap: u32,
    /// The most scored positions in a step.
    pub max_scores: u32,
}

impl Layout {
    /// Offset of the sampled ids.
    pub const IDS: usize = 0;

    /// Offset of the log-probabilities.
    #[must_use]
    pub const fn logprobs(self) -> usize {
        self.max_rows as usize
    }

    /// Offset of the top-n ids.
    #[must_use]
    pub const fn top_ids(self) -> usize {
        2 * self.max_rows as usize
    }

    /// Offset of the top-n log-probabilities.
    #[must_use]
    pub const fn top_logprobs(self) -> usize {
        self.top_ids() + self.max_rows as usize * self.top_cap as usize
    }

    /// Offset of the scores' log-probabilities.
    #[must_use]
    pub const fn score_logprobs(self) -> usize {
        self.top_logprobs() + self.max_rows as usize * self.top_cap as usize
    }

    /// Offset of the scores' top-n ids.
    #[must_use]
    pub const fn score_top_ids(self) -> usize {
        self.score_logprobs() + self.max_scores as usize
    }

    /// Offset of the scores' top-n log-probabilities.
    #[must_use]
    pub const fn score_top_logprobs(self) -> usize {
        self.score_top_ids() + self.max_scores as usize * self.top_cap as usize
    }

    /// Words of one slot.
    #[must_use]
    pub const fn slot_words(self) -> usize {
        self.score_top_logprobs() + self.max_scores as usize * self.top_cap as usize
    }
}
