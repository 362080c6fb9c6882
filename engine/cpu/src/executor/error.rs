//! Why an executor cannot be made, and why a step failed.

use agentlm_core::arena::ArenaError;
use thiserror::Error;

use crate::isa::IsaError;
use crate::linear::LinearError;
use crate::memory::MemoryError;
use crate::pool::PoolError;
use crate::rows::RowsError;
use crate::sampler::SamplerError;

/// Parts that do not fit each other.
#[derive(Debug, Error)]
pub enum ExecutorError {
    /// The machine lacks the instruction set.
    #[error(transparent)]
    Isa(#[from] IsaError),
    /// Arena and results have different rows, or none.
    #[error("the arena has {arena} rows and the results {results}; both need the same number, at least 1")]
    Rows {
        /// Rows of the arena.
        arena: u32,
        /// Rows of the results.
        results: u32,
    },
    /// A step could hold no token.
    #[error("an executor for steps of 0 tokens computes nothing; use at least 1")]
    MaxTokens,
    /// The cache was made for another model.
    #[error("the KV cache has {given:?} layers, heads and head values; the tape needs {needed:?}")]
    Cache {
        /// The cache's layers, KV heads and head dimension.
        given: (usize, usize, usize),
        /// The tape's.
        needed: (usize, usize, usize),
    },
    /// A tape with attention but no rotation tables.
    #[error("the tape attends, but no rotation tables were given")]
    NoRope,
    /// The rotation tables do not fit.
    #[error(
        "rotation tables of {positions} positions and {rotary_dim} rotated values do not serve {max_model_len} positions \
         and heads of {head_dim} values; make them longer, or lower the context length"
    )]
    Rope {
        /// Positions of the tables.
        positions: usize,
        /// Their rotated values.
        rotary_dim: usize,
        /// Positions needed.
        max_model_len: usize,
        /// Values of a head.
        head_dim: usize,
    },
    /// Ids that could be sampled but not looked up.
    #[error(
        "a vocabulary of {given} ids does not fit an embedding table of {table} rows; use at most {table}"
    )]
    Vocab {
        /// Ids that can be sampled.
        given: usize,
        /// Rows of the table.
        table: usize,
    },
    /// The sampler does not fit the logits.
    #[error(transparent)]
    Sampler(#[from] SamplerError),
    /// The system refused memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

/// Why a step failed as a whole. Nothing was sampled.
#[derive(Debug, Error)]
pub enum ExecError {
    /// The slot is not what a planner of this build writes.
    #[error(transparent)]
    Arena(#[from] ArenaError),
    /// The plan does not fit the rows.
    #[error(transparent)]
    Rows(#[from] RowsError),
    /// The results slot is too short.
    #[error("a results slot of {given} words is too short; {needed} are needed")]
    Results {
        /// Words given.
        given: usize,
        /// Words needed.
        needed: usize,
    },
    /// A linear refused its arguments.
    #[error(transparent)]
    Linear(#[from] LinearError),
    /// A worker failed.
    #[error(transparent)]
    Pool(#[from] PoolError),
}
