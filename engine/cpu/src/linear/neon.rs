//! NEON microkernels: tiles of up to 2 x 32 or 6 x 16, with the accumulators in registers, of which arm64 has 32.

#![cfg(target_arch = "aarch64")]

use std::arch::aarch64::*;

use super::choice::{F16, F32, WIDENED, choose_microkernels, size, step_bytes};
use super::tile::{Kernel, PANEL, Tile, UNROLL};
use crate::kernels::neon::{from_bf16, from_f16, prefetch};
use crate::weight::GROUP;

/// The NEON microkernels.
pub(super) struct Neon;

/// Four values as f32.
///
/// # Safety
/// The pointer is readable for 4 values of the format.
#[inline(always)]
unsafe fn load<const FORMAT: u8>(from: *const u8) -> float32x4_t {
    // SAFETY: the caller's promise; the loads are unaligned ones.
    unsafe {
        match FORMAT {
            F32 | WIDENED => vld1q_f32(from.cast()),
            F16 => from_f16(vld1_u16(from.cast())),
            _ => from_bf16(vld1_u16(from.cast())),
        }
    }
}

/// # Safety
/// As [`Kernel::tile`].
#[expect(
    clippy::needless_range_loop,
    reason = "rows and vectors index several things alike"
)]
unsafe fn tile<const ROWS: usize, const VECTORS: usize, const FORMAT: u8>(tile: &Tile) {
    let step_bytes = step_bytes(FORMAT);
    // SAFETY: a constant.
    let mut acc = [[unsafe { vdupq_n_f32(0.0) }; VECTORS]; ROWS];
    // One step for all rows and columns. A macro, not a function: were `acc` borrowed by a call, the compiler would keep
    // it in memory.
    macro_rules! advance {
        ($a:expr, $b:expr) => {{
            let (a, b): (*const f32, *const u8) = ($a, $b);
            let mut columns = [vdupq_n_f32(0.0); VECTORS];
            for v in 0..VECTORS {
                columns[v] = load::<FORMAT>(b.add(v * 4 * size(FORMAT)));
            }
            for row in 0..ROWS {
                let x = vld1q_dup_f32(a.add(row * tile.a_stride));
                for v in 0..VECTORS {
                    acc[row][v] = vfmaq_f32(acc[row][v], x, columns[v]);
                }
            }
        }};
    }
    let mut a = tile.a;
    let mut b = tile.b;
    let mut ahead = tile.ahead;
    // SAFETY: `a` has ROWS rows of `steps` values `a_stride` apart, `b` has `steps` rows of VECTORS * 4 values; the loops stay
    // below `steps`. A prefetch cannot fault.
    unsafe {
        for _ in 0..tile.steps / UNROLL {
            for _ in 0..tile.ahead_lines {
                prefetch::<2>(ahead);
                ahead = ahead.wrapping_add(64);
            }
            for step in 0..UNROLL {
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
        if tile.columns >= VECTORS * 4 && tile.bias.is_null() {
            if tile.first {
                for row in 0..ROWS {
                    for v in 0..VECTORS {
                        vst1q_f32(tile.c.add(row * tile.c_stride + v * 4), acc[row][v]);
                    }
                }
            } else {
                for row in 0..ROWS {
                    for v in 0..VECTORS {
                        let c = tile.c.add(row * tile.c_stride + v * 4);
                        vst1q_f32(c, vaddq_f32(vld1q_f32(c), acc[row][v]));
                    }
                }
            }
            return;
        }
    }
    let mut sums = [[[0f32; 4]; VECTORS]; ROWS];
    for row in 0..ROWS {
        for v in 0..VECTORS {
            // SAFETY: an array of 4 values.
            unsafe { vst1q_f32(sums[row][v].as_mut_ptr(), acc[row][v]) };
        }
    }
    // SAFETY: the caller's promise.
    unsafe { finish(sums.as_flattened().as_flattened(), VECTORS * 4, tile) };
}

/// Adds a k-block's sums, `width` a row, to C where the tile is cut off or a bias is due.
///
/// # Safety
/// As [`Kernel::tile`].
#[inline(never)]
unsafe fn finish(sums: &[f32], width: usize, tile: &Tile) {
    for (row, sums) in sums.chunks_exact(width).enumerate() {
        for (column, &sum) in sums.iter().enumerate().take(tile.columns) {
            // SAFETY: these elements of C exist and are this tile's; bias is readable for the full width.
            unsafe {
                let c = tile.c.add(row * tile.c_stride + column);
                let mut sum = if tile.first { sum } else { *c + sum };
                if !tile.bias.is_null() {
                    sum += *tile.bias.add(column);
                }
                *c = sum;
            }
        }
    }
}

/// # Safety
/// As [`Kernel::widen`].
unsafe fn widen<const FORMAT: u8>(from: *const u8, steps: usize, to: *mut f32) {
    for step in 0..steps {
        for panel in 0..GROUP / PANEL {
            for v in 0..PANEL / 4 {
                // SAFETY: both sides hold `steps * GROUP` values.
                unsafe {
                    let values =
                        load::<FORMAT>(from.add((step * GROUP + panel * PANEL + v * 4) * size(FORMAT)));
                    vst1q_f32(to.add((panel * steps + step) * PANEL + v * 4), values);
                }
            }
        }
    }
}

impl Kernel for Neon {
    const GROUP_ROWS: usize = 2;
    const PANEL_ROWS: usize = 6;
    const LARGE_ROWS: usize = 6;
    const LARGE_PANELS: usize = 1;
    const B_STATIONARY: bool = true;
    const DIRECT_TILES: usize = 5;
    const BLOCK_TILES: usize = 32;
    const TASK_GROUPS: usize = 16;

    choose_microkernels! {
        widened as WIDENED;
        2 panels => 8 vectors: 1 2;
        1 panels => 4 vectors: 1 2 3 4 5 6;
    }
}
