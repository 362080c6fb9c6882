//! The read side of an arena slot, for runners: accessors that copy nothing but single records.
//!
//! [`View::new`] checks the whole slot once (bounds, rows, positions), so that what it hands out afterwards
//! may index a runner's state. It refuses to know block counts and vocabularies: a runner checks ids itself.

use super::{ArenaError, Layout, MAGIC, NO_SAMPLE, VERSION, block_diff, entry, flag, header, init};
use crate::StepId;

/// What to compute for one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The request's row.
    pub row: u32,
    /// Index of its first token among the step's tokens.
    pub q_start: u32,
    /// Tokens computed in this step, ≥ 1.
    pub q_len: u32,
    /// Position of the first of them.
    pub computed: u32,
    /// Index among the step's samples; `None` when the chunk ends before the last known token.
    pub sample_index: Option<u32>,
    /// `computed + q_len`: where a sampled id goes in `row_tokens`. When the entry samples it is below `max_model_len`.
    pub sample_position: u32,
    /// Index of its first scored position among the step's scores.
    pub score_index: u32,
    /// Leading positions that are scored.
    pub n_scores: u32,
}

/// A row's sampling record and known tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Init<'a> {
    /// The row.
    pub row: u32,
    /// All known tokens, prompt first.
    pub tokens: &'a [u32],
    /// Offset of `tokens` in the token slab.
    pub tokens_start: u32,
    /// How many of the known tokens are the prompt.
    pub n_prompt: u32,
    /// [`flag`] bits.
    pub flags: u32,
    /// > 0 unless greedy.
    pub temperature: f32,
    /// 0 is off.
    pub top_k: u32,
    /// 1 is off.
    pub top_p: f32,
    /// 0 is off.
    pub min_p: f32,
    /// 1 is off.
    pub typical_p: f32,
    /// 1 is off.
    pub repetition_penalty: f32,
    /// 0 is off.
    pub frequency_penalty: f32,
    /// 0 is off.
    pub presence_penalty: f32,
    /// Seed of the noise.
    pub seed: u64,
    /// Which parallel sample of a prompt.
    pub sample_index: u32,
    /// Top-n log-probabilities wanted.
    pub top_n: u32,
    /// End-of-sequence ids are masked before this many generated tokens.
    pub min_new_tokens: u32,
    /// Biases of logits: an id and the bits of an f32, over and over.
    pub biases: &'a [u32],
    /// Which adapter's weights are added; 0 is none.
    pub adapter: u32,
}

impl Init<'_> {
    /// Whether the largest logit is taken without noise.
    #[must_use]
    pub const fn greedy(&self) -> bool {
        self.flags & flag::GREEDY != 0
    }
}

/// Changed cells of one row's block table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockDiff<'a> {
    /// The row.
    pub row: u32,
    /// First changed cell.
    pub start: u32,
    /// The new block ids.
    pub blocks: &'a [u32],
}

/// A checked slot.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    pub(super) words: &'a [u32],
}

impl<'a> View<'a> {
    /// Checks a slot against its layout.
    ///
    /// # Errors
    /// The first thing found wrong; the slot must then not be run.
    pub fn new(words: &'a [u32], layout: Layout) -> Result<Self, ArenaError> {
        let too_short = |needed| ArenaError::TooShort {
            given: words.len(),
            needed,
        };
        let head = words
            .get(..header::WORDS)
            .ok_or_else(|| too_short(header::WORDS))?;
        if head[header::MAGIC] != MAGIC {
            return Err(ArenaError::Magic {
                given: head[header::MAGIC],
            });
        }
        if head[header::VERSION] != VERSION {
            return Err(ArenaError::Version {
                given: head[header::VERSION],
            });
        }
        let used = (head[header::USED_WORDS] as usize).max(header::WORDS);
        let view = Self {
            words: words.get(..used).ok_or_else(|| too_short(used))?,
        };
        view.check(layout)?;
        Ok(view)
    }

    /// The step's number.
    #[must_use]
    pub fn step(&self) -> StepId {
        StepId(u64::from(self.head(header::STEP_LO)) | u64::from(self.head(header::STEP_HI)) << 32)
    }

    /// Entries in this step.
    #[must_use]
    pub fn n_entries(&self) -> u32 {
        self.head(header::N_ENTRIES)
    }

    /// Tokens in this step.
    #[must_use]
    pub fn n_tokens(&self) -> u32 {
        self.head(header::N_TOKENS)
    }

    /// Entries that sample.
    #[must_use]
    pub fn n_samples(&self) -> u32 {
        self.head(header::N_SAMPLES)
    }

