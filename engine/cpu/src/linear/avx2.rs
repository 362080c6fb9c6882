//! AVX2 microkernels: tiles of up to 3 x 32 or 6 x 16, with the accumulators in registers.

#![cfg(target_arch = "x86_64")]

use std::arch::x86_64::*;

use super::choice::{F16, F32, WIDENED, choose_microkernels, size, step_bytes};
use super::tile::{Kernel, PANEL, Tile, UNROLL};
use crate::weight::GROUP;

/// The AVX2 microkernels.
pub(super) struct Avx2;

/// How far ahead B is fetched from the second cache into the first.
const NEAR_BYTES: usize = 512;

/// Eight values as f32.
///
/// # Safety
/// The pointer is readable for 8 values of the format.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn load<const FORMAT: u8>(from: *const u8) -> __m256 {
    // SAFETY: the caller's promise; the loads are unaligned ones.
    unsafe {
        match FORMAT {
            F32 | WIDENED => _mm256_loadu_ps(from.cast()),
            F16 => _mm256_cvtph_ps(_mm_loadu_si128(from.cast())),
            _ => {
                let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
            }
        }
    }
}

/// # Safety
/// As [`Kernel::tile`].
#[target_feature(enable = "avx2,fma,f16c")]
#[expect(
    clippy::needless_range_loop,
    reason = "rows and vectors index several things alike"
)]
unsafe fn tile<const ROWS: usize, const VECTORS: usize, const FORMAT: u8>(tile: &Tile) {
    let step_bytes = step_bytes(FORMAT);
    let mut acc = [[_mm256_setzero_ps(); VECTORS]; ROWS];
    // One step for all rows and columns. A macro, not a function: were `acc` borrowed by a call, the compiler would keep
    // it in memory.
    macro_rules! advance {
        ($a:expr, $b:expr) => {{
            let (a, b): (*const f32, *const u8) = ($a, $b);
            let mut columns = [_mm256_setzero_ps(); VECTORS];
            for v in 0..VECTORS {
                columns[v] = load::<FORMAT>(b.add(v * 8 * size(FORMAT)));
            }
            for row in 0..ROWS {
                let x = _mm256_set1_ps(*a.add(row * tile.a_stride));
                for v in 0..VECTORS {
                    acc[row][v] = _mm256_fmadd_ps(x, columns[v], acc[row][v]);
                }
            }
        }};
    }
    let mut a = tile.a;
    let mut b = tile.b;
    let mut ahead = tile.ahead;
    for row in 0..ROWS {
        for v in (0..VECTORS).step_by(2) {
            let line = tile.c.wrapping_add(row * tile.c_stride + v * 8);
            _mm_prefetch::<_MM_HINT_T0>(line.cast::<i8>().cast_const());
        }
    }
    // SAFETY: `a` has ROWS rows of `steps` values `a_stride` apart, `b` has `steps` rows of VECTORS * 8 values; the loops stay
    // below `steps`. A prefetch cannot fault.
    unsafe {
        for _ in 0..tile.steps / UNROLL {
            for _ in 0..tile.ahead_lines {
                _mm_prefetch::<_MM_HINT_T1>(ahead.cast());
                ahead = ahead.wrapping_add(64);
            }
            for step in 0..UNROLL {
                for v in 0..(VECTORS * size(FORMAT)).div_ceil(8) {
                    let near = b.wrapping_add(step * step_bytes + NEAR_BYTES + v * 64);
                    _mm_prefetch::<_MM_HINT_T0>(near.cast());
                }
                advance!(a.add(step), b.add(step * step_bytes));
            }
            a = a.add(UNROLL);
            b = b.add(UNROLL * step_bytes);
        }
        for step in 0..tile.steps % UNROLL {
            advance!(a.add(step), b.add(step * step_bytes));
        }
    }
    // Loops over `acc` stay this simple so that all of them are unrolled: one that is not would force it into memory.
    // SAFETY: C is writable at ROWS rows of `columns` columns; here that is the full width.
    unsafe {
        if tile.columns >= VECTORS * 8 && tile.bias.is_null() {
            if tile.first {
                for row in 0..ROWS {
                    for v in 0..VECTORS {
                        _mm256_storeu_ps(tile.c.add(row * tile.c_stride + v * 8), acc[row][v]);
                    }
                }
            } else {
                for row in 0..ROWS {
                    for v in 0..VECTORS {
                        let c = tile.c.add(row * tile.c_stride + v * 8);
                        _mm256_storeu_ps(c, _mm256_add_ps(_mm256_loadu_ps(c), acc[row][v]));
                    }
                }
            }
            return;
        }
    }
    let mut sums = [[[0f32; 8]; VECTORS]; ROWS];
    for row in 0..ROWS {
        for v in 0..VECTORS {
            // SAFETY: an array of 8 values.
            unsafe { _mm256_storeu_ps(sums[row][v].as_mut_ptr(), acc[row][v]) };
        }
    }
    // SAFETY: the caller's promise.
    unsafe { finish(&sums, tile) };
}

/// Adds a k-block's sums to C where the tile is cut off or a bias is due.
///
/// # Safety
/// As [`Kernel::tile`].
#[inline(never)]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn finish<const VECTORS: usize>(sums: &[[[f32; 8]; VECTORS]], tile: &Tile) {
    let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    for (row, sums) in sums.iter().enumerate() {
        for (v, sum) in sums.iter().enumerate() {
            let columns = tile.columns.saturating_sub(v * 8).min(8);
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_possible_wrap,
                reason = "columns is at most 8"
            )]
            let mask = _mm256_cmpgt_epi32(_mm256_set1_epi32(columns as i32), lanes);
            let c = tile.c.wrapping_add(row * tile.c_stride + v * 8);
            // SAFETY: C is writable at the masked columns of each row, bias readable for the full width.
            unsafe {
                let mut sum = _mm256_loadu_ps(sum.as_ptr());
                if !tile.first {
                    sum = _mm256_add_ps(_mm256_maskload_ps(c, mask), sum);
                }
                if !tile.bias.is_null() {
                    sum = _mm256_add_ps(sum, _mm256_loadu_ps(tile.bias.add(v * 8)));
                }
                _mm256_maskstore_ps(c, mask, sum);
            }
        }
    }
}

/// # Safety
/// As [`Kernel::widen`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn widen<const FORMAT: u8>(from: *const u8, steps: usize, to: *mut f32) {
    for step in 0..steps {
        for panel in 0..GROUP / PANEL {
            for v in 0..PANEL / 8 {
                // SAFETY: both sides hold `steps * GROUP` values, and `to` is aligned.
                unsafe {
                    let values =
                        load::<FORMAT>(from.add((step * GROUP + panel * PANEL + v * 8) * size(FORMAT)));
                    _mm256_store_ps(to.add((panel * steps + step) * PANEL + v * 8), values);
                }
            }
        }
    }
}

impl Kernel for Avx2 {
    const GROUP_ROWS: usize = 3;
    const PANEL_ROWS: usize = 6;
    const LARGE_ROWS: usize = 6;
    const LARGE_PANELS: usize = 1;
    const B_STATIONARY: bool = true;
    const DIRECT_TILES: usize = 5;
    const BLOCK_TILES: usize = 32;
    const TASK_GROUPS: usize = 16;

    choose_microkernels! {
        #[target_feature(enable = "avx2,fma,f16c")]
        widened as WIDENED;
        2 panels => 4 vectors: 1 2 3;
        1 panels => 2 vectors: 1 2 3 4 5 6;
    }
}
