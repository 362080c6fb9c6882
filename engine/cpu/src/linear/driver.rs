//! How a product is cut into tiles and shared among workers, for any instruction set.
//!
//! Whatever the cut, an element of the output is the sum of its k-blocks in order, each one chain of multiply-adds in
//! order; only [`crate::weight::K_BLOCK`] is part of that.

use std::ops::Range;

use super::scratch::{BLOCK_ROWS, WIDENED_GROUPS, WorkerScratch};
use super::tile::{A_STRIDE, Kernel, Layout, PANEL, Tile, UNROLL};
use crate::dtype::Dtype;
use crate::pool::Worker;
use crate::weight::{GROUP, K_BLOCK, PackedWeight};

/// Most rows for which each worker packs all activations once and then only streams weights.
pub(super) const SMALL_ROWS: usize = 28;
/// Most rows of a large product's task.
const TASK_ROWS: usize = 512;
/// Tasks for each worker that a large product aims at, so that a slow core costs little.
const TASKS_PER_WORKER: usize = 4;
/// Bytes of a cache line.
const LINE: usize = 64;
/// Bytes that one tile of a large product prefetches over a whole k-block.
const AHEAD_BYTES: usize = K_BLOCK / UNROLL * LINE;

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
            small::<K>(worker, job, scratch);
        } else {
            large::<K>(worker, job, scratch);
        }
    }
}

/// What a tile prefetches: some lines for every [`UNROLL`] steps.
#[derive(Clone, Copy)]
struct Ahead {
    start: *const u8,
    lines: usize,
}

/// Rows `0..m` in tiles of nearly equal height.
#[derive(Clone, Copy)]
struct Tiling {
    rows: usize,
    tiles: usize,
    /// Panels that a tile spans: 2 is a whole group.
    panels: usize,
}

impl Tiling {
    fn small<K: Kernel>(rows: usize) -> Self {
        if rows <= K::GROUP_ROWS {
            Self {
                rows,
                tiles: 1,
                panels: 2,
            }
        } else if rows <= K::PANEL_ROWS {
            Self {
                rows,
                tiles: 1,
                panels: 1,
            }
        } else {
            Self::large::<K>(rows)
        }
    }

    fn large<K: Kernel>(rows: usize) -> Self {
        let panels = if K::LARGE_ROWS <= K::GROUP_ROWS { 2 } else { 1 };
        Self {
            rows,
            tiles: rows.div_ceil(K::LARGE_ROWS),
            panels,
        }
    }

    /// The rows of some consecutive tiles.
    fn range(self, tiles: Range<usize>) -> Range<usize> {
        tiles.start * self.rows / self.tiles..tiles.end * self.rows / self.tiles
    }
}

