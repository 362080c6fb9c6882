//! Arena slots written by hand: what a planner would write, and what it must not.

#![allow(clippy::allow_attributes, dead_code, reason = "each binary uses a part")]

use agentlm_core::arena::{Layout, MAGIC, NO_SAMPLE, VERSION, block_diff, entry, flag, header, init};

/// A row's initialisation.
#[derive(Clone, Debug)]
pub struct Init {
    pub row: u32,
    pub tokens: Vec<u32>,
    pub n_prompt: u32,
    pub flags: u32,
    pub temperature: f32,
    pub top_k: u32,
    pub top_p: f32,
    pub seed: u64,
    pub sample_index: u32,
    pub top_n: u32,
    pub biases: Vec<(u32, f32)>,
}

impl Init {
    pub fn greedy(row: u32, tokens: &[u32]) -> Self {
        Self {
            row,
            tokens: tokens.to_vec(),
            n_prompt: tokens.len() as u32,
            flags: flag::GREEDY,
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            seed: 0,
            sample_index: 0,
            top_n: 0,
            biases: Vec::new(),
        }
    }

    fn words(&self, tokens_start: u32) -> [u32; init::WORDS] {
        let mut w = [0; init::WORDS];
        w[init::ROW] = self.row;
        w[init::N_KNOWN] = self.tokens.len() as u32;
        w[init::TOKENS_START] = tokens_start;
        w[init::N_PROMPT] = self.n_prompt;
        w[init::FLAGS] = self.flags;
        w[init::TEMPERATURE] = self.temperature.to_bits();
        w[init::TOP_K] = self.top_k;
        w[init::TOP_P] = self.top_p.to_bits();
        w[init::TYPICAL_P] = 1f32.to_bits();
        w[init::REPETITION_PENALTY] = 1f32.to_bits();
        w[init::SEED_LO] = self.seed as u32;
        w[init::SEED_HI] = (self.seed >> 32) as u32;
        w[init::SAMPLE_INDEX] = self.sample_index;
        w[init::TOP_N] = self.top_n;
        w[init::N_BIAS] = self.biases.len() as u32;
        w[init::BIAS_START] = tokens_start + self.tokens.len() as u32;
        w
    }

    fn slab(&self) -> Vec<u32> {
        let biases = self.biases.iter().flat_map(|&(id, bias)| [id, bias.to_bits()]);
        self.tokens.iter().copied().chain(biases).collect()
    }
}

/// One step under construction.
#[derive(Clone, Debug, Default)]
pub struct Slot {
    inits: Vec<Init>,
    diffs: Vec<u32>,
    n_diffs: u32,
    entries: Vec<u32>,
    tokens: u32,
    samples: u32,
    scores: u32,
}

impl Slot {
    pub fn init(mut self, init: Init) -> Self {
        self.inits.push(init);
        self
    }

    pub fn blocks(mut self, row: u32, start: u32, blocks: &[u32]) -> Self {
        let mut record = [0; block_diff::WORDS];
        record[block_diff::ROW] = row;
        record[block_diff::START] = start;
        record[block_diff::LEN] = blocks.len() as u32;
        self.diffs.extend(record);
        self.diffs.extend(blocks);
        self.n_diffs += 1;
        self
    }

    pub fn entry(self, row: u32, computed: u32, q_len: u32, sample: bool) -> Self {
        self.scored(row, computed, q_len, sample, 0)
    }

    /// An entry whose first `n_scores` positions are scored.
    pub fn scored(mut self, row: u32, computed: u32, q_len: u32, sample: bool, n_scores: u32) -> Self {
        let mut w = [0; entry::WORDS];
        w[entry::ROW] = row;
        w[entry::Q_START] = self.tokens;
        w[entry::Q_LEN] = q_len;
        w[entry::COMPUTED] = computed;
        w[entry::SAMPLE_INDEX] = if sample { self.samples } else { NO_SAMPLE };
        w[entry::SAMPLE_POSITION] = computed + q_len;
        w[entry::SCORE_INDEX] = self.scores;
        w[entry::N_SCORES] = n_scores;
        self.entries.extend(w);
        self.tokens += q_len;
        self.samples += u32::from(sample);
        self.scores += n_scores;
        self
    }

    pub fn words(&self, layout: Layout) -> Vec<u32> {
        let mut words = vec![0; header::WORDS];
        let at = |words: &Vec<u32>| words.len() as u32;
        let entries = at(&words);
        words.extend(&self.entries);
        let inits = at(&words);
        let mut start = 0;
        for init in &self.inits {
            words.extend(init.words(start));
            start += init.slab().len() as u32;
        }
        let diffs = at(&words);
        words.extend(&self.diffs);
        let tokens = at(&words);
        words.extend(self.inits.iter().flat_map(Init::slab));
        let used = at(&words);
        words[header::MAGIC] = MAGIC;
        words[header::VERSION] = VERSION;
        words[header::STEP_LO] = 1;
        words[header::N_ENTRIES] = (self.entries.len() / entry::WORDS) as u32;
        words[header::N_TOKENS] = self.tokens;
        words[header::N_SAMPLES] = self.samples;
        words[header::N_SCORES] = self.scores;
        words[header::N_INITS] = self.inits.len() as u32;
        words[header::N_BLOCK_DIFFS] = self.n_diffs;
        words[header::OFF_ENTRIES] = entries;
        words[header::OFF_INITS] = inits;
        words[header::OFF_BLOCK_DIFFS] = diffs;
        words[header::OFF_TOKENS] = tokens;
        words[header::USED_WORDS] = used;
        let max = |get: fn(&[u32]) -> u32| self.entries.chunks(entry::WORDS).map(get).max().unwrap_or(0);
        words[header::MAX_Q_LEN] = max(|e| e[entry::Q_LEN]);
        words[header::MAX_CONTEXT] = max(|e| e[entry::SAMPLE_POSITION]);
        words.resize(words.len().max(layout.slot_words()), 0);
        words
    }
}

/// A deterministic value in [-1, 1).
pub fn value(seed: u64, i: usize) -> f32 {
    let mut x = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ (i as u64).wrapping_mul(0xD1B5_4A32_D192_ED03);
    x = (x ^ (x >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x ^= x >> 32;
    (x & 0xFF_FFFF) as f32 / 8_388_608.0 - 1.0
}
