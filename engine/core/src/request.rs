//! A request: what is asked, why it may be refused, and its state inside the core. It refuses to know text.

use thiserror::Error;

use crate::block_pool::BlockRef;
use crate::params::{ParamError, SamplingParams};
use crate::prefix_cache::{BlockName, Chain};
use crate::rows::NO_ROW;
use crate::{BLOCK_SIZE, CoreConfig, RequestId, blocks_for, narrow};

/// A prompt to be continued.
#[derive(Clone, Debug)]
pub struct Request {
    /// Its name, never used before.
    pub id: RequestId,
    /// Token ids, at least one.
    pub prompt: Vec<u32>,
    /// How to sample and when to end.
    pub params: SamplingParams,
    /// Names model, adapter and weight version: only requests with equal seeds share cached blocks.
    pub cache_seed: u64,
    /// Each of its tokens is sampled under a mask that the host makes.
    pub constrained: bool,
    /// Which adapter's weights are added; 0 is none.
    pub adapter: u32,
}

/// Why a request was not taken. The texts are TGI's where TGI has one, without `Input validation error: `.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum Refusal {
    /// A sampling parameter is out of range.
    #[error(transparent)]
    Param(#[from] ParamError),
    /// No prompt token.
    #[error("`inputs` cannot be empty")]
    EmptyInputs,
    /// Prompt and output together are too long.
    #[error(
        "`inputs` tokens + `max_new_tokens` must be <= {max}. Given: {inputs} `inputs` tokens and {max_new} `max_new_tokens`"
    )]
    TotalTokens {
        /// `max_total_tokens`.
        max: u32,
        /// Prompt tokens.
        inputs: usize,
        /// Asked output tokens.
        max_new: u32,
    },
    /// The prompt is too long.
    #[error("`inputs` must have less than {max} tokens. Given: {given}")]
    InputTokens {
        /// `max_input_tokens`.
        max: u32,
        /// Prompt tokens.
        given: usize,
    },
    /// A prompt token that the model does not have.
    #[error("`inputs` token {position} has id {id}, but ids must be below {vocab_size}")]
    TokenOutOfRange {
        /// Its place in the prompt.
        position: usize,
        /// The id.
        id: u32,
        /// Ids are below this.
        vocab_size: u32,
    },
    /// A bias of a token that the model does not have.
    #[error("`logit_bias` names token {id}, but ids must be below {vocab_size}")]
    LogitBiasOutOfRange {
        /// The id.
        id: u32,
        /// Ids are below this.
        vocab_size: u32,
    },
    /// It could never run, even alone.
    #[error(
        "the request needs {needed} KV blocks but the cache has {total}; ask for fewer tokens or start with a larger cache"
    )]
    NeverFits {
        /// Blocks at its longest.
        needed: u32,
        /// Blocks there are.
        total: u32,
    },
    /// The id is in use.
    #[error("request id {} is in use; give each request a new id", .0.0)]
    DuplicateId(RequestId),
}

impl CoreConfig {
    /// The length at which a request for this prompt would end, prompt included. Checks in TGI's order, and needs
    /// no core: a caller learns of a refusal before anything is queued.
    ///
    /// # Errors
    /// Why it can never run as asked.
    pub fn check(&self, prompt: &[u32], params: &SamplingParams) -> Result<u32, Refusal> {
        let limits = &self.limits;
        params.validate(limits)?;
        let inputs = prompt.len();
        if inputs == 0 {
            return Err(Refusal::EmptyInputs);
        }
        let max = limits.max_total_tokens;
        let max_new = match params.max_new_tokens {
            Some(max_new) => max_new,
            None => max.saturating_sub(u32::try_from(inputs).unwrap_or(u32::MAX)),
        };
        if inputs as u64 + u64::from(max_new) > u64::from(max) {
            return Err(Refusal::TotalTokens { max, inputs, max_new });
        }
        if inputs > limits.max_input_tokens as usize {
            return Err(Refusal::InputTokens {
                max: limits.max_input_tokens,
                given: inputs,
            });
        }
        let vocab_size = self.vocab_size;
        if let Some(position) = prompt.iter().position(|&id| id >= vocab_size) {
            return Err(Refusal::TokenOutOfRange {
                position,
                id: prompt[position],
                vocab_size,
            });
        }
        if let Some(&(id, _)) = params.logit_bias.iter().find(|(id, _)| *id >= vocab_size) {
            return Err(Refusal::LogitBiasOutOfRange { id, vocab_size });
        }
        // The last token is sampled but never computed, so one position less than the length is enough.
        let max_len = narrow(inputs) + max_new;
        let total = self.num_blocks;
        if blocks_for(max_len - 1) <= total {
            return Ok(max_len);
        }
        match params.max_new_tokens {
            None if blocks_for(narrow(inputs)) <= total => Ok(total * BLOCK_SIZE + 1),
            _ => Err(Refusal::NeverFits {
                needed: blocks_for(max_len - 1),
                total,
            }),
        }
    }
}

