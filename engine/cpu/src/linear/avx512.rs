//! AVX-512 microkernels: tiles of up to 14 x 32 with the accumulators in registers.

#![cfg(target_arch = "x86_64")]

use std::arch::asm;
use std::arch::x86_64::*;

use super::choice::{F16, F32, choose_microkernels, size, step_bytes};
use super::tile::{Kernel, Tile, UNROLL};
use crate::outer_product::{Address, MAX_ROWS, outer_product};
use crate::weight::GROUP;

/// The AVX-512 microkernels.
pub(super) struct Avx512;

/// How far ahead B is fetched from the second cache into the first; 0.5 to 2 KiB measured alike, the most a little best.
const NEAR_BYTES: usize = 2048;
/// So many turns of [`UNROLL`] steps before the end all of C has been asked for.
const C_TURNS: usize = 8;

/// Sixteen values as f32.
///
/// # Safety
/// The pointer is readable for 16 values of the format.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn load<const FORMAT: u8>(from: *const u8) -> __m512 {
    // SAFETY: the caller's promise; the loads are unaligned ones.
    unsafe {
        match FORMAT {
            F32 => _mm512_loadu_ps(from.cast()),
            F16 => {
                // The intrinsic asks for suppressed exceptions, which no memory operand can: two instructions and a
                // shuffle more.
                let values;
                asm!(
                    "vcvtph2ps {values}, ymmword ptr [{from}]",
                    values = lateout(zmm_reg) values,
                    from = in(reg) from,
                    options(pure, readonly, nostack, preserves_flags)
                );
                values
            }
            _ => {
                let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
            }
        }
    }
}

/// # Safety
/// As [`Kernel::tile`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
#[expect(
    clippy::needless_range_loop,
    reason = "rows and vectors index several things alike"
)]
unsafe fn tile<const ROWS: usize, const VECTORS: usize, const FORMAT: u8>(tile: &Tile) {
    const { assert!(VECTORS == 2) };
    let step_bytes = step_bytes(FORMAT);
    let mut acc = [[_mm512_setzero_ps(); 2]; ROWS];
    let stride = tile.a_stride * size_of::<f32>();
    let (three, five) = (3 * stride, 5 * stride);
    macro_rules! advance {
        ($low:ident, $high:ident, $b:ident: $($step:literal)*) => {
            $(
                let from = $b.add($step * step_bytes);
                let columns = [load::<FORMAT>(from), load::<FORMAT>(from.add(step_bytes / VECTORS))];
                for line in 0..(VECTORS * size(FORMAT)).div_ceil(4) {
                    _mm_prefetch::<_MM_HINT_T0>(from.wrapping_add(NEAR_BYTES + line * 64).cast());
                }
                outer_product!(acc[ROWS] += ($low, $high)[stride, three, five][$step] * columns);
            )*
        };
    }
    let mut low = tile.a.cast::<u8>();
    let mut high = low.wrapping_add(Address::middle(ROWS) * stride);
    let mut b = tile.b;
    let mut ahead = tile.ahead;
    let turns = tile.steps / UNROLL;
    // C is fetched towards the end, a row a turn: earlier, B would push it out of the first cache again.
    let c_from = turns.saturating_sub(ROWS + C_TURNS);
    let mut c_row = tile.c.cast_const();
    // SAFETY: `a` has ROWS rows of `steps` values `a_stride` apart, `b` has `steps` rows of a group; the loops stay below
    // `steps`. A prefetch cannot fault.
    unsafe {
        for turn in 0..turns {
            for _ in 0..tile.ahead_lines {
                _mm_prefetch::<_MM_HINT_T1>(ahead.cast());
                ahead = ahead.wrapping_add(64);
            }
            _mm_prefetch::<_MM_HINT_T0>(c_row.cast());
            _mm_prefetch::<_MM_HINT_T0>(c_row.wrapping_add(16).cast());
            if turn.wrapping_sub(c_from) < ROWS - 1 {
                c_row = c_row.wrapping_add(tile.c_stride);
            }
            advance!(low, high, b: 0 1 2 3);
            low = low.add(UNROLL * size_of::<f32>());
            high = high.wrapping_add(UNROLL * size_of::<f32>());
            b = b.add(UNROLL * step_bytes);
        }
        for _ in 0..tile.steps % UNROLL {
            advance!(low, high, b: 0);
            low = low.add(size_of::<f32>());
            high = high.wrapping_add(size_of::<f32>());
            b = b.add(step_bytes);
        }
    }
    // Loops over `acc` stay this simple so that all of them are unrolled: one that is not would force it into memory.
    // SAFETY: C is writable at ROWS rows of `columns` columns; here that is the full width.
    unsafe {
        if tile.columns >= VECTORS * 16 && tile.bias.is_null() {
            if tile.first {
                for row in 0..ROWS {
                    for v in 0..VECTORS {
                        _mm512_storeu_ps(tile.c.add(row * tile.c_stride + v * 16), acc[row][v]);
                    }
                }
            } else {
                for row in 0..ROWS {
                    for v in 0..VECTORS {
                        let c = tile.c.add(row * tile.c_stride + v * 16);
                        _mm512_storeu_ps(c, _mm512_add_ps(_mm512_loadu_ps(c), acc[row][v]));
                    }
                }
            }
            return;
        }
    }
    let mut sums = [[[0f32; 16]; VECTORS]; ROWS];
    for row in 0..ROWS {
        for v in 0..VECTORS {
            // SAFETY: an array of 16 values.
            unsafe { _mm512_storeu_ps(sums[row][v].as_mut_ptr(), acc[row][v]) };
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
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn finish<const VECTORS: usize>(sums: &[[[f32; 16]; VECTORS]], tile: &Tile) {
    for (row, sums) in sums.iter().enumerate() {
        for (v, sum) in sums.iter().enumerate() {
            let columns = tile.columns.saturating_sub(v * 16).min(16);
            #[expect(clippy::cast_possible_truncation, reason = "columns is at most 16")]
            let mask = ((1u32 << columns) - 1) as u16;
            let c = tile.c.wrapping_add(row * tile.c_stride + v * 16);
            // SAFETY: C is writable at the masked columns of each row, and so is the bias readable.
            unsafe {
                let mut sum = _mm512_loadu_ps(sum.as_ptr());
                if !tile.first {
                    sum = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, c), sum);
                }
                if !tile.bias.is_null() {
                    sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(mask, tile.bias.wrapping_add(v * 16)));
                }
                _mm512_mask_storeu_ps(c, mask, sum);
            }
        }
    }
}

/// # Safety
/// As [`Kernel::widen`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn widen<const FORMAT: u8>(from: *const u8, steps: usize, to: *mut f32) {
    for i in (0..steps * GROUP).step_by(16) {
        // SAFETY: both sides hold `steps * GROUP` values, a multiple of 16, and `to` is aligned.
        unsafe { _mm512_store_ps(to.add(i), load::<FORMAT>(from.add(i * size(FORMAT)))) };
    }
}

impl Kernel for Avx512 {
    const GROUP_ROWS: usize = MAX_ROWS;
    const PANEL_ROWS: usize = 0;
    const LARGE_ROWS: usize = MAX_ROWS;
    const LARGE_PANELS: usize = 2;
    const B_STATIONARY: bool = false;
    const DIRECT_TILES: usize = 2;
    const BLOCK_TILES: usize = 1;
    const TASK_GROUPS: usize = 16;

    choose_microkernels! {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
        widened as F32;
        2 panels => 2 vectors: 1 2 3 4 5 6 7 8 9 10 11 12 13 14;
    }
}
