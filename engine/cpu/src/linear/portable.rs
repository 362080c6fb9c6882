//! Microkernels in plain Rust, in shapes that compilers turn into vector code.

use super::tile::{Kernel, Layout, PANEL, Tile};
use crate::dtype::Dtype;
use crate::weight::GROUP;

/// The portable microkernels.
pub(super) struct Portable;

/// `a * b + c`: fused only where the target fuses in one instruction (elsewhere it is a library call).
#[inline(always)]
fn multiply_add(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(any(target_arch = "aarch64", target_feature = "fma")) {
        a.mul_add(b, c)
    } else {
        a * b + c
    }
}

/// A panel's values of one step as f32.
///
/// # Safety
/// The pointer is readable for PANEL values of the format.
#[inline(always)]
unsafe fn load(dtype: Dtype, from: *const u8) -> [f32; PANEL] {
    let mut values = [0.0; PANEL];
    // SAFETY: the caller's promise; the reads are of byte arrays.
    unsafe {
        match dtype {
            Dtype::F32 => {
                let stored = from.cast::<[[u8; 4]; PANEL]>().read_unaligned();
                values
                    .iter_mut()
                    .zip(stored)
                    .for_each(|(v, s)| *v = f32::from_ne_bytes(s));
            }
            Dtype::F16 | Dtype::BF16 => {
                let stored = from.cast::<[u8; 2 * PANEL]>().read_unaligned();
                dtype.decode_exact(&stored, &mut values);
            }
        }
    }
    values
}

/// # Safety
/// As [`Kernel::tile`], for a panel.
unsafe fn tile<const ROWS: usize>(tile: &Tile) {
    let (dtype, step_bytes) = match tile.layout {
        Layout::Packed(dtype) => (dtype, GROUP * dtype.size()),
        Layout::Widened => (Dtype::F32, PANEL * size_of::<f32>()),
    };
    let mut acc = [[0f32; PANEL]; ROWS];
    for step in 0..tile.steps {
        // SAFETY: `steps` rows of B, ROWS rows of A with `steps` values each.
        unsafe {
            let b = load(dtype, tile.b.add(step * step_bytes));
            for (row, acc) in acc.iter_mut().enumerate() {
                let x = *tile.a.add(row * tile.a_stride + step);
                acc.iter_mut()
                    .zip(b)
                    .for_each(|(sum, b)| *sum = multiply_add(x, b, *sum));
            }
        }
    }
    for (row, acc) in acc.iter().enumerate() {
        for (column, &sum) in acc.iter().enumerate().take(tile.columns) {
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

impl Kernel for Portable {
    const GROUP_ROWS: usize = 0;
    const PANEL_ROWS: usize = 4;
    const LARGE_ROWS: usize = 4;
    const LARGE_PANELS: usize = 1;
    const B_STATIONARY: bool = true;
    const DIRECT_TILES: usize = 1;
    const BLOCK_TILES: usize = 16;
    const TASK_GROUPS: usize = 16;

    unsafe fn tile(rows: usize, panels: usize, args: &Tile) {
        debug_assert_eq!(panels, 1);
        // SAFETY: the caller's promise.
        unsafe {
            match rows {
                1 => tile::<1>(args),
                2 => tile::<2>(args),
                3 => tile::<3>(args),
                4 => tile::<4>(args),
                _ => debug_assert!(false, "no tile of {rows} rows"),
            }
        }
    }

    unsafe fn widen(dtype: Dtype, from: *const u8, steps: usize, to: *mut f32) {
        for step in 0..steps {
            for panel in 0..GROUP / PANEL {
                // SAFETY: both sides hold `steps * GROUP` values.
                unsafe {
                    let values = load(dtype, from.add((step * GROUP + panel * PANEL) * dtype.size()));
                    to.add((panel * steps + step) * PANEL)
                        .cast::<[f32; PANEL]>()
                        .write(values);
                }
            }
        }
    }
}
