//! AVX-512 microkernels: tiles of up to 14 x 32, or 16 x 16, with the accumulators in registers.

#![cfg(target_arch = "x86_64")]

use std::arch::x86_64::*;

use super::tile::{A_STRIDE, Kernel, Layout, PANEL, Tile};
use crate::dtype::Dtype;
use crate::weight::GROUP;

/// The AVX-512 microkernels.
pub(super) struct Avx512;

const F32: u8 = 0;
const F16: u8 = 1;
const BF16: u8 = 2;
/// f32 that was widened: in cache already, so prefetching is for something else and slower.
const WIDENED: u8 = 3;

/// Bytes of a value.
const fn size(format: u8) -> usize {
    if format == F32 || format == WIDENED { 4 } else { 2 }
}

/// Sixteen values as f32.
///
/// # Safety
/// The pointer is readable for 16 values of the format.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn load<const FORMAT: u8>(from: *const u8) -> __m512 {
    // SAFETY: the caller's promise; the loads are unaligned ones.
    unsafe {
        match FORMAT {
            F32 | WIDENED => _mm512_loadu_ps(from.cast()),
            F16 => _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())),
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
unsafe fn tile<const ROWS: usize, const VECTORS: usize, const FORMAT: u8>(tile: &Tile) {
    const UNROLL: usize = 4;
    let step_bytes = GROUP * size(FORMAT);
    let mut acc = [[_mm512_setzero_ps(); VECTORS]; ROWS];
    let mut a = tile.a;
    let mut b = tile.b;
    let mut ahead = tile.ahead;
    let lines = if FORMAT == WIDENED {
        1
    } else {
        UNROLL * step_bytes / 64
    };
    for row in 0..ROWS {
        for v in 0..VECTORS {
            let line = tile.c.wrapping_add(row * tile.c_stride + v * 16);
            _mm_prefetch::<_MM_HINT_T0>(line.cast::<i8>().cast_const());
        }
    }
    // SAFETY: `a` has ROWS rows of `steps` values A_STRIDE apart, `b` has `steps` rows of VECTORS * 16 values; the loops stay
    // below `steps`.
    unsafe {
        for _ in 0..tile.steps / UNROLL {
            // A prefetch cannot fault.
            for line in 0..lines {
                _mm_prefetch::<_MM_HINT_T1>(ahead.wrapping_add(line * 64).cast());
            }
            ahead = ahead.wrapping_add(lines * 64);
            for step in 0..UNROLL {
                advance::<ROWS, VECTORS, FORMAT>(&mut acc, a.add(step), b.add(step * step_bytes));
            }
            a = a.add(UNROLL);
            b = b.add(UNROLL * step_bytes);
        }
        for step in 0..tile.steps % UNROLL {
            advance::<ROWS, VECTORS, FORMAT>(&mut acc, a.add(step), b.add(step * step_bytes));
        }
        finish(&acc, tile);
    }
}

/// # Safety
/// `a` is readable at ROWS values A_STRIDE apart, `b` at VECTORS * 16 values.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn advance<const ROWS: usize, const VECTORS: usize, const FORMAT: u8>(
    acc: &mut [[__m512; VECTORS]; ROWS],
    a: *const f32,
    b: *const u8,
) {
    let mut columns = [_mm512_setzero_ps(); VECTORS];
    // SAFETY: the caller's promise.
    unsafe {
        for (v, column) in columns.iter_mut().enumerate() {
            *column = load::<FORMAT>(b.add(v * 16 * size(FORMAT)));
        }
        for (row, acc) in acc.iter_mut().enumerate() {
            let x = _mm512_set1_ps(*a.add(row * A_STRIDE));
            for (sum, column) in acc.iter_mut().zip(columns) {
                *sum = _mm512_fmadd_ps(x, column, *sum);
            }
        }
    }
}

/// Adds a k-block's sums to C.
///
/// # Safety
/// As [`Kernel::tile`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn finish<const ROWS: usize, const VECTORS: usize>(acc: &[[__m512; VECTORS]; ROWS], tile: &Tile) {
    for v in 0..VECTORS {
        let columns = tile.columns.saturating_sub(v * 16).min(16);
        #[expect(clippy::cast_possible_truncation, reason = "columns is at most 16")]
        let mask = ((1u32 << columns) - 1) as u16;
        // SAFETY: C is writable at the masked columns of ROWS rows, bias readable for the full width.
        unsafe {
            let bias = if tile.bias.is_null() {
                None
            } else {
                Some(_mm512_loadu_ps(tile.bias.add(v * 16)))
            };
            for (row, acc) in acc.iter().enumerate() {
                let c = tile.c.wrapping_add(row * tile.c_stride + v * 16);
                let mut sum = acc[v];
                if !tile.first {
                    sum = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, c), sum);
                }
                if let Some(bias) = bias {
                    sum = _mm512_add_ps(sum, bias);
                }
                _mm512_mask_storeu_ps(c, mask, sum);
            }
        }
    }
}

/// # Safety
/// As [`Kernel::tile`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn dispatch<const FORMAT: u8>(rows: usize, panels: usize, args: &Tile) {
    macro_rules! by_rows {
        ($vectors:literal: $($rows:literal)*) => {
            match rows {
                // SAFETY: the caller's promise, with this many rows and vectors.
                $($rows => unsafe { tile::<$rows, $vectors, FORMAT>(args) },)*
                _ => debug_assert!(false, "no tile of {rows} rows"),
            }
        };
    }
    if panels == 2 {
        by_rows!(2: 1 2 3 4 5 6 7 8 9 10 11 12 13 14);
    } else {
        by_rows!(1: 15 16);
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
    const GROUP_ROWS: usize = 14;
    const PANEL_ROWS: usize = 16;
    const LARGE_ROWS: usize = 14;
    const B_STATIONARY: bool = false;
    const DIRECT_TILES: usize = 2;
    const BLOCK_TILES: usize = 1;
    const TASK_GROUPS: usize = 16;

    unsafe fn tile(rows: usize, panels: usize, tile: &Tile) {
        debug_assert!(panels == 2 || tile.columns <= PANEL);
        // SAFETY: the caller's promise.
        unsafe {
            match tile.layout {
                Layout::Widened => dispatch::<WIDENED>(rows, panels, tile),
                Layout::Packed(Dtype::F32) => dispatch::<F32>(rows, panels, tile),
                Layout::Packed(Dtype::F16) => dispatch::<F16>(rows, panels, tile),
                Layout::Packed(Dtype::BF16) => dispatch::<BF16>(rows, panels, tile),
            }
        }
    }

    unsafe fn widen(dtype: Dtype, from: *const u8, steps: usize, to: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe {
            match dtype {
                Dtype::F32 => widen::<F32>(from, steps, to),
                Dtype::F16 => widen::<F16>(from, steps, to),
                Dtype::BF16 => widen::<BF16>(from, steps, to),
            }
        }
    }

    fn prefetch(address: *const u8) {
        // SAFETY: a prefetch cannot fault; SSE is part of x86-64.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(address.cast()) };
    }
}
