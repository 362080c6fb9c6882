//! AMX: products of half-precision weights on matrix registers.
//!
//! They multiply bfloat16 and add in f32. A weight in half precision is the sum of two bfloat16, a bfloat16 is one; an
//! activation is rounded to the sum of two, 16 bits. Of their products the smallest, of two low parts, is left out.
//!
//! An element of the output is one chain of sums in the order of k, from the bias on: for every [`STEP`] inputs first the
//! high activations by the high weights, then the low activations, then the low weights. It is the same however rows are
//! cut.
//!
//! Refuses to know f32 weights, which are computed in f32.

#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

mod single;
mod split;
mod tiles;

use std::arch::x86_64::*;
use std::ops::Range;
use std::sync::OnceLock;

use split::{split_activations, split_weights};
use tiles::{Form, Layout, Single, TILE, TILE_ROW, TILE_ROWS, Tall, Wide, load_sums, store_sums};

use super::driver::{Job, SPLIT_ROWS};
use super::few::Runs;
use super::scratch::{CHUNK_ROWS, WorkerScratch};
use crate::dtype::Dtype;
use crate::isa::Isa;
use crate::pool::Worker;
use crate::weight::GROUP;

/// Inputs that one instruction takes: a tile's row of bfloat16.
const STEP: usize = 32;
/// A step of a tile of activations: high parts, then low ones.
const A_STEP: usize = 2 * TILE;
/// A step of a group of weights: two tiles side by side of high parts, then of low ones.
const B_STEP: usize = 4 * TILE;
/// Most rows that a pass over a group's weights serves: what the registers hold of the sums.
const PASS_ROWS: usize = 2 * TILE_ROWS;
const _: () = assert!(SPLIT_ROWS == PASS_ROWS);
/// Most groups of a large product's task: their part of C and a k-block of activations stay in the second cache.
const TASK_GROUPS: usize = 8;
/// Tasks for each worker that a large product aims at.
const TASKS_PER_WORKER: usize = 4;
/// Inputs after which a large product's sums leave the registers: a group's weights of so many, split, stay in the first
/// cache.
const BLOCK: usize = 128;

/// Whether the machine has it and the system lets this process use it, which is asked for here.
pub(crate) fn is_available() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| {
        let (bf16, tile) = (1 << 22, 1 << 24);
        Isa::Avx512.is_available()
            && is_x86_feature_detected!("avx512bf16")
            && __cpuid(0).eax >= 7
            && __cpuid_count(7, 0).edx & (bf16 | tile) == bf16 | tile
            // SAFETY: the call changes what this process may execute, and no memory.
            && unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) } == 0
    })
}

/// Computes this worker's share.
///
/// # Safety
/// AMX is available and the weight is in half precision; the rest as [`super::driver::run`].
pub(super) unsafe fn run(worker: &Worker<'_>, job: &Job<'_>, scratch: &WorkerScratch) {
    // SAFETY: the caller's promise.
    unsafe {
        match job.weight.dtype() {
            Dtype::F16 => share::<true>(worker, job, scratch),
            Dtype::BF16 => share::<false>(worker, job, scratch),
            Dtype::F32 => debug_assert!(false, "f32 weights are computed in f32"),
        }
    }
}

/// # Safety
/// As [`run`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn share<const LOW: bool>(worker: &Worker<'_>, job: &Job<'_>, scratch: &WorkerScratch) {
    // SAFETY: the caller's promise.
    unsafe {
        if job.m == 1 {
            one::<LOW>(worker, job, scratch);
            return;
        }
        tiles::configure();
        if job.m <= SPLIT_ROWS {
            few::<LOW>(worker, job, scratch);
        } else {
            many::<LOW>(worker, job, scratch);
        }
        tiles::release();
    }
}

/// Every worker splits the row and streams its share of the weights.
///
/// # Safety
/// As [`run`]; one row.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn one<const LOW: bool>(worker: &Worker<'_>, job: &Job<'_>, scratch: &WorkerScratch) {
    // SAFETY: scratch A has room for more than a row.
    unsafe { single::split_row(job, scratch.a) };
    let runs = Runs::new(job.weight.groups(), worker.count());
    worker.parallel_for(runs.count(), |run| {
        // SAFETY: the row was split; a group's outputs are one worker's.
        by_pairs(runs.get(run), |group, is_pair| unsafe {
            if is_pair {
                single::groups::<LOW, 2>(job, group, scratch.a);
            } else {
                single::groups::<LOW, 1>(job, group, scratch.a);
            }
        });
    });
}