/// A request between `submit` and its end; one slot of the core's slab, whose buffers are reused.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) id: RequestId,
    /// Order of arrival; both the running list and the queue are sorted by it.
    pub(crate) arrival: u64,
    /// Has had a row.
    pub(crate) started: bool,
    /// Counts the slot's owners, so that a step in flight recognises that its request has ended.
    pub(crate) generation: u32,
    /// Counts rows given up, so that a step in flight recognises that its request was preempted.
    pub(crate) residency: u32,
    pub(crate) row: u32,
    /// Positions whose KV is in the cache once all planned steps have run.
    pub(crate) computed: u32,
    /// Samples planned and not committed: known to the device, not yet to us.
    pub(crate) pending: u32,
    /// Known tokens at which the request ends.
    pub(crate) max_len: u32,
    pub(crate) n_prompt: u32,
    /// Leading prompt tokens whose log-probabilities are known once all planned steps have run, or are not asked for.
    pub(crate) scored: u32,
    /// Leading prompt tokens whose log-probabilities were reported.
    pub(crate) reported: u32,
    pub(crate) constrained: bool,
    pub(crate) adapter: u32,
    /// Full blocks that have been named, or were found by name.
    pub(crate) n_named: u32,
    /// Prompt and committed samples.
    pub(crate) tokens: Vec<u32>,
    /// The block table.
    pub(crate) blocks: Vec<BlockRef>,
    /// Names of the first full blocks; each is hashed once in a request's life.
    pub(crate) names: Vec<BlockName>,
    pub(crate) chain: Chain,
    pub(crate) params: SamplingParams,
}

impl State {
    pub(crate) fn vacant() -> Self {
        Self {
            id: RequestId(0),
            arrival: 0,
            started: false,
            generation: 0,
            residency: 0,
            row: NO_ROW,
            computed: 0,
            pending: 0,
            max_len: 0,
            n_prompt: 0,
            scored: 0,
            reported: 0,
            constrained: false,
            adapter: 0,
            n_named: 0,
            tokens: Vec::new(),
            blocks: Vec::new(),
            names: Vec::new(),
            chain: Chain::default(),
            params: SamplingParams::default(),
        }
    }

    /// Tokens known to us.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a request's length is checked at submit"
    )]
    pub(crate) const fn known(&self) -> u32 {
        self.tokens.len() as u32
    }

    /// Tokens known to the device once all planned steps have run.
    pub(crate) const fn known_to_device(&self) -> u32 {
        self.known() + self.pending
    }

    /// How many positions, from `computed` on, are followed by a prompt token that is still to be scored by a chunk that
    /// ends at `end`: all that precede a prompt token, or none when nothing new is among them.
    pub(crate) fn to_score(&self, computed: u32, end: u32) -> u32 {
        let last = end.min(self.n_prompt - 1);
        if last < self.scored {
            0
        } else {
            last.saturating_sub(computed)
        }
    }

    /// Hashes the full blocks among the first `tokens` known tokens that have no name yet.
    pub(crate) fn extend_names(&mut self, tokens: u32) {
        let block = BLOCK_SIZE as usize;
        for at in self.names.len()..(tokens / BLOCK_SIZE) as usize {
            self.names
                .push(self.chain.extend(&self.tokens[at * block..(at + 1) * block]));
        }
    }
}
