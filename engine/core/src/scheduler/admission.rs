//! From `submit` to a row: validation, the prefix lookup, and the blocks for all known tokens.

use crate::request::State;
use crate::scheduler::Core;
use crate::scheduler::planning::Turn;
use crate::{BLOCK_SIZE, Refusal, Request, blocks_for, narrow};

use crate::prefix_cache::Chain;

/// What the prefix cache has of a request's known tokens.
struct Hit {
    /// Leading full blocks found.
    blocks: u32,
    /// Those of them that would otherwise be available for allocation.
    available: u32,
}

impl Core {
    /// Takes a request into the queue.
    ///
    /// # Errors
    /// Why it can never run as asked; nothing was changed.
    pub fn submit(&mut self, request: Request) -> Result<(), Refusal> {
        let max_len = self.config.check(&request.prompt, &request.params)?;
        if self.by_id.contains_key(&request.id) {
            return Err(Refusal::DuplicateId(request.id));
        }
        let slot = self.vacant.pop().unwrap_or_else(|| {
            self.slots.push(State::vacant());
            narrow(self.slots.len() - 1)
        });
        self.arrivals += 1;
        let seed = if mutated!(self, ForgetCacheSeed) {
            0
        } else {
            request.cache_seed
        };
        let state = &mut self.slots[slot as usize];
        state.id = request.id;
        state.started = false;
        state.arrival = self.arrivals;
        state.max_len = max_len;
        state.tokens = request.prompt;
        state.n_prompt = state.known();
        // Nothing comes before the first token that could foretell it.
        state.scored = if request.params.prompt_logprobs {
            1
        } else {
            state.n_prompt
        };
        state.reported = state.scored;
        state.constrained = request.constrained;
        state.adapter = request.adapter;
        state.chain = Chain::root(&self.config.hash_key, seed);
        state.params = request.params;
        self.by_id.insert(request.id, slot);
        self.waiting.push_back(slot);
        Ok(())
    }

    /// Gives rows to the queue, in order of arrival, until the first that does not fit.
    pub(super) fn admit(&mut self, slot_words: &mut [u32], turn: &mut Turn) {
        while let Some(&slot) = self.waiting.front() {
            // Those that have started come before all that have not.
            if self.held && !self.slots[slot as usize].started {
                break;
            }
            if !self.admit_one(slot, slot_words, turn) {
                break;
            }
            self.waiting.pop_front();
        }
        #[cfg(feature = "mutations")]
        if mutated!(self, OvertakeHead)
            && let Some(&slot) = self.waiting.get(1)
            && self.admit_one(slot, slot_words, turn)
        {
            self.waiting.remove(1);
        }
    }

    fn admit_one(&mut self, slot: u32, slot_words: &mut [u32], turn: &mut Turn) -> bool {
        let (known, n_bias) = {
            let state = &self.slots[slot as usize];
            (state.known(), state.params.logit_bias.len())
        };
        // Without the last sampled ids there is no initialising a row.
        if self.slots[slot as usize].pending > 0
            || !self.rows.has_free()
            || !self
                .writer
                .fits(known as usize, n_bias, blocks_for(known) as usize)
        {
            return false;
        }
        // Each running request may soon need a block: admitting the last of them away would only preempt. A request needs
        // one at least, so one that must wait is not looked up at every step.
        let reserve = narrow(self.running.len());
        if turn.budget == 0 || self.pool.available() <= reserve {
            return false;
        }
        let hit = self.lookup(slot, known);
        let computed = hit.blocks * BLOCK_SIZE;
        let n = turn.chunk(&self.slots[slot as usize], computed, known - computed);
        let need = blocks_for(known) - hit.blocks;
        if n == 0 || self.pool.available() - hit.available < need + reserve {
            return false;
        }
        let Some(row) = self.rows.take() else { return false };
        let state = &mut self.slots[slot as usize];
        state.row = row;
        state.computed = computed;
        state.n_named = hit.blocks;
        // Everything that decoding will append to, once: a steady step allocates nothing.
        state.tokens.reserve_exact((state.max_len - known) as usize);
        state.blocks.reserve_exact(blocks_for(state.max_len) as usize);
        for name in state.names.iter().take(hit.blocks as usize) {
            if let Some(id) = self.pool.find(*name) {
                state.blocks.push(self.pool.share(id));
            }
        }
        for _ in 0..need {
            state.blocks.extend(self.pool.allocate());
        }
        if self.config.prefix_cache {
            state
                .names
                .reserve_exact((state.max_len / BLOCK_SIZE) as usize - state.names.len());
            self.stats.prefix_lookup_tokens += u64::from(known);
            self.stats.prefix_hit_tokens += u64::from(computed);
        }
        let forgotten = mutated!(self, RowWithoutInit) && state.residency > 0;
        if !forgotten {
            self.writer.init(state);
        }
        self.writer
            .block_diff(row, 0, state.blocks.iter().map(crate::block_pool::BlockRef::id));
        if !std::mem::replace(&mut state.started, true) {
            self.started.push(crate::Started {
                request: state.id,
                cached_tokens: computed,
            });
        }
        self.running.push(slot);
        self.schedule(slot, n, slot_words, turn);
        true
    }

    /// Finds the longest cached beginning that leaves at least one token to compute.
    fn lookup(&mut self, slot: u32, known: u32) -> Hit {
        let mut hit = Hit {
            blocks: 0,
            available: 0,
        };
        if !self.config.prefix_cache {
            return hit;
        }
        let most = if mutated!(self, PrefixHitComputesNothing) {
            known
        } else {
            known - 1
        } / BLOCK_SIZE;
        let anyway = mutated!(self, ScoreFromCache);
        let state = &mut self.slots[slot as usize];
        // What foretells the first token that is not scored is computed.
        let most = if state.scored < state.n_prompt && !anyway {
            most.min((state.scored - 1) / BLOCK_SIZE)
        } else {
            most
        };
        state.extend_names(known);
        for &name in state.names.iter().take(most as usize) {
            let Some(id) = self.pool.find(name) else { break };
            hit.blocks += 1;
            hit.available += u32::from(self.pool.is_available(id));
        }
        hit
    }
}
