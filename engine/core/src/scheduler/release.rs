//! Giving back what a request holds: at its end, and at its preemption.

use crate::params::SamplingParams;
use crate::rows::NO_ROW;
use crate::scheduler::Core;

impl Core {
    /// Takes a live request out of the list that it is in.
    pub(super) fn unlist(&mut self, slot: u32) {
        let (slots, arrival) = (&self.slots, self.slots[slot as usize].arrival);
        let key = |&slot: &u32| slots[slot as usize].arrival;
        if slots[slot as usize].row == NO_ROW {
            if let Ok(place) = self.waiting.binary_search_by_key(&arrival, key) {
                self.waiting.remove(place);
            }
        } else if let Ok(place) = self.running.binary_search_by_key(&arrival, key) {
            self.running.remove(place);
        }
    }

    /// Ends a request that is in no list any more: its slot is vacant afterwards.
    pub(super) fn end(&mut self, slot: u32) {
        self.vacate(slot);
        let state = &mut self.slots[slot as usize];
        state.generation = state.generation.wrapping_add(1);
        state.pending = 0;
        // A vacant slot keeps no memory in proportion to its last request.
        state.tokens = Vec::new();
        state.blocks = Vec::new();
        state.names = Vec::new();
        state.params = SamplingParams::default();
        let id = state.id;
        self.by_id.remove(&id);
        self.vacant.push(slot);
    }

    /// Sends the latest-arrived running request back to the head of the queue. Its named blocks stay in the cache
    /// until they are needed; the rest is computed again. A sample in flight stays its next token.
    pub(super) fn preempt_latest(&mut self) {
        let Some(slot) = self.running.pop() else { return };
        #[cfg(feature = "mutations")]
        let computed = self.slots[slot as usize].computed;
        self.vacate(slot);
        #[cfg(feature = "mutations")]
        if mutated!(self, PreemptKeepsComputed) {
            self.slots[slot as usize].computed = computed;
        }
        self.waiting.push_front(slot);
        self.stats.preemptions += 1;
    }

    /// Gives back row and blocks, the last block first: of a cached prefix the deepest part goes first.
    fn vacate(&mut self, slot: u32) {
        let in_flight = self.steps.unfenced();
        let state = &mut self.slots[slot as usize];
        while let Some(block) = state.blocks.pop() {
            self.pool.release(block, in_flight);
        }
        if state.row != NO_ROW {
            let wait = if mutated!(self, SkipRowLimbo) {
                None
            } else {
                in_flight
            };
            self.rows.give_back(state.row, wait);
        }
        state.row = NO_ROW;
        state.computed = 0;
        state.n_named = 0;
        state.residency = state.residency.wrapping_add(1);
    }

    #[cfg(feature = "mutations")]
    pub(super) fn free_twice(&mut self, slot: u32) {
        if mutated!(self, FreeTwiceOnAbort)
            && let Some(block) = self.slots[slot as usize].blocks.first()
        {
            let again = crate::block_pool::BlockPool::forge(block);
            self.pool.release(again, self.steps.unfenced());
        }
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        // While unwinding the state may be half changed; the handles know that nobody counts them any more.
        if !std::thread::panicking() {
            self.abort_all();
        }
    }
}
