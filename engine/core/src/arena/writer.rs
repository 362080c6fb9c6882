//! The write side of an arena slot. Entries go straight into the slot; inits, block diffs and tokens are gathered
//! beside it, because their sections start where the entries end. It refuses to know why anything is planned.

use super::{Layout, MAGIC, NO_SAMPLE, VERSION, block_diff, entry, flag, header, init};
use crate::params::SamplingParams;
use crate::request::State;
use crate::{StepId, narrow};

/// Gathers one step; its buffers never grow past a slot's sections.
#[derive(Debug)]
pub(crate) struct Writer {
    layout: Layout,
    inits: Vec<u32>,
    block_diffs: Vec<u32>,
    tokens: Vec<u32>,
    n_entries: u32,
    n_tokens: u32,
    n_samples: u32,
    n_scores: u32,
    max_q_len: u32,
    max_context: u32,
    n_block_diffs: u32,
}

impl Writer {
    pub(crate) fn new(layout: Layout) -> Self {
        Self {
            layout,
            inits: Vec::with_capacity(layout.max_rows as usize * init::WORDS),
            block_diffs: Vec::with_capacity(layout.block_diff_words()),
            tokens: Vec::with_capacity(layout.slab_words()),
            n_entries: 0,
            n_tokens: 0,
            n_samples: 0,
            n_scores: 0,
            max_q_len: 0,
            max_context: 0,
            n_block_diffs: 0,
        }
    }

    /// Starts a step.
    pub(crate) fn begin(&mut self) {
        self.inits.clear();
        self.block_diffs.clear();
        self.tokens.clear();
        (self.n_entries, self.n_tokens, self.n_samples, self.n_block_diffs) = (0, 0, 0, 0);
        (self.n_scores, self.max_q_len, self.max_context) = (0, 0, 0);
    }

    pub(crate) const fn n_entries(&self) -> u32 {
        self.n_entries
    }

    pub(crate) const fn n_tokens(&self) -> u32 {
        self.n_tokens
    }

    /// The index that the next scored position gets.
    pub(crate) const fn n_scores(&self) -> u32 {
        self.n_scores
    }

    /// Whether a new row with so many known tokens, biases and blocks still fits this slot.
    pub(crate) fn fits(&self, n_known: usize, n_bias: usize, n_blocks: usize) -> bool {
        self.tokens.len() + n_known + 2 * n_bias <= self.layout.slab_words()
            && self.block_diffs.len() + block_diff::WORDS + n_blocks <= self.layout.block_diff_words()
    }

    /// Adds an entry; returns its index among the samples, or [`NO_SAMPLE`].
    pub(crate) fn entry(
        &mut self,
        slot: &mut [u32],
        row: u32,
        computed: u32,
        q_len: u32,
        samples: bool,
        n_scores: u32,
    ) -> u32 {
        let at = header::WORDS + self.n_entries as usize * entry::WORDS;
        let words = &mut slot[at..at + entry::WORDS];
        words.fill(0);
        let sample = if samples { self.n_samples } else { NO_SAMPLE };
        words[entry::ROW] = row;
        words[entry::Q_START] = self.n_tokens;
        words[entry::Q_LEN] = q_len;
        words[entry::COMPUTED] = computed;
        words[entry::SAMPLE_INDEX] = sample;
        words[entry::SAMPLE_POSITION] = computed + q_len;
        words[entry::SCORE_INDEX] = self.n_scores;
        words[entry::N_SCORES] = n_scores;
        self.n_entries += 1;
        self.n_tokens += q_len;
        self.n_samples += u32::from(samples);
        self.n_scores += n_scores;
        self.max_q_len = self.max_q_len.max(q_len);
        self.max_context = self.max_context.max(computed + q_len);
        sample
    }

