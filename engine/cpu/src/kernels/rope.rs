//! Rotary position embedding of queries and keys (the half-split form), with the norm of heads before it where a
//! model has one, and the write of keys and values into the cache. Refuses to know how frequencies are scaled.

use thiserror::Error;

use super::norm::rms_norm_in_place;
use super::simd::{Simd, isa_entry};
use crate::dtype::Dtype;
use crate::kv_cache::{BLOCK, KvLayer, MAX_HEAD_DIM};

/// Cosines and sines for each position, `[positions][rotary_dim / 2]`.
#[derive(Clone, Debug)]
pub struct RopeTables {
    cos: Vec<f32>,
    sin: Vec<f32>,
    rotary_dim: usize,
}

/// Tables that do not fit each other.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "rotation tables of {cos} cosines and {sin} sines do not fit a rotary dimension of {rotary_dim}; both must be \
     [positions][rotary_dim / 2], with an even rotary dimension of at least 2"
)]
pub struct RopeError {
    /// Cosines given.
    pub cos: usize,
    /// Sines given.
    pub sin: usize,
    /// Rotary dimension given.
    pub rotary_dim: usize,
}

impl RopeTables {
    /// Takes finished tables.
    ///
    /// # Errors
    /// [`RopeError`] when their sizes do not match.
    pub fn new(cos: Vec<f32>, sin: Vec<f32>, rotary_dim: usize) -> Result<Self, RopeError> {
        let half = rotary_dim / 2;
        if half == 0 || rotary_dim % 2 != 0 || cos.len() != sin.len() || !cos.len().is_multiple_of(half) {
            return Err(RopeError {
                cos: cos.len(),
                sin: sin.len(),
                rotary_dim,
            });
        }
        Ok(Self { cos, sin, rotary_dim })
    }

    /// Positions covered.
    #[must_use]
    pub fn positions(&self) -> usize {
        self.cos.len() / (self.rotary_dim / 2)
    }

    /// Leading values of a head that are rotated.
    #[must_use]
    pub fn rotary_dim(&self) -> usize {
        self.rotary_dim
    }

    /// Cosines and sines of a position.
    fn at(&self, position: u32) -> (&[f32], &[f32]) {
        let half = self.rotary_dim / 2;
        let range = position as usize * half..(position as usize + 1) * half;
        (&self.cos[range.clone()], &self.sin[range])
    }
}

/// What the rotation and the cache write of one layer need; the same for all tokens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RopeLayer<'a> {
    pub(crate) tables: &'a RopeTables,
    pub(crate) cache: KvLayer,
    pub(crate) q_norm: Option<&'a [f32]>,
    pub(crate) k_norm: Option<&'a [f32]>,
    pub(crate) norm_eps: f32,
}

#[inline(always)]
unsafe fn rotate<S: Simd>(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    let half = cos.len();
    let (low, high) = head.split_at_mut(half);
    assert!(high.len() >= half && sin.len() == half);
    let (low, high) = (low.as_mut_ptr(), high.as_mut_ptr());
    let (cos, sin) = (cos.as_ptr(), sin.as_ptr());
    let mut i = 0;
    // SAFETY: the head holds 2 * half values, the tables half; the last vector is partial.
    unsafe {
        while i + S::LANES <= half {
            let (a, b) = (S::load(low.add(i)), S::load(high.add(i)));
            let (c, s) = (S::load(cos.add(i)), S::load(sin.add(i)));
            S::store(low.add(i), S::sub(S::mul(a, c), S::mul(b, s)));
            S::store(high.add(i), S::fma(b, c, S::mul(a, s)));
            i += S::LANES;
        }
        if i < half {
            let n = half - i;
            let (a, b) = (S::load_first(low.add(i), n), S::load_first(high.add(i), n));
            let (c, s) = (S::load_first(cos.add(i), n), S::load_first(sin.add(i), n));
            S::store_first(low.add(i), n, S::sub(S::mul(a, c), S::mul(b, s)));
            S::store_first(high.add(i), n, S::fma(b, c, S::mul(a, s)));
        }
    }
}

/// Writes one head's key and value at a slot.
#[inline(always)]
unsafe fn write<S: Simd>(cache: &KvLayer, slot: u32, head: usize, key: &[f32], value: &[f32]) {
    let (block, offset) = (slot / BLOCK as u32, slot as usize % BLOCK);
    let dim = cache.head_dim;
    // SAFETY: the slot and head are the cache's by the caller's promise; `key` and `value` hold `dim` values.
    unsafe {
        match cache.dtype {
            Dtype::F16 => {
                let keys = cache.keys::<u16>(block, head);
                let values = keys.add(BLOCK * dim + offset * cache.value_dim);
                let mut stored = [0u16; MAX_HEAD_DIM + BLOCK];
                narrow::<S>(key, stored.as_mut_ptr());
                for (d, &k) in stored[..dim].iter().enumerate() {
                    *keys.add(d * BLOCK + offset) = k;
                }
                narrow::<S>(value, stored.as_mut_ptr());
                std::ptr::copy_nonoverlapping(stored.as_ptr(), values, dim);
            }
            _ => {
                let keys = cache.keys::<f32>(block, head);
                let values = keys.add(BLOCK * dim + offset * cache.value_dim);
                for (d, &k) in key.iter().enumerate() {
                    *keys.add(d * BLOCK + offset) = k;
                }
                std::ptr::copy_nonoverlapping(value.as_ptr(), values, dim);
            }
        }
    }
}

/// f32 to f16, to nearest even; `out` has room for whole vectors.
#[inline(always)]
unsafe fn narrow<S: Simd>(x: &[f32], out: *mut u16) {
    for i in (0..x.len()).step_by(S::LANES) {
        let left = x.len() - i;
        // SAFETY: loads stay below the length; the caller's buffer is padded.
        unsafe {
            let v = if left < S::LANES {
                S::load_first(x.as_ptr().add(i), left)
            } else {
                S::load(x.as_ptr().add(i))
            };
            S::store_f16(out.add(i), v);
        }
    }
}

#[inline(always)]
unsafe fn rope_and_cache_kernel<S: Simd>(
    layer: &RopeLayer<'_>,
    kv_head: usize,
    position: u32,
    slot: u32,
    queries: &mut [f32],
    key: &mut [f32],
    value: &[f32],
) {
    let (cos, sin) = layer.tables.at(position);
    // SAFETY: the caller's promises; slices carry their lengths.
    unsafe {
        for head in queries.chunks_exact_mut(layer.cache.head_dim) {
            if let Some(weight) = layer.q_norm {
                rms_norm_in_place::<S>(head, weight, layer.norm_eps);
            }
            rotate::<S>(head, cos, sin);
        }
        if let Some(weight) = layer.k_norm {
            rms_norm_in_place::<S>(key, weight, layer.norm_eps);
        }
        rotate::<S>(key, cos, sin);
        write::<S>(&layer.cache, slot, kv_head, key, value);
    }
}
isa_entry! {
    /// One token and one KV head: norms and rotates its query heads and its key in place, and writes key and value
    /// to `slot` of the cache. The slot must belong to the cache, and no other worker may write or read it.
    fn rope_and_cache(
        layer: &RopeLayer<'_>,
        kv_head: usize,
        position: u32,
        slot: u32,
        queries: &mut [f32],
        key: &mut [f32],
        value: &[f32],
    ) = rope_and_cache_kernel
}
