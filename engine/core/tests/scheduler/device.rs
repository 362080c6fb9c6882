//! The model runner: rows, block tables and KV as a device keeps them. It knows the arena and nothing of the core.

use std::collections::HashMap;

use agentlm_core::BLOCK_SIZE;
use agentlm_core::arena::{self, View};
use agentlm_core::results;

use crate::reference;

/// What was found wrong.
pub type Fault = String;

/// Fills what no step has written.
const POISON: u32 = 0xdead_beef;

/// Fails with a message unless the condition holds.
macro_rules! demand {
    ($holds:expr, $($message:tt)+) => {
        if !$holds {
            return Err(format!($($message)+));
        }
    };
}
pub(crate) use demand;

#[derive(Clone, Copy, Default)]
pub struct Cell {
    value: u64,
    /// The step that wrote it.
    pub step: u64,
    /// The serial number of the request that wrote it.
    pub writer: u32,
}

#[derive(Clone, Default)]
pub struct Row {
    tokens: Vec<u32>,
    table: Vec<u32>,
    seed: u64,
    n_prompt: u32,
    min_new_tokens: u32,
    top_n: u32,
}

impl Row {
    pub fn table(&self) -> &[u32] {
        &self.table
    }

    /// The serial number of the row's request: the low half of its seed.
    pub fn serial(&self) -> u32 {
        u32::try_from(self.seed & 0xffff_ffff).expect("a half")
    }
}

pub struct Device {
    layout: arena::Layout,
    results: results::Layout,
    pub rows: Vec<Row>,
    pub kv: Vec<Cell>,
}

impl Device {
    pub fn new(layout: arena::Layout, results: results::Layout, num_blocks: u32) -> Self {
        Self {
            layout,
            results,
            rows: vec![Row::default(); layout.max_rows as usize],
            kv: vec![Cell::default(); (num_blocks * BLOCK_SIZE) as usize],
        }
    }

    /// Runs one slot and fills one results slot.
    pub fn run(&mut self, slot: &[u32], results: &mut [u32]) -> Result<(), Fault> {
        let view = View::new(slot, self.layout).map_err(|error| error.to_string())?;
        self.apply(&view)?;
        let step = view.step().0;
        let mut writers = HashMap::new();
        for entry in view.entries() {
            let row = &self.rows[entry.row as usize];
            for position in entry.computed..entry.sample_position {
                let token = row.tokens.get(position as usize).copied().unwrap_or(POISON);
                demand!(
                    token != POISON,
                    "step {step}: row {} computes an unknown token at {position}",
                    entry.row
                );
                let at = self.address(row, position)?;
                let other = *writers.entry(at as u32 / BLOCK_SIZE).or_insert(entry.row);
                demand!(
                    other == entry.row,
                    "step {step}: rows {other} and {} write one block",
                    entry.row
                );
                let value = reference::kv(token, position, reference::cache_seed(row.seed));
                self.kv[at] = Cell {
                    value,
                    step,
                    writer: row.serial(),
                };
            }
        }
        for entry in view.entries() {
            let context = self.read(entry.row, entry.sample_position, step, &writers)?;
            self.score(entry, results);
            let Some(sample) = entry.sample_index else {
                continue;
            };
            let row = &mut self.rows[entry.row as usize];
            let position = entry.sample_position;
            let id = reference::sample(context, row.seed, position, row.n_prompt, row.min_new_tokens);
            row.tokens[position as usize] = id;
            let sample = sample as usize;
            results[sample] = id;
            results[self.results.logprobs() + sample] = reference::logprob(id, position).to_bits();
            for n in 0..row.top_n {
                let at = sample * self.results.top_cap as usize + n as usize;
                results[self.results.top_ids() + at] = id + n;
                results[self.results.top_logprobs() + at] = reference::logprob(id + n, position).to_bits();
            }
        }
        Ok(())
    }

    fn score(&self, entry: arena::Entry, results: &mut [u32]) {
        let row = &self.rows[entry.row as usize];
        for i in 0..entry.n_scores {
            let (position, index) = (entry.computed + i + 1, (entry.score_index + i) as usize);
            let id = row.tokens[position as usize];
            results[self.results.score_logprobs() + index] = reference::logprob(id, position).to_bits();
            for n in 0..row.top_n {
                let at = index * self.results.top_cap as usize + n as usize;
                results[self.results.score_top_ids() + at] = id + n;
                results[self.results.score_top_logprobs() + at] =
                    reference::logprob(id + n, position).to_bits();
            }
        }
    }

    fn apply(&mut self, view: &View) -> Result<(), Fault> {
        for init in view.inits() {
            let row = &mut self.rows[init.row as usize];
            row.tokens = vec![POISON; self.layout.max_model_len as usize];
            row.tokens[..init.tokens.len()].copy_from_slice(init.tokens);
            row.table = vec![POISON; self.layout.blocks_per_row()];
            row.seed = init.seed;
            row.n_prompt = init.n_prompt;
            row.min_new_tokens = init.min_new_tokens;
            row.top_n = init.top_n;
        }
        for diff in view.block_diffs() {
            let (start, table) = (diff.start as usize, &mut self.rows[diff.row as usize].table);
            demand!(
                start + diff.blocks.len() <= table.len(),
                "a diff for row {} that has no table",
                diff.row
            );
            table[start..start + diff.blocks.len()].copy_from_slice(diff.blocks);
        }
        Ok(())
    }

    /// Reads the whole context through the block table, checking every position.
    fn read(&self, row: u32, len: u32, step: u64, writers: &HashMap<u32, u32>) -> Result<u64, Fault> {
        let state = &self.rows[row as usize];
        let mut context = 0;
        for position in 0..len {
            let at = self.address(state, position)?;
            let writer = writers.get(&(at as u32 / BLOCK_SIZE));
            demand!(
                writer.is_none_or(|&writer| writer == row),
                "step {step}: row {row} reads a block that row {writer:?} writes"
            );
            let token = state.tokens[position as usize];
            let expected = reference::kv(token, position, reference::cache_seed(state.seed));
            let found = self.kv[at].value;
            demand!(
                found == expected,
                "step {step}: row {row} reads foreign KV at position {position}"
            );
            context = reference::absorb(context, found);
        }
        Ok(context)
    }

    /// Where a row's position lies in the cache.
    pub fn address(&self, row: &Row, position: u32) -> Result<usize, Fault> {
        let block = row
            .table
            .get((position / BLOCK_SIZE) as usize)
            .copied()
            .unwrap_or(POISON);
        let at = block as usize * BLOCK_SIZE as usize + (position % BLOCK_SIZE) as usize;
        demand!(
            at < self.kv.len(),
            "position {position} has no block (id {block:#x})"
        );
        Ok(at)
    }
}
