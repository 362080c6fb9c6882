//! One step's plan: the running requests in order of arrival, then the queue, under one token budget.

use crate::request::State;
use crate::scheduler::Core;
use crate::step::{Planned, Scores};
use crate::{BLOCK_SIZE, StepId, blocks_for, narrow};

/// What is left to give in the step being planned.
pub(super) struct Turn {
    /// Tokens.
    pub(super) budget: u32,
    /// Scored positions.
    pub(super) scores: u32,
    /// A running request lacks a block: nothing new may be admitted.
    pub(super) short_of_blocks: bool,
}

impl Turn {
    /// How many of the `want` tokens of a request that come after `computed` the step takes.
    pub(super) fn chunk(&self, state: &State, computed: u32, want: u32) -> u32 {
        let n = cut(computed, want, self.budget);
        if state.to_score(computed, computed + n) <= self.scores {
            return n;
        }
        cut(computed, n, self.scores)
    }
}

/// How many of `want` tokens a chunk that starts at `computed` takes: all, or as many as end on a block border.
pub(super) fn cut(computed: u32, want: u32, budget: u32) -> u32 {
    if want <= budget {
        return want;
    }
    let border = (computed + budget) / BLOCK_SIZE * BLOCK_SIZE;
    border.saturating_sub(computed)
}

impl Core {
    /// Plans the next step into an arena slot of at least `arena_layout().slot_words()` words.
    ///
    /// `None` if nothing can be computed now: no request lives, as many steps as allowed are in flight, or what
    /// lives waits for a commit or a fence. Never `None` for ever while requests live and steps are committed and fenced.
    pub fn plan(&mut self, arena: &mut [u32]) -> Option<StepId> {
        let words = self.config.arena_layout().slot_words();
        debug_assert!(
            arena.len() >= words,
            "arena slot has {} words but needs {words}",
            arena.len()
        );
        if arena.len() < words || self.steps.in_flight() >= u64::from(self.config.steps_in_flight) {
            return None;
        }
        self.writer.begin();
        self.steps.next_entries().clear();
        let mut turn = Turn {
            budget: self.config.max_step_tokens,
            scores: self.config.max_scores,
            short_of_blocks: false,
        };
        if mutated!(self, IgnoreTokenBudget) {
            turn.budget = u32::MAX / 2;
        }
        self.plan_running(arena, &mut turn);
        if !turn.short_of_blocks {
            self.admit(arena, &mut turn);
        }
        if self.writer.n_entries() == 0 {
            return None;
        }
        let step = self.steps.launch();
        self.writer.finish(arena, step);
        self.stats.steps += 1;
        self.stats.tokens_computed += u64::from(self.writer.n_tokens());
        Some(step)
    }

    fn plan_running(&mut self, arena: &mut [u32], turn: &mut Turn) {
        let mut place = 0;
        while turn.budget > 0
            && let Some(&slot) = self.running.get(place)
        {
            place += 1;
            let state = &self.slots[slot as usize];
            let (known, computed) = (state.known_to_device(), state.computed);
            // A sample in flight certainly ends it by length.
            if known >= state.max_len {
                continue;
            }
            let mut n = turn.chunk(state, computed, known - computed);
            if mutated!(self, CutOffBorder) {
                n = turn.budget.min(known - computed);
            }
            if n > 0 && self.grow(place - 1, computed + n, turn) {
                self.schedule(slot, n, arena, turn);
            }
        }
    }

    /// Gives the running request at `place` blocks up to `end` positions, at the cost of later arrivals. False if
    /// it must wait for a fence, or was itself preempted.
    fn grow(&mut self, place: usize, end: u32, turn: &mut Turn) -> bool {
        let slot = self.running[place];
        let state = &self.slots[slot as usize];
        let has = state.blocks.len();
        let need = blocks_for(end) as usize;
        if need <= has {
            return true;
        }
        let missing = narrow(need - has);
        while self.pool.available() < missing {
            turn.short_of_blocks = true;
            if self.pool.available() + self.pool.counts().limbo >= missing {
                return false;
            }
            self.preempt_latest();
            if self.running.len() <= place {
                return false;
            }
        }
        let state = &mut self.slots[slot as usize];
        for _ in 0..missing {
            state.blocks.extend(self.pool.allocate());
        }
        let start = narrow(has) + u32::from(mutated!(self, BlockStartOffByOne));
        self.writer.block_diff(
            state.row,
            start,
            state.blocks[has..].iter().map(crate::block_pool::BlockRef::id),
        );
        true
    }

    /// Puts `n` tokens of a running request into the step.
    pub(super) fn schedule(&mut self, slot: u32, n: u32, arena: &mut [u32], turn: &mut Turn) {
        let state = &mut self.slots[slot as usize];
        let end = state.computed + n;
        let samples = end == state.known_to_device();
        let scores = Scores {
            index: self.writer.n_scores(),
            token: state.computed + 1,
            n: state.to_score(state.computed, end),
        };
        if scores.n > 0 {
            state.scored = state.scored.max(state.computed + scores.n + 1);
            turn.scores -= scores.n;
        }
        let sample = self
            .writer
            .entry(arena, state.row, state.computed, n, samples, scores.n);
        state.computed = end;
        state.pending += u32::from(samples);
        turn.budget -= n;
        let (generation, residency) = (state.generation, state.residency);
        self.steps.next_entries().push(Planned {
            slot,
            generation,
            residency,
            end,
            sample,
            scores,
        });
        #[cfg(feature = "mutations")]
        if mutated!(self, CacheUncommitted) {
            let known = self.slots[slot as usize].known();
            self.name_blocks(slot, end.min(known));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::cut;

    #[test]
    fn a_chunk_ends_on_a_block_border_or_at_the_last_token() {
        for computed in 0..64 {
            for want in 1..64 {
                for budget in 0..64 {
                    let n = cut(computed, want, budget);
                    assert!(n <= want && n <= budget);
                    assert!(
                        n == want || n == 0 || (computed + n).is_multiple_of(16),
                        "{computed} {want} {budget}: {n}"
                    );
                    assert!(budget < 16 || n > 0, "a block's worth of budget always advances");
                }
            }
        }
    }
}