/// Every worker holds all activations, split, and streams its share of the weights once. The sums stay in registers.
///
/// # Safety
/// As [`run`]; at most [`SPLIT_ROWS`] rows.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn few<const LOW: bool>(worker: &Worker<'_>, job: &Job<'_>, scratch: &WorkerScratch) {
    let inputs = 0..job.weight.k();
    let a = scratch.a.cast::<u8>();
    // SAFETY: scratch A holds SPLIT_ROWS rows of all k-blocks.
    unsafe { split_activations(job, 0..job.m, inputs.clone(), a) };
    let runs = Runs::new(job.weight.groups(), worker.count());
    worker.parallel_for(runs.count(), |run| {
        let pass = |group: usize| Pass {
            rows: 0..job.m,
            group,
            inputs: inputs.clone(),
            a,
            b: scratch.b.cast(),
            sums: std::ptr::null_mut(),
            ahead: 0..0,
        };
        // SAFETY: `a` holds all rows and inputs; scratch B has room for two steps of two groups; no sums are kept.
        unsafe {
            if job.m > TILE_ROWS {
                for group in runs.get(run) {
                    pass(group).run::<LOW, Tall>(job, Weights::Streamed);
                }
            } else {
                by_pairs(runs.get(run), |group, is_pair| {
                    if is_pair {
                        pass(group).run::<LOW, Wide>(job, Weights::Streamed);
                    } else {
                        pass(group).run::<LOW, Single>(job, Weights::Streamed);
                    }
                });
            }
        }
    });
}

/// Calls `each` with the first group of every two, and with the one that is left. Two groups side by side are two streams
/// of weights, of which more is on the way at a time.
#[inline(always)]
fn by_pairs(groups: Range<usize>, mut each: impl FnMut(usize, bool)) {
    for first in groups.clone().step_by(2) {
        each(first, first + 1 < groups.end);
    }
}

/// Chunks of rows one after the other. A chunk's activations are split by all workers together; then tasks of some columns:
/// for each block of inputs each group's weights are split once, and all rows of the chunk go over them.
///
/// # Safety
/// As [`run`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn many<const LOW: bool>(worker: &Worker<'_>, job: &Job<'_>, scratch: &WorkerScratch) {
    let (k, groups) = (job.weight.k(), job.weight.groups());
    let tasks = groups
        .div_ceil(TASK_GROUPS)
        .max((TASKS_PER_WORKER * worker.count()).min(groups));
    for first in (0..job.m).step_by(CHUNK_ROWS) {
        let rows = first..(first + CHUNK_ROWS).min(job.m);
        let tiles = rows.len().div_ceil(TILE_ROWS);
        // A block's tiles lie together: far apart they would fall into the same sets of a cache.
        let activations = |inputs: &Range<usize>, tile: usize| {
            let before = inputs.start / STEP * tiles + inputs.len().div_ceil(STEP) * tile;
            scratch.split.cast::<u8>().wrapping_add(before * A_STEP)
        };
        worker.parallel_for(tiles, |tile| {
            let first = rows.start + tile * TILE_ROWS;
            for inputs in blocks(k) {
                let to = activations(&inputs, tile);
                // SAFETY: the shared scratch holds CHUNK_ROWS rows of all k-blocks; each tile is one worker's.
                unsafe { split_activations(job, first..(first + TILE_ROWS).min(rows.end), inputs, to) };
            }
        });
        let passes = rows.len().div_ceil(PASS_ROWS);
        worker.parallel_for(tasks, |task| {
            let columns = task * groups / tasks..(task + 1) * groups / tasks;
            for inputs in blocks(k) {
                for group in columns.clone() {
                    for (index, first) in rows.clone().step_by(PASS_ROWS).enumerate() {
                        let weights = if index == 0 { Weights::Kept } else { Weights::Split };
                        // The next group's weights are fetched while the rows go over this one's.
                        let line = |index: usize| inputs.start + inputs.len() * index / passes;
                        let ahead = line(index)..line(index + 1);
                        let sums = ((group - columns.start) * CHUNK_ROWS + index * PASS_ROWS) * GROUP;
                        let pass = Pass {
                            rows: first..(first + PASS_ROWS).min(rows.end),
                            group,
                            inputs: inputs.clone(),
                            a: activations(&inputs, index * PASS_ROWS / TILE_ROWS),
                            b: scratch.a.cast(),
                            sums: scratch.b.wrapping_add(sums),
                            ahead,
                        };
                        // SAFETY: the rows' tiles lie one after the other; scratch A holds a group's block, split, and
                        // scratch B the sums of TASK_GROUPS groups and CHUNK_ROWS rows.
                        unsafe {
                            if pass.rows.len() > TILE_ROWS {
                                pass.run::<LOW, Tall>(job, weights);
                            } else {
                                pass.run::<LOW, Single>(job, weights);
                            }
                        }
                    }
                }
            }
        });
    }
}

/// Blocks of inputs.
fn blocks(k: usize) -> impl Iterator<Item = Range<usize>> {
    (0..k)
        .step_by(BLOCK)
        .map(move |first| first..(first + BLOCK).min(k))
}

/// Some rows by a group or two, over some inputs.
struct Pass {
    /// As many as the pass's form takes, or fewer.
    rows: Range<usize>,
    /// The first one.
    group: usize,
    inputs: Range<usize>,
    /// The rows' activations, split.
    a: *const u8,
    /// The weights, split, or room for them.
    b: *mut u8,
    /// Four tiles, for the sums between the first inputs and the last ones.
    sums: *mut f32,
    /// Inputs of the next group to fetch.
    ahead: Range<usize>,
}

