//! agentlm-core decides what every step computes.
//!
//! A pure state machine: requests go in, plans come out, sampled ids go back. It does no I/O, knows no
//! text, no Python, no thread and no clock, so that random sequences of operations can test all of it.

#[macro_use]
mod mutation;

pub mod arena;
mod block_pool;
mod check;
mod config;
pub mod params;
mod prefix_cache;
mod request;
pub mod results;
mod rows;
mod scheduler;
mod step;
mod updates;

pub use block_pool::PoolCounts;
pub use check::CheckError;
pub use config::{ConfigError, CoreConfig};
#[cfg(feature = "mutations")]
pub use mutation::Mutation;
pub use request::{Refusal, Request};
pub use scheduler::{Core, Stats};
pub use step::StepError;
pub use updates::{ScoreUpdate, Started, TokenUpdate, TopToken, Updates};

/// KV positions in one block.
pub const BLOCK_SIZE: u32 = 16;

/// KV blocks that `tokens` positions occupy.
#[must_use]
pub const fn blocks_for(tokens: u32) -> u32 {
    tokens.div_ceil(BLOCK_SIZE)
}

/// A request's name for its whole life; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// A step's number, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StepId(pub u64);

/// Why a request ended. The names are TGI's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FinishReason {
    /// `max_new_tokens` or the context is used up. Checked before the end-of-sequence ids, as TGI does.
    Length,
    /// An end-of-sequence id was sampled.
    EosToken,
    /// The output stage found a stop string.
    StopSequence,
}

impl FinishReason {
    /// TGI's wire name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Length => "length",
            Self::EosToken => "eos_token",
            Self::StopSequence => "stop_sequence",
        }
    }
}

/// A count that a validated configuration keeps far below 2³².
#[expect(
    clippy::cast_possible_truncation,
    reason = "CoreConfig bounds every count that is narrowed"
)]
pub(crate) const fn narrow(count: usize) -> u32 {
    count as u32
}