impl Job<'_> {
    fn k_blocks(&self) -> usize {
        self.weight.k().div_ceil(K_BLOCK)
    }

    fn steps(&self, k_block: usize) -> usize {
        (self.weight.k() - k_block * K_BLOCK).min(K_BLOCK)
    }

    /// Copies one k-block of some rows, [`A_STRIDE`] apart.
    ///
    /// # Safety
    /// The rows exist and `to` is writable for them.
    unsafe fn pack(&self, rows: Range<usize>, k_block: usize, to: *mut f32) {
        let steps = self.steps(k_block);
        for (i, row) in rows.enumerate() {
            // SAFETY: the caller's promise; the k-block lies within the row.
            unsafe {
                let from = self.x.add(row * self.x_stride + k_block * K_BLOCK);
                std::ptr::copy_nonoverlapping(from, to.add(i * A_STRIDE), steps);
            }
        }
    }

    /// Computes all tiles of `tiles` in one group and k-block; `each` runs before every tile and says what to prefetch.
    ///
    /// # Safety
    /// As [`run`]; `a` holds the packed rows (or is the row itself when there is one), `b` the group's k-block in `layout`.
    unsafe fn group<K: Kernel>(
        &self,
        tiling: Tiling,
        tiles: Range<usize>,
        (group, k_block): (usize, usize),
        a: *const f32,
        (b, layout): (*const u8, Layout),
        mut each: impl FnMut() -> Ahead,
    ) {
        let steps = self.steps(k_block);
        let first_row = tiling.range(0..tiles.start).end;
        let last = k_block + 1 == self.k_blocks();
        let width = GROUP / PANEL / tiling.panels;
        for part in 0..width {
            let column = group * GROUP + part * PANEL;
            if column >= self.weight.n() {
                break;
            }
            let columns = (self.weight.n() - column).min(tiling.panels * PANEL);
            let bias = match self.weight.bias() {
                Some(bias) if last => bias[column..].as_ptr(),
                _ => std::ptr::null(),
            };
            let offset = match layout {
                Layout::Packed(dtype) => part * PANEL * dtype.size(),
                Layout::Widened if K::B_STATIONARY => part * PANEL * steps * size_of::<f32>(),
                Layout::Widened => part * PANEL * size_of::<f32>(),
            };
            for tile in tiles.clone() {
                let rows = tiling.range(tile..tile + 1);
                let ahead = each();
                // SAFETY: the caller's promise; the rows and columns are parts of what it promises.
                unsafe {
                    let args = Tile {
                        a: a.add((rows.start - first_row) * A_STRIDE),
                        b: b.add(offset),
                        layout,
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

/// Few rows: every worker holds all activations and streams its groups of columns.
///
/// # Safety
/// As [`run`].
unsafe fn small<K: Kernel>(worker: &Worker<'_>, job: &Job<'_>, scratch: &WorkerScratch) {
    let tiling = Tiling::small::<K>(job.m);
    let (weight, k_blocks) = (job.weight, job.k_blocks());
    let block_floats = job.m * A_STRIDE;
    if job.m > 1 {
        for k_block in 0..k_blocks {
            // SAFETY: scratch A holds SMALL_ROWS rows of every k-block.
            unsafe { job.pack(0..job.m, k_block, scratch.a.add(k_block * block_floats)) };
        }
    }
    let widened = tiling.tiles > K::DIRECT_TILES && (K::B_STATIONARY || weight.dtype() != Dtype::F32);
    // The tiles of a group prefetch the next block together, evenly: memory is to be busy all the time.
    let calls = tiling.tiles * (GROUP / PANEL / tiling.panels);
    let lines = (UNROLL * GROUP * weight.dtype().size() / LINE).div_ceil(calls);
    let runs = Runs::new(weight.groups(), worker.count());
    let each_block = |group: usize| {
        for k_block in 0..k_blocks {
            let steps = job.steps(k_block);
            let block_bytes = steps * GROUP * weight.dtype().size();
            let packed = weight.block_ptr(group, k_block);
            let next = packed.wrapping_add(block_bytes);
            // SAFETY: as `run`; packed activations of this k-block, or the only row's part of it.
            unsafe {
                let a = if job.m > 1 {
                    scratch.a.add(k_block * block_floats).cast_const()
                } else {
                    job.x.add(k_block * K_BLOCK)
                };
                let b = if widened {
                    K::widen(weight.dtype(), packed, steps, scratch.b);
                    (scratch.b.cast::<u8>().cast_const(), Layout::Widened)
                } else {
                    (packed, Layout::Packed(weight.dtype()))
                };
                let mut ahead = Ahead { start: next, lines };
                job.group::<K>(tiling, 0..tiling.tiles, (group, k_block), a, b, || {
                    let now = ahead;
                    ahead.start = ahead.start.wrapping_add(steps / UNROLL * lines * LINE);
                    now
                });
            }
        }
    };
    worker.parallel_for(runs.count(), |run| runs.get(run).for_each(each_block));
}

/// Consecutive groups that one worker takes at a time: what it prefetches past a group's end is mostly its own next one.
/// Towards the end single groups, so that the workers finish together.
struct Runs {
    long: usize,
    groups: usize,
}

impl Runs {
    const LENGTH: usize = 4;

    fn new(groups: usize, workers: usize) -> Self {
        Self {
            long: groups.saturating_sub(Self::LENGTH * workers) / Self::LENGTH,
            groups,
        }
    }

    fn count(&self) -> usize {
        self.long + (self.groups - self.long * Self::LENGTH)
    }

    fn get(&self, run: usize) -> Range<usize> {
        if run < self.long {
            run * Self::LENGTH..(run + 1) * Self::LENGTH
        } else {
            let group = self.long * Self::LENGTH + (run - self.long);
            group..group + 1
        }
    }
}

/// Many rows: a task is a chunk of columns by a chunk of rows; for each k-block its B is widened once.
///
/// # Safety
/// As [`run`].
unsafe fn large<K: Kernel>(worker: &Worker<'_>, job: &Job<'_>, scratch: &WorkerScratch) {
    const { assert!(K::BLOCK_TILES * K::LARGE_ROWS <= BLOCK_ROWS && K::TASK_GROUPS <= WIDENED_GROUPS) };
    let groups = job.weight.groups();
    let row_chunks = job.m.div_ceil(TASK_ROWS);
    let tiling = Tiling::large::<K>(job.m);
    let most = if !K::B_STATIONARY && job.weight.dtype() == Dtype::F32 {
        // The next k-block, prefetched, lies beside the present one.
        K::TASK_GROUPS / 2
    } else {
        K::TASK_GROUPS
    };
    let task_groups = (groups * row_chunks)
        .div_ceil(TASKS_PER_WORKER * worker.count())
        .clamp(1, most);
    let column_chunks = groups.div_ceil(task_groups);
    worker.parallel_for(column_chunks * row_chunks, |task| {
        let (column_chunk, row_chunk) = (task / row_chunks, task % row_chunks);
        let columns = column_chunk * groups / column_chunks..(column_chunk + 1) * groups / column_chunks;
        let tiles = row_chunk * tiling.tiles / row_chunks..(row_chunk + 1) * tiling.tiles / row_chunks;
        for k_block in 0..job.k_blocks() {
            // SAFETY: as `run`.
            unsafe { large_block::<K>(job, tiling, &columns, &tiles, k_block, scratch) };
        }
    });
}

/// One k-block of a task.
///
/// # Safety
/// As [`run`].
unsafe fn large_block<K: Kernel>(
    job: &Job<'_>,
    tiling: Tiling,
    columns: &Range<usize>,
    tiles: &Range<usize>,
    k_block: usize,
    scratch: &WorkerScratch,
) {
    let weight = job.weight;
    let dtype = weight.dtype();
    let steps = job.steps(k_block);
    let block_bytes = steps * GROUP * dtype.size();
    let direct = !K::B_STATIONARY && dtype == Dtype::F32;
    let widened = |group: usize| {
        let slot = if K::B_STATIONARY { 0 } else { group - columns.start };
        scratch.b.wrapping_add(slot * K_BLOCK * GROUP)
    };
    if !K::B_STATIONARY && !direct {
        for group in columns.clone() {
            // SAFETY: scratch B holds TASK_GROUPS widened blocks.
            unsafe { K::widen(dtype, weight.block_ptr(group, k_block), steps, widened(group)) };
        }
    }
    let last = k_block + 1 == job.k_blocks();
    let mut fetched = 0;
    let mut block_start = tiles.start;
    while block_start < tiles.end {
        let block = block_start..(block_start + K::BLOCK_TILES).min(tiles.end);
        block_start = block.end;
        // SAFETY: scratch A holds BLOCK_TILES tiles.
        unsafe { job.pack(tiling.range(block.clone()), k_block, scratch.a) };
        let after = if block.end < tiles.end {
            Some((block.end..(block.end + K::BLOCK_TILES).min(tiles.end), k_block))
        } else if !last {
            Some((
                tiles.start..(tiles.start + K::BLOCK_TILES).min(tiles.end),
                k_block + 1,
            ))
        } else {
            None
        };
        let calls = columns.len() * block.len() * (GROUP / PANEL / tiling.panels);
        let mut rows = RowPrefetch::new(
            job,
            after.map(|(tiles, k_block)| (tiling.range(tiles), k_block)),
            calls,
        );
        for group in columns.clone() {
            let packed = weight.block_ptr(group, k_block);
            // SAFETY: as `run`; scratch B holds this group's widened block.
            unsafe {
                let b = if direct {
                    // The packed layout is the widened one; as such it leaves most of the prefetching to the calls below.
                    (packed, Layout::Widened)
                } else {
                    if K::B_STATIONARY {
                        K::widen(dtype, packed, steps, widened(group));
                    }
                    (widened(group).cast::<u8>().cast_const(), Layout::Widened)
                };
                if K::B_STATIONARY {
                    fetched = 0;
                }
                job.group::<K>(tiling, block.clone(), (group, k_block), scratch.a, b, || {
                    rows.advance::<K>();
                    let at = fetched;
                    fetched += AHEAD_BYTES;
                    // The next group (its k-block is widened next), or the task's next k-block, group by group.
                    let (group, inner) = if K::B_STATIONARY {
                        (
                            if group + 1 < columns.end {
                                group + 1
                            } else {
                                columns.start
                            },
                            at,
                        )
                    } else {
                        (columns.start + at / block_bytes, at % block_bytes)
                    };
                    let next_block = if K::B_STATIONARY || last {
                        k_block
                    } else {
                        k_block + 1
                    };
                    if group < columns.end && inner < block_bytes {
                        Ahead {
                            start: weight.block_ptr(group, next_block).wrapping_add(inner),
                            lines: 1,
                        }
                    } else {
                        Ahead {
                            start: packed,
                            lines: 0,
                        }
                    }
                });
            }
        }
    }
}

/// Spreads the prefetch of the rows that are packed next over the tiles before.
struct RowPrefetch {
    line: *const u8,
    stride: usize,
    rows_left: usize,
    lines_in_row: usize,
    done_in_row: usize,
    per_call: usize,
}

impl RowPrefetch {
    fn new(job: &Job<'_>, next: Option<(Range<usize>, usize)>, calls: usize) -> Self {
        let (rows, k_block) = next.unwrap_or((0..0, 0));
        let lines_in_row = (job.steps(k_block) * size_of::<f32>()).div_ceil(64);
        Self {
            line: job
                .x
                .wrapping_add(rows.start * job.x_stride + k_block * K_BLOCK)
                .cast(),
            stride: job.x_stride * size_of::<f32>(),
            rows_left: rows.len(),
            lines_in_row,
            done_in_row: 0,
            per_call: (rows.len() * lines_in_row).div_ceil(calls.max(1)),
        }
    }

    fn advance<K: Kernel>(&mut self) {
        for _ in 0..self.per_call {
            if self.rows_left == 0 {
                return;
            }
            K::prefetch(self.line.wrapping_add(self.done_in_row * 64));
            self.done_in_row += 1;
            if self.done_in_row == self.lines_in_row {
                self.done_in_row = 0;
                self.rows_left -= 1;
                self.line = self.line.wrapping_add(self.stride);
            }
        }
    }
}
