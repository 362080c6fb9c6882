//! Seeds for requests that name none. Not for secrets.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};

/// A stream of well-mixed 64-bit numbers that differs from process to process.
pub(crate) struct Seeds {
    keys: RandomState,
    next: AtomicU64,
}

impl Seeds {
    pub(crate) fn new() -> Self {
        Self {
            keys: RandomState::new(),
            next: AtomicU64::new(0),
        }
    }

    /// The next number.
    pub(crate) fn next(&self) -> u64 {
        self.keys.hash_one(self.next.fetch_add(1, Ordering::Relaxed))
    }
}
