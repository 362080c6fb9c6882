//! The core: requests between `submit` and their end, and the four moves of a step (plan, run elsewhere, commit,
//! fence). Its rooms: [`admission`] from queue to row, [`planning`] of one step, [`commit`] of one step's results,
//! [`release`] of what a request holds. It refuses to know threads, clocks and text.
//!
//! Both the running list and the queue are sorted by arrival, and everything that runs arrived before everything
//! that waits: nobody is overtaken, and the oldest request always advances.

mod admission;
mod commit;
mod planning;
mod release;

use std::collections::VecDeque;

use rustc_hash::FxHashMap;

use crate::arena::Writer;
use crate::block_pool::BlockPool;
use crate::request::State;
use crate::rows::Rows;
use crate::step::Steps;
use crate::{ConfigError, CoreConfig, FinishReason, PoolCounts, RequestId, StepId, Updates, arena};

/// Counters and gauges of a core. Counters only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Requests waiting for a row, preempted ones included.
    pub queued: u32,
    /// Requests with a row.
    pub running: u32,
    /// Blocks by place.
    pub blocks: PoolCounts,
    /// Requests sent back to the queue because blocks ran out.
    pub preemptions: u64,
    /// Known tokens of admitted requests, for which the prefix cache was asked.
    pub prefix_lookup_tokens: u64,
    /// Those of them whose KV it had.
    pub prefix_hit_tokens: u64,
    /// Steps planned.
    pub steps: u64,
    /// Tokens computed by planned steps, recomputation included.
    pub tokens_computed: u64,
    /// Tokens sampled and committed, those that a later stop string drops included.
    pub tokens_generated: u64,
    /// Requests ended by [`FinishReason::Length`].
    pub finished_length: u64,
    /// Requests ended by [`FinishReason::EosToken`].
    pub finished_eos: u64,
    /// Requests ended by [`FinishReason::StopSequence`].
    pub finished_stop: u64,
    /// Requests ended by `abort`.
    pub aborted: u64,
    /// Requests ended because their sample failed.
    pub failed: u64,
}

impl Stats {
    fn count_finish(&mut self, reason: FinishReason) {
        match reason {
            FinishReason::Length => self.finished_length += 1,
            FinishReason::EosToken => self.finished_eos += 1,
            FinishReason::StopSequence => self.finished_stop += 1,
        }
    }
}

/// The state machine. One thread owns it.
///
/// ```text
/// submit / abort / finish at any moment
/// plan(slot) -> step      at most `steps_in_flight` planned and not committed
/// (a runner runs the slot and fills a results slot)
/// commit(step, results)   in order, each step once
/// fence(step)             the device has left the step: what was freed under it is reusable
/// ```
/// A synchronous runner has left a step when it returns: its host calls `fence(step)` together with `commit(step)`.
/// A host that never fences runs out of blocks and rows.
#[derive(Debug)]
pub struct Core {
    pub(crate) config: CoreConfig,
    pub(crate) pool: BlockPool,
    pub(crate) rows: Rows,
    pub(crate) steps: Steps,
    /// Slab of requests; those not in use are in `vacant`.
    pub(crate) slots: Vec<State>,
    vacant: Vec<u32>,
    pub(crate) by_id: FxHashMap<RequestId, u32>,
    /// Slots with a row, by arrival.
    pub(crate) running: Vec<u32>,
    /// Slots without a row, by arrival.
    pub(crate) waiting: VecDeque<u32>,
    arrivals: u64,
    writer: Writer,
    /// Admitted for the first time and not yet reported.
    started: Vec<crate::Started>,
    /// Ended by `abort` and not yet reported.
    aborted: Vec<RequestId>,
    /// Nobody is admitted for the first time.
    held: bool,
    stats: Stats,
    #[cfg(feature = "mutations")]
    mutation: Option<crate::Mutation>,
}

impl Core {
    /// A core with an empty cache.
    ///
    /// # Errors
    /// A value of the configuration that cannot work.
    pub fn new(config: CoreConfig) -> Result<Self, ConfigError> {
        config.validate()?;
        Ok(Self {
            pool: BlockPool::new(config.num_blocks),
            rows: Rows::new(config.max_running),
            steps: Steps::new(config.max_running),
            slots: Vec::new(),
            vacant: Vec::new(),
            by_id: FxHashMap::default(),
            running: Vec::with_capacity(config.max_running as usize),
            waiting: VecDeque::new(),
            arrivals: 0,
            writer: Writer::new(config.arena_layout()),
            started: Vec::new(),
            aborted: Vec::new(),
            held: false,
            stats: Stats::default(),
            #[cfg(feature = "mutations")]
            mutation: None,
            config,
        })
    }

