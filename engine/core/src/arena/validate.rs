//! What makes an arena slot safe to run: every offset, row and position within the layout.

use thiserror::Error;

use super::{Layout, MAGIC, VERSION, View, block_diff, entry, header, init};

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

impl View<'_> {
    /// Checks everything behind the magic, the version and the used length.
    pub(super) fn check(&self, layout: Layout) -> Result<(), ArenaError> {
        self.section(
            "entries",
            header::OFF_ENTRIES,
            self.n_entries() as usize * entry::WORDS,
        )?;
        self.section("inits", header::OFF_INITS, self.n_inits() as usize * init::WORDS)?;
        self.section("block_diffs", header::OFF_BLOCK_DIFFS, 0)?;
        self.section("tokens", header::OFF_TOKENS, 0)?;
        self.check_inits(layout)?;
        self.check_block_diffs(layout)?;
        self.check_entries(layout)
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
            let tokens_end = words[init::TOKENS_START] as usize + n_known as usize;
            let biases_end = words[init::BIAS_START] as usize + 2 * words[init::N_BIAS] as usize;
            let end = tokens_end.max(biases_end);
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
        let (mut tokens, mut samples, mut scores) = (0_u32, 0_u32, 0_u32);
        let (mut max_q_len, mut max_context) = (0, 0);
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
            if entry.n_scores > 0 && entry.score_index != scores {
                return Err(field("score_index", entry.score_index));
            }
            // The last one is followed by a known token.
            let scored = u64::from(entry.computed) + u64::from(entry.n_scores);
            if entry.n_scores > entry.q_len || scored >= u64::from(layout.max_model_len) {
                return Err(field("n_scores", entry.n_scores));
            }
            scores += entry.n_scores;
            tokens = tokens
                .checked_add(entry.q_len)
                .ok_or(field("q_len", entry.q_len))?;
            max_q_len = max_q_len.max(entry.q_len);
            max_context = max_context.max(entry.sample_position);
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
            ("n_scores", self.n_scores(), scores),
            ("max_q_len", self.max_q_len(), max_q_len),
            ("max_context", self.max_context(), max_context),
        ];
        match totals.iter().find(|(_, given, counted)| given != counted) {
            Some(&(field, given, _)) => Err(total(field, given)),
            None => Ok(()),
        }
    }
}
