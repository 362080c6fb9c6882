//! The device state of requests: known tokens, block tables and sampling records by row, and one step's expansion of
//! entries into tokens. Refuses to know the model and the planner's reasons.

use agentlm_core::BLOCK_SIZE;
use agentlm_core::arena::{Entry, Init, Layout, View, flag};
use thiserror::Error;

/// A plan that this runner cannot follow. Nothing of the step was computed.
#[derive(Clone, Copy, Debug, PartialEq, Error)]
pub enum RowsError {
    /// A block outside the cache.
    #[error(
        "row {row}, block-table cell {cell}: block {given} does not exist; the cache has {num_blocks} blocks"
    )]
    Block {
        /// The row.
        row: u32,
        /// Cell of its table.
        cell: u32,
        /// The block given.
        given: u32,
        /// Blocks of the cache.
        num_blocks: u32,
    },
    /// Cells were left out.
    #[error(
        "row {row}: block-table cells from {start} on were given, but only {cells} cells before them are known"
    )]
    Gap {
        /// The row.
        row: u32,
        /// First cell given.
        start: u32,
        /// Cells known.
        cells: u32,
    },
    /// An entry reaches beyond its blocks.
    #[error("row {row}: {positions} positions need {needed} blocks, but its table has {cells}")]
    Blocks {
        /// The row.
        row: u32,
        /// Positions after the step.
        positions: u32,
        /// Blocks they need.
        needed: u32,
        /// Cells known.
        cells: u32,
    },
    /// A token outside the vocabulary.
    #[error("row {row}, position {position}: token {given} does not exist; the vocabulary has {vocab} ids")]
    Token {
        /// The row.
        row: u32,
        /// Position of the token.
        position: u32,
        /// The id given.
        given: u32,
        /// Ids that the embedding table has.
        vocab: u32,
    },
    /// More tokens than the runner reserved for.
    #[error("the step has {given} tokens; this executor was built for at most {max}")]
    Tokens {
        /// Tokens given.
        given: usize,
        /// Most tokens.
        max: usize,
    },
    /// More scored positions than the results have room for.
    #[error("the step scores {given} positions; the results have room for {max}")]
    Scores {
        /// Positions given.
        given: usize,
        /// Most positions.
        max: usize,
    },
    /// A bias that is no number, or of a token outside the vocabulary.
    #[error("row {row}: a bias of {value} for token {id} cannot be used; the vocabulary has {vocab} ids")]
    Bias {
        /// The row.
        row: u32,
        /// The token.
        id: u32,
        /// The bias.
        value: f32,
        /// Ids that exist.
        vocab: u32,
    },
    /// Two entries for one row.
    #[error("row {row} has two entries in one step; join them")]
    Twice {
        /// The row.
        row: u32,
    },
    /// A sampling record outside its ranges.
    #[error("row {row}: `{field}` is {given}, which cannot be sampled with")]
    Sampling {
        /// The row.
        row: u32,
        /// The field's name.
        field: &'static str,
        /// Its value.
        given: f32,
    },
}

/// How one row is sampled: the init's record.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SamplingRecord {
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
    /// Length of the prompt.
    pub n_prompt: u32,
}