    /// Adds a row's initialisation; [`Writer::fits`] was asked before.
    pub(crate) fn init(&mut self, state: &State) {
        let (tokens, params) = (&state.tokens, &state.params);
        let at = self.inits.len();
        self.inits.resize(at + init::WORDS, 0);
        let words = &mut self.inits[at..];
        words[init::ROW] = state.row;
        words[init::N_KNOWN] = narrow(tokens.len());
        words[init::TOKENS_START] = narrow(self.tokens.len());
        words[init::N_PROMPT] = state.n_prompt;
        words[init::FLAGS] = flags(params) | if state.constrained { flag::CONSTRAINED } else { 0 };
        words[init::TEMPERATURE] = params.temperature.to_bits();
        words[init::TOP_K] = params.top_k;
        words[init::TOP_P] = params.top_p.to_bits();
        words[init::MIN_P] = params.min_p.to_bits();
        words[init::TYPICAL_P] = params.typical_p.to_bits();
        words[init::REPETITION_PENALTY] = params.repetition_penalty.to_bits();
        words[init::FREQUENCY_PENALTY] = params.frequency_penalty.to_bits();
        words[init::PRESENCE_PENALTY] = params.presence_penalty.to_bits();
        [words[init::SEED_LO], words[init::SEED_HI]] = halves(params.seed);
        words[init::SAMPLE_INDEX] = params.sample_index;
        words[init::TOP_N] = params.top_n_tokens;
        words[init::MIN_NEW_TOKENS] = params.min_new_tokens;
        words[init::N_BIAS] = narrow(params.logit_bias.len());
        words[init::ADAPTER] = state.adapter;
        words[init::BIAS_START] = narrow(self.tokens.len() + tokens.len());
        self.tokens.extend_from_slice(tokens);
        let biases = params.logit_bias.iter();
        self.tokens
            .extend(biases.flat_map(|&(id, bias)| [id, bias.to_bits()]));
    }

    /// Adds changed block-table cells.
    pub(crate) fn block_diff(&mut self, row: u32, start: u32, blocks: impl ExactSizeIterator<Item = u32>) {
        self.block_diffs
            .extend_from_slice(&[row, start, narrow(blocks.len())]);
        self.block_diffs.extend(blocks);
        self.n_block_diffs += 1;
    }

    /// Puts the sections behind the entries and writes the header.
    pub(crate) fn finish(&self, slot: &mut [u32], step: StepId) {
        let off_inits = header::WORDS + self.n_entries as usize * entry::WORDS;
        let off_block_diffs = off_inits + self.inits.len();
        let off_tokens = off_block_diffs + self.block_diffs.len();
        let used = off_tokens + self.tokens.len();
        slot[off_inits..off_block_diffs].copy_from_slice(&self.inits);
        slot[off_block_diffs..off_tokens].copy_from_slice(&self.block_diffs);
        slot[off_tokens..used].copy_from_slice(&self.tokens);
        let head = &mut slot[..header::WORDS];
        head.fill(0);
        head[header::MAGIC] = MAGIC;
        head[header::VERSION] = VERSION;
        [head[header::STEP_LO], head[header::STEP_HI]] = halves(step.0);
        head[header::N_ENTRIES] = self.n_entries;
        head[header::N_TOKENS] = self.n_tokens;
        head[header::N_SAMPLES] = self.n_samples;
        head[header::MAX_Q_LEN] = self.max_q_len;
        head[header::MAX_CONTEXT] = self.max_context;
        head[header::N_INITS] = narrow(self.inits.len() / init::WORDS);
        head[header::N_BLOCK_DIFFS] = self.n_block_diffs;
        head[header::OFF_ENTRIES] = narrow(header::WORDS);
        head[header::OFF_INITS] = narrow(off_inits);
        head[header::OFF_BLOCK_DIFFS] = narrow(off_block_diffs);
        head[header::OFF_TOKENS] = narrow(off_tokens);
        head[header::USED_WORDS] = narrow(used);
        head[header::N_SCORES] = self.n_scores;
    }
}

fn flags(params: &SamplingParams) -> u32 {
    let bit = |on: bool, bit: u32| if on { bit } else { 0 };
    bit(params.temperature == 0.0, flag::GREEDY)
        | bit(params.logprobs, flag::LOGPROBS)
        | bit(params.raw_logprobs, flag::RAW_LOGPROBS)
        | bit(params.openai_penalties, flag::OPENAI_PENALTIES)
        | bit(params.watermark, flag::WATERMARK)
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the two halves are what is wanted"
)]
const fn halves(value: u64) -> [u32; 2] {
    [value as u32, (value >> 32) as u32]
}