    /// Scored positions.
    #[must_use]
    pub fn n_scores(&self) -> u32 {
        self.head(header::N_SCORES)
    }

    /// Largest `q_len`.
    #[must_use]
    pub fn max_q_len(&self) -> u32 {
        self.head(header::MAX_Q_LEN)
    }

    /// Largest `computed + q_len`.
    #[must_use]
    pub fn max_context(&self) -> u32 {
        self.head(header::MAX_CONTEXT)
    }

    /// Row initialisations in this step.
    #[must_use]
    pub fn n_inits(&self) -> u32 {
        self.head(header::N_INITS)
    }

    /// Block-table changes in this step.
    #[must_use]
    pub fn n_block_diffs(&self) -> u32 {
        self.head(header::N_BLOCK_DIFFS)
    }

    /// The used words: what a runner copies to its device.
    #[must_use]
    pub fn words(&self) -> &'a [u32] {
        self.words
    }

    /// The entries, in the order of their tokens.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = Entry> + use<'a> {
        let start = self.head(header::OFF_ENTRIES) as usize;
        self.words[start..start + self.n_entries() as usize * entry::WORDS]
            .chunks_exact(entry::WORDS)
            .map(|words| Entry {
                row: words[entry::ROW],
                q_start: words[entry::Q_START],
                q_len: words[entry::Q_LEN],
                computed: words[entry::COMPUTED],
                sample_index: match words[entry::SAMPLE_INDEX] {
                    NO_SAMPLE => None,
                    index => Some(index),
                },
                sample_position: words[entry::SAMPLE_POSITION],
                score_index: words[entry::SCORE_INDEX],
                n_scores: words[entry::N_SCORES],
            })
    }

    /// The row initialisations; to be applied before the block diffs.
    pub fn inits(&self) -> impl ExactSizeIterator<Item = Init<'a>> + use<'a> {
        let start = self.head(header::OFF_INITS) as usize;
        let tokens = self.tokens();
        self.words[start..start + self.n_inits() as usize * init::WORDS]
            .chunks_exact(init::WORDS)
            .map(move |words| decode_init(words, tokens))
    }

    /// The block-table changes; to be applied before the entries are run.
    pub fn block_diffs(&self) -> impl Iterator<Item = BlockDiff<'a>> + use<'a> {
        let mut rest = &self.words[self.head(header::OFF_BLOCK_DIFFS) as usize..];
        (0..self.n_block_diffs()).map(move |_| {
            let len = rest[block_diff::LEN] as usize;
            let (record, after) = rest.split_at(block_diff::WORDS + len);
            rest = after;
            BlockDiff {
                row: record[block_diff::ROW],
                start: record[block_diff::START],
                blocks: &record[block_diff::WORDS..],
            }
        })
    }

    /// The token slab.
    #[must_use]
    pub fn tokens(&self) -> &'a [u32] {
        &self.words[self.head(header::OFF_TOKENS) as usize..]
    }

    pub(super) fn head(&self, word: usize) -> u32 {
        self.words[word]
    }
}

fn decode_init<'a>(words: &[u32], slab: &'a [u32]) -> Init<'a> {
    let start = words[init::TOKENS_START];
    let biases = words[init::BIAS_START] as usize;
    Init {
        row: words[init::ROW],
        tokens: &slab[start as usize..start as usize + words[init::N_KNOWN] as usize],
        tokens_start: start,
        n_prompt: words[init::N_PROMPT],
        flags: words[init::FLAGS],
        temperature: f32::from_bits(words[init::TEMPERATURE]),
        top_k: words[init::TOP_K],
        top_p: f32::from_bits(words[init::TOP_P]),
        min_p: f32::from_bits(words[init::MIN_P]),
        typical_p: f32::from_bits(words[init::TYPICAL_P]),
        repetition_penalty: f32::from_bits(words[init::REPETITION_PENALTY]),
        frequency_penalty: f32::from_bits(words[init::FREQUENCY_PENALTY]),
        presence_penalty: f32::from_bits(words[init::PRESENCE_PENALTY]),
        seed: u64::from(words[init::SEED_LO]) | u64::from(words[init::SEED_HI]) << 32,
        sample_index: words[init::SAMPLE_INDEX],
        top_n: words[init::TOP_N],
        min_new_tokens: words[init::MIN_NEW_TOKENS],
        adapter: words[init::ADAPTER],
        biases: &slab[biases..biases + 2 * words[init::N_BIAS] as usize],
    }
}
