//! The executor: one call a step. Applies the arena's changes to the rows, runs the tape in one region of the pool, samples,
//! and writes the sampled ids to the results and to the rows.
//!
//! A step allocates nothing. Refuses to know scheduling, text and Python.

mod error;
mod run;

use std::sync::Arc;

use agentlm_core::arena::{self, View};
use agentlm_core::results;

pub use error::{ExecError, ExecutorError};
use run::Region;

use crate::adapter::{Adapter, AdapterError, Adapters};
use crate::isa::{Isa, IsaError};
use crate::kernels::attention::{self, AttentionPlan};
pub use crate::kernels::rope::{RopeError, RopeTables};
use crate::kv_cache::KvCache;
use crate::linear;
use crate::memory::{Mapping, SharedRows};
use crate::pool::Pool;
use crate::rows::RowState;
use crate::sampler::{self, Masks, SamplerConfig};
use crate::tape::{Axis, BufferId, Tape};

/// What an executor is made of.
#[derive(Debug)]
pub struct ExecutorConfig {
    /// Instruction set of the kernels.
    pub isa: Isa,
    /// The rotation; must cover `arena.max_model_len` positions. Not needed by a tape without attention.
    pub rope: Option<RopeTables>,
    /// Sizes of the arena's slots.
    pub arena: arena::Layout,
    /// Sizes of the results' slots.
    pub results: results::Layout,
    /// Most tokens in a step.
    pub max_tokens: usize,
    /// What the sampler knows of the model.
    pub sampler: SamplerConfig,
}

/// Runs steps of one model.
pub struct Executor {
    tape: Tape,
    pool: Arc<Pool>,
    config: ExecutorConfig,
    cache: KvCache,
    rows: RowState,
    adapters: Adapters,
    /// One mapping for each place of the tape.
    workspace: Vec<Mapping>,
    plan: Option<AttentionPlan>,
    partials: Mapping,
    attention_scratch: Vec<attention::Scratch>,
    linear_scratch: linear::Scratch,
    sampler_scratch: Vec<run::Own<sampler::Scratch>>,
}

impl Executor {
    /// Checks that the parts fit each other and reserves all memory; what a step never touches takes none.
    ///
    /// # Errors
    /// [`ExecutorError`] naming the two parts that do not fit.
    pub fn new(
        tape: Tape,
        pool: Arc<Pool>,
        cache: KvCache,
        config: ExecutorConfig,
    ) -> Result<Self, ExecutorError> {
        check(&tape, &cache, &config)?;
        let (threads, layout) = (pool.count(), config.arena);
        let (max_rows, max_positions) = (layout.max_rows as usize, layout.max_model_len as usize);
        let workspace = tape
            .places
            .iter()
            .map(|place| {
                let rows = match place.axis {
                    Axis::Tokens => config.max_tokens,
                    Axis::Samples => max_rows + config.results.max_scores as usize,
                };
                Mapping::new(rows * place.stride() * size_of::<f32>())
            })
            .collect::<Result<_, _>>()?;
        let plan = tape.heads.map(|(heads, kv_heads, _)| {
            AttentionPlan::new(
                (heads, kv_heads),
                threads,
                (max_rows, config.max_tokens),
                max_positions,
            )
        });
        let (head_dim, value_dim) = (cache.config().head_dim, cache.config().value_dim());
        let partial_len = plan.as_ref().map_or(0, |plan| plan.partial_len(value_dim));
        Ok(Self {
            workspace,
            plan,
            partials: Mapping::new(partial_len * size_of::<f32>())?,
            attention_scratch: (0..threads)
                .map(|_| attention::Scratch::new(head_dim))
                .collect::<Result<_, _>>()?,
            linear_scratch: linear::Scratch::new(threads, tape.max_k)?,
            sampler_scratch: (0..threads)
                .map(|_| run::Own::new(sampler::Scratch::new(config.sampler.vocab)))
                .collect(),
            rows: RowState::new(
                layout,
                cache.config().num_blocks as u32,
                tape.vocab as u32,
                config.max_tokens,
                config.results.max_scores as usize,
            ),
            adapters: Adapters::default(),
            tape,
            pool,
            config,
            cache,
        })
    }

