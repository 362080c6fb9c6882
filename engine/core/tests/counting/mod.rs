//! An allocator that counts, for the tests of this crate and of those above it.
//!
//! The test harness waits on a thread of its own and allocates there when the system lets it run, which on a busy machine may be
//! in the middle of a test. That thread is the process's first; what it allocates is left out.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

/// Threads that have allocated.
static THREADS: AtomicU64 = AtomicU64::new(0);
/// Allocations of all threads but the first.
static OTHERS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// Which thread this is, from 1 on in the order of first allocations; 0 before.
    static THREAD: Cell<u64> = const { Cell::new(0) };
    /// Allocations of this thread.
    static OWN: Cell<u64> = const { Cell::new(0) };
}

/// Allocations so far: this thread's, and those of all threads but the test harness's. A harness that runs the test itself is
/// no other thread, and counts.
pub fn allocations() -> (u64, u64) {
    let (own, others) = (OWN.get(), OTHERS.load(Ordering::SeqCst));
    (own, if THREAD.get() == 1 { own + others } else { others })
}

fn count() {
    if THREAD.get() == 0 {
        THREAD.set(THREADS.fetch_add(1, Ordering::SeqCst) + 1);
    }
    OWN.set(OWN.get() + 1);
    if THREAD.get() != 1 {
        OTHERS.fetch_add(1, Ordering::SeqCst);
    }
}

/// The system's allocator, counting.
pub struct Counting;

// SAFETY: every call is passed on unchanged to the system's allocator, which keeps the contract. Counting itself never allocates:
// the thread's cells are constants that need no destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps `alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps `dealloc`'s contract; `pointer` came from `System`.
        unsafe { System.dealloc(pointer, layout) }
    }
}
