//! Taking one step's results in: new tokens, ends, and names for blocks that are now full.

use std::ops::Range;

use crate::arena::NO_SAMPLE;
use crate::results::{FAILED, Layout};
use crate::rows::NO_ROW;
use crate::scheduler::Core;
use crate::step::{Planned, Scores};
use crate::{
    BLOCK_SIZE, FinishReason, ScoreUpdate, StepError, StepId, TokenUpdate, TopToken, Updates, narrow,
};

impl Core {
    /// Takes in the results of the oldest step in flight. `updates` is emptied and filled.
    ///
    /// A synchronous runner has left the step when it returns: its host calls [`Core::fence`] right with the commit.
    ///
    /// # Errors
    /// The step is not the next one, or the results slot is too short; nothing was changed.
    pub fn commit(&mut self, step: StepId, results: &[u32], updates: &mut Updates) -> Result<(), StepError> {
        self.steps.check_next(step)?;
        let needed = self.config.results_layout().slot_words();
        if results.len() < needed {
            return Err(StepError::ResultsTooShort {
                given: results.len(),
                needed,
            });
        }
        updates.clear();
        updates.started.append(&mut self.started);
        updates.aborted.append(&mut self.aborted);
        let entries = self.steps.take_next();
        let mut ended_running = false;
        for planned in &entries {
            ended_running |= self.commit_entry(planned, results, updates);
        }
        if ended_running {
            let slots = &self.slots;
            self.running.retain(|&slot| slots[slot as usize].row != NO_ROW);
        }
        self.steps.recycle(entries);
        Ok(())
    }

    /// Returns whether a request ended that is still in the running list.
    fn commit_entry(&mut self, planned: &Planned, results: &[u32], updates: &mut Updates) -> bool {
        let slot = planned.slot;
        let state = &self.slots[slot as usize];
        if state.generation != planned.generation {
            if mutated!(self, KeepTokenAfterEos) && planned.sample != NO_SAMPLE {
                let finish = None;
                self.report(slot, planned.sample, finish, results, updates);
            }
            return false;
        }
        if planned.scores.n > 0 {
            self.report_scores(slot, planned.scores, results, updates);
        }
        let state = &self.slots[slot as usize];
        if planned.sample != NO_SAMPLE
            && results[Layout::IDS + planned.sample as usize] >= self.config.vocab_size
        {
            return self.fail(slot, updates);
        }
        // A preempted request has given its blocks up; a sample of it is its next token all the same.
        if state.residency == planned.residency {
            self.name_blocks(slot, planned.end);
        }
        if planned.sample == NO_SAMPLE {
            return false;
        }
        let state = &mut self.slots[slot as usize];
        let token = results[Layout::IDS + planned.sample as usize];
        state.tokens.push(token);
        state.pending -= 1;
        self.stats.tokens_generated += 1;
        let finish = self.finish_reason(slot, token);
        self.report(slot, planned.sample, finish, results, updates);
        let Some(reason) = finish else { return false };
        self.stats.count_finish(reason);
        self.end_in_commit(slot)
    }

    /// Ends a request whose sample failed ([`FAILED`], or no token id at all). The others go on. Its KV may be
    /// what failed, so nobody else shall find it.
    fn fail(&mut self, slot: u32, updates: &mut Updates) -> bool {
        let state = &self.slots[slot as usize];
        state.names.iter().for_each(|&name| self.pool.forget(name));
        updates.failed.push(state.id);
        self.stats.failed += 1;
        self.end_in_commit(slot)
    }

    /// Ends a request; true if the caller still has to take it out of the running list.
    fn end_in_commit(&mut self, slot: u32) -> bool {
        let running = self.slots[slot as usize].row != NO_ROW;
        if !running {
            self.unlist(slot);
        }
        self.end(slot);
        running
    }

    /// Length before end-of-sequence, as TGI does.
    fn finish_reason(&self, slot: u32, token: u32) -> Option<FinishReason> {
        let state = &self.slots[slot as usize];
        let length = state.known() >= state.max_len;
        let eos = !state.params.ignore_eos
            && state.known() - state.n_prompt >= state.params.min_new_tokens
            && self.config.eos_token_ids.contains(&token);
        if mutated!(self, EosBeforeLength) && eos {
            return Some(FinishReason::EosToken);
        }
        match (length, eos) {
            (true, _) => Some(FinishReason::Length),
            (false, true) => Some(FinishReason::EosToken),
            (false, false) => None,
        }
    }

    fn report(
        &self,
        slot: u32,
        sample: u32,
        finish: Option<FinishReason>,
        results: &[u32],
        updates: &mut Updates,
    ) {
        let (layout, sample) = (self.config.results_layout(), sample as usize);
        let state = &self.slots[slot as usize];
        let at = sample * layout.top_cap as usize;
        let wanted = state.params.top_n_tokens.min(layout.top_cap) as usize;
        let ids = &results[layout.top_ids() + at..][..wanted];
        let logprobs = &results[layout.top_logprobs() + at..][..wanted];
        let top = take_top(ids, logprobs, updates);
        updates.tokens.push(TokenUpdate {
            request: state.id,
            token: results[Layout::IDS + sample],
            logprob: f32::from_bits(results[layout.logprobs() + sample]),
            generated: state.known().saturating_sub(state.n_prompt),
            finish,
            top,
        });
    }

    /// Reports the scored prompt tokens that were not reported before: what a preempted request computes again gives the
    /// same numbers.
    fn report_scores(&mut self, slot: u32, scores: Scores, results: &[u32], updates: &mut Updates) {
        let layout = self.config.results_layout();
        let state = &mut self.slots[slot as usize];
        let wanted = state.params.top_n_tokens.min(layout.top_cap) as usize;
        for i in 0..scores.n {
            let position = scores.token + i;
            if position < state.reported {
                continue;
            }
            let index = (scores.index + i) as usize;
            let at = index * layout.top_cap as usize;
            let ids = &results[layout.score_top_ids() + at..][..wanted];
            let logprobs = &results[layout.score_top_logprobs() + at..][..wanted];
            let top = take_top(ids, logprobs, updates);
            updates.scores.push(ScoreUpdate {
                request: state.id,
                position,
                token: state.tokens[position as usize],
                logprob: f32::from_bits(results[layout.score_logprobs() + index]),
                top,
            });
            state.reported = position + 1;
        }
    }

    /// Lets the prefix cache know the full blocks among the first `end` positions, whose KV is now in the cache.
    pub(super) fn name_blocks(&mut self, slot: u32, end: u32) {
        let state = &mut self.slots[slot as usize];
        let full = end / BLOCK_SIZE;
        if !self.config.prefix_cache || full <= state.n_named {
            return;
        }
        state.extend_names(end);
        for at in state.n_named as usize..full as usize {
            self.pool.name(&state.blocks[at], state.names[at]);
        }
        state.n_named = full;
    }
}

/// Copies a position's most likely tokens, up to the first unused cell; gives their place.
fn take_top(ids: &[u32], logprobs: &[u32], updates: &mut Updates) -> Range<u32> {
    let start = narrow(updates.top.len());
    let used = ids.iter().zip(logprobs).take_while(|(id, _)| **id != FAILED);
    updates.top.extend(used.map(|(&id, &bits)| TopToken {
        id,
        logprob: f32::from_bits(bits),
    }));
    start..narrow(updates.top.len())
}
