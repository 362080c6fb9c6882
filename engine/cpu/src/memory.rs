//! Large zeroed memory that the system hands out page by page on first touch, and views of it that workers share.
//!
//! Refuses to know what is kept in it.

use std::io;
use std::ptr::NonNull;

use thiserror::Error;

/// The system refused memory.
#[derive(Debug, Error)]
#[error("{bytes} bytes of memory could not be reserved: {source}; ask for less or free some")]
pub struct MemoryError {
    /// Bytes asked for.
    pub bytes: usize,
    /// The system's answer.
    pub source: io::Error,
}

/// A private anonymous mapping: zeroed, aligned to pages, given back on drop.
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the mapping is plain memory owned by this value; whoever writes through its pointer orders the accesses.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Reserves `bytes` (0 is allowed); nothing is resident until it is touched. Huge pages are advised.
    ///
    /// # Errors
    /// [`MemoryError`] when the system refuses.
    pub fn new(bytes: usize) -> Result<Self, MemoryError> {
        if bytes == 0 {
            return Ok(Self {
                start: NonNull::dangling(),
                bytes,
            });
        }
        Self::reserve(bytes).map_err(|source| MemoryError { bytes, source })
    }

    #[cfg(unix)]
    fn reserve(bytes: usize) -> io::Result<Self> {
        // SAFETY: a new anonymous mapping at an address of the system's choice touches no existing memory.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANON | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        #[cfg(target_os = "linux")]
        // SAFETY: advice on our own mapping. A refusal costs speed only.
        unsafe {
            libc::madvise(start, bytes, libc::MADV_HUGEPAGE);
        }
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
        Ok(Self { start, bytes })
    }

    #[cfg(not(unix))]
    fn reserve(bytes: usize) -> io::Result<Self> {
        let layout = Self::layout(bytes).ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
        // SAFETY: the layout is not empty.
        let start = NonNull::new(unsafe { std::alloc::alloc_zeroed(layout) })
            .ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
        Ok(Self { start, bytes })
    }

    #[cfg(not(unix))]
    fn layout(bytes: usize) -> Option<std::alloc::Layout> {
        std::alloc::Layout::from_size_align(bytes, 4096).ok()
    }

    /// Bytes reserved.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The first byte.
    #[must_use]
    pub fn as_ptr(&self) -> *mut u8 {
        self.start.as_ptr()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if self.bytes == 0 {
            return;
        }
        #[cfg(unix)]
        // SAFETY: exactly what `reserve` mapped; nobody borrows it any more.
        unsafe {
            libc::munmap(self.start.as_ptr().cast(), self.bytes);
        }
        #[cfg(not(unix))]
        if let Some(layout) = Self::layout(self.bytes) {
            // SAFETY: allocated in `reserve` with this layout.
            unsafe { std::alloc::dealloc(self.start.as_ptr(), layout) };
        }
    }
}

/// Values from one row to the next of a matrix of which some rows are read together, a stretch of each: rows a multiple of 2 KiB
/// apart would fall into the same sets of the first cache and push each other out, an odd multiple of 1 KiB spreads them.
#[must_use]
pub const fn row_stride(dim: usize) -> usize {
    const KIB: usize = 1024 / size_of::<f32>();
    if dim > 0 && dim.is_multiple_of(2 * KIB) {
        dim + KIB
    } else {
        dim
    }
}

/// A matrix of f32 rows that several workers write, each its own rows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SharedRows {
    start: *mut f32,
    /// Values in a row.
    pub(crate) dim: usize,
    /// Values from one row to the next.
    pub(crate) stride: usize,
}

// SAFETY: a pointer; the methods that dereference it are unsafe and state the condition.
unsafe impl Send for SharedRows {}
// SAFETY: as above.
unsafe impl Sync for SharedRows {}

impl SharedRows {
    pub(crate) fn new(start: *mut f32, dim: usize, stride: usize) -> Self {
        Self { start, dim, stride }
    }

    /// A row's first value; the row need not exist.
    pub(crate) fn row_ptr(self, row: usize) -> *mut f32 {
        self.start.wrapping_add(row * self.stride)
    }

    /// # Safety
    /// The matrix has this row, alive for `'a`, and nobody writes it meanwhile.
    pub(crate) unsafe fn row<'a>(self, row: usize) -> &'a [f32] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts(self.row_ptr(row), self.dim) }
    }

    /// # Safety
    /// As [`Self::row`], and nobody else reads it either.
    pub(crate) unsafe fn row_mut<'a>(self, row: usize) -> &'a mut [f32] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.row_ptr(row), self.dim) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapping_is_zeroed_and_writable() {
        let mapping = Mapping::new(1 << 20).unwrap();
        // SAFETY: the mapping is ours and that long.
        let bytes = unsafe { std::slice::from_raw_parts_mut(mapping.as_ptr(), mapping.bytes()) };
        assert!(bytes.iter().all(|&b| b == 0));
        bytes.fill(7);
        assert_eq!(Mapping::new(0).unwrap().bytes(), 0);
    }

    #[test]
    fn a_refusal_names_the_bytes() {
        let bytes = usize::MAX / 2;
        let message = Mapping::new(bytes).unwrap_err().to_string();
        assert!(message.contains(&bytes.to_string()), "{message}");
    }
}
