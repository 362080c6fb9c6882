//! Row-major matrices of f32 with any distance between rows: what a linear layer reads and writes.

use std::marker::PhantomData;

use thiserror::Error;

/// A matrix that does not lie within its values.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{len} values do not hold {rows} rows of {columns} columns {stride} apart")]
pub struct ViewError {
    /// Values given.
    pub len: usize,
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub columns: usize,
    /// Values from one row to the next.
    pub stride: usize,
}

fn check(len: usize, rows: usize, columns: usize, stride: usize) -> Result<(), ViewError> {
    let needed = match rows {
        0 => Some(0),
        _ => (rows - 1)
            .checked_mul(stride)
            .and_then(|start| start.checked_add(columns)),
    };
    match needed {
        Some(needed) if needed <= len && (rows < 2 || columns <= stride) => Ok(()),
        _ => Err(ViewError {
            len,
            rows,
            columns,
            stride,
        }),
    }
}

/// A matrix to read.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    start: *const f32,
    rows: usize,
    columns: usize,
    stride: usize,
    lifetime: PhantomData<&'a [f32]>,
}

// SAFETY: a shared borrow of f32 values.
unsafe impl Send for Rows<'_> {}
// SAFETY: as above.
unsafe impl Sync for Rows<'_> {}

impl<'a> Rows<'a> {
    /// `rows` rows of `columns` values, `stride` apart.
    ///
    /// # Errors
    /// [`ViewError`] when they do not lie within `values`.
    pub fn new(values: &'a [f32], rows: usize, columns: usize, stride: usize) -> Result<Self, ViewError> {
        check(values.len(), rows, columns, stride)?;
        Ok(Self {
            start: values.as_ptr(),
            rows,
            columns,
            stride,
            lifetime: PhantomData,
        })
    }

    /// The same from a pointer.
    ///
    /// # Safety
    /// All rows are readable for `'a` and not written meanwhile.
    #[must_use]
    pub unsafe fn from_ptr(start: *const f32, rows: usize, columns: usize, stride: usize) -> Self {
        Self {
            start,
            rows,
            columns,
            stride,
            lifetime: PhantomData,
        }
    }

    /// Rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Values of a row.
    #[must_use]
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Values from one row to the next.
    #[must_use]
    pub fn stride(&self) -> usize {
        self.stride
    }

    pub(super) fn as_ptr(&self) -> *const f32 {
        self.start
    }
}

/// A matrix that the workers of a region write together, each its own elements.
#[derive(Debug)]
pub struct RowsMut<'a> {
    start: *mut f32,
    rows: usize,
    columns: usize,
    stride: usize,
    lifetime: PhantomData<&'a mut [f32]>,
}

// SAFETY: an exclusive borrow of f32 values.
unsafe impl Send for RowsMut<'_> {}
// SAFETY: nothing is read or written through a shared reference but by unsafe functions that state who may.
unsafe impl Sync for RowsMut<'_> {}

impl<'a> RowsMut<'a> {
    /// `rows` rows of `columns` values, `stride` apart. Values between rows are left alone.
    ///
    /// # Errors
    /// [`ViewError`] when they do not lie within `values`.
    pub fn new(values: &'a mut [f32], rows: usize, columns: usize, stride: usize) -> Result<Self, ViewError> {
        check(values.len(), rows, columns, stride)?;
        Ok(Self {
            start: values.as_mut_ptr(),
            rows,
            columns,
            stride,
            lifetime: PhantomData,
        })
    }

    /// The same from a pointer.
    ///
    /// # Safety
    /// All rows are writable for `'a`, and touched by nobody but through this view.
    #[must_use]
    pub unsafe fn from_ptr(start: *mut f32, rows: usize, columns: usize, stride: usize) -> Self {
        Self {
            start,
            rows,
            columns,
            stride,
            lifetime: PhantomData,
        }
    }

    /// Rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Values of a row.
    #[must_use]
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Values from one row to the next.
    #[must_use]
    pub fn stride(&self) -> usize {
        self.stride
    }

    pub(super) fn as_ptr(&self) -> *mut f32 {
        self.start
    }
}
