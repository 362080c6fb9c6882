//! The read side of an arena slot, for runners: accessors that copy nothing but single records.
//!
//! [`View::new`] checks the whole slot once (bounds, rows, positions), so that what it hands out afterwards
//! may index a runner's state. It refuses to know block counts and vocabularies: a runner checks ids itself.

use thiserror::Error;

use super::{Layout, MAGIC, NO_SAMPLE, VERSION, block_diff, entry, flag, header, init};
use crate::StepId;

/// A slot that is not what this build's core writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ArenaError {
    /// Fewer words than a header, or than the header says are used.
    #[error("arena slot has {given} words but {needed} are needed; pass the whole slot")]
    TooShort {
        /// Words given.
        given: usize,
        /// Words needed.
        needed: usize,
    },
    /// The first word is not [`MAGIC`].
    #[error("arena slot starts with {given:#010x}, not {MAGIC:#010x}; it was not written by a planner")]
    Magic {
        /// The word found.
        given: u32,
    },
    /// Another layout version.
    #[error("arena layout version {given} is not {VERSION}; use a runner and a core of one build")]
    Version {
        /// The version found.
        given: u32,
    },
    /// A section reaches beyond the used words, or a record beyond its section.
    #[error("arena section `{section}` ends at word {end} but only {limit} words may be used")]
    Bounds {
        /// The section's name.
        section: &'static str,
        /// One past its last word.
        end: usize,
        /// The most words allowed.
        limit: usize,
    },
    /// A field is outside the layout, or contradicts another.
    #[error("arena `{section}` record {index}: `{field}` is {given}, which the layout does not allow")]
    Field {
        /// The section's name.
        section: &'static str,
        /// The record's index in it.
        index: usize,
        /// The field's name.
        field: &'static str,
        /// Its value.
        given: u32,
    },
}

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
    words: &'a [u32],
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
        view.section(
            "entries",
            header::OFF_ENTRIES,
            view.n_entries() as usize * entry::WORDS,
        )?;
        view.section("inits", header::OFF_INITS, view.n_inits() as usize * init::WORDS)?;
        view.section("block_diffs", header::OFF_BLOCK_DIFFS, 0)?;
        view.section("tokens", header::OFF_TOKENS, 0)?;
        view.check_inits(layout)?;
        view.check_block_diffs(layout)?;
        view.check_entries(layout)?;
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

    fn head(&self, word: usize) -> u32 {
        self.words[word]
    }

    fn section(&self, section: &'static str, offset: usize, words: usize) -> Result<(), ArenaError> {
        let start = self.words.get(offset).map_or(0, |&word| word as usize);
        let end = start + words;
        if start < header::WORDS || end > self.words.len() {
            return Err(ArenaError::Bounds {
                section,
                end,
                limit: self.words.len(),
            });
        }
        Ok(())
    }

    fn check_inits(&self, layout: Layout) -> Result<(), ArenaError> {
        let start = self.head(header::OFF_INITS) as usize;
        let slab = self.tokens().len();
        let records = self.words[start..]
            .chunks_exact(init::WORDS)
            .take(self.n_inits() as usize);
        for (index, words) in records.enumerate() {
            let field = |field, given| ArenaError::Field {
                section: "inits",
                index,
                field,
                given,
            };
            if words[init::ROW] >= layout.max_rows {
                return Err(field("row", words[init::ROW]));
            }
            let n_known = words[init::N_KNOWN];
            if n_known > layout.max_model_len {
                return Err(field("n_known", n_known));
            }
            if words[init::N_PROMPT] > n_known {
                return Err(field("n_prompt", words[init::N_PROMPT]));
            }
            let end = words[init::TOKENS_START] as usize + n_known as usize;
            if end > slab {
                return Err(ArenaError::Bounds {
                    section: "tokens",
                    end,
                    limit: slab,
                });
            }
        }
        Ok(())
    }

    fn check_block_diffs(&self, layout: Layout) -> Result<(), ArenaError> {
        let limit = self.words.len();
        let mut at = self.head(header::OFF_BLOCK_DIFFS) as usize;
        for index in 0..self.n_block_diffs() as usize {
            let field = |field, given| ArenaError::Field {
                section: "block_diffs",
                index,
                field,
                given,
            };
            let bounds = |end| ArenaError::Bounds {
                section: "block_diffs",
                end,
                limit,
            };
            let record = self
                .words
                .get(at..at + block_diff::WORDS)
                .ok_or(bounds(at + block_diff::WORDS))?;
            if record[block_diff::ROW] >= layout.max_rows {
                return Err(field("row", record[block_diff::ROW]));
            }
            let cells = record[block_diff::START] as usize + record[block_diff::LEN] as usize;
            if cells > layout.blocks_per_row() {
                return Err(field("start + len", u32::try_from(cells).unwrap_or(u32::MAX)));
            }
            at += block_diff::WORDS + record[block_diff::LEN] as usize;
            if at > limit {
                return Err(bounds(at));
            }
        }
        Ok(())
    }

    fn check_entries(&self, layout: Layout) -> Result<(), ArenaError> {
        let (mut tokens, mut samples, mut max_q_len, mut max_context) = (0_u32, 0_u32, 0, 0);
        for (index, entry) in self.entries().enumerate() {
            let field = |field, given| ArenaError::Field {
                section: "entries",
                index,
                field,
                given,
            };
            if entry.row >= layout.max_rows {
                return Err(field("row", entry.row));
            }
            if entry.q_start != tokens {
                return Err(field("q_start", entry.q_start));
            }
            let end = u64::from(entry.computed) + u64::from(entry.q_len);
            if entry.q_len == 0 || end > u64::from(layout.max_model_len) {
                return Err(field("q_len", entry.q_len));
            }
            if u64::from(entry.sample_position) != end {
                return Err(field("sample_position", entry.sample_position));
            }
            if let Some(sample) = entry.sample_index {
                // The sampled id needs a cell of `row_tokens`.
                if sample != samples || entry.sample_position >= layout.max_model_len {
                    return Err(field("sample_index", sample));
                }
                samples += 1;
            }
            tokens = tokens
                .checked_add(entry.q_len)
                .ok_or(field("q_len", entry.q_len))?;
        }
        let total = |field, given| ArenaError::Field {
            section: "header",
            index: 0,
            field,
            given,
        };
        let totals = [
            (
                "n_entries",
                self.n_entries(),
                self.n_entries().min(layout.max_rows),
            ),
            ("n_tokens", self.n_tokens(), tokens),
            ("n_samples", self.n_samples(), samples),
            ("max_q_len", self.max_q_len(), max_q_len),
            ("max_context", self.max_context(), max_context),
        ];
        match totals.iter().find(|(_, given, counted)| given != counted) {
            Some(&(field, given, _)) => Err(total(field, given)),
            None => Ok(()),
        }
    }
}

fn decode_init<'a>(words: &[u32], slab: &'a [u32]) -> Init<'a> {
    let start = words[init::TOKENS_START];
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
    }
}