impl SamplingRecord {
    fn read(init: &Init<'_>) -> Result<Self, RowsError> {
        let check = |field, given: f32, ok: bool| {
            if ok {
                Ok(())
            } else {
                Err(RowsError::Sampling {
                    row: init.row,
                    field,
                    given,
                })
            }
        };
        let positive = |x: f32| x > 0.0 && x.is_finite();
        check(
            "temperature",
            init.temperature,
            init.greedy() || positive(init.temperature),
        )?;
        check("top_p", init.top_p, init.top_p > 0.0 && init.top_p <= 1.0)?;
        check("min_p", init.min_p, (0.0..=1.0).contains(&init.min_p))?;
        check(
            "typical_p",
            init.typical_p,
            init.typical_p > 0.0 && init.typical_p <= 1.0,
        )?;
        check(
            "repetition_penalty",
            init.repetition_penalty,
            positive(init.repetition_penalty),
        )?;
        check(
            "frequency_penalty",
            init.frequency_penalty,
            init.frequency_penalty.is_finite(),
        )?;
        check(
            "presence_penalty",
            init.presence_penalty,
            init.presence_penalty.is_finite(),
        )?;
        Ok(Self {
            flags: init.flags,
            temperature: init.temperature,
            top_k: init.top_k,
            top_p: init.top_p,
            min_p: init.min_p,
            typical_p: init.typical_p,
            repetition_penalty: init.repetition_penalty,
            frequency_penalty: init.frequency_penalty,
            presence_penalty: init.presence_penalty,
            seed: init.seed,
            sample_index: init.sample_index,
            top_n: init.top_n,
            min_new_tokens: init.min_new_tokens,
            n_prompt: init.n_prompt,
        })
    }

    /// Whether a [`flag`] bit is set.
    #[must_use]
    pub const fn has(&self, bit: u32) -> bool {
        self.flags & bit != 0
    }

    /// Whether the largest logit is taken.
    #[must_use]
    pub const fn greedy(&self) -> bool {
        self.has(flag::GREEDY)
    }
}

/// One sample of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SampleRow {
    /// The request's row.
    pub row: u32,
    /// Index of its last token among the step's tokens.
    pub token: u32,
    /// Where the sampled id goes in the row's tokens; the position of the noise.
    pub position: u32,
}

/// One scored position of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScoreRow {
    /// The request's row.
    pub row: u32,
    /// Index among the step's tokens.
    pub token: u32,
    /// The prompt token that follows it.
    pub next: u32,
}

/// What rows keep between steps, and one step's tokens.
#[derive(Debug)]
pub struct RowState {
    layout: Layout,
    num_blocks: u32,
    vocab: u32,
    max_tokens: usize,
    max_scores: usize,
    row_tokens: Vec<u32>,
    block_tables: Vec<u32>,
    /// Leading cells of each table that were given since the row's last init.
    cells: Vec<u32>,
    records: Vec<SamplingRecord>,
    /// Biases of each row's logits.
    biases: Vec<Vec<(u32, f32)>>,
    /// Each row's adapter; 0 is none.
    adapters: Vec<u32>,
    /// Number of the last `apply` that had an entry for the row.
    used_in: Vec<u64>,
    applied: u64,
    entries: Vec<Entry>,
    token_ids: Vec<u32>,
    positions: Vec<u32>,
    slots: Vec<u32>,
    samples: Vec<SampleRow>,
    scores: Vec<ScoreRow>,
    /// Each token's adapter; empty if none has one.
    token_adapters: Vec<u32>,
}

impl RowState {
    /// State for a layout's rows, a cache of `num_blocks` blocks, an embedding table of `vocab` ids and steps of at most
    /// `max_tokens` tokens, `max_scores` of which are scored.
    #[must_use]
    pub fn new(layout: Layout, num_blocks: u32, vocab: u32, max_tokens: usize, max_scores: usize) -> Self {
        let rows = layout.max_rows as usize;
        Self {
            layout,
            num_blocks,
            vocab,
            max_tokens,
            max_scores,
            row_tokens: vec![0; rows * layout.max_model_len as usize],
            block_tables: vec![0; rows * layout.blocks_per_row()],
            cells: vec![0; rows],
            records: vec![SamplingRecord::default(); rows],
            biases: vec![Vec::new(); rows],
            adapters: vec![0; rows],
            token_adapters: Vec::with_capacity(max_tokens),
            used_in: vec![0; rows],
            applied: 0,
            entries: Vec::with_capacity(rows),
            token_ids: Vec::with_capacity(max_tokens),
            positions: Vec::with_capacity(max_tokens),
            slots: Vec::with_capacity(max_tokens),
            samples: Vec::with_capacity(rows),
            scores: Vec::with_capacity(max_scores),
        }
    }

