//! Paged causal attention for prefill chunks and decode alike.
//!
//! A *task* is a run of query rows of one entry and one KV head; a query row is (token, query head of that KV head), so
//! a tile of keys is read once for all heads that share it. **Order of the reduction**, the same for every batch,
//! chunking and thread count: scores reduce over the head dimension in order; positions are taken in tiles of
//! [`TILE`], counted from position 0, with an online softmax from tile to tile; every [`SPLIT`] positions the
//! running result is folded into the total, split by split. Splits may be computed by different workers: the
//! fold is the same. Masked positions add exact zeros.
//!
//! Refuses to know how rows got their blocks.

mod avx512;
mod micro;
mod plan;
mod task;
#[cfg(test)]
mod tests;

use thiserror::Error;

pub(crate) use plan::{AttentionPlan, Unit};
pub(crate) use task::{AttentionLayer, Partials, QueryRows, Scratch, merge_splits, run_task};

use crate::kv_cache::{BLOCK, MAX_HEAD_DIM};

/// Positions that one step of the online softmax takes.
pub(crate) const TILE: usize = 64;
/// Positions after which the running result is folded into the total.
pub(crate) const SPLIT: usize = 256;
/// Most query rows of a task.
pub(crate) const MAX_ROWS: usize = 182;

const _: () = assert!(TILE.is_multiple_of(BLOCK) && SPLIT.is_multiple_of(TILE));

/// The attention of a model; the same in all its layers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionConfig {
    /// Query heads: a multiple of `kv_heads`.
    pub heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Values of a head: a multiple of 8 up to 256.
    pub head_dim: usize,
    /// What scores are multiplied by, usually `head_dim^-0.5`.
    pub scale: f32,
    /// A position sees itself and at most `window - 1` positions before it; `None` sees all.
    pub window: Option<u32>,
    /// Epsilon of the norms of query and key heads, where a layer has them.
    pub norm_eps: f32,
}

/// A shape that the kernels do not take.
#[derive(Clone, Copy, Debug, PartialEq, Error)]
pub enum AttentionError {
    /// The head dimension.
    #[error("a head of {given} values is not supported; use a multiple of 8 from 8 to {MAX_HEAD_DIM}")]
    HeadDim {
        /// The value given.
        given: usize,
    },
    /// The numbers of heads.
    #[error("{heads} query heads do not divide into {kv_heads} key/value heads; both must be at least 1")]
    Heads {
        /// Query heads given.
        heads: usize,
        /// KV heads given.
        kv_heads: usize,
    },
    /// The window.
    #[error("a sliding window of 0 positions sees nothing; leave it out or use at least 1")]
    Window,
}

impl AttentionConfig {
    /// Checks the shape.
    ///
    /// # Errors
    /// The first number that is out of range.
    pub fn check(&self) -> Result<(), AttentionError> {
        if self.head_dim == 0 || !self.head_dim.is_multiple_of(8) || self.head_dim > MAX_HEAD_DIM {
            return Err(AttentionError::HeadDim { given: self.head_dim });
        }
        if self.kv_heads == 0 || self.heads == 0 || !self.heads.is_multiple_of(self.kv_heads) {
            return Err(AttentionError::Heads {
                heads: self.heads,
                kv_heads: self.kv_heads,
            });
        }
        if self.window == Some(0) {
            return Err(AttentionError::Window);
        }
        Ok(())
    }

    /// Values of a packed `[queries | keys | values]` row.
    #[must_use]
    pub const fn qkv_dim(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    /// Values of an output row.
    #[must_use]
    pub const fn out_dim(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Query heads that share a KV head.
    #[must_use]
    pub const fn group(&self) -> usize {
        self.heads / self.kv_heads
    }
}
