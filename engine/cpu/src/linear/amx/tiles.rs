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

/// What the sums in registers are of: a tile of rows by a group of columns, which is two tiles, or twice that.
pub(super) trait Form {
    /// Tiles of rows.
    const TILES: usize;
    /// Groups.
    const GROUPS: usize;

    /// Adds the products of one step.
    ///
    /// # Safety
    /// `a`, for two tiles of rows also `below`, and `b`, for two groups twice as long, hold the step; tiles are configured.
    unsafe fn multiply<const LOW: bool>(a: *const u8, below: *const u8, b: *const u8);
}

/// A tile of rows by a group.
pub(super) struct Single;
/// Two tiles of rows by a group.
pub(super) struct Tall;
/// A tile of rows by two groups.
pub(super) struct Wide;

/// How the tiles of sums lie in memory, in bytes.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    /// From one row of a tile to the next.
    stride: usize,
    /// From a group's first columns to the others.
    right: usize,
    /// From the first two tiles to the others.
    others: usize,
}

impl Layout {
    /// One tile after the other.
    pub(super) const KEPT: Self = Self {
        stride: TILE_ROW,
        right: TILE,
        others: 2 * TILE,
    };

    /// As rows of a matrix; 0 apart they are all one row.
    pub(super) const fn rows<F: Form>(stride: usize) -> Self {
        Self {
            stride,
            right: TILE_ROW,
            others: if F::GROUPS == 2 {
                2 * TILE_ROW
            } else {
                TILE_ROWS * stride
            },
        }
    }
}

/// Fills the sums: tiles 0 and 1, and for a second tile of rows or group 2 and 3. The others hold operands. No compiler uses
/// tiles for anything of its own, so they keep their values from one of these functions to the next.
///
/// # Safety
/// Readable for the tiles; they are configured.
#[inline(always)]
pub(super) unsafe fn load_sums<F: Form>(from: *const f32, layout: Layout) {
    let others = from.wrapping_byte_add(layout.others);
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "tileloadd tmm0, [{left} + {stride} * 1]",
            "tileloadd tmm1, [{right} + {stride} * 1]",
            left = in(reg) from, right = in(reg) from.wrapping_byte_add(layout.right),
            stride = in(reg) layout.stride,
            options(readonly, nostack, preserves_flags)
        );
        if F::TILES * F::GROUPS == 2 {
            asm!(
                "tileloadd tmm2, [{left} + {stride} * 1]",
                "tileloadd tmm3, [{right} + {stride} * 1]",
                left = in(reg) others, right = in(reg) others.wrapping_byte_add(layout.right),
                stride = in(reg) layout.stride,
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
pub(super) unsafe fn store_sums<F: Form>(to: *mut f32, layout: Layout) {
    let others = to.wrapping_byte_add(layout.others);
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "tilestored [{left} + {stride} * 1], tmm0",
            "tilestored [{right} + {stride} * 1], tmm1",
            left = in(reg) to, right = in(reg) to.wrapping_byte_add(layout.right),
            stride = in(reg) layout.stride,
            options(nostack, preserves_flags)
        );
        if F::TILES * F::GROUPS == 2 {
            asm!(
                "tilestored [{left} + {stride} * 1], tmm2",
                "tilestored [{right} + {stride} * 1], tmm3",
                left = in(reg) others, right = in(reg) others.wrapping_byte_add(layout.right),
                stride = in(reg) layout.stride,
                options(nostack, preserves_flags)
            );
        }
    }
}

/// The products of one tile of rows by one group: high by high, low by high, high by low. A sum waits for the one before.
macro_rules! by_group {
    ($low:expr, $a:expr, $b:expr, $left:literal, $right:literal) => {{
        asm!(
            "tileloadd tmm4, [{a} + {stride} * 1]",
            "tileloadd tmm6, [{b} + {stride} * 1]",
            concat!("tdpbf16ps ", $left, ", tmm4, tmm6"),
            "tileloadd tmm7, [{b} + {stride} * 1 + 1024]",
            concat!("tdpbf16ps ", $right, ", tmm4, tmm7"),
            "tileloadd tmm5, [{a} + {stride} * 1 + 1024]",
            concat!("tdpbf16ps ", $left, ", tmm5, tmm6"),
            concat!("tdpbf16ps ", $right, ", tmm5, tmm7"),
            a = in(reg) $a, b = in(reg) $b, stride = in(reg) TILE_ROW,
            options(readonly, nostack, preserves_flags)
        );
        if $low {
            asm!(
                "tileloadd tmm6, [{b} + {stride} * 1 + 2048]",
                concat!("tdpbf16ps ", $left, ", tmm4, tmm6"),
                "tileloadd tmm7, [{b} + {stride} * 1 + 3072]",
                concat!("tdpbf16ps ", $right, ", tmm4, tmm7"),
                b = in(reg) $b, stride = in(reg) TILE_ROW,
                options(readonly, nostack, preserves_flags)
            );
        }
    }};
}

impl Form for Single {
    const TILES: usize = 1;
    const GROUPS: usize = 1;

    #[inline(always)]
    unsafe fn multiply<const LOW: bool>(a: *const u8, _: *const u8, b: *const u8) {
        // SAFETY: the caller's promise.
        unsafe { by_group!(LOW, a, b, "tmm0", "tmm1") }
    }
}

impl Form for Wide {
    const TILES: usize = 1;
    const GROUPS: usize = 2;

    #[inline(always)]
    unsafe fn multiply<const LOW: bool>(a: *const u8, _: *const u8, b: *const u8) {
        // SAFETY: the caller's promise.
        unsafe {
            by_group!(LOW, a, b, "tmm0", "tmm1");
            by_group!(LOW, a, b.add(4 * TILE), "tmm2", "tmm3");
        }
    }
}

impl Form for Tall {
    const TILES: usize = 2;
    const GROUPS: usize = 1;

    #[inline(always)]
    unsafe fn multiply<const LOW: bool>(a: *const u8, below: *const u8, b: *const u8) {
        // A sum's turn comes after four instructions, about as long as one takes.
        // SAFETY: the caller's promise.
        unsafe {
            asm!(
                "tileloadd tmm4, [{a} + {stride} * 1]",
                "tileloadd tmm6, [{b} + {stride} * 1]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{b} + {stride} * 1 + 1024]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{below} + {stride} * 1]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "tileloadd tmm4, [{a} + {stride} * 1 + 1024]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{below} + {stride} * 1 + 1024]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                a = in(reg) a, below = in(reg) below, b = in(reg) b, stride = in(reg) TILE_ROW,
                options(readonly, nostack, preserves_flags)
            );
            if LOW {
                asm!(
                    "tileloadd tmm4, [{a} + {stride} * 1]",
                    "tileloadd tmm6, [{b} + {stride} * 1 + 2048]",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tileloadd tmm7, [{b} + {stride} * 1 + 3072]",
                    "tdpbf16ps tmm1, tmm4, tmm7",
                    "tileloadd tmm5, [{below} + {stride} * 1]",
                    "tdpbf16ps tmm2, tmm5, tmm6",
                    "tdpbf16ps tmm3, tmm5, tmm7",
                    a = in(reg) a, below = in(reg) below, b = in(reg) b, stride = in(reg) TILE_ROW,
                    options(readonly, nostack, preserves_flags)
                );
            }
        }
    }
}
