//! The two register-blocked products of attention: scores of a tile, and its weighted sum of values.
//! Refuses to know softmax, masks and tables.

#![expect(
    clippy::needless_range_loop,
    reason = "indexes of register blocks: the same loops over several arrays, unrolled by the compiler"
)]

use super::TILE;
#[cfg(target_arch = "x86_64")]
use super::avx512;
#[cfg(target_arch = "aarch64")]
use crate::kernels::neon::Neon;
#[cfg(target_arch = "x86_64")]
use crate::kernels::simd::{Avx2, Avx512};
use crate::kernels::simd::{Portable, Simd};
use crate::kv_cache::BLOCK;

/// How the cache stores a number.
pub(super) trait Stored: Copy + 'static {
    /// Whether tiles of it come straight from the cache, so that the next one is worth asking for early: blocks lie apart, and
    /// no hardware prefetcher follows from one to the next.
    const AHEAD: bool;
    /// Loads one vector.
    ///
    /// # Safety
    /// The instruction set is available and the pointer holds a vector.
    unsafe fn load<S: Simd>(p: *const Self) -> S::V;
}

impl Stored for f32 {
    const AHEAD: bool = false;

    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const Self) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { S::load(p) }
    }
}

/// The bits of an IEEE binary16.
impl Stored for u16 {
    const AHEAD: bool = true;

    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const Self) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { S::load_f16(p) }
    }
}

/// Most query rows that one call keeps in registers.
pub(super) const MAX_GROUP: usize = 14;

/// The blocks of a tile: keys `[dim][16]` and values `[16][value_dim]`.
#[derive(Clone, Copy)]
pub(super) struct Tile<E> {
    pub(super) keys: [*const E; TILE / BLOCK],
    pub(super) values: [*const E; TILE / BLOCK],
    /// From a block's keys to the keys of the block four later, in numbers; 0 where there is none. Only addresses are made of it.
    pub(super) ahead: [isize; TILE / BLOCK],
}

#[cfg(target_arch = "x86_64")]
impl<E> Tile<E> {
    /// The same addresses, for a format that is f32 where only the caller knows it.
    fn cast(&self) -> Tile<f32> {
        Tile {
            keys: self.keys.map(<*const E>::cast),
            values: self.values.map(<*const E>::cast),
            ahead: self.ahead,
        }
    }
}

/// `out[r][p] = sum over d, in order, of q[r][d] * keys[d][p]` for positions `from..to`, a multiple of 32 each.
///
/// # Safety
/// `q` holds `M` rows of `dim` values, `out` `M` rows of [`TILE`]; every block of the tile is readable (what it holds does not matter).
#[inline(always)]
unsafe fn scores<S: Simd, E: Stored, const M: usize, const N: usize>(
    q: *const f32,
    dim: usize,
    tile: &Tile<E>,
    (from, to): (usize, usize),
    out: *mut f32,
) {
    // A wider register block takes the whole tile the first time.
    if from % (N * S::LANES) != 0 {
        return;
    }
    // SAFETY: the caller's promise; offsets stay within blocks.
    unsafe {
        for j0 in (from / S::LANES..to / S::LANES).step_by(N) {
            let mut from = [tile.keys[0]; N];
            let mut ahead = [0; N];
            for (j, from) in from.iter_mut().enumerate() {
                let position = (j0 + j) * S::LANES;
                *from = tile.keys[position / BLOCK].add(position % BLOCK);
                ahead[j] = tile.ahead[position / BLOCK];
            }
            let mut acc = [[S::splat(0.0); N]; M];
            for d in 0..dim {
                let mut k = [S::splat(0.0); N];
                for j in 0..N {
                    k[j] = E::load::<S>(from[j].add(d * BLOCK));
                    if E::AHEAD {
                        S::prefetch(from[j].wrapping_add(d * BLOCK).wrapping_offset(ahead[j]));
                    }
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
                    S::store(out.add(r * TILE + (j0 + j) * S::LANES), acc[r][j]);
                }
            }
        }
    }
}

