//! Rows: requests' fixed places in device memory. A row freed under a step in flight waits for its fence.

use std::collections::VecDeque;

/// "No row" in a request's state.
pub(crate) const NO_ROW: u32 = u32::MAX;

#[derive(Debug)]
pub(crate) struct Rows {
    free: Vec<u32>,
    /// `(row, step)`: reusable after that step's fence. Steps never decrease.
    limbo: VecDeque<(u32, u64)>,
}

impl Rows {
    pub(crate) fn new(count: u32) -> Self {
        Self {
            free: (0..count).rev().collect(),
            limbo: VecDeque::with_capacity(count as usize),
        }
    }

    pub(crate) fn has_free(&self) -> bool {
        !self.free.is_empty()
    }

    pub(crate) fn take(&mut self) -> Option<u32> {
        self.free.pop()
    }

    /// Gives a row back; `in_flight` is the last step that may still use it.
    pub(crate) fn give_back(&mut self, row: u32, in_flight: Option<u64>) {
        match in_flight {
            Some(step) => self.limbo.push_back((row, step)),
            None => self.free.push(row),
        }
    }

    pub(crate) fn fence(&mut self, step: u64) {
        while let Some(&(row, freed_at)) = self.limbo.front()
            && freed_at <= step
        {
            self.limbo.pop_front();
            self.free.push(row);
        }
    }

    /// Rows not held by a request, those in limbo included.
    pub(crate) fn idle(&self) -> impl Iterator<Item = u32> {
        self.free
            .iter()
            .copied()
            .chain(self.limbo.iter().map(|&(row, _)| row))
    }

    pub(crate) fn limbo(&self) -> usize {
        self.limbo.len()
    }
}
