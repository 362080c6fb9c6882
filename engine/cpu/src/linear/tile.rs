//! What every instruction set's microkernel computes: one tile of an output, over one k-block.
//!
//! Refuses to know how tiles are cut and who computes which.

use crate::dtype::Dtype;
use crate::weight::{GROUP, K_BLOCK};

/// Values from one row of packed activations to the next: a k-block and one line more, so that the rows of a tile do not
/// fall into the same cache set.
pub(super) const A_STRIDE: usize = K_BLOCK + 16;
/// Steps that a microkernel takes at a time.
pub(super) const UNROLL: usize = 4;
/// Columns of a panel: half a group.
pub(super) const PANEL: usize = GROUP / 2;

/// How the values of B lie that a tile reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// `[steps][GROUP]` as [`crate::weight::PackedWeight`] stores them.
    Packed(Dtype),
    /// f32 as [`Kernel::widen`] writes them (unless `B_STATIONARY`, that is the packed layout).
    Widened,
}

/// One call of a microkernel: `c[r][j] (+)= Σ a[r][s] * b[s][j]` over the steps of one k-block, in order.
pub(super) struct Tile {
    /// First row's activations.
    pub a: *const f32,
    /// Values from one row of them to the next.
    pub a_stride: usize,
    /// First value of the tile's columns.
    pub b: *const u8,
    pub layout: Layout,
    /// Steps, `1..=K_BLOCK`.
    pub steps: usize,
    /// What to prefetch into the second cache on the way, from here on. Any address is allowed.
    pub ahead: *const u8,
    /// Cache lines of it for every [`UNROLL`] steps.
    pub ahead_lines: usize,
    pub c: *mut f32,
    /// Values from one row of C to the next.
    pub c_stride: usize,
    /// Columns of C that exist: `1..=panels * PANEL`.
    pub columns: usize,
    /// The first k-block overwrites C, the others add.
    pub first: bool,
    /// Added after the last k-block; null otherwise. Readable for whole groups.
    pub bias: *const f32,
}

/// The microkernels of one instruction set.
pub(super) trait Kernel {
    /// Most rows of a tile that spans a whole group.
    const GROUP_ROWS: usize;
    /// Most rows of a tile that spans one panel; 0 where no tile does.
    const PANEL_ROWS: usize;
    /// Rows of the tiles of a large product.
    const LARGE_ROWS: usize;
    /// Panels that the tiles of a large product span: 1 or 2 (a group).
    const LARGE_PANELS: usize;
    /// Whether a large product keeps a panel of B in the first cache (rather than the rows of A).
    const B_STATIONARY: bool;
    /// Most row tiles that convert B each for itself; beyond, it is widened first.
    const DIRECT_TILES: usize;
    /// Row tiles that share a widened panel, if `B_STATIONARY`; their activations stay in the second cache.
    const BLOCK_TILES: usize;
    /// Most groups of a large product's task; unless `B_STATIONARY`, their widened B lies in the second cache.
    const TASK_GROUPS: usize;

    /// Computes a tile of `rows` rows that spans so many panels.
    ///
    /// # Safety
    /// The machine has the instruction set; `rows` is `1..=GROUP_ROWS` for 2 panels, `1..=PANEL_ROWS` for one; `a`, `b`, `c` and
    /// `bias` are valid for what [`Tile`] says, and nobody else touches those elements of C.
    unsafe fn tile(rows: usize, panels: usize, tile: &Tile);

    /// Converts `steps * GROUP` packed values to f32: `[2][steps][PANEL]` if `B_STATIONARY`, else `[steps][GROUP]`.
    ///
    /// # Safety
    /// The machine has the instruction set; both pointers are valid for that many values, `to` aligned to 64 bytes.
    unsafe fn widen(dtype: Dtype, from: *const u8, steps: usize, to: *mut f32);
}