/// `out[r] = out[r] * alpha[r] + sum over positions lo..hi, in order, of weights[r][p] * values[p]`, for `N` vectors of
/// columns from `column` on.
///
/// # Safety
/// `weights` holds `M` rows of [`TILE`] values, `alpha` `M` values, `out` `M` rows of `value_dim`; positions `lo..hi` of the tile are readable.
#[inline(always)]
unsafe fn weighted_sum<S: Simd, E: Stored, const M: usize, const N: usize>(
    weights: *const f32,
    alpha: *const f32,
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
            let scale = S::splat(*alpha.add(r));
            for j in 0..N {
                acc[r][j] = S::mul(S::load(out.add(r * value_dim + column + j * S::LANES)), scale);
            }
        }
        let mut p = lo;
        while p < hi {
            let end = hi.min((p / BLOCK + 1) * BLOCK);
            let ahead = tile.ahead[p / BLOCK];
            let mut row = tile.values[p / BLOCK].add((p % BLOCK) * value_dim + column);
            while p < end {
                let mut v = [S::splat(0.0); N];
                for j in 0..N {
                    v[j] = E::load::<S>(row.add(j * S::LANES));
                    if E::AHEAD {
                        S::prefetch(row.wrapping_add(j * S::LANES).wrapping_offset(ahead));
                    }
                }
                for r in 0..M {
                    let w = S::splat(*weights.add(r * TILE + p));
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

/// [`weighted_sum`] for one row and one vector of columns.
///
/// # Safety
/// As [`weighted_sum`].
#[inline(always)]
unsafe fn weighted_column<S: Simd, E: Stored>(
    weights: *const f32,
    alpha: f32,
    tile: &Tile<E>,
    (lo, hi): (usize, usize),
    value_dim: usize,
    column: usize,
    out: *mut f32,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut acc = S::mul(S::load(out.add(column)), S::splat(alpha));
        for p in lo..hi {
            let v = E::load::<S>(tile.values[p / BLOCK].add((p % BLOCK) * value_dim + column));
            acc = S::fma(S::splat(*weights.add(p)), v, acc);
        }
        S::store(out.add(column), acc);
    }
}

/// The products in the register blocks that suit an instruction set: only these are compiled.
pub(super) trait Products: Simd {
    /// How many of `left >= 1` query rows to take next: the rows of a register block.
    fn group(left: usize) -> usize;

    /// [`scores`] of `count` rows, a number that [`Self::group`] gave.
    ///
    /// # Safety
    /// As [`scores`].
    unsafe fn scores<E: Stored>(
        count: usize,
        q: *const f32,
        dim: usize,
        tile: &Tile<E>,
        positions: (usize, usize),
        out: *mut f32,
    );

    /// [`weighted_sum`] of `count` rows, a number that [`Self::group`] gave, and all columns.
    ///
    /// # Safety
    /// As [`weighted_sum`].
    unsafe fn weighted_sum<E: Stored>(
        count: usize,
        weights: *const f32,
        alpha: *const f32,
        tile: &Tile<E>,
        positions: (usize, usize),
        value_dim: usize,
        out: *mut f32,
    );
}

/// `$groups[left]` rows are taken when fewer than `$most` are left; `$rows x $vectors` are the register blocks. The products of
/// `$most` rows may be a module's own, for tiles of f32.
macro_rules! products {
    ($simd:ident, $groups:expr, [$($rows:literal x $vectors:literal),*], $most:literal x $most_vectors:literal
        $(, of f32 by $module:ident)?) => {
        impl Products for $simd {
            #[inline(always)]
            fn group(left: usize) -> usize {
                const GROUPS: [usize; $most] = $groups;
                GROUPS.get(left).copied().unwrap_or($most)
            }

            #[inline(always)]
            unsafe fn scores<E: Stored>(count: usize, q: *const f32, dim: usize, tile: &Tile<E>, positions: (usize, usize), out: *mut f32) {
                // SAFETY: the caller's promise.
                unsafe {
                    match count {
                        $($rows => scores::<Self, E, $rows, $vectors>(q, dim, tile, positions, out),)*
                        $(_ if !E::AHEAD => $module::scores(q, dim, &tile.cast(), positions, out),)?
                        _ => scores::<Self, E, $most, $most_vectors>(q, dim, tile, positions, out),
                    }
                }
            }

            #[inline(always)]
            unsafe fn weighted_sum<E: Stored>(
                count: usize,
                weights: *const f32,
                alpha: *const f32,
                tile: &Tile<E>,
                positions: (usize, usize),
                value_dim: usize,
                out: *mut f32,
            ) {
                let mut column = 0;
                macro_rules! whole_blocks {
                    ($n:literal, $weighted_sum:expr, $tile:expr) => {
                        while column + $n * Self::LANES <= value_dim {
                            // SAFETY: the caller's promise; the columns are below `value_dim`.
                            unsafe { $weighted_sum(weights, alpha, $tile, positions, value_dim, column, out) };
                            column += $n * Self::LANES;
                        }
                    };
                }
                match count {
                    $($rows => whole_blocks!($vectors, weighted_sum::<Self, E, $rows, $vectors>, tile),)*
                    $(_ if !E::AHEAD => whole_blocks!($most_vectors, $module::weighted_sum, &tile.cast()),)?
                    _ => whole_blocks!($most_vectors, weighted_sum::<Self, E, $most, $most_vectors>, tile),
                }
                // Heads that are not a multiple of the register block: row by row, the same sums.
                for column in (column..value_dim).step_by(Self::LANES) {
                    for r in 0..count {
                        // SAFETY: as above.
                        unsafe {
                            let (weights, out) = (weights.add(r * TILE), out.add(r * value_dim));
                            weighted_column::<Self, E>(weights, *alpha.add(r), tile, positions, value_dim, column, out);
                        }
                    }
                }
            }
        }
    };
}

products!(Portable, [0, 1], [1 x 1], 2 x 1);
// A vector is two registers of 32: six rows of two take 24.
#[cfg(target_arch = "aarch64")]
products!(Neon, [0, 1, 2, 3, 4, 3], [1 x 2, 2 x 2, 3 x 2, 4 x 2], 6 x 2);
#[cfg(target_arch = "x86_64")]
products!(Avx2, [0, 1, 2, 3, 4, 3], [1 x 2, 2 x 2, 3 x 2, 4 x 2], 6 x 2);
// Few rows need many vectors to hide the latency of the multiply-add; many rows with few vectors read a tile less often.
#[cfg(target_arch = "x86_64")]
products!(
    Avx512,
    [0, 1, 2, 3, 4, 3, 6, 4, 8, 6, 6, 8, 12, 12],
    [1 x 4, 2 x 4, 3 x 4, 4 x 4, 6 x 4, 8 x 2, 12 x 2],
    14 x 2, of f32 by avx512
);
