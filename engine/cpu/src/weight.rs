//! A linear layer's weight, packed once, at load, in the order in which the kernels read it.
//!
//! Layout: `[n / GROUP][k][GROUP]`, so a kernel that walks over k and then over groups reads memory from front to back.
//! Columns (outputs) past `n` are zeros.
//!
//! Refuses to know how a product is computed and where the values come from.

use thiserror::Error;

use crate::dtype::Dtype;
use crate::memory::{Mapping, MemoryError};
use crate::pool::{Pool, PoolError};

/// Columns that lie side by side: two vectors of AVX-512, one or two cache lines.
pub const GROUP: usize = 32;
/// Reduction steps of a block. Part of the numeric contract: see [`crate::linear`].
pub const K_BLOCK: usize = 256;

/// Row-major `[n, k]` values that become the next `n` columns of a [`PackedWeight`].
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// `n * k` little-endian values; no alignment needed.
    pub bytes: &'a [u8],
    /// Their format.
    pub dtype: Dtype,
    /// Rows of this source.
    pub n: usize,
}

/// Why a weight could not be packed.
#[derive(Debug, Error)]
pub enum WeightError {
    /// No sources, or a size of 0.
    #[error("a weight of {n} outputs and {k} inputs cannot be packed; both must be at least 1")]
    Empty {
        /// Outputs over all sources.
        n: usize,
        /// Inputs.
        k: usize,
    },
    /// A source's bytes do not hold its values.
    #[error("source {index} has {bytes} bytes; {n} x {k} values of {dtype} need {}", n * k * dtype.size())]
    SourceLength {
        /// Which source.
        index: usize,
        /// Bytes given.
        bytes: usize,
        /// Its rows.
        n: usize,
        /// Inputs.
        k: usize,
        /// Its format.
        dtype: Dtype,
    },
    /// The bias has another length.
    #[error("a bias of {given} values does not fit a weight of {n} outputs")]
    BiasLength {
        /// Values given.
        given: usize,
        /// Outputs.
        n: usize,
    },
    /// The system refused memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The pool failed.
    #[error(transparent)]
    Pool(#[from] PoolError),
}

/// A packed weight `[n, k]`.
#[derive(Debug)]
pub struct PackedWeight {
    n: usize,
    k: usize,
    dtype: Dtype,
    values: Mapping,
    /// Padded with zeros to whole groups.
    bias: Option<Vec<f32>>,
}

impl PackedWeight {
    /// Packs the sources, one below the other, in `dtype`, on all workers of the pool.
    ///
    /// # Errors
    /// [`WeightError`]: sizes that do not fit, no memory, a failed pool.
    pub fn pack(
        pool: &Pool,
        sources: &[Source<'_>],
        k: usize,
        dtype: Dtype,
        bias: Option<&[f32]>,
    ) -> Result<Self, WeightError> {
        let n: usize = sources.iter().map(|source| source.n).sum();
        if n == 0 || k == 0 {
            return Err(WeightError::Empty { n, k });
        }
        for (index, source) in sources.iter().enumerate() {
            if Some(source.bytes.len()) != source.n.checked_mul(k * source.dtype.size()) {
                let Source { bytes, dtype, n } = *source;
                return Err(WeightError::SourceLength {
                    index,
                    bytes: bytes.len(),
                    n,
                    k,
                    dtype,
                });
            }
        }
        let groups = n.div_ceil(GROUP);
        let bias = match bias {
            Some(given) if given.len() != n => {
                return Err(WeightError::BiasLength {
                    given: given.len(),
                    n,
                });
            }
            Some(given) => {
                let mut padded = vec![0.0; groups * GROUP];
                padded[..n].copy_from_slice(given);
                Some(padded)
            }
            None => None,
        };
        let values = Mapping::new(groups * GROUP * k * dtype.size())?;
        let packed = Self {
            n,
            k,
            dtype,
            values,
            bias,
        };
        pool.run(&|worker| {
            let mut rows = RowBuffer::new(dtype);
            worker.parallel_for(groups, |group| {
                // SAFETY: the loop hands out each group once, so this is the only view of its bytes.
                let out = unsafe { packed.group_mut(group) };
                pack_group(sources, k, dtype, group, out, &mut rows);
            });
        })?;
        Ok(packed)
    }

    /// Outputs.
    #[must_use]
    pub fn n(&self) -> usize {
        self.n
    }

    /// Inputs.
    #[must_use]
    pub fn k(&self) -> usize {
        self.k
    }

    /// Storage format.
    #[must_use]
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// The bias, padded with zeros to whole groups.
    #[must_use]
    pub fn bias(&self) -> Option<&[f32]> {
        self.bias.as_deref()
    }

    /// Bytes of the packed values, padding included.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.values.bytes()
    }

