//! Which of an instruction set's microkernels computes a tile: chosen by the format of B, the panels and the rows.
//!
//! Refuses to know instructions: they are those of the `tile` and `widen` beside the `impl Kernel` that calls the macro.

#![cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]

use super::tile::PANEL;
use crate::weight::GROUP;

pub(super) const F32: u8 = 0;
pub(super) const F16: u8 = 1;
pub(super) const BF16: u8 = 2;
/// f32 panels that were widened: in cache already.
pub(super) const WIDENED: u8 = 3;

/// Bytes of a value.
pub(super) const fn size(format: u8) -> usize {
    if format == F32 || format == WIDENED { 4 } else { 2 }
}

/// Bytes from one step of B to the next.
pub(super) const fn step_bytes(format: u8) -> usize {
    if format == WIDENED {
        PANEL * 4
    } else {
        GROUP * size(format)
    }
}

/// Within an `impl Kernel`: [`super::tile::Kernel::tile`] and [`super::tile::Kernel::widen`], by
/// `tile::<ROWS, VECTORS, FORMAT>(&Tile)` and `widen::<FORMAT>(from, steps, to)` of the module.
///
/// An attribute, if any, enables the target features in which the tiles were written; the function that chooses among them
/// gets it, too, so that they may be inlined there. `widened as` names the format of [`super::tile::Layout::Widened`]. Then
/// the tiles: so many panels are so many vectors, in these numbers of rows; `of` leaves them to one format.
macro_rules! choose_microkernels {
    (
        $(#[$feature:meta])?
        widened as $widened:ident;
        $($panels:literal panels $(of $only:ident)? => $vectors:literal vectors: $($rows:literal)*;)*
    ) => {
        unsafe fn tile(rows: usize, panels: usize, args: &$crate::linear::tile::Tile) {
            use $crate::dtype::Dtype;
            use $crate::linear::choice::{BF16, F16, F32};
            use $crate::linear::tile::Layout;

            /// A function for each number of panels: the compiler shares registers between tiles that lie in one.
            ///
            /// # Safety
            /// As the trait's.
            $(#[$feature])?
            unsafe fn choose<const FORMAT: u8, const PANELS: usize>(
                rows: usize,
                args: &$crate::linear::tile::Tile,
            ) {
                match PANELS {
                    $($panels $(if FORMAT == $only)? => match rows {
                        // SAFETY: the caller's promise, with this many rows and vectors.
                        $($rows => unsafe { tile::<$rows, $vectors, FORMAT>(args) },)*
                        _ => debug_assert!(false, "no tile of {rows} rows"),
                    },)*
                    _ => debug_assert!(false, "no tile of {PANELS} panels"),
                }
            }

            // SAFETY: the caller's promise.
            unsafe {
                match panels {
                    $($panels => match args.layout {
                        Layout::Widened => choose::<$widened, $panels>(rows, args),
                        Layout::Packed(Dtype::F32) => choose::<F32, $panels>(rows, args),
                        Layout::Packed(Dtype::F16) => choose::<F16, $panels>(rows, args),
                        Layout::Packed(Dtype::BF16) => choose::<BF16, $panels>(rows, args),
                    },)*
                    _ => debug_assert!(false, "no tile of {panels} panels"),
                }
            }
        }

        unsafe fn widen(dtype: $crate::dtype::Dtype, from: *const u8, steps: usize, to: *mut f32) {
            use $crate::dtype::Dtype;
            use $crate::linear::choice::{BF16, F16, F32};

            // SAFETY: the caller's promise.
            unsafe {
                match dtype {
                    Dtype::F32 => widen::<F32>(from, steps, to),
                    Dtype::F16 => widen::<F16>(from, steps, to),
                    Dtype::BF16 => widen::<BF16>(from, steps, to),
                }
            }
        }
    };
}
pub(super) use choose_microkernels;
