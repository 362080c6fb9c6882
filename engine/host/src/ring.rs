//! Memory that the core and a runner share: a ring of arena slots and a ring of results slots.
//!
//! A slot is written by one side, then read by the other; the step protocol (plan → run → commit) orders them, so no
//! lock guards the words. A slot is planned again only after the step that used it was committed.

use std::cell::UnsafeCell;

/// `n_slots` slots of `slot_words` 32-bit words, at a fixed address.
pub struct Ring {
    words: Box<[UnsafeCell<u32>]>,
    slot_words: usize,
    n_slots: usize,
}

// SAFETY: the step protocol gives each slot to one side at a time (see the module's first lines); `Ring` itself
// never reads or writes a word.
unsafe impl Sync for Ring {}

impl Ring {
    /// Zeroed slots.
    #[must_use]
    pub fn new(n_slots: usize, slot_words: usize) -> Self {
        let words = (0..n_slots * slot_words).map(|_| UnsafeCell::new(0)).collect();
        Self {
            words,
            slot_words,
            n_slots,
        }
    }

    /// Slots in the ring.
    #[must_use]
    pub fn n_slots(&self) -> usize {
        self.n_slots
    }

    /// Words of one slot.
    #[must_use]
    pub fn slot_words(&self) -> usize {
        self.slot_words
    }

    /// Address of the first slot; the others follow. For runners that let a device copy slots.
    #[must_use]
    pub fn address(&self) -> usize {
        self.words.as_ptr() as usize
    }

    /// The slot, to read.
    ///
    /// # Safety
    /// The other side must not write the slot while the slice lives.
    #[must_use]
    pub unsafe fn slot(&self, slot: usize) -> &[u32] {
        let cells = &self.words[slot * self.slot_words..(slot + 1) * self.slot_words];
        // SAFETY: `UnsafeCell<u32>` has the layout of `u32`; the caller keeps writers away.
        unsafe { std::slice::from_raw_parts(cells.as_ptr().cast::<u32>(), cells.len()) }
    }

    /// The slot, to write.
    ///
    /// # Safety
    /// Nobody else may read or write the slot while the slice lives.
    #[expect(
        clippy::mut_from_ref,
        reason = "the step protocol, not the borrow checker, hands out slots"
    )]
    #[must_use]
    pub unsafe fn slot_mut(&self, slot: usize) -> &mut [u32] {
        let cells = &self.words[slot * self.slot_words..(slot + 1) * self.slot_words];
        // SAFETY: `UnsafeCell` allows mutation through a shared reference; the caller holds the slot alone.
        unsafe { std::slice::from_raw_parts_mut(cells.as_ptr().cast::<u32>().cast_mut(), cells.len()) }
    }
}