    /// A core that makes one mistake on purpose.
    ///
    /// # Errors
    /// As [`Core::new`].
    #[cfg(feature = "mutations")]
    pub fn with_mutation(config: CoreConfig, mutation: Option<crate::Mutation>) -> Result<Self, ConfigError> {
        let mut core = Self::new(config)?;
        core.mutation = mutation;
        core.pool.mutation = mutation;
        Ok(core)
    }

    /// What it was built with.
    #[must_use]
    pub const fn config(&self) -> &CoreConfig {
        &self.config
    }

    /// Ends a request now, wherever it is. Steps in flight that compute it are ignored at their commit.
    /// Returns false if no such request lives. The next commit (or [`Core::take_aborted`]) reports it.
    pub fn abort(&mut self, id: RequestId) -> bool {
        let Some(&slot) = self.by_id.get(&id) else {
            return false;
        };
        self.aborted.push(id);
        self.stats.aborted += 1;
        #[cfg(feature = "mutations")]
        self.free_twice(slot);
        self.unlist(slot);
        self.end(slot);
        true
    }

    /// Ends every request; for an engine that has failed or shuts down.
    pub fn abort_all(&mut self) {
        for slot in self
            .running
            .drain(..)
            .chain(self.waiting.drain(..))
            .collect::<Vec<_>>()
        {
            self.aborted.push(self.slots[slot as usize].id);
            self.stats.aborted += 1;
            self.end(slot);
        }
    }

    /// Moves the ids of aborted requests into `updates` without a commit, for a host that has no step to commit.
    pub fn take_aborted(&mut self, updates: &mut Updates) {
        updates.aborted.append(&mut self.aborted);
    }

    /// Ends a request whose output stage found an end after `at_token` generated tokens. The tokens past it are
    /// dropped: they are not reported again and leave the prefix cache. Returns false if no such request lives,
    /// because it has ended otherwise in the meantime; what it computed past `at_token` then stays cached.
    pub fn finish(&mut self, id: RequestId, at_token: u32, reason: FinishReason) -> bool {
        let Some(&slot) = self.by_id.get(&id) else {
            return false;
        };
        let state = &self.slots[slot as usize];
        let kept = state.n_prompt.saturating_add(at_token) / crate::BLOCK_SIZE;
        if !mutated!(self, CachePastStop) {
            state
                .names
                .iter()
                .skip(kept as usize)
                .for_each(|&name| self.pool.forget(name));
        }
        self.stats.count_finish(reason);
        self.unlist(slot);
        self.end(slot);
        true
    }

    /// The device has left `step` and every step before it: blocks and rows freed under them are reusable.
    /// May come before or after the step's commit. A step that was never planned counts as the last planned one.
    pub fn fence(&mut self, step: StepId) {
        let fenced = self.steps.fence(step);
        self.pool.fence(fenced);
        self.rows.fence(fenced);
    }

    /// What the step planned last samples under masks: requests and their sample indices. Ask before it is committed.
    pub fn constrained(&self) -> impl Iterator<Item = (RequestId, u32)> {
        let sampling = self
            .steps
            .newest()
            .iter()
            .filter(|planned| planned.sample != arena::NO_SAMPLE);
        sampling.filter_map(|planned| {
            let state = &self.slots[planned.slot as usize];
            state.constrained.then_some((state.id, planned.sample))
        })
    }

    /// Holds back who has not started, or lets them start again: before weights are exchanged.
    pub const fn hold(&mut self, held: bool) {
        self.held = held;
    }

    /// Whether no request has KV or is to get it back: all that lives has not started.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        let preempted = self.waiting.front();
        self.running.is_empty() && !preempted.is_some_and(|&slot| self.slots[slot as usize].started)
    }

    /// The requests that have started, for a host that will not wait for them.
    pub fn started(&self) -> impl Iterator<Item = RequestId> {
        let all = self.running.iter().chain(&self.waiting);
        let states = all.map(|&slot| &self.slots[slot as usize]);
        states.filter(|state| state.started).map(|state| state.id)
    }

    /// Empties the prefix cache: what it holds was computed by weights that are gone.
    pub fn forget_cache(&mut self) {
        self.pool.forget_all();
    }

    /// Requests that live: queued or running.
    #[must_use]
    pub fn live(&self) -> usize {
        self.by_id.len()
    }

    /// Whether a request lives.
    #[must_use]
    pub fn contains(&self, id: RequestId) -> bool {
        self.by_id.contains_key(&id)
    }

    /// Steps planned and not committed.
    #[must_use]
    pub const fn in_flight(&self) -> u64 {
        self.steps.in_flight()
    }

    /// Counters and gauges as of now.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "rows and queued requests are far below 2^32"
    )]
    pub fn stats(&self) -> Stats {
        Stats {
            queued: self.waiting.len() as u32,
            running: self.running.len() as u32,
            blocks: self.pool.counts(),
            ..self.stats
        }
    }
}
