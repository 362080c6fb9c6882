//! The matrix registers: what they hold and the one product that is made of them.
//!
//! Refuses to know what becomes of the sums.

use std::arch::asm;

/// Rows of a tile.
pub(super) const TILE_ROWS: usize = 16;
/// Bytes of a tile.
pub(super) const TILE: usize = 1024;
/// Bytes of a tile's row.
pub(super) const TILE_ROW: usize = 64;

/// All tiles have sixteen rows of 64 bytes.
///
/// # Safety
/// AMX is available.
pub(super) unsafe fn configure() {
    #[repr(C, align(64))]
    struct Config {
        palette: u8,
        start_row: u8,
        reserved: [u8; 14],
        row_bytes: [u16; 16],
        rows: [u8; 16],
    }
    let mut config = Config {
        palette: 1,
        start_row: 0,
        reserved: [0; 14],
        row_bytes: [0; 16],
        rows: [0; 16],
    };
    config.row_bytes[..8].fill(64);
    config.rows[..8].fill(16);
    // SAFETY: a configuration of 64 bytes; the instruction reads it only.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const config, options(readonly, nostack, preserves_flags)) }
}

/// Gives the registers back: while they are in use every change of threads is slower.
///
/// # Safety
/// AMX is available.
pub(super) unsafe fn release() {
    // SAFETY: the caller's promise; no memory is touched.
    unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) }
}

/// How the four tiles of sums lie in memory, in bytes.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    /// From one row of a tile to the next.
    stride: usize,
    /// From the first columns to the others.
    right: usize,
    /// From the first rows to the others.
    below: usize,
}

impl Layout {
    /// One tile after the other.
    pub(super) const KEPT: Self = Self {
        stride: TILE_ROW,
        right: TILE,
        below: 2 * TILE,
    };

    /// As rows of a matrix; 0 apart they are all one row.
    pub(super) const fn rows(stride: usize) -> Self {
        Self {
            stride,
            right: TILE_ROW,
            below: TILE_ROWS * stride,
        }
    }
}

/// Fills the sums: tiles 0 and 1, and for a second tile of rows 2 and 3. The others hold operands. No compiler uses tiles
/// for anything of its own, so they keep their values from one of these functions to the next.
///
/// # Safety
/// Readable for the tiles; they are configured.
#[inline(always)]
pub(super) unsafe fn load_sums<const TILES: usize>(from: *const f32, layout: Layout) {
    let below = from.wrapping_byte_add(layout.below);
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "tileloadd tmm0, [{left} + {stride} * 1]",
            "tileloadd tmm1, [{right} + {stride} * 1]",
            left = in(reg) from, right = in(reg) from.wrapping_byte_add(layout.right), stride = in(reg) layout.stride,
            options(readonly, nostack, preserves_flags)
        );
        if TILES == 2 {
            asm!(
                "tileloadd tmm2, [{left} + {stride} * 1]",
                "tileloadd tmm3, [{right} + {stride} * 1]",
                left = in(reg) below, right = in(reg) below.wrapping_byte_add(layout.right), stride = in(reg) layout.stride,
                options(readonly, nostack, preserves_flags)
            );
        }
    }
}

/// Writes the sums.
///
/// # Safety
/// Writable for the tiles; they are configured.
#[inline(always)]
pub(super) unsafe fn store_sums<const TILES: usize>(to: *mut f32, layout: Layout) {
    let below = to.wrapping_byte_add(layout.below);
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "tilestored [{left} + {stride} * 1], tmm0",
            "tilestored [{right} + {stride} * 1], tmm1",
            left = in(reg) to, right = in(reg) to.wrapping_byte_add(layout.right), stride = in(reg) layout.stride,
            options(nostack, preserves_flags)
        );
        if TILES == 2 {
            asm!(
                "tilestored [{left} + {stride} * 1], tmm2",
                "tilestored [{right} + {stride} * 1], tmm3",
                left = in(reg) below, right = in(reg) below.wrapping_byte_add(layout.right), stride = in(reg) layout.stride,
                options(nostack, preserves_flags)
            );
        }
    }
}

/// Adds the products of one step.
///
/// # Safety
/// `a`, for two tiles also `a_next`, and `b` hold the step; tiles are configured.
#[inline(always)]
pub(super) unsafe fn multiply<const LOW: bool, const TILES: usize>(
    a: *const u8,
    a_next: *const u8,
    b: *const u8,
) {
    // A sum is in four instructions' turn, about as long as one takes.
    // SAFETY: the caller's promise.
    unsafe {
        if TILES == 1 {
            asm!(
                "tileloadd tmm4, [{a} + {stride} * 1]",
                "tileloadd tmm6, [{b} + {stride} * 1]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{b} + {stride} * 1 + 1024]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{a} + {stride} * 1 + 1024]",
                "tdpbf16ps tmm0, tmm5, tmm6",
                "tdpbf16ps tmm1, tmm5, tmm7",
                a = in(reg) a, b = in(reg) b, stride = in(reg) TILE_ROW,
                options(readonly, nostack, preserves_flags)
            );
            if LOW {
                asm!(
                    "tileloadd tmm6, [{b} + {stride} * 1 + 2048]",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tileloadd tmm7, [{b} + {stride} * 1 + 3072]",
                    "tdpbf16ps tmm1, tmm4, tmm7",
                    b = in(reg) b, stride = in(reg) TILE_ROW,
                    options(readonly, nostack, preserves_flags)
                );
            }
            return;
        }
        asm!(
            "tileloadd tmm4, [{a} + {stride} * 1]",
            "tileloadd tmm6, [{b} + {stride} * 1]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{b} + {stride} * 1 + 1024]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{next} + {stride} * 1]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "tileloadd tmm4, [{a} + {stride} * 1 + 1024]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{next} + {stride} * 1 + 1024]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            a = in(reg) a, next = in(reg) a_next, b = in(reg) b, stride = in(reg) TILE_ROW,
            options(readonly, nostack, preserves_flags)
        );
        if LOW {
            asm!(
                "tileloadd tmm4, [{a} + {stride} * 1]",
                "tileloadd tmm6, [{b} + {stride} * 1 + 2048]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{b} + {stride} * 1 + 3072]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{next} + {stride} * 1]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                a = in(reg) a, next = in(reg) a_next, b = in(reg) b, stride = in(reg) TILE_ROW,
                options(readonly, nostack, preserves_flags)
            );
        }
    }
}
