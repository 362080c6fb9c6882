//! The two register-blocked products of attention: scores of a tile, and its weighted sum of values.
//! Refuses to know softmax, masks and tables.

use super::TILE;
use crate::kernels::simd::Simd;
use crate::kv_cache::BLOCK;

/// How the cache stores a number.
pub(super) trait Stored: Copy + 'static {
    /// Loads one vector.
    ///
    /// # Safety
    /// The instruction set is available and the pointer holds a vector.
    unsafe fn load<S: Simd>(p: *const Self) -> S::V;
}

impl Stored for f32 {
    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const Self) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { S::load(p) }
    }
}

/// The bits of an IEEE binary16.
impl Stored for u16 {
    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const Self) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { S::load_f16(p) }
    }
}

/// Scores, and then weights, of up to 6 query rows over one tile.
#[repr(align(64))]
pub(super) struct Scores(pub(super) [[f32; TILE]; MAX_GROUP]);

/// Most query rows that one call keeps in registers.
pub(super) const MAX_GROUP: usize = 6;

/// The blocks of a tile: keys `[dim][16]` and values `[16][value_dim]`.
#[derive(Clone, Copy)]
pub(super) struct Tile<E> {
    pub(super) keys: [*const E; TILE / BLOCK],
    pub(super) values: [*const E; TILE / BLOCK],
}

/// `scores[r][p] = sum over d, in order, of q[r][d] * keys[d][p]` for all positions of the tile.
///
/// # Safety
/// `q` holds `M` rows of `dim` values; every block of the tile is readable (what it holds does not matter).
#[inline(always)]
pub(super) unsafe fn scores<S: Simd, E: Stored, const M: usize, const N: usize>(
    q: *const f32,
    dim: usize,
    tile: &Tile<E>,
    out: &mut Scores,
) {
    let vectors = TILE / S::LANES;
    // SAFETY: the caller's promise; offsets stay within blocks.
    unsafe {
        for j0 in (0..vectors).step_by(N) {
            let mut from = [tile.keys[0]; N];
            for (j, from) in from.iter_mut().enumerate() {
                let position = (j0 + j) * S::LANES;
                *from = tile.keys[position / BLOCK].add(position % BLOCK);
            }
            let mut acc = [[S::splat(0.0); N]; M];
            for d in 0..dim {
                let mut k = [S::splat(0.0); N];
                for j in 0..N {
                    k[j] = E::load::<S>(from[j].add(d * BLOCK));
                }
                for r in 0..M {
                    let a = S::splat(*q.add(r * dim + d));
                    for j in 0..N {
                        acc[r][j] = S::fma(a, k[j], acc[r][j]);
                    }
                }
            }
            for r in 0..M {
                for j in 0..N {
                    S::store(out.0[r].as_mut_ptr().add((j0 + j) * S::LANES), acc[r][j]);
                }
            }
        }
    }
}

/// `out[r] = out[r] * alpha[r] + sum over positions lo..hi, in order, of weights[r][p] * values[p]`, for `N` vectors of
/// columns from `column` on.
///
/// # Safety
/// `out` holds `M` rows of `value_dim` values; positions `lo..hi` of the tile are readable.
#[inline(always)]
#[expect(
    clippy::too_many_arguments,
    reason = "register-blocked product: all of them are loop bounds or pointers"
)]
pub(super) unsafe fn weighted_sum<S: Simd, E: Stored, const M: usize, const N: usize>(
    weights: &Scores,
    alpha: &[f32; MAX_GROUP],
    tile: &Tile<E>,
    (lo, hi): (usize, usize),
    value_dim: usize,
    column: usize,
    out: *mut f32,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut acc = [[S::splat(0.0); N]; M];
        for r in 0..M {
            let scale = S::splat(alpha[r]);
            for j in 0..N {
                acc[r][j] = S::mul(S::load(out.add(r * value_dim + column + j * S::LANES)), scale);
            }
        }
        let mut p = lo;
        while p < hi {
            let end = hi.min((p / BLOCK + 1) * BLOCK);
            let mut row = tile.values[p / BLOCK].add((p % BLOCK) * value_dim + column);
            while p < end {
                let mut v = [S::splat(0.0); N];
                for j in 0..N {
                    v[j] = E::load::<S>(row.add(j * S::LANES));
                }
                for r in 0..M {
                    let w = S::splat(weights.0[r][p]);
                    for j in 0..N {
                        acc[r][j] = S::fma(w, v[j], acc[r][j]);
                    }
                }
                row = row.add(value_dim);
                p += 1;
            }
        }
        for r in 0..M {
            for j in 0..N {
                S::store(out.add(r * value_dim + column + j * S::LANES), acc[r][j]);
            }
        }
    }
}