    /// Applies a slot's inits and block diffs, and expands its entries. Allocates nothing but room for a row's first biases.
    ///
    /// # Errors
    /// [`RowsError`] naming what was given. Rows may then hold a part of the slot; they must be initialised again.
    pub fn apply(&mut self, view: &View<'_>) -> Result<(), RowsError> {
        self.entries.clear();
        self.token_ids.clear();
        self.positions.clear();
        self.slots.clear();
        self.samples.clear();
        self.scores.clear();
        self.token_adapters.clear();
        self.applied += 1;
        for init in view.inits() {
            self.apply_init(&init)?;
        }
        for diff in view.block_diffs() {
            self.apply_blocks(diff.row, diff.start, diff.blocks)?;
        }
        let given = view.n_tokens() as usize;
        if given > self.max_tokens {
            return Err(RowsError::Tokens {
                given,
                max: self.max_tokens,
            });
        }
        let given = view.n_scores() as usize;
        if given > self.max_scores {
            return Err(RowsError::Scores {
                given,
                max: self.max_scores,
            });
        }
        for entry in view.entries() {
            self.expand(entry)?;
        }
        let has_adapter = |entry: &Entry| self.adapters[entry.row as usize] != 0;
        if self.entries.iter().any(has_adapter) {
            for entry in &self.entries {
                let adapter = self.adapters[entry.row as usize];
                let end = (entry.q_start + entry.q_len) as usize;
                self.token_adapters.resize(end, adapter);
            }
        }
        Ok(())
    }

    fn apply_init(&mut self, init: &Init<'_>) -> Result<(), RowsError> {
        let row = init.row;
        if let Some((position, &given)) = init.tokens.iter().enumerate().find(|&(_, &id)| id >= self.vocab) {
            return Err(RowsError::Token {
                row,
                position: position as u32,
                given,
                vocab: self.vocab,
            });
        }
        self.records[row as usize] = SamplingRecord::read(init)?;
        self.adapters[row as usize] = init.adapter;
        let biases = &mut self.biases[row as usize];
        biases.clear();
        for pair in init.biases.chunks_exact(2) {
            let (id, value) = (pair[0], f32::from_bits(pair[1]));
            if id >= self.vocab || !value.is_finite() {
                let vocab = self.vocab;
                return Err(RowsError::Bias {
                    row,
                    id,
                    value,
                    vocab,
                });
            }
            biases.push((id, value));
        }
        self.cells[row as usize] = 0;
        let start = row as usize * self.layout.max_model_len as usize;
        self.row_tokens[start..start + init.tokens.len()].copy_from_slice(init.tokens);
        Ok(())
    }

    fn apply_blocks(&mut self, row: u32, start: u32, blocks: &[u32]) -> Result<(), RowsError> {
        let cells = self.cells[row as usize];
        if start > cells {
            return Err(RowsError::Gap { row, start, cells });
        }
        if let Some((i, &given)) = blocks
            .iter()
            .enumerate()
            .find(|&(_, &block)| block >= self.num_blocks)
        {
            return Err(RowsError::Block {
                row,
                cell: start + i as u32,
                given,
                num_blocks: self.num_blocks,
            });
        }
        let at = row as usize * self.layout.blocks_per_row() + start as usize;
        self.block_tables[at..at + blocks.len()].copy_from_slice(blocks);
        self.cells[row as usize] = cells.max(start + blocks.len() as u32);
        Ok(())
    }

