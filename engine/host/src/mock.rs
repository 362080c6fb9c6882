//! The mock runner: deterministic tokens at a set pace, without a model. Chosen by name, never a fallback.
//!
//! HTTP benchmarks, scheduler tests and machines without a model stand on it. A sampled id depends only on the id
//! before it and its position, so a request's tokens are the same however it was batched, cut or preempted. A constrained row takes
//! an id that brings its text to an end, where one is allowed, else the next allowed one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use agentlm_core::arena::{self, ArenaError, View, flag};
use agentlm_core::results;
use agentlm_text::Tokenizer;

use crate::source::{BuildError, EngineConfig, Next, build};
use crate::{EngineHandle, MaskSlot, StepSource};

/// What the mock runner does.
#[derive(Clone, Debug)]
pub struct MockConfig {
    /// How long a step takes; measured from its start, so that overhead does not add to it.
    pub step_time: Duration,
    /// Ids that may be sampled, in a fixed order; not empty.
    pub token_ids: Vec<u32>,
    /// What brings a constrained row's text to its end.
    pub ends: Ends,
}

/// Ids that end a text or close a part of one. Without any, a constrained text may go on until the length ends it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ends {
    /// End-of-sequence ids.
    pub eos: Vec<u32>,
    /// `}` and `]`: an object that may end does so rather than begin another key.
    pub brackets: Vec<u32>,
    /// `"`.
    pub quotes: Vec<u32>,
}

impl Ends {
    fn of(tokenizer: &Tokenizer, ordinary: &[u32]) -> Self {
        let with = |texts: &[&str]| {
            let is_one = |id: &&u32| texts.contains(&tokenizer.token_text(**id).as_ref());
            ordinary.iter().filter(is_one).copied().collect()
        };
        Self {
            eos: tokenizer.eos_token_ids().to_vec(),
            brackets: with(&["}", "]"]),
            quotes: with(&["\""]),
        }
    }

    /// The one to take where a mask allows some.
    fn choose(&self, mask: &[u32]) -> Option<u32> {
        let allowed = |id: &&u32| is_allowed(**id, mask);
        // Only in a string can both brackets stand, and there they close nothing.
        let in_string = self.brackets.len() > 1 && self.brackets.iter().all(|id| allowed(&id));
        let brackets = self.brackets.iter().filter(|_| !in_string);
        let mut order = self.eos.iter().chain(brackets).chain(&self.quotes);
        order.find(allowed).copied()
    }
}

impl MockConfig {
    /// Samples any ordinary token of a tokenizer. What is bound to a JSON schema is whole JSON, and short.
    #[must_use]
    pub fn for_tokenizer(tokenizer: &Tokenizer, step_time: Duration) -> Self {
        let eos = tokenizer.eos_token_ids();
        let ids = 0..u32::try_from(tokenizer.vocab_size()).unwrap_or(u32::MAX);
        let ordinary = |id: &u32| !tokenizer.is_special(*id) && !eos.contains(id);
        let mut token_ids: Vec<u32> = ids.filter(ordinary).collect();
        let ends = Ends::of(tokenizer, &token_ids);
        if token_ids.is_empty() {
            token_ids.push(0);
        }
        Self {
            step_time,
            token_ids,
            ends,
        }
    }
}

/// A runner that computes nothing.
pub struct MockRunner {
    config: MockConfig,
    arena: arena::Layout,
    results: results::Layout,
    row_tokens: Vec<u32>,
    /// By row: from which position on a constrained text may end.
    constrained: Vec<Option<u32>>,
    max_model_len: usize,
}

impl MockRunner {
    /// A runner for slots of these layouts.
    #[must_use]
    pub fn new(config: MockConfig, arena: arena::Layout, results: results::Layout) -> Self {
        let max_model_len = arena.max_model_len as usize + 1;
        let row_tokens = vec![0; arena.max_rows as usize * max_model_len];
        Self {
            config,
            arena,
            results,
            row_tokens,
            constrained: vec![None; arena.max_rows as usize],
            max_model_len,
        }
    }

