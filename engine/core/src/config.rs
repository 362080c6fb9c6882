//! What a core is built with, checked once. It refuses to know where the values come from.

use thiserror::Error;

use crate::{BLOCK_SIZE, arena, params::Limits, results};

/// Sizes and policy of one [`crate::Core`].
#[derive(Clone, Debug)]
pub struct CoreConfig {
    /// KV blocks of [`BLOCK_SIZE`] positions.
    pub num_blocks: u32,
    /// Rows: the most requests that run at once.
    pub max_running: u32,
    /// Token budget of one step. At least `max_running + BLOCK_SIZE` lets a prefill advance beside any number of
    /// decodes; with less it may wait for earlier requests to end.
    pub max_step_tokens: u32,
    /// Caps on one request.
    pub limits: Limits,
    /// 1: a step is committed before the next is planned. 2: depth-1 overlap.
    pub steps_in_flight: u32,
    /// Whether computed blocks are shared between requests with equal beginnings.
    pub prefix_cache: bool,
    /// Ids that end a request.
    pub eos_token_ids: Vec<u32>,
    /// The most top-n entries that a results slot holds for one sample.
    pub top_cap: u32,
    /// The most prompt positions that one step scores (`prompt_logprobs`); at least [`BLOCK_SIZE`].
    pub max_scores: u32,
    /// Token ids are below this.
    pub vocab_size: u32,
    /// Secret of the prefix hash, so that a client cannot construct collisions.
    pub hash_key: [u8; 32],
}

/// A value of [`CoreConfig`] that cannot work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// Zero, or so many that block ids reach the reserved values.
    #[error("num_blocks is {given} but must be in 1..={max}")]
    NumBlocks {
        /// Given value.
        given: u32,
        /// Largest allowed.
        max: u32,
    },
    /// Zero, or too many.
    #[error("max_running is {given} but must be in 1..={max}")]
    MaxRunning {
        /// Given value.
        given: u32,
        /// Largest allowed.
        max: u32,
    },
    /// A prefill could never reach a block border.
    #[error("max_step_tokens is {given} but must be at least the block size, {BLOCK_SIZE}")]
    MaxStepTokens {
        /// Given value.
        given: u32,
    },
    /// Zero, or no room for one generated token.
    #[error(
        "max_input_tokens is {input} but must be at least 1 and below max_total_tokens, which is {total}"
    )]
    Lengths {
        /// Given longest prompt.
        input: u32,
        /// Given longest prompt + output.
        total: u32,
    },
    /// Longer than positions and slot offsets can be.
    #[error("max_total_tokens is {given} but must be at most {max}")]
    MaxTotalTokens {
        /// Given value.
        given: u32,
        /// Largest allowed.
        max: u32,
    },
    /// Neither 1 nor 2.
    #[error("steps_in_flight is {given} but must be 1 (synchronous) or 2 (depth-1 overlap)")]
    StepsInFlight {
        /// Given value.
        given: u32,
    },
    /// A request may ask for more than a results slot holds.
    #[error("top_cap is {cap} but must be at least max_top_n_tokens, which is {limit}")]
    TopCap {
        /// Given cap.
        cap: u32,
        /// The limit a request may use.
        limit: u32,
    },
    /// A prompt's scoring could never reach a block border.
    #[error("max_scores is {given} but must be at least the block size, {BLOCK_SIZE}")]
    MaxScores {
        /// Given value.
        given: u32,
    },
    /// No token id is allowed.
    #[error("vocab_size is 0 but must be at least 1")]
    VocabSize,
}

/// Largest pool: `u32::MAX` marks "no block" in the pool's lists.
const MAX_BLOCKS: u32 = 1 << 30;
/// Most rows: keeps a slot's offsets within 32 bits.
const MAX_ROWS: u32 = 1 << 16;
/// Longest request: keeps a slot's offsets within 32 bits.
const MAX_LEN: u32 = 1 << 28;

impl CoreConfig {
    /// Checks every value.
    ///
    /// # Errors
    /// The first value that cannot work.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let check = |ok: bool, error: ConfigError| if ok { Ok(()) } else { Err(error) };
        let (input, total) = (self.limits.max_input_tokens, self.limits.max_total_tokens);
        check(
            (1..=MAX_BLOCKS).contains(&self.num_blocks),
            ConfigError::NumBlocks {
                given: self.num_blocks,
                max: MAX_BLOCKS,
            },
        )?;
        check(
            (1..=MAX_ROWS).contains(&self.max_running),
            ConfigError::MaxRunning {
                given: self.max_running,
                max: MAX_ROWS,
            },
        )?;
        check(
            self.max_step_tokens >= BLOCK_SIZE,
            ConfigError::MaxStepTokens {
                given: self.max_step_tokens,
            },
        )?;
        check(input >= 1 && input < total, ConfigError::Lengths { input, total })?;
        check(
            total <= MAX_LEN,
            ConfigError::MaxTotalTokens {
                given: total,
                max: MAX_LEN,
            },
        )?;
        check(
            matches!(self.steps_in_flight, 1 | 2),
            ConfigError::StepsInFlight {
                given: self.steps_in_flight,
            },
        )?;
        check(
            self.top_cap >= self.limits.max_top_n_tokens,
            ConfigError::TopCap {
                cap: self.top_cap,
                limit: self.limits.max_top_n_tokens,
            },
        )?;
        check(
            self.max_scores >= BLOCK_SIZE,
            ConfigError::MaxScores {
                given: self.max_scores,
            },
        )?;
        check(self.vocab_size > 0, ConfigError::VocabSize)
    }

    /// The arena layout that core and runner share.
    #[must_use]
    pub const fn arena_layout(&self) -> arena::Layout {
        arena::Layout {
            max_rows: self.max_running,
            max_model_len: self.limits.max_total_tokens,
        }
    }

    /// The results layout that core and runner share.
    #[must_use]
    pub const fn results_layout(&self) -> results::Layout {
        results::Layout {
            max_rows: self.max_running,
            top_cap: self.top_cap,
            max_scores: self.max_scores,
        }
    }
}