    /// Groups of columns.
    pub(crate) fn groups(&self) -> usize {
        self.n.div_ceil(GROUP)
    }

    /// Bytes from one group to the next.
    pub(crate) fn group_bytes(&self) -> usize {
        GROUP * self.k * self.dtype.size()
    }

    /// First byte of a k-block of a group: `[steps][GROUP]` values.
    pub(crate) fn block_ptr(&self, group: usize, k_block: usize) -> *const u8 {
        debug_assert!(group < self.groups() && k_block * K_BLOCK < self.k);
        let offset = group * self.group_bytes() + k_block * K_BLOCK * GROUP * self.dtype.size();
        // SAFETY: a group and a k-block that exist lie within the mapping.
        unsafe { self.values.as_ptr().add(offset) }
    }

    /// # Safety
    /// Nobody else looks at this group meanwhile.
    #[expect(clippy::mut_from_ref, reason = "workers write disjoint groups of one mapping")]
    unsafe fn group_mut(&self, group: usize) -> &mut [u8] {
        let bytes = self.group_bytes();
        // SAFETY: `group < groups`, so the range lies within the mapping; exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.values.as_ptr().add(group * bytes), bytes) }
    }
}

/// One worker's staging memory: the steps of one k-block for the rows of a group, in the storage format.
struct RowBuffer {
    stored: Vec<u8>,
    values: [f32; K_BLOCK],
}

impl RowBuffer {
    fn new(dtype: Dtype) -> Self {
        Self {
            stored: vec![0; GROUP * K_BLOCK * dtype.size()],
            values: [0.0; K_BLOCK],
        }
    }

    fn fill(&mut self, row: usize, from: Dtype, bytes: &[u8], to: Dtype, steps: usize) {
        let stored = &mut self.stored[row * steps * to.size()..][..steps * to.size()];
        if from == to {
            stored.copy_from_slice(bytes);
        } else {
            let values = &mut self.values[..steps];
            from.decode_exact(bytes, values);
            to.encode_exact(values, stored);
        }
    }
}

fn pack_group(
    sources: &[Source<'_>],
    k: usize,
    dtype: Dtype,
    group: usize,
    out: &mut [u8],
    rows: &mut RowBuffer,
) {
    let size = dtype.size();
    for (k_block, block) in out.chunks_mut(K_BLOCK * GROUP * size).enumerate() {
        let steps = block.len() / (GROUP * size);
        for row in 0..GROUP {
            if let Some((source, line)) = find(sources, group * GROUP + row) {
                let from = (line * k + k_block * K_BLOCK) * source.dtype.size();
                let bytes = &source.bytes[from..from + steps * source.dtype.size()];
                rows.fill(row, source.dtype, bytes, dtype, steps);
            } else {
                rows.stored[row * steps * size..(row + 1) * steps * size].fill(0);
            }
        }
        match size {
            4 => transpose::<4>(&rows.stored, steps, block),
            _ => transpose::<2>(&rows.stored, steps, block),
        }
    }
}

/// The source that holds a column, and the column's row in it.
fn find<'a, 'b>(sources: &'b [Source<'a>], column: usize) -> Option<(&'b Source<'a>, usize)> {
    let mut line = column;
    for source in sources {
        if line < source.n {
            return Some((source, line));
        }
        line -= source.n;
    }
    None
}

/// `[GROUP][steps]` to `[steps][GROUP]`.
fn transpose<const SIZE: usize>(rows: &[u8], steps: usize, out: &mut [u8]) {
    let (rows, _) = rows.as_chunks::<SIZE>();
    let (out, _) = out.as_chunks_mut::<SIZE>();
    let (out, _) = out.as_chunks_mut::<GROUP>();
    for (step, out) in out.iter_mut().enumerate().take(steps) {
        for (row, value) in out.iter_mut().enumerate() {
            *value = rows[row * steps + step];
        }
    }
}
