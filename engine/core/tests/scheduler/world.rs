//! Clients, core, device and the pipe between them. Every operation is followed by every check we know.

mod checks;

use std::collections::{BTreeMap, VecDeque};

use agentlm_core::params::{Limits, SamplingParams};
use agentlm_core::{
    BLOCK_SIZE, Core, CoreConfig, FinishReason, Refusal, Request, RequestId, StepId, Updates,
};

use crate::device::{Device, Fault, demand};
use crate::reference::{self, EOS, VOCAB};

pub const MAX_INPUT: u32 = 96;
pub const MAX_TOTAL: u32 = 128;
const TOP_CAP: u32 = 2;

/// A configuration for tests: small sizes, one end-of-sequence id.
pub fn config(num_blocks: u32, max_running: u32, max_step_tokens: u32, steps_in_flight: u32) -> CoreConfig {
    CoreConfig {
        num_blocks,
        max_running,
        max_step_tokens,
        limits: Limits {
            max_input_tokens: MAX_INPUT,
            max_total_tokens: MAX_TOTAL,
            max_stop_sequences: 4,
            max_top_n_tokens: TOP_CAP,
            max_best_of: 1,
        },
        steps_in_flight,
        prefix_cache: true,
        eos_token_ids: vec![EOS],
        top_cap: TOP_CAP,
        max_scores: 32,
        vocab_size: VOCAB,
        hash_key: [3; 32],
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Finished(FinishReason),
    /// By a stop string after so many generated tokens.
    Stopped(u32),
    Aborted,
}

pub struct Client {
    pub prompt: Vec<u32>,
    pub params: SamplingParams,
    pub expected: (Vec<u32>, FinishReason),
    pub output: Vec<u32>,
    /// Prompt tokens whose log-probabilities came.
    pub scored: usize,
    pub end: Option<End>,
    /// The last step planned before its end.
    ended_after: u64,
    admitted: bool,
}

struct Flight {
    step: StepId,
    arena: Vec<u32>,
    results: Vec<u32>,
    committed_at_plan: u64,
    has_run: bool,
}

/// What a step that is not fenced may still touch.
struct Touched {
    step: u64,
    rows: Vec<u32>,
    /// Block and the tenancy that uses it.
    blocks: Vec<(u32, u64)>,
}

pub struct World {
    pub core: Core,
    pub clients: BTreeMap<u32, Client>,
    device: Device,
    in_flight: VecDeque<Flight>,
    unfenced: VecDeque<Touched>,
    /// Which tenancy has a row: a new one with each initialisation.
    tenancies: Vec<u64>,
    last_tenancy: u64,
    last_serial: u32,
    planned: u64,
    committed: u64,
    updates: Updates,
    spare: Vec<Flight>,
}

impl World {
    pub fn new(core: Core) -> Self {
        let config = core.config();
        Self {
            device: Device::new(config.arena_layout(), config.results_layout(), config.num_blocks),
            tenancies: vec![0; config.max_running as usize],
            core,
            clients: BTreeMap::new(),
            in_flight: VecDeque::new(),
            unfenced: VecDeque::new(),
            last_tenancy: 0,
            last_serial: 0,
            planned: 0,
            committed: 0,
            updates: Updates::new(),
            spare: Vec::new(),
        }
    }

    /// Submits; a refusal must be one that the request deserves.
    pub fn submit(
        &mut self,
        prompt: Vec<u32>,
        mut params: SamplingParams,
        cache_seed: u32,
    ) -> Result<u32, Fault> {
        self.last_serial += 1;
        let serial = self.last_serial;
        params.seed = u64::from(serial) | u64::from(cache_seed) << 32;
        let blocks = self.core.config().num_blocks;
        let max_len = match params.max_new_tokens {
            Some(max_new) => prompt.len() + max_new as usize,
            None => (MAX_TOTAL as usize).min((blocks * BLOCK_SIZE) as usize + 1),
        };
        let fits =
            max_len <= MAX_TOTAL as usize && (max_len - 1).div_ceil(BLOCK_SIZE as usize) <= blocks as usize;
        let fits = fits && max_len > prompt.len();
        let request = Request {
            id: RequestId(u64::from(serial)),
            prompt: prompt.clone(),
            params: params.clone(),
            cache_seed: u64::from(cache_seed),
            constrained: serial.is_multiple_of(3),
            adapter: 0,
        };
        match self.core.submit(request) {
            Ok(()) => {
                demand!(
                    fits,
                    "request {serial} of {max_len} tokens was taken but can never fit"
                );
                let expected = reference::output(&prompt, &params, max_len);
                let client = Client {
                    prompt,
                    params,
                    expected,
                    output: Vec::new(),
                    scored: 1,
                    end: None,
                    ended_after: 0,
                    admitted: false,
                };
                self.clients.insert(serial, client);
            }
            Err(Refusal::NeverFits { .. } | Refusal::TotalTokens { .. }) => {
                demand!(!fits, "request {serial} of {max_len} tokens was refused but fits");
            }
            Err(refusal) => return Err(format!("request {serial}: {refusal}")),
        }
        self.check()?;
        Ok(serial)
    }

    pub fn live(&self) -> Vec<u32> {
        self.clients
            .iter()
            .filter(|(_, client)| client.end.is_none())
            .map(|(&serial, _)| serial)
            .collect()
    }

    pub fn abort(&mut self, serial: u32) -> Result<(), Fault> {
        demand!(
            self.core.abort(RequestId(u64::from(serial))),
            "request {serial} lives but cannot be aborted"
        );
        self.end(serial, End::Aborted)
    }

    /// A stop string was found after `at_token` generated tokens.
    pub fn finish(&mut self, serial: u32, at_token: u32) -> Result<(), Fault> {
        let known = self
            .core
            .finish(RequestId(u64::from(serial)), at_token, FinishReason::StopSequence);
        demand!(known, "request {serial} lives but cannot be finished");
        self.end(serial, End::Stopped(at_token))
    }

    fn end(&mut self, serial: u32, end: End) -> Result<(), Fault> {
        if let Some(client) = self.clients.get_mut(&serial) {
            client.end = Some(end);
            client.ended_after = self.planned;
        }
        self.check()
    }

    /// Plans a step; returns whether there was one.
    pub fn plan(&mut self) -> Result<bool, Fault> {
        let config = self.core.config();
        let mut flight = self.spare.pop().unwrap_or_else(|| Flight {
            step: StepId(0),
            arena: vec![0; config.arena_layout().slot_words()],
            results: vec![0; config.results_layout().slot_words()],
            committed_at_plan: 0,
            has_run: false,
        });
        let Some(step) = self.core.plan(&mut flight.arena) else {
            self.spare.push(flight);
            self.check()?;
            return Ok(false);
        };
        (flight.step, flight.committed_at_plan, flight.has_run) = (step, self.committed, false);
        self.planned = step.0;
        self.check_plan(&flight)?;
        self.in_flight.push_back(flight);
        self.check()?;
        Ok(true)
    }

    /// Runs and commits the oldest step in flight, if there is one.
    pub fn commit(&mut self) -> Result<(), Fault> {
        let Some(mut flight) = self.in_flight.pop_front() else {
            return Ok(());
        };
        self.run(&mut flight)?;
        let mut updates = std::mem::take(&mut self.updates);
        self.core
            .commit(flight.step, &flight.results, &mut updates)
            .map_err(|error| format!("commit of {:?}: {error}", flight.step))?;
        self.committed = flight.step.0;
        self.take(&updates)?;
        self.updates = updates;
        self.spare.push(flight);
        self.check()
    }

    /// Fences the oldest step that is not, if there is one; it has then run, committed or not.
    pub fn fence(&mut self) -> Result<(), Fault> {
        let Some(touched) = self.unfenced.pop_front() else {
            return Ok(());
        };
        if let Some(mut flight) = self.in_flight.pop_front() {
            if flight.step.0 == touched.step {
                self.run(&mut flight)?;
            }
            self.in_flight.push_front(flight);
        }
        self.core.fence(StepId(touched.step));
        self.check()
    }

    /// Commits and fences everything, then steps until every request has ended. Each must end as if alone.
    pub fn drain(&mut self) -> Result<(), Fault> {
        while !self.in_flight.is_empty() {
            self.commit()?;
        }
        // The oldest request advances in every other turn at least, so that nobody waits longer than this.
        let mut turns_left = 2 * MAX_TOTAL as usize * (self.core.live() + 1);
        while self.core.live() > 0 {
            demand!(
                turns_left > 0,
                "{} requests still live: somebody starves",
                self.core.live()
            );
            turns_left -= 1;
            while !self.unfenced.is_empty() {
                self.fence()?;
            }
            demand!(
                self.plan()?,
                "{} requests live, no step is in flight, nothing is planned",
                self.core.live()
            );
            if self.core.config().steps_in_flight == 2 {
                self.plan()?;
            }
            while !self.in_flight.is_empty() {
                self.commit()?;
            }
        }
        for (serial, client) in &self.clients {
            let done = match client.end {
                Some(End::Finished(reason)) => {
                    (&client.output, reason) == (&client.expected.0, client.expected.1)
                }
                Some(End::Stopped(_) | End::Aborted) => client.expected.0.starts_with(&client.output),
                None => false,
            };
            demand!(
                done,
                "request {serial} ended as {:?} with {:?}, expected {:?}",
                client.end,
                client.output,
                client.expected
            );
        }
        let stats = self.core.stats();
        demand!(
            stats.blocks.held == 0,
            "{} blocks are held by nobody",
            stats.blocks.held
        );
        Ok(())
    }

    fn run(&mut self, flight: &mut Flight) -> Result<(), Fault> {
        if !flight.has_run {
            flight.has_run = true;
            flight.results.fill(0);
            self.device.run(&flight.arena, &mut flight.results)?;
            self.check_hits(flight)?;
        }
        Ok(())
    }

    /// Each prompt token's score comes once and in order, to those who asked.
    fn take_scores(&mut self, updates: &Updates) -> Result<(), Fault> {
        for update in &updates.scores {
            let serial = u32::try_from(update.request.0).expect("ours");
            let client = self
                .clients
                .get_mut(&serial)
                .ok_or("a score for an unknown request")?;
            let position = update.position as usize;
            demand!(
                client.params.prompt_logprobs && client.end.is_none() && position == client.scored,
                "request {serial} with {} scored tokens gets the score of token {position}",
                client.scored
            );
            client.scored += 1;
            let (token, logprob) = (
                client.prompt[position],
                reference::logprob(update.token, update.position),
            );
            demand!(
                update.token == token && update.logprob == logprob,
                "request {serial} got another's score for token {position}"
            );
            let top = updates.score_top(update);
            demand!(
                top.len() == client.params.top_n_tokens as usize
                    && top.iter().zip(token..).all(|(top, id)| top.id == id),
                "request {serial} got another's top tokens for its prompt"
            );
        }
        Ok(())
    }

    fn take(&mut self, updates: &Updates) -> Result<(), Fault> {
        self.take_scores(updates)?;
        for update in &updates.tokens {
            let serial = u32::try_from(update.request.0).expect("ours");
            let client = self
                .clients
                .get_mut(&serial)
                .ok_or("an update for an unknown request")?;
            demand!(
                client.end.is_none(),
                "request {serial} has ended and gets token {}",
                update.token
            );
            demand!(
                !client.params.prompt_logprobs || client.scored == client.prompt.len(),
                "request {serial} samples after {} of {} scored prompt tokens",
                client.scored,
                client.prompt.len()
            );
            client.output.push(update.token);
            demand!(
                client.expected.0.starts_with(&client.output),
                "request {serial} got {:?}, expected {:?}",
                client.output,
                client.expected.0
            );
            demand!(
                update.generated as usize == client.output.len(),
                "request {serial} miscounts its tokens"
            );
            let position = u32::try_from(client.prompt.len() + client.output.len() - 1).expect("short");
            let logprob = reference::logprob(update.token, position);
            demand!(
                update.logprob == logprob,
                "request {serial} got another's log-probability"
            );
            let top = updates.top(update);
            demand!(
                top.len() == client.params.top_n_tokens as usize,
                "request {serial} got {} top tokens",
                top.len()
            );
            demand!(
                top.iter()
                    .zip(update.token..)
                    .all(|(top, id)| top.id == id && top.logprob == reference::logprob(id, position)),
                "request {serial} got another's top tokens"
            );
            if let Some(reason) = update.finish {
                client.end = Some(End::Finished(reason));
                demand!(
                    (&client.output, reason) == (&client.expected.0, client.expected.1),
                    "request {serial} ended by {reason:?} after {:?}, expected {:?}",
                    client.output,
                    client.expected
                );
            }
        }
        for id in &updates.aborted {
            let serial = u32::try_from(id.0).expect("ours");
            let end = self.clients.get(&serial).and_then(|client| client.end);
            demand!(
                end == Some(End::Aborted),
                "request {serial} is reported as aborted but was not"
            );
        }
        Ok(())
    }
}
