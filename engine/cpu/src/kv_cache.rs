//! The paged KV cache: where the keys and values of every layer, block and head lie.
//!
//! A block holds 16 positions. For one layer, block and head it is one piece of memory: the keys, transposed to
//! `[head_dim][16]` so that a vector of keys is one dimension of 16 positions, then the values, `[16][value_dim]`
//! with `head_dim` padded by zeros to whole vectors. Order of the pieces: layer, block, head.
//!
//! Refuses to know who owns a block and which positions are valid.

use thiserror::Error;

use crate::dtype::Dtype;
use crate::memory::{Mapping, MemoryError};

/// Positions in a block.
pub const BLOCK: usize = agentlm_core::BLOCK_SIZE as usize;
/// Most blocks of a cache: slots are numbered in 32 bits.
pub const MAX_BLOCKS: usize = u32::MAX as usize / BLOCK;
/// Largest head dimension that the attention kernels take.
pub const MAX_HEAD_DIM: usize = 256;

/// Sizes of a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvCacheConfig {
    /// Layers that attend.
    pub layers: usize,
    /// Blocks of 16 positions, shared by all requests.
    pub num_blocks: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Values of a head: a multiple of 8 up to [`MAX_HEAD_DIM`].
    pub head_dim: usize,
    /// [`Dtype::F16`] or [`Dtype::F32`].
    pub dtype: Dtype,
}

/// Why a cache cannot be made.
#[derive(Debug, Error)]
pub enum KvCacheError {
    /// The kernels do not take this head.
    #[error("a head of {given} values is not supported; use a multiple of 8 from 8 to {MAX_HEAD_DIM}")]
    HeadDim {
        /// The value given.
        given: usize,
    },
    /// The kernels do not read this format.
    #[error("the KV cache cannot be stored as {given}; use f16 or f32")]
    Dtype {
        /// The format given.
        given: Dtype,
    },
    /// A size is 0, or their product overflows.
    #[error(
        "a KV cache of {layers} layers, {num_blocks} blocks and {kv_heads} heads cannot be made; every size must be \
         at least 1, and the blocks at most {MAX_BLOCKS}"
    )]
    Size {
        /// Layers given.
        layers: usize,
        /// Blocks given.
        num_blocks: usize,
        /// Heads given.
        kv_heads: usize,
    },
    /// The system refused the memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

impl KvCacheConfig {
    /// Values in one row of the values: `head_dim` padded to whole vectors.
    #[must_use]
    pub const fn value_dim(&self) -> usize {
        self.head_dim.next_multiple_of(BLOCK)
    }

    /// Values (numbers) of one layer, block and head: keys and values.
    #[must_use]
    pub const fn head_block_len(&self) -> usize {
        BLOCK * (self.head_dim + self.value_dim())
    }

    /// Bytes that one block of 16 positions takes over all layers: what a pool size is divided by.
    #[must_use]
    pub const fn bytes_per_block(&self) -> usize {
        self.layers * self.kv_heads * self.head_block_len() * self.dtype.size()
    }

    fn check(&self) -> Result<usize, KvCacheError> {
        if self.head_dim == 0 || !self.head_dim.is_multiple_of(8) || self.head_dim > MAX_HEAD_DIM {
            return Err(KvCacheError::HeadDim { given: self.head_dim });
        }
        if !matches!(self.dtype, Dtype::F16 | Dtype::F32) {
            return Err(KvCacheError::Dtype { given: self.dtype });
        }
        let size = KvCacheError::Size {
            layers: self.layers,
            num_blocks: self.num_blocks,
            kv_heads: self.kv_heads,
        };
        let heads = self.layers.checked_mul(self.kv_heads);
        let bytes = heads
            .and_then(|n| n.checked_mul(self.num_blocks))
            .and_then(|n| n.checked_mul(self.head_block_len() * self.dtype.size()))
            .filter(|&n| n > 0 && isize::try_from(n).is_ok());
        match bytes {
            Some(bytes) if self.num_blocks <= MAX_BLOCKS => Ok(bytes),
            _ => Err(size),
        }
    }
}

