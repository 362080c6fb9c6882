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
        if half == 0
            || !rotary_dim.is_multiple_of(2)
            || cos.len() != sin.len()
            || !cos.len().is_multiple_of(half)
        {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Isa;
    use crate::kv_cache::{KvCache, KvCacheConfig};

    fn values(n: usize, seed: usize) -> Vec<f32> {
        (0..n)
            .map(|i| ((i * 53 + seed * 29) % 89) as f32 / 40.0 - 1.1)
            .collect()
    }

    fn reference(head: &[f32], norm: Option<&[f32]>, cos: &[f32], sin: &[f32]) -> Vec<f64> {
        let mut x: Vec<f64> = head.iter().map(|&v| v.into()).collect();
        if let Some(weight) = norm {
            let mean = x.iter().map(|v| v * v).sum::<f64>() / x.len() as f64;
            x.iter_mut()
                .zip(weight)
                .for_each(|(v, &w)| *v = *v / (mean + 1e-6).sqrt() * f64::from(w));
        }
        let half = cos.len();
        for i in 0..half {
            let (c, s) = (f64::from(cos[i]), f64::from(sin[i]));
            (x[i], x[i + half]) = (x[i] * c - x[i + half] * s, x[i + half] * c + x[i] * s);
        }
        x
    }

    #[test]
    fn heads_are_normed_rotated_and_written_to_their_slot_only() {
        for (head_dim, rotary_dim) in [(16, 16), (64, 64), (40, 24), (128, 128), (256, 64)] {
            for (isa, dtype) in Isa::available()
                .into_iter()
                .flat_map(|isa| [(isa, Dtype::F16), (isa, Dtype::F32)])
            {
                for norms in [false, true] {
                    let half = rotary_dim / 2;
                    let angles: Vec<f32> = values(10 * half, 9);
                    let (cos, sin) = angles.iter().map(|a| (a.cos(), a.sin())).unzip();
                    let tables = RopeTables::new(cos, sin, rotary_dim).unwrap();
                    let config = KvCacheConfig {
                        layers: 1,
                        num_blocks: 3,
                        kv_heads: 2,
                        head_dim,
                        dtype,
                    };
                    let cache = KvCache::new(config).unwrap();
                    let weights = (values(head_dim, 5), values(head_dim, 6));
                    let layer = RopeLayer {
                        tables: &tables,
                        cache: cache.layer(0),
                        q_norm: norms.then_some(&weights.0[..]),
                        k_norm: norms.then_some(&weights.1[..]),
                        norm_eps: 1e-6,
                    };
                    let (queries, key, value) =
                        (values(3 * head_dim, 1), values(head_dim, 2), values(head_dim, 3));
                    let (mut q, mut k) = (queries.clone(), key.clone());
                    // SAFETY: an available instruction set, a slot and head of the cache.
                    unsafe { rope_and_cache(isa, &layer, 1, 7, 16 + 5, &mut q, &mut k, &value) };
                    let (cos, sin) = tables.at(7);
                    for (got, head) in q.chunks(head_dim).zip(queries.chunks(head_dim)) {
                        for (g, w) in got.iter().zip(reference(head, layer.q_norm, cos, sin)) {
                            assert!(
                                (f64::from(*g) - w).abs() < 2e-6,
                                "{isa}, {head_dim}/{rotary_dim}: {g}, {w}"
                            );
                        }
                    }
                    for (g, w) in k.iter().zip(reference(&key, layer.k_norm, cos, sin)) {
                        assert!(
                            (f64::from(*g) - w).abs() < 2e-6,
                            "{isa}, {head_dim}/{rotary_dim}: {g}, {w}"
                        );
                    }
                    // SAFETY: inside the cache, which nobody else uses.
                    let stored = |head: usize, i: usize| unsafe {
                        match dtype {
                            Dtype::F16 => {
                                half::f16::from_bits(*layer.cache.keys::<u16>(1, head).add(i)).to_f32()
                            }
                            _ => *layer.cache.keys::<f32>(1, head).add(i),
                        }
                    };
                    let round = |x: f32| {
                        if dtype == Dtype::F16 {
                            half::f16::from_f32(x).to_f32()
                        } else {
                            x
                        }
                    };
                    for i in 0..config.head_block_len() {
                        let (keys, wide) = (BLOCK * head_dim, config.value_dim());
                        let expected = match i {
                            _ if i < keys && i % BLOCK == 5 => round(k[i / BLOCK]),
                            _ if i >= keys && (i - keys) / wide == 5 && (i - keys) % wide < head_dim => {
                                round(value[(i - keys) % wide])
                            }
                            _ => 0.0,
                        };
                        assert_eq!(stored(1, i), expected, "{isa}, {dtype}, {head_dim}, number {i}");
                        assert_eq!(stored(0, i), 0.0, "another head was written");
                    }
                }
            }
        }
    }

    #[test]
    fn tables_that_do_not_fit_are_refused_with_the_numbers() {
        for (cos, sin, rotary_dim) in [(8, 4, 8), (6, 6, 8), (8, 8, 7), (8, 8, 0)] {
            let error = RopeTables::new(vec![0.0; cos], vec![0.0; sin], rotary_dim).unwrap_err();
            assert!(
                error
                    .to_string()
                    .contains(&format!("{cos} cosines and {sin} sines")),
                "{error}"
            );
        }
    }
}
