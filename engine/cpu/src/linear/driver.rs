//! How a product is cut into tiles, for any instruction set; [`super::few`] and [`super::many`] share them among workers.
//!
//! Whatever the cut, an element of the output is the sum of its k-blocks in order, each one chain of multiply-adds in
//! order; only [`crate::weight::K_BLOCK`] is part of that.

use std::ops::Range;

use super::scratch::WorkerScratch;
use super::tile::{Kernel, Layout, PANEL, Tile};
use super::{few, many};
use crate::pool::Worker;
use crate::weight::{GROUP, K_BLOCK, PackedWeight};

/// Most rows for which each worker packs all activations once and then only streams weights.
pub(super) const SMALL_ROWS: usize = 28;
/// The same with AMX.
pub(super) const SPLIT_ROWS: usize = 32;
/// Bytes of a cache line.
pub(super) const LINE: usize = 64;

/// One product; the pointers were checked against the sizes.
pub(super) struct Job<'a> {
    pub x: *const f32,
    pub x_stride: usize,
    pub m: usize,
    pub weight: &'a PackedWeight,
    pub out: *mut f32,
    pub out_stride: usize,
}

/// Computes this worker's share.
///
/// # Safety
/// The machine has the kernel's instruction set; the job's pointers are valid for its sizes; `scratch` is this worker's own,
/// made for at least this `k`; all workers of the region call it with the same job.
pub(super) unsafe fn run<K: Kernel>(worker: &Worker<'_>, job: &Job<'_>, scratch: &WorkerScratch) {
    // SAFETY: the caller's promise.
    unsafe {
        if job.m <= SMALL_ROWS {
            few::run::<K>(worker, job, scratch);
        } else {
            many::run::<K>(worker, job, scratch);
        }
    }
}

/// What a tile prefetches: some lines for every [`super::tile::UNROLL`] steps.
#[derive(Clone, Copy)]
pub(super) struct Ahead {
    pub start: *const u8,
    pub lines: usize,
}

impl Ahead {
    pub const NOTHING: Self = Self {
        start: std::ptr::null(),
        lines: 0,
    };
}

/// One k-block of some rows of activations.
#[derive(Clone, Copy)]
pub(super) struct Activations {
    pub start: *const f32,
    /// Values from one row to the next.
    pub stride: usize,
}

/// One k-block of a group's columns.
#[derive(Clone, Copy)]
pub(super) struct Block {
    pub start: *const u8,
    pub layout: Layout,
}

/// Rows `0..m` in tiles of nearly equal height.
#[derive(Clone, Copy)]
pub(super) struct Tiling {
    pub tiles: usize,
    /// Rows of the last tiles; a division once, since a tile takes as long as a few dozen of them.
    height: usize,
    /// So many first tiles have one row more.
    higher: usize,
    /// Panels that a tile spans: 2 are a group.
    pub panels: usize,
}

impl Tiling {
    /// One pass over B where that is possible.
    pub fn few<K: Kernel>(rows: usize) -> Self {
        if rows <= K::GROUP_ROWS || K::PANEL_ROWS == 0 {
            Self::even(rows, K::GROUP_ROWS, 2)
        } else {
            Self::even(rows, K::PANEL_ROWS, 1)
        }
    }

    pub fn many<K: Kernel>(rows: usize) -> Self {
        Self::even(rows, K::LARGE_ROWS, K::LARGE_PANELS)
    }

    fn even(rows: usize, most: usize, panels: usize) -> Self {
        let tiles = rows.div_ceil(most);
        Self {
            tiles,
            height: rows / tiles,
            higher: rows % tiles,
            panels,
        }
    }

    /// A tile's first row.
    pub fn start(self, tile: usize) -> usize {
        tile * self.height + tile.min(self.higher)
    }
}

impl Job<'_> {
    pub fn k_blocks(&self) -> usize {
        self.weight.k().div_ceil(K_BLOCK)
    }

    pub fn steps(&self, k_block: usize) -> usize {
        (self.weight.k() - k_block * K_BLOCK).min(K_BLOCK)
    }

    /// Computes all tiles of `tiles` in one k-block of one group; `each` runs before every tile and says what to prefetch.
    ///
    /// # Safety
    /// As [`run`]; `a` holds the rows of `tiles`, `b` the k-block of the group.
    pub unsafe fn tiles<K: Kernel>(
        &self,
        tiling: Tiling,
        tiles: Range<usize>,
        (group, k_block): (usize, usize),
        a: Activations,
        b: Block,
        mut each: impl FnMut() -> Ahead,
    ) {
        let steps = self.steps(k_block);
        let first_row = tiling.start(tiles.start);
        let last = k_block + 1 == self.k_blocks();
        for part in 0..GROUP / PANEL / tiling.panels {
            let column = group * GROUP + part * PANEL;
            if column >= self.weight.n() {
                break;
            }
            let columns = (self.weight.n() - column).min(tiling.panels * PANEL);
            let bias = match self.weight.bias() {
                Some(bias) if last => bias[column..].as_ptr(),
                _ => std::ptr::null(),
            };
            let offset = match b.layout {
                Layout::Packed(dtype) => part * PANEL * dtype.size(),
                Layout::Widened if K::B_STATIONARY => part * PANEL * steps * size_of::<f32>(),
                Layout::Widened => part * PANEL * size_of::<f32>(),
            };
            for tile in tiles.clone() {
                let rows = tiling.start(tile)..tiling.start(tile + 1);
                let ahead = each();
                // SAFETY: the caller's promise; the rows and columns are parts of what it promises.
                unsafe {
                    let args = Tile {
                        a: a.start.add((rows.start - first_row) * a.stride),
                        a_stride: a.stride,
                        b: b.start.add(offset),
                        layout: b.layout,
                        steps,
                        ahead: ahead.start,
                        ahead_lines: ahead.lines,
                        c: self.out.add(rows.start * self.out_stride + column),
                        c_stride: self.out_stride,
                        columns,
                        first: k_block == 0,
                        bias,
                    };
                    K::tile(rows.len(), tiling.panels, &args);
                }
            }
        }
    }
}
