//! The arena: one step's plan as flat, position-independent 32-bit words.
//!
//! The core writes it, a runner reads it; both sides know only this file. A *slot* of the arena ring holds one
//! step. Every offset is in words from the start of the slot, so a slot can be copied to a device or to
//! another process as it lies.
//!
//! Device state lives in *rows*. A row keeps, for its request's life: all known token ids
//! (`row_tokens[max_model_len]`), the block table and the sampling record. The arena carries only changes:
//!
//! 1. *inits*: a request got a row (first time, or again after preemption): its sampling record and all its known tokens;
//! 2. *block diffs*: `(row, start, len, ids…)`: block-table cells that changed;
//! 3. *entries*: what to compute: positions `computed .. computed + q_len` of a row, whose ids are read from `row_tokens`.
//!
//! A runner applies inits, then block diffs, then runs the entries. For an entry that samples, the sampled id is
//! written to `row_tokens[sample_position]` by the runner itself, so that the next step finds it without the host,
//! and to `results.ids[sample_index]`. The first `n_scores` positions of an entry are *scored*: position `computed + i`
//! gives the log-probability of `row_tokens[computed + i + 1]`, a prompt token, at `score_index + i` of the results' scores.
//!
//! A row that is [`flag::CONSTRAINED`] samples under a mask of allowed ids, which reaches the runner beside the arena: one mask a
//! sample index, made while the step runs.

mod validate;
mod view;
mod writer;

pub use validate::ArenaError;
pub use view::{BlockDiff, Entry, Init, View};
pub(crate) use writer::Writer;

/// First word of every slot: "AGLM".
pub const MAGIC: u32 = u32::from_le_bytes(*b"AGLM");
/// Layout version; a runner refuses any other.
pub const VERSION: u32 = 2;
/// "No sample": the entry's chunk ends before the request's last known token.
pub const NO_SAMPLE: u32 = u32::MAX;

/// Word offsets of the header.
pub mod header {
    /// [`super::MAGIC`]
    pub const MAGIC: usize = 0;
    /// [`super::VERSION`]
    pub const VERSION: usize = 1;
    /// Step number, low word.
    pub const STEP_LO: usize = 2;
    /// Step number, high word.
    pub const STEP_HI: usize = 3;
    /// Entries in this step, one a running request that computes something.
    pub const N_ENTRIES: usize = 4;
    /// Sum of the entries' `q_len`.
    pub const N_TOKENS: usize = 5;
    /// Entries that sample.
    pub const N_SAMPLES: usize = 6;
    /// Largest `q_len`.
    pub const MAX_Q_LEN: usize = 7;
    /// Largest `computed + q_len`.
    pub const MAX_CONTEXT: usize = 8;
    /// Row initialisations.
    pub const N_INITS: usize = 9;
    /// Block-table changes (ragged records).
    pub const N_BLOCK_DIFFS: usize = 10;
    /// Offset of the entries.
    pub const OFF_ENTRIES: usize = 11;
    /// Offset of the inits.
    pub const OFF_INITS: usize = 12;
    /// Offset of the block diffs.
    pub const OFF_BLOCK_DIFFS: usize = 13;
    /// Offset of the token slab.
    pub const OFF_TOKENS: usize = 14;
    /// Words used in all: the prefix that a runner copies to its device.
    pub const USED_WORDS: usize = 15;
    /// Scored positions.
    pub const N_SCORES: usize = 16;
    /// Header length.
    pub const WORDS: usize = 32;
}

/// Word offsets within an entry.
pub mod entry {
    /// The request's row.
    pub const ROW: usize = 0;
    /// Index of its first token among the step's tokens (prefix sum of `q_len`).
    pub const Q_START: usize = 1;
    /// Tokens computed in this step, ≥ 1.
    pub const Q_LEN: usize = 2;
    /// Position of the first of them = tokens whose KV is already in the cache.
    pub const COMPUTED: usize = 3;
    /// Index among the step's samples, or [`super::NO_SAMPLE`].
    pub const SAMPLE_INDEX: usize = 4;
    /// Where the sampled id goes in `row_tokens` = `computed + q_len`; also the position in the noise counter.
    pub const SAMPLE_POSITION: usize = 5;
    /// Index of its first scored position among the step's scores.
    pub const SCORE_INDEX: usize = 6;
    /// Leading positions that are scored, mostly 0.
    pub const N_SCORES: usize = 7;
    /// Record length.
    pub const WORDS: usize = 8;
}