/// The cache's memory. Untouched blocks take none.
#[derive(Debug)]
pub struct KvCache {
    config: KvCacheConfig,
    memory: Mapping,
}

impl KvCache {
    /// Reserves a cache.
    ///
    /// # Errors
    /// [`KvCacheError`] naming the size that is not supported.
    pub fn new(config: KvCacheConfig) -> Result<Self, KvCacheError> {
        let bytes = config.check()?;
        Ok(Self {
            config,
            memory: Mapping::new(bytes)?,
        })
    }

    /// The sizes it was made with.
    #[must_use]
    pub fn config(&self) -> &KvCacheConfig {
        &self.config
    }

    /// Where one layer lies.
    pub(crate) fn layer(&self, layer: usize) -> KvLayer {
        debug_assert!(layer < self.config.layers);
        let c = &self.config;
        let bytes = c.num_blocks * c.kv_heads * c.head_block_len() * c.dtype.size();
        KvLayer {
            // SAFETY: the layer is one of the cache's, so the offset is inside its memory.
            start: unsafe { self.memory.as_ptr().add(layer * bytes) },
            dtype: c.dtype,
            kv_heads: c.kv_heads,
            head_dim: c.head_dim,
            value_dim: c.value_dim(),
        }
    }
}

/// One layer of the cache, as the kernels see it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KvLayer {
    start: *mut u8,
    pub(crate) dtype: Dtype,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) value_dim: usize,
}

// SAFETY: a pointer into the cache; the kernels that dereference it are unsafe and order their accesses by barriers.
unsafe impl Send for KvLayer {}
// SAFETY: as above.
unsafe impl Sync for KvLayer {}

impl KvLayer {
    /// Keys of a block and head, `[head_dim][16]`; the values, `[16][value_dim]`, follow `16 * head_dim` later.
    ///
    /// # Safety
    /// `block` and `head` are the cache's, `E` is the type that `dtype` stores.
    #[inline(always)]
    pub(crate) unsafe fn keys<E>(&self, block: u32, head: usize) -> *mut E {
        let index = block as usize * self.kv_heads + head;
        // SAFETY: inside the layer by the caller's promise.
        unsafe {
            self.start
                .cast::<E>()
                .add(index * BLOCK * (self.head_dim + self.value_dim))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: KvCacheConfig = KvCacheConfig {
        layers: 3,
        num_blocks: 10,
        kv_heads: 2,
        head_dim: 40,
        dtype: Dtype::F16,
    };

    #[test]
    fn bytes_per_block_is_what_the_memory_is_made_of() {
        let cache = KvCache::new(CONFIG).unwrap();
        assert_eq!(cache.memory.bytes(), 10 * CONFIG.bytes_per_block());
        // 40 key values and 48 (padded) value values at 16 positions, 2 bytes each, for 2 heads and 3 layers.
        assert_eq!(CONFIG.bytes_per_block(), (40 + 48) * 16 * 2 * 2 * 3);
    }

    #[test]
    fn what_the_kernels_cannot_read_is_refused_with_the_value() {
        for (config, expected) in [
            (
                KvCacheConfig {
                    head_dim: 20,
                    ..CONFIG
                },
                "20",
            ),
            (
                KvCacheConfig {
                    head_dim: 264,
                    ..CONFIG
                },
                "264",
            ),
            (
                KvCacheConfig {
                    dtype: Dtype::BF16,
                    ..CONFIG
                },
                "bf16",
            ),
            (
                KvCacheConfig {
                    num_blocks: 0,
                    ..CONFIG
                },
                "0 blocks",
            ),
            (
                KvCacheConfig {
                    num_blocks: usize::MAX / 8,
                    ..CONFIG
                },
                "blocks",
            ),
        ] {
            let message = KvCache::new(config).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }
}
