//! AVX-512: the two products of attention for as many rows as registers hold, on tiles of f32.
//! Refuses to know softmax, masks and tables.

#![cfg(target_arch = "x86_64")]

use std::arch::x86_64::*;

use super::TILE;
use super::micro::Tile;
use crate::kv_cache::BLOCK;
use crate::outer_product::{Address, MAX_ROWS as ROWS, outer_product};

/// Steps that a loop takes at a time.
const UNROLL: usize = 4;
/// Values of a vector.
const LANES: usize = 16;

/// [`super::micro::scores`] of `ROWS` rows at positions `from..to`, whole pairs of blocks.
///
/// # Safety
/// As there.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn scores(
    q: *const f32,
    dim: usize,
    tile: &Tile<f32>,
    (from, to): (usize, usize),
    out: *mut f32,
) {
    const { assert!(BLOCK == LANES) };
    let stride = dim * size_of::<f32>();
    let (three, five) = (3 * stride, 5 * stride);
    for first in (from / BLOCK..to / BLOCK).step_by(2) {
        let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
        // SAFETY: the caller's promise; a head is a multiple of 8 values.
        unsafe {
            let mut low = q.cast::<u8>();
            let mut high = low.add(Address::middle(ROWS) * stride);
            let mut keys = [tile.keys[first], tile.keys[first + 1]];
            for _ in 0..dim / UNROLL {
                macro_rules! advance {
                    ($($step:literal)*) => {
                        $(
                            let columns = keys.map(|keys| _mm512_loadu_ps(keys.add($step * BLOCK)));
                            outer_product!(sums[ROWS] += (low, high)[stride, three, five][$step] * columns);
                        )*
                    };
                }
                advance!(0 1 2 3);
                low = low.add(UNROLL * size_of::<f32>());
                high = high.add(UNROLL * size_of::<f32>());
                keys = keys.map(|keys| keys.add(UNROLL * BLOCK));
            }
            for (row, sums) in sums.iter().enumerate() {
                let to = out.add(row * TILE + first * BLOCK);
                _mm512_storeu_ps(to, sums[0]);
                _mm512_storeu_ps(to.add(LANES), sums[1]);
            }
        }
    }
}

/// [`super::micro::weighted_sum`] of `ROWS` rows and two vectors of columns from `column` on.
///
/// # Safety
/// As there.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn weighted_sum(
    weights: *const f32,
    alpha: *const f32,
    tile: &Tile<f32>,
    (lo, hi): (usize, usize),
    value_dim: usize,
    column: usize,
    out: *mut f32,
) {
    const STRIDE: usize = TILE * size_of::<f32>();
    let (stride, three, five) = (STRIDE, 3 * STRIDE, 5 * STRIDE);
    let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
    // SAFETY: the caller's promise.
    unsafe {
        for (row, sums) in sums.iter_mut().enumerate() {
            let from = out.add(row * value_dim + column);
            let scale = _mm512_set1_ps(*alpha.add(row));
            *sums = [
                _mm512_mul_ps(_mm512_loadu_ps(from), scale),
                _mm512_mul_ps(_mm512_loadu_ps(from.add(LANES)), scale),
            ];
        }
        let mut position = lo;
        while position < hi {
            let end = hi.min((position / BLOCK + 1) * BLOCK);
            let mut values = tile.values[position / BLOCK].add(position % BLOCK * value_dim + column);
            let mut low = weights.add(position).cast::<u8>();
            let mut high = low.add(Address::middle(ROWS) * STRIDE);
            macro_rules! advance {
                ($($step:literal)*) => {
                    $(
                        let row = values.add($step * value_dim);
                        let columns = [_mm512_loadu_ps(row), _mm512_loadu_ps(row.add(LANES))];
                        outer_product!(sums[ROWS] += (low, high)[stride, three, five][$step] * columns);
                    )*
                };
            }
            for _ in 0..(end - position) / UNROLL {
                advance!(0 1 2 3);
                low = low.add(UNROLL * size_of::<f32>());
                high = high.add(UNROLL * size_of::<f32>());
                values = values.add(UNROLL * value_dim);
            }
            for _ in 0..(end - position) % UNROLL {
                advance!(0);
                low = low.add(size_of::<f32>());
                high = high.add(size_of::<f32>());
                values = values.add(value_dim);
            }
            position = end;
        }
        for (row, sums) in sums.iter().enumerate() {
            let to = out.add(row * value_dim + column);
            _mm512_storeu_ps(to, sums[0]);
            _mm512_storeu_ps(to.add(LANES), sums[1]);
        }
    }
}