    /// Runs one planned step.
    ///
    /// # Errors
    /// The slot is not an arena slot of the layouts given.
    pub fn run(&mut self, slot: &[u32], results: &mut [u32], masks: &MaskSlot) -> Result<(), ArenaError> {
        let began = Instant::now();
        let view = View::new(slot, self.arena)?;
        for init in view.inits() {
            let known = init.tokens;
            let start = init.row as usize * self.max_model_len;
            self.row_tokens[start..start + known.len()].copy_from_slice(known);
            let constrained = init.flags & flag::CONSTRAINED != 0;
            let may_end = init.n_prompt.saturating_add(init.min_new_tokens);
            self.constrained[init.row as usize] = constrained.then_some(may_end);
        }
        for entry in view.entries() {
            self.score(&entry, results);
            let Some(index) = entry.sample_index else { continue };
            let position = entry.sample_position as usize;
            let row = entry.row as usize * self.max_model_len;
            let mut id = self.sample(self.row_tokens[row + position - 1], position);
            if let Some(may_end) = self.constrained[entry.row as usize] {
                let mask = masks.of_sample(index as usize);
                let ends = Some(&self.config.ends).filter(|_| entry.sample_position >= may_end);
                let end = ends.and_then(|ends| ends.choose(mask));
                id = end.unwrap_or_else(|| next_allowed(id, mask));
            }
            self.row_tokens[row + position] = id;
            results[index as usize] = id;
            results[self.results.logprobs() + index as usize] = (-1.0_f32).to_bits();
            let top = self.results.top_cap as usize;
            for rank in 0..top {
                let at = index as usize * top + rank;
                results[self.results.top_ids() + at] = self.sample(id, rank);
                results[self.results.top_logprobs() + at] = (-1.0 - rank as f32).to_bits();
            }
        }
        if let Some(rest) = self.config.step_time.checked_sub(began.elapsed()) {
            std::thread::sleep(rest);
        }
        Ok(())
    }

    /// Every prompt token has the same log-probability, -1.
    fn score(&self, entry: &arena::Entry, results: &mut [u32]) {
        let top = self.results.top_cap as usize;
        for index in entry.score_index as usize..(entry.score_index + entry.n_scores) as usize {
            results[self.results.score_logprobs() + index] = (-1.0_f32).to_bits();
            for rank in 0..top {
                let at = index * top + rank;
                results[self.results.score_top_ids() + at] = self.sample(entry.row, rank);
                results[self.results.score_top_logprobs() + at] = (-1.0 - rank as f32).to_bits();
            }
        }
    }

    /// A token that depends on the one before it and on its position.
    fn sample(&self, before: u32, position: usize) -> u32 {
        let mixed = (u64::from(before) << 32 | position as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let ids = &self.config.token_ids;
        ids[((mixed >> 32) as usize * ids.len()) >> 32]
    }
}

/// The first id from `id` on, around the end, that a mask allows; a mask that allows none fails the row.
fn next_allowed(id: u32, mask: &[u32]) -> u32 {
    let n = u32::try_from(mask.len() * 32).unwrap_or(u32::MAX);
    (id..n)
        .chain(0..id.min(n))
        .find(|&id| is_allowed(id, mask))
        .unwrap_or(results::FAILED)
}

fn is_allowed(id: u32, mask: &[u32]) -> bool {
    mask.get(id as usize / 32)
        .is_some_and(|word| word >> (id % 32) & 1 == 1)
}

/// Drives a step source with a mock runner until the engine is closed.
fn drive(mut source: StepSource, mut runner: MockRunner) {
    loop {
        match source.next_step() {
            Next::Step { id, slot } => {
                // SAFETY: the step is planned, not committed, and this thread is the only runner.
                let run = unsafe {
                    runner.run(
                        source.arena_slot(slot),
                        source.results_slot(slot),
                        source.masks(slot),
                    )
                };
                if let Err(error) = run {
                    source.fail(&error.to_string());
                    return;
                }
                source.commit(id);
            }
            Next::Wait => {
                source.fail("a synchronous runner was told to wait for a step of its own");
                return;
            }
            // It has no weights, no adapters and no memory to speak of.
            Next::Control => source.finish_control(Ok(())),
            Next::Shutdown => return,
        }
    }
}

/// An engine on the mock runner, with its engine thread in Rust.
///
/// # Errors
/// [`BuildError`].
pub fn spawn_mock(
    config: EngineConfig,
    mock: MockConfig,
    tokenizer: Arc<Tokenizer>,
) -> Result<EngineHandle, BuildError> {
    let (handle, source) = build(config, tokenizer)?;
    let runner = MockRunner::new(mock, source.arena_layout(), source.results_layout());
    std::thread::Builder::new()
        .name("agentlm-mock".into())
        .spawn(move || drive(source, runner))?;
    Ok(handle)
}