    /// Computes one step: reads an arena slot, writes a results slot. Rows that are constrained sample under `masks`.
    ///
    /// # Errors
    /// [`ExecError`]; nothing was sampled then, and the rows must be initialised again. A single row without finite logits is no
    /// error: its id in the results is [`sampler::FAILED`].
    pub fn step(&mut self, slot: &[u32], results: &mut [u32], masks: &dyn Masks) -> Result<(), ExecError> {
        let needed = self.config.results.slot_words();
        if results.len() < needed {
            return Err(ExecError::Results {
                given: results.len(),
                needed,
            });
        }
        let view = View::new(slot, self.config.arena)?;
        self.rows.apply(&view)?;
        if let Some(plan) = &mut self.plan {
            plan.cut(
                self.rows
                    .entries()
                    .iter()
                    .map(|entry| (entry.q_len, entry.computed)),
            );
        }
        let region = Region::new(self, results.as_mut_ptr(), masks);
        self.pool.run(&|worker| {
            // SAFETY: all workers enter one region of one step; the step borrows the executor and the results exclusively.
            unsafe { region.run(worker) }
        })?;
        region.outcome()?;
        for index in 0..self.rows.samples().len() {
            let sample = self.rows.samples()[index];
            let id = results[results::Layout::IDS + index];
            // A failed row's next token is never used, but must be one that can be looked up.
            self.rows
                .set_sampled(sample, if id == sampler::FAILED { 0 } else { id });
        }
        Ok(())
    }

    /// Puts an adapter at a number that rows can choose, from 1 on, or takes it away: rows that choose it then have none.
    ///
    /// # Errors
    /// [`AdapterError`] when its matrices do not fit the model.
    pub fn set_adapter(&mut self, number: u32, adapter: Option<Arc<Adapter>>) -> Result<(), AdapterError> {
        if let Some(adapter) = &adapter {
            adapter.check(&self.tape)?;
        }
        self.adapters.set(number as usize, adapter);
        Ok(())
    }

    /// The last step's logits after sampling, `[samples + scores, logits_dim]`. Penalties, masks and temperature have been applied in
    /// place to the rows that asked for them: a greedy row without any of these shows what the model computed.
    #[must_use]
    pub fn logits(&self) -> &[f32] {
        let logits = self.shared(self.tape.logits);
        let values = (self.rows.samples().len() + self.rows.scores().len()) * logits.dim;
        // SAFETY: no step runs while the executor is borrowed; the place has a row for each sample, without gaps.
        unsafe { std::slice::from_raw_parts(logits.row_ptr(0), values) }
    }

    /// The cache.
    #[must_use]
    pub fn cache(&self) -> &KvCache {
        &self.cache
    }

    /// The rows.
    #[must_use]
    pub fn rows(&self) -> &RowState {
        &self.rows
    }

    fn shared(&self, id: BufferId) -> SharedRows {
        let buffer = self.tape.buffer(id);
        SharedRows::new(
            self.workspace[buffer.place].as_ptr().cast(),
            buffer.dim,
            self.tape.places[buffer.place].stride(),
        )
    }
}

fn check(tape: &Tape, cache: &KvCache, config: &ExecutorConfig) -> Result<(), ExecutorError> {
    if !config.isa.is_available() {
        return Err(IsaError::Unavailable { given: config.isa }.into());
    }
    if config.arena.max_rows != config.results.max_rows || config.arena.max_rows == 0 {
        return Err(ExecutorError::Rows {
            arena: config.arena.max_rows,
            results: config.results.max_rows,
        });
    }
    if config.max_tokens == 0 {
        return Err(ExecutorError::MaxTokens);
    }
    if let Some(heads @ (_, kv_heads, head_dim)) = tape.heads {
        let found = cache.config();
        if found.layers < tape.layers || (found.kv_heads, found.head_dim) != (kv_heads, head_dim) {
            return Err(ExecutorError::Cache {
                given: (found.layers, found.kv_heads, found.head_dim),
                needed: (tape.layers, heads.1, heads.2),
            });
        }
        let positions = config.arena.max_model_len as usize;
        match &config.rope {
            None => return Err(ExecutorError::NoRope),
            Some(rope) if rope.positions() < positions || rope.rotary_dim() > head_dim => {
                return Err(ExecutorError::Rope {
                    positions: rope.positions(),
                    rotary_dim: rope.rotary_dim(),
                    max_model_len: positions,
                    head_dim,
                });
            }
            Some(_) => {}
        }
    }
    if config.sampler.vocab > tape.vocab {
        return Err(ExecutorError::Vocab {
            given: config.sampler.vocab,
            table: tape.vocab,
        });
    }
    Ok(config.sampler.check(tape.logits_dim())?)
}
