//! Products of few rows: every worker holds all activations, packed, and streams its share of the weights once.

use std::ops::Range;

use super::driver::{Activations, Ahead, Block, Job, LINE, Tiling};
use super::scratch::WorkerScratch;
use super::tile::{A_STRIDE, Kernel, Layout, PANEL, UNROLL};
use crate::dtype::Dtype;
use crate::pool::Worker;
use crate::weight::{GROUP, K_BLOCK};

/// Computes this worker's share.
///
/// # Safety
/// As [`super::driver::run`].
pub(super) unsafe fn run<K: Kernel>(worker: &Worker<'_>, job: &Job<'_>, scratch: &WorkerScratch) {
    let tiling = Tiling::few::<K>(job.m);
    let (weight, k_blocks) = (job.weight, job.k_blocks());
    let block_floats = job.m * A_STRIDE;
    if job.m > 1 {
        for k_block in 0..k_blocks {
            // SAFETY: scratch A holds SMALL_ROWS rows of every k-block.
            unsafe { pack(job, k_block, scratch.a.add(k_block * block_floats)) };
        }
    }
    let widened = tiling.tiles > K::DIRECT_TILES && (K::B_STATIONARY || weight.dtype() != Dtype::F32);
    // The tiles of a group prefetch the next block together, evenly: memory is to be busy all the time.
    let calls = tiling.tiles * (GROUP / PANEL / tiling.panels);
    let lines = if job.m == 1 {
        // A single row reads at the pace of memory, and the processor's own prefetchers follow it: ours only cost.
        0
    } else {
        (UNROLL * GROUP * weight.dtype().size() / LINE).div_ceil(calls)
    };
    let runs = Runs::new(weight.groups(), worker.count());
    let each_block = |group: usize| {
        for k_block in 0..k_blocks {
            let steps = job.steps(k_block);
            let block_bytes = steps * GROUP * weight.dtype().size();
            let packed = weight.block_ptr(group, k_block);
            let next = packed.wrapping_add(block_bytes);
            // SAFETY: as the driver's `run`; packed activations of this k-block, or the only row's part of it.
            unsafe {
                let a = Activations {
                    start: if job.m > 1 {
                        scratch.a.add(k_block * block_floats)
                    } else {
                        job.x.add(k_block * K_BLOCK)
                    },
                    stride: A_STRIDE,
                };
                let b = if widened {
                    K::widen(weight.dtype(), packed, steps, scratch.b);
                    Block {
                        start: scratch.b.cast(),
                        layout: Layout::Widened,
                    }
                } else {
                    Block {
                        start: packed,
                        layout: Layout::Packed(weight.dtype()),
                    }
                };
                let mut ahead = Ahead { start: next, lines };
                job.tiles::<K>(tiling, 0..tiling.tiles, (group, k_block), a, b, || {
                    let now = ahead;
                    ahead.start = ahead.start.wrapping_add(steps / UNROLL * lines * LINE);
                    now
                });
            }
        }
    };
    worker.parallel_for(runs.count(), |run| runs.get(run).for_each(each_block));
}

/// Copies one k-block of all rows, [`A_STRIDE`] apart.
///
/// # Safety
/// `to` is writable for them.
unsafe fn pack(job: &Job<'_>, k_block: usize, to: *mut f32) {
    let steps = job.steps(k_block);
    for row in 0..job.m {
        // SAFETY: the caller's promise; the k-block lies within the row.
        unsafe {
            let from = job.x.add(row * job.x_stride + k_block * K_BLOCK);
            std::ptr::copy_nonoverlapping(from, to.add(row * A_STRIDE), steps);
        }
    }
}

/// Consecutive groups that one worker takes at a time: what it prefetches past a group's end is mostly its own next one.
/// Towards the end single groups, so that the workers finish together.
pub(super) struct Runs {
    long: usize,
    groups: usize,
}

impl Runs {
    const LENGTH: usize = 4;

    pub(super) fn new(groups: usize, workers: usize) -> Self {
        Self {
            long: groups.saturating_sub(Self::LENGTH * workers) / Self::LENGTH,
            groups,
        }
    }

    pub(super) fn count(&self) -> usize {
        self.long + (self.groups - self.long * Self::LENGTH)
    }

    pub(super) fn get(&self, run: usize) -> Range<usize> {
        if run < self.long {
            run * Self::LENGTH..(run + 1) * Self::LENGTH
        } else {
            let group = self.long * Self::LENGTH + (run - self.long);
            group..group + 1
        }
    }
}
