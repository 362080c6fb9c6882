//! The embedding table and the look-up of one row of it. Refuses to know the tokenizer: ids are checked by the caller.

use std::fmt;
use std::sync::Arc;

use thiserror::Error;

use super::simd::{Simd, isa_entry};
use crate::dtype::Dtype;
use crate::isa::Isa;

/// Bytes that a table shares with whoever owns them: a copy, or a mapped checkpoint.
pub type SharedBytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// Token embeddings, `[rows][dim]`, row-major and little-endian as checkpoints store them.
#[derive(Clone)]
pub struct EmbeddingTable {
    bytes: SharedBytes,
    start: usize,
    dtype: Dtype,
    rows: usize,
    dim: usize,
}

impl fmt::Debug for EmbeddingTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EmbeddingTable({} x {}, {})", self.rows, self.dim, self.dtype)
    }
}

/// Bytes that do not hold the table.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "an embedding table of {rows} x {dim} values of {dtype} does not lie in {given} bytes from byte {start} on; \
     both sizes must be at least 1"
)]
pub struct EmbeddingError {
    /// Rows asked for.
    pub rows: usize,
    /// Values in a row.
    pub dim: usize,
    /// Storage format.
    pub dtype: Dtype,
    /// Bytes given in all.
    pub given: usize,
    /// Offset of the table in them.
    pub start: usize,
}

impl EmbeddingTable {
    /// A table in `bytes[start..]`, which it keeps alive. Nothing is copied. No alignment is required.
    ///
    /// # Errors
    /// [`EmbeddingError`] when it does not fit.
    pub fn new(
        bytes: SharedBytes,
        start: usize,
        rows: usize,
        dim: usize,
        dtype: Dtype,
    ) -> Result<Self, EmbeddingError> {
        let given = (*bytes).as_ref().len();
        let end = rows
            .checked_mul(dim)
            .and_then(|n| n.checked_mul(dtype.size()))
            .and_then(|n| n.checked_add(start));
        if rows == 0 || dim == 0 || end.is_none_or(|end| end > given) {
            return Err(EmbeddingError {
                rows,
                dim,
                dtype,
                given,
                start,
            });
        }
        Ok(Self {
            bytes,
            start,
            dtype,
            rows,
            dim,
        })
    }

    /// A table of `values.len() / dim` rows, owned.
    ///
    /// # Errors
    /// [`EmbeddingError`] when the values are not whole rows.
    pub fn from_values(values: &[f32], dim: usize) -> Result<Self, EmbeddingError> {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let rows = if dim > 0 && values.len().is_multiple_of(dim) {
            values.len() / dim
        } else {
            0
        };
        Self::new(Arc::new(bytes), 0, rows, dim, Dtype::F32)
    }

    /// Number of rows: ids that can be looked up.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Values in a row.
    #[must_use]
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Writes row `id` as f32. An id outside the table, which callers exclude, gives zeros.
    ///
    /// # Safety
    /// `isa` is available.
    pub(crate) unsafe fn look_up(&self, isa: Isa, id: u32, out: &mut [f32]) {
        let row_bytes = self.dim * self.dtype.size();
        let start = self.start + id as usize * row_bytes;
        match (*self.bytes).as_ref().get(start..start + row_bytes) {
            // SAFETY: the row holds `dim` values of the dtype.
            Some(row) if out.len() == self.dim => unsafe { widen(isa, row, self.dtype, out) },
            _ => out.fill(0.0),
        }
    }
}

#[inline(always)]
unsafe fn widen_kernel<S: Simd>(stored: &[u8], dtype: Dtype, out: &mut [f32]) {
    let n = out.len();
    let whole = n - n % S::LANES;
    let p = stored.as_ptr();
    for i in (0..whole).step_by(S::LANES) {
        // SAFETY: `stored` holds `n` values; vectors are loaded without alignment.
        unsafe {
            let v = match dtype {
                Dtype::F32 => S::load(p.cast::<f32>().add(i)),
                Dtype::F16 => S::load_f16(p.cast::<u16>().add(i)),
                Dtype::BF16 => S::load_bf16(p.cast::<u16>().add(i)),
            };
            S::store(out.as_mut_ptr().add(i), v);
        }
    }
    // A length mismatch is impossible: both ends are cut at the same value.
    let _ = dtype.decode(&stored[whole * dtype.size()..], &mut out[whole..]);
}
isa_entry! {
    /// Converts `out.len()` stored values.
    fn widen(stored: &[u8], dtype: Dtype, out: &mut [f32]) = widen_kernel
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back_in_every_format_at_odd_offsets() {
        let (rows, dim) = (5, 21);
        let values: Vec<f32> = (0..rows * dim).map(|i| (i as f32 - 50.0) * 0.25).collect();
        for dtype in Dtype::ALL {
            let mut stored = vec![0u8; values.len() * dtype.size()];
            dtype.encode(&values, &mut stored).unwrap();
            stored.insert(0, 99);
            let table = EmbeddingTable::new(Arc::new(stored), 1, rows, dim, dtype).unwrap();
            for isa in Isa::available() {
                let mut out = vec![f32::NAN; dim];
                // SAFETY: only available sets are passed.
                unsafe { table.look_up(isa, 3, &mut out) };
                assert_eq!(out, values[3 * dim..4 * dim], "{dtype}, {isa}");
            }
        }
    }

    #[test]
    fn a_table_that_does_not_fit_is_refused_with_the_numbers() {
        let bytes: SharedBytes = Arc::new(vec![0u8; 100]);
        let message = EmbeddingTable::new(bytes, 4, 5, 5, Dtype::F32)
            .unwrap_err()
            .to_string();
        for expected in ["5 x 5", "f32", "100 bytes", "byte 4"] {
            assert!(message.contains(expected), "{message}");
        }
        assert!(EmbeddingTable::from_values(&[1.0; 10], 3).is_err());
    }
}