/// What a pass finds where the group's weights are split to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Weights {
    /// Nothing: it splits them, into two steps' room in turn.
    Streamed,
    /// Nothing: it splits them, each step into its own room.
    Kept,
    /// All of them.
    Split,
}

impl Pass {
    /// # Safety
    /// As [`run`]; the pointers are valid for what they say.
    #[inline(always)]
    unsafe fn run<const LOW: bool, F: Form>(&self, job: &Job<'_>, weights: Weights) {
        static ZEROS: [f32; 2 * GROUP] = [0.0; 2 * GROUP];
        let steps = self.inputs.len().div_ceil(STEP);
        let input_bytes = GROUP * job.weight.dtype().size();
        let packed = |group: usize| {
            let start = job.weight.block_ptr(self.group + group, 0);
            start.wrapping_add(self.inputs.start * input_bytes)
        };
        let room = |step: usize, group: usize| {
            let step = if weights == Weights::Streamed {
                step % 2 * F::GROUPS + group
            } else {
                step
            };
            self.b.wrapping_add(step * B_STEP)
        };
        let split = |step: usize| {
            let inputs = (self.inputs.len() - step * STEP).min(STEP);
            for group in 0..F::GROUPS {
                let from = packed(group).wrapping_add(step * STEP * input_bytes);
                // SAFETY: a group's inputs lie one after the other; there is room for the step.
                unsafe { split_weights::<LOW>(from, inputs, room(step, group)) };
            }
        };
        let mut ahead = self.ahead.clone();
        let lines_ahead = ahead.len().div_ceil(steps);
        let next_group = job
            .weight
            .block_ptr(self.group, 0)
            .wrapping_add(job.weight.k() * input_bytes);
        let is_last = self.inputs.end == job.weight.k();
        // SAFETY: zeros and biases are there for whole groups, the same for all rows; `a` and `room` hold the step.
        unsafe {
            match (self.inputs.start, job.weight.bias()) {
                (0, None) => load_sums::<F>(ZEROS.as_ptr(), Layout::rows::<F>(0)),
                (0, Some(bias)) => load_sums::<F>(bias[self.group * GROUP..].as_ptr(), Layout::rows::<F>(0)),
                _ => load_sums::<F>(self.sums, Layout::KEPT),
            }
            if weights != Weights::Split {
                split(0);
            }
            for step in 0..steps {
                if weights != Weights::Split && step + 1 < steps {
                    // A step ahead, so that splitting and multiplying go on side by side.
                    split(step + 1);
                }
                for input in ahead.by_ref().take(lines_ahead) {
                    _mm_prefetch::<_MM_HINT_T1>(next_group.wrapping_add(input * input_bytes).cast());
                }
                if is_last && weights != Weights::Streamed {
                    self.fetch_out(job, PASS_ROWS * step / steps..PASS_ROWS * (step + 1) / steps);
                }
                let a = self.a.wrapping_add(step * A_STEP);
                F::multiply::<LOW>(a, a.wrapping_add(steps * A_STEP), room(step, 0));
            }
            if is_last {
                self.put_out::<F>(job);
            } else {
                store_sums::<F>(self.sums, Layout::KEPT);
            }
        }
    }

    /// Fetches some rows of the output, to be written.
    #[inline(always)]
    fn fetch_out(&self, job: &Job<'_>, rows: Range<usize>) {
        for row in rows {
            let to = job
                .out
                .wrapping_add((self.rows.start + row) * job.out_stride + self.group * GROUP)
                .cast();
            // SAFETY: a prefetch cannot fault.
            unsafe {
                _mm_prefetch::<_MM_HINT_ET0>(to);
                _mm_prefetch::<_MM_HINT_ET0>(to.wrapping_byte_add(TILE_ROW));
            }
        }
    }

    /// Writes the sums to the output.
    ///
    /// # Safety
    /// As [`Pass::run`].
    #[inline(always)]
    unsafe fn put_out<F: Form>(&self, job: &Job<'_>) {
        let column = self.group * GROUP;
        let width = F::GROUPS * GROUP;
        let columns = (job.weight.n() - column).min(width);
        let to = job.out.wrapping_add(self.rows.start * job.out_stride + column);
        // SAFETY: the output has the rows and columns.
        unsafe {
            if self.rows.len() == F::TILES * TILE_ROWS && columns == width {
                store_sums::<F>(to, Layout::rows::<F>(job.out_stride * size_of::<f32>()));
                return;
            }
            let mut whole = std::mem::MaybeUninit::<[f32; PASS_ROWS * GROUP]>::uninit();
            let whole = whole.as_mut_ptr().cast::<f32>();
            store_sums::<F>(whole, Layout::rows::<F>(width * size_of::<f32>()));
            for row in 0..self.rows.len() {
                std::ptr::copy_nonoverlapping(whole.add(row * width), to.add(row * job.out_stride), columns);
            }
        }
    }
}
