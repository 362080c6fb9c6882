//! Working memory of the linear kernels: one part for each worker, made once.
//!
//! Refuses to know sizes of models beyond the widest reduction.

use super::driver::{SMALL_ROWS, SPLIT_ROWS};
use super::tile::A_STRIDE;
use crate::memory::{Mapping, MemoryError};
use crate::weight::{GROUP, K_BLOCK};

/// Groups that a large product widens at a time, over all instruction sets.
pub(super) const WIDENED_GROUPS: usize = 16;

/// Most rows of split activations that lie there at a time.
pub(super) const CHUNK_ROWS: usize = 512;

/// Working memory for a pool's workers.
#[derive(Debug)]
pub struct Scratch {
    memory: Mapping,
    /// Nothing of it is resident until AMX is used.
    split: Mapping,
    workers: usize,
    max_k: usize,
    a_floats: usize,
}

/// One worker's part.
pub(super) struct WorkerScratch {
    /// Packed activations.
    pub a: *mut f32,
    /// Widened weights.
    pub b: *mut f32,
    /// Activations that all workers share, split for AMX: [`CHUNK_ROWS`] rows.
    #[cfg_attr(
        not(all(target_arch = "x86_64", target_os = "linux")),
        expect(dead_code, reason = "only AMX splits")
    )]
    pub split: *mut f32,
}

impl Scratch {
    /// Memory for `workers` workers and layers of at most `max_k` inputs.
    ///
    /// # Errors
    /// [`MemoryError`] when the system refuses.
    pub fn new(workers: usize, max_k: usize) -> Result<Self, MemoryError> {
        let a_floats = max_k.div_ceil(K_BLOCK) * A_FLOATS;
        let floats = a_floats + B_FLOATS;
        let memory = Mapping::new(workers * floats * size_of::<f32>())?;
        let split = Mapping::new(CHUNK_ROWS * max_k.next_multiple_of(K_BLOCK) * size_of::<f32>())?;
        Ok(Self {
            memory,
            split,
            workers,
            max_k,
            a_floats,
        })
    }

    /// Workers it is made for.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.workers
    }

    /// Most inputs of a layer it is made for.
    #[must_use]
    pub fn max_k(&self) -> usize {
        self.max_k
    }

    /// # Safety
    /// `worker < workers`, and nobody else uses this worker's part meanwhile.
    pub(super) unsafe fn part(&self, worker: usize) -> WorkerScratch {
        // SAFETY: each of `workers` parts lies within the mapping; parts are multiples of 64 bytes long.
        unsafe {
            let a = self
                .memory
                .as_ptr()
                .cast::<f32>()
                .add(worker * (self.a_floats + B_FLOATS));
            WorkerScratch {
                a,
                b: a.add(self.a_floats),
                split: self.split.as_ptr().cast(),
            }
        }
    }
}

/// Packed activations of a k-block; with AMX twice as many bfloat16.
const A_FLOATS: usize = {
    let (packed, split) = (SMALL_ROWS * A_STRIDE, SPLIT_ROWS * K_BLOCK);
    if packed > split { packed } else { split }
};
const B_FLOATS: usize = WIDENED_GROUPS * K_BLOCK * GROUP;
