//! Products of many rows, in tasks of a chunk of columns by a chunk of rows: for each k-block the weights are widened once
//! and stay in a cache while all rows go over them.

use std::ops::Range;

use super::driver::{Activations, Ahead, Block, Job, LINE, Tiling};
use super::scratch::{WIDENED_GROUPS, WorkerScratch};
use super::tile::{Kernel, Layout, UNROLL};
use crate::dtype::Dtype;
use crate::pool::Worker;
use crate::weight::{GROUP, K_BLOCK, PackedWeight};

/// Most rows of a task.
const TASK_ROWS: usize = 512;
/// Tasks for each worker that a product aims at, so that a slow core costs little.
const TASKS_PER_WORKER: usize = 4;
/// Bytes that one tile prefetches with a line for every [`UNROLL`] steps.
const AHEAD_BYTES: usize = K_BLOCK / UNROLL * LINE;
/// Values of a widened k-block of a group.
const SLOT: usize = K_BLOCK * GROUP;

/// What a worker takes at a time.
struct Task {
    tiling: Tiling,
    /// Groups.
    columns: Range<usize>,
    tiles: Range<usize>,
}

/// Computes this worker's share, k-block by k-block.
///
/// # Safety
/// As [`super::driver::run`].
pub(super) unsafe fn run<K: Kernel>(worker: &Worker<'_>, job: &Job<'_>, scratch: &WorkerScratch) {
    const { assert!(K::TASK_GROUPS <= WIDENED_GROUPS) };
    let groups = job.weight.groups();
    let row_chunks = job.m.div_ceil(TASK_ROWS);
    let tiling = Tiling::many::<K>(job.m);
    let most = if direct::<K>(job.weight) {
        // The next k-block, prefetched, lies beside the present one.
        K::TASK_GROUPS / 2
    } else {
        K::TASK_GROUPS
    };
    let task_groups = (groups * row_chunks)
        .div_ceil(TASKS_PER_WORKER * worker.count())
        .clamp(1, most);
    let column_chunks = groups.div_ceil(task_groups);
    worker.parallel_for(column_chunks * row_chunks, |index| {
        let (column_chunk, row_chunk) = (index / row_chunks, index % row_chunks);
        let cut = |chunk: usize| {
            // The wider chunks first, so that the workers end together.
            let (width, wider) = (groups / column_chunks, groups % column_chunks);
            chunk * width + chunk.min(wider)
        };
        let task = Task {
            tiling,
            columns: cut(column_chunk)..cut(column_chunk + 1),
            tiles: row_chunk * tiling.tiles / row_chunks..(row_chunk + 1) * tiling.tiles / row_chunks,
        };
        for k_block in 0..job.k_blocks() {
            // SAFETY: the caller's promise.
            unsafe {
                if K::B_STATIONARY {
                    by_column::<K>(job, &task, k_block, scratch);
                } else {
                    by_row::<K>(job, &task, k_block, scratch);
                }
            }
        }
    });
}

/// Whether the packed weights are read as they are: f32 where the packed layout is the widened one.
fn direct<K: Kernel>(weight: &PackedWeight) -> bool {
    !K::B_STATIONARY && weight.dtype() == Dtype::F32
}

/// One k-block of the rows from a tile's first on.
///
/// # Safety
/// The tile and the k-block exist.
unsafe fn activations(job: &Job<'_>, tiling: Tiling, tile: usize, k_block: usize) -> Activations {
    Activations {
        // SAFETY: the caller's promise.
        start: unsafe { job.x.add(tiling.start(tile) * job.x_stride + k_block * K_BLOCK) },
        stride: job.x_stride,
    }
}

/// Blocks of tiles whose activations stay in the second cache; each group is widened into the first, and all the block's
/// tiles go over it.
///
/// # Safety
/// As [`run`].
unsafe fn by_column<K: Kernel>(job: &Job<'_>, task: &Task, k_block: usize, scratch: &WorkerScratch) {
    let weight = job.weight;
    let steps = job.steps(k_block);
    let block_bytes = steps * GROUP * weight.dtype().size();
    for first in task.tiles.clone().step_by(K::BLOCK_TILES) {
        let tiles = first..(first + K::BLOCK_TILES).min(task.tiles.end);
        // SAFETY: the tile is one of the task's.
        let a = unsafe { activations(job, task.tiling, first, k_block) };
        for group in task.columns.clone() {
            let following = if group + 1 < task.columns.end {
                group + 1
            } else {
                task.columns.start
            };
            let mut ahead = Ahead {
                start: weight.block_ptr(following, k_block),
                lines: 1,
            };
            let end = ahead.start.wrapping_add(block_bytes);
            // SAFETY: as `run`; scratch B holds a widened block.
            unsafe {
                K::widen(weight.dtype(), weight.block_ptr(group, k_block), steps, scratch.b);
                let b = Block {
                    start: scratch.b.cast(),
                    layout: Layout::Widened,
                };
                job.tiles::<K>(task.tiling, tiles.clone(), (group, k_block), a, b, || {
                    let now = ahead;
                    ahead.start = ahead.start.wrapping_add(AHEAD_BYTES);
                    ahead.lines = usize::from(ahead.start < end);
                    now
                });
            }
        }
    }
}

/// All groups are widened into the second cache, then each tile's rows go over them.
///
/// # Safety
/// As [`run`].
unsafe fn by_row<K: Kernel>(job: &Job<'_>, task: &Task, k_block: usize, scratch: &WorkerScratch) {
    let (weight, columns) = (job.weight, &task.columns);
    let dtype = weight.dtype();
    let steps = job.steps(k_block);
    let slot = |group: usize| scratch.b.wrapping_add((group - columns.start) * SLOT);
    if !direct::<K>(weight) {
        for group in columns.clone() {
            // SAFETY: scratch B holds TASK_GROUPS widened blocks.
            unsafe { K::widen(dtype, weight.block_ptr(group, k_block), steps, slot(group)) };
        }
    }
    // The task's next k-block, group by group, is fetched during all tiles of this one.
    let next_bytes = if k_block + 1 < job.k_blocks() {
        job.steps(k_block + 1) * GROUP * dtype.size()
    } else {
        0
    };
    let calls = columns.len() * task.tiles.len();
    let lines = (columns.len() * next_bytes).div_ceil(calls * AHEAD_BYTES);
    let (mut next_group, mut fetched) = (columns.start, 0);
    let mut ahead = || {
        if next_bytes == 0 || next_group == columns.end {
            return Ahead::NOTHING;
        }
        let start = weight.block_ptr(next_group, k_block + 1).wrapping_add(fetched);
        fetched += lines * AHEAD_BYTES;
        if fetched >= next_bytes {
            (next_group, fetched) = (next_group + 1, 0);
        }
        Ahead { start, lines }
    };
    for tile in task.tiles.clone() {
        // SAFETY: the tile is one of the task's.
        let a = unsafe { activations(job, task.tiling, tile, k_block) };
        for group in columns.clone() {
            let b = Block {
                start: if direct::<K>(weight) {
                    weight.block_ptr(group, k_block)
                } else {
                    slot(group).cast()
                },
                layout: Layout::Widened,
            };
            // SAFETY: as `run`; the k-block's group lies at `b`.
            unsafe {
                job.tiles::<K>(task.tiling, tile..tile + 1, (group, k_block), a, b, &mut ahead);
            }
        }
    }
}