/// Word offsets within an init. Floats are stored by their bits.
pub mod init {
    /// The row.
    pub const ROW: usize = 0;
    /// Known tokens: how many words of the slab belong to this row.
    pub const N_KNOWN: usize = 1;
    /// Their offset within the token slab.
    pub const TOKENS_START: usize = 2;
    /// How many of the known tokens are the prompt.
    pub const N_PROMPT: usize = 3;
    /// [`super::flag`] bits.
    pub const FLAGS: usize = 4;
    /// f32; > 0 (greedy rows have [`super::flag::GREEDY`]).
    pub const TEMPERATURE: usize = 5;
    /// u32; 0 is off.
    pub const TOP_K: usize = 6;
    /// f32; 1 is off.
    pub const TOP_P: usize = 7;
    /// f32; 0 is off.
    pub const MIN_P: usize = 8;
    /// f32; 1 is off.
    pub const TYPICAL_P: usize = 9;
    /// f32; 1 is off.
    pub const REPETITION_PENALTY: usize = 10;
    /// f32; 0 is off.
    pub const FREQUENCY_PENALTY: usize = 11;
    /// f32; 0 is off.
    pub const PRESENCE_PENALTY: usize = 12;
    /// u64 seed, low word.
    pub const SEED_LO: usize = 13;
    /// u64 seed, high word.
    pub const SEED_HI: usize = 14;
    /// Which of a request's parallel samples this is (`n`, `best_of`).
    pub const SAMPLE_INDEX: usize = 15;
    /// Top-n log-probabilities wanted, ≤ the results' `top_cap`.
    pub const TOP_N: usize = 16;
    /// End-of-sequence ids are masked while fewer than this many tokens were generated.
    pub const MIN_NEW_TOKENS: usize = 17;
    /// Biases of logits: pairs of an id and f32 bits.
    pub const N_BIAS: usize = 18;
    /// Their offset within the token slab.
    pub const BIAS_START: usize = 19;
    /// Which adapter's weights are added; 0 is none.
    pub const ADAPTER: usize = 20;
    /// Record length.
    pub const WORDS: usize = 24;
}

/// Bits of `init::FLAGS`.
pub mod flag {
    /// Take the largest logit; no noise.
    pub const GREEDY: u32 = 1;
    /// Fill `results.logprobs`.
    pub const LOGPROBS: u32 = 2;
    /// Log-probabilities from raw logits (OpenAI, Python); otherwise after processing (TGI).
    pub const RAW_LOGPROBS: u32 = 4;
    /// Penalties by OpenAI's additive formulas over generated tokens; otherwise TGI's over prompt and output.
    pub const OPENAI_PENALTIES: u32 = 8;
    /// Mask the end-of-sequence ids at every position (`ignore_eos` does not set it).
    pub const BAN_EOS: u32 = 16;
    /// Sample under the mask of the sample's index.
    pub const CONSTRAINED: u32 = 32;
    /// Favour the ids that the token before picks.
    pub const WATERMARK: u32 = 64;
}

/// Word offsets within a block diff; `LEN` block ids follow.
pub mod block_diff {
    /// The row.
    pub const ROW: usize = 0;
    /// First changed cell of the row's block table.
    pub const START: usize = 1;
    /// Number of ids that follow.
    pub const LEN: usize = 2;
    /// Length before the ids.
    pub const WORDS: usize = 3;
}

/// Sizes from which a slot's capacity follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Rows, so also the most entries in a step.
    pub max_rows: u32,
    /// Longest prompt + output of one request, in tokens.
    pub max_model_len: u32,
}

impl Layout {
    /// Words of the token slab: the planner gives rows out only while their known tokens fit.
    #[must_use]
    pub const fn slab_words(self) -> usize {
        2 * self.max_model_len as usize + 4096
    }

    /// Block-table cells of one row.
    #[must_use]
    pub const fn blocks_per_row(self) -> usize {
        (self.max_model_len as usize).div_ceil(crate::BLOCK_SIZE as usize)
    }

    /// Words of the block-diff section: every row may get a few blocks, and new rows whole tables while they fit.
    #[must_use]
    pub const fn block_diff_words(self) -> usize {
        self.max_rows as usize * (block_diff::WORDS + 2) + 2 * self.blocks_per_row() + 4096
    }

    /// Words of one slot.
    #[must_use]
    pub const fn slot_words(self) -> usize {
        header::WORDS
            + self.max_rows as usize * (entry::WORDS + init::WORDS)
            + self.block_diff_words()
            + self.slab_words()
    }
}