    fn expand(&mut self, entry: Entry) -> Result<(), RowsError> {
        let row = entry.row;
        let (needed, cells) = (
            entry.sample_position.div_ceil(BLOCK_SIZE),
            self.cells[row as usize],
        );
        if needed > cells {
            return Err(RowsError::Blocks {
                row,
                positions: entry.sample_position,
                needed,
                cells,
            });
        }
        if std::mem::replace(&mut self.used_in[row as usize], self.applied) == self.applied {
            return Err(RowsError::Twice { row });
        }
        let tokens = row as usize * self.layout.max_model_len as usize;
        let table = row as usize * self.layout.blocks_per_row();
        let range = tokens + entry.computed as usize..tokens + entry.sample_position as usize;
        self.token_ids.extend_from_slice(&self.row_tokens[range]);
        self.positions.extend(entry.computed..entry.sample_position);
        let blocks = &self.block_tables[table..table + needed as usize];
        self.slots.extend(
            (entry.computed..entry.sample_position).map(|position| {
                blocks[(position / BLOCK_SIZE) as usize] * BLOCK_SIZE + position % BLOCK_SIZE
            }),
        );
        for i in 0..entry.n_scores {
            let next = self.row_tokens[tokens + (entry.computed + i) as usize + 1];
            let token = entry.q_start + i;
            // It indexes a row of logits.
            if next >= self.vocab {
                return Err(RowsError::Token {
                    row,
                    position: entry.computed + i + 1,
                    given: next,
                    vocab: self.vocab,
                });
            }
            self.scores.push(ScoreRow { row, token, next });
        }
        if entry.sample_index.is_some() {
            let token = entry.q_start + entry.q_len - 1;
            self.samples.push(SampleRow {
                row,
                token,
                position: entry.sample_position,
            });
        }
        self.entries.push(entry);
        Ok(())
    }

    /// The step's entries.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Token ids of the step, in the order of the entries.
    #[must_use]
    pub fn token_ids(&self) -> &[u32] {
        &self.token_ids
    }

    /// Their positions.
    #[must_use]
    pub fn positions(&self) -> &[u32] {
        &self.positions
    }

    /// Their slots in the cache: `block * 16 + offset`.
    #[must_use]
    pub fn slots(&self) -> &[u32] {
        &self.slots
    }

    /// The step's samples, by sample index.
    #[must_use]
    pub fn samples(&self) -> &[SampleRow] {
        &self.samples
    }

    /// The step's scored positions, by score index.
    #[must_use]
    pub fn scores(&self) -> &[ScoreRow] {
        &self.scores
    }

    /// Index among the step's tokens of each position whose logits are wanted: the samples', then the scores'.
    #[must_use]
    pub fn logits_token(&self, index: usize) -> usize {
        let token = match self.samples.get(index) {
            Some(sample) => sample.token,
            None => self.scores[index - self.samples.len()].token,
        };
        token as usize
    }

    /// Each token's adapter, 0 being none; empty if no token of the step has one.
    #[must_use]
    pub fn token_adapters(&self) -> &[u32] {
        &self.token_adapters
    }

    /// Biases of a row's logits.
    #[must_use]
    pub fn biases(&self, row: u32) -> &[(u32, f32)] {
        &self.biases[row as usize]
    }

    /// A row's block table; cells that were never given hold any block of the cache.
    #[must_use]
    pub fn blocks(&self, row: u32) -> &[u32] {
        let cells = self.layout.blocks_per_row();
        &self.block_tables[row as usize * cells..(row as usize + 1) * cells]
    }

    /// A row's sampling record.
    #[must_use]
    pub fn record(&self, row: u32) -> &SamplingRecord {
        &self.records[row as usize]
    }

    /// The first `n` tokens of a row.
    #[must_use]
    pub fn tokens(&self, row: u32, n: u32) -> &[u32] {
        let start = row as usize * self.layout.max_model_len as usize;
        &self.row_tokens[start..start + n as usize]
    }

    /// Writes a sampled id at its position.
    pub fn set_sampled(&mut self, sample: SampleRow, id: u32) {
        let at = sample.row as usize * self.layout.max_model_len as usize + sample.position as usize;
        self.row_tokens[at] = id;
    }
}
