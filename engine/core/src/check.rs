//! The invariants that must hold between any two calls, checked in full. For tests: it walks everything.

use thiserror::Error;

use crate::rows::NO_ROW;
use crate::scheduler::Core;
use crate::{PoolCounts, blocks_for};

/// A broken invariant: a bug of this crate, never of its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CheckError {
    /// `free + cached + held + limbo` is not the pool's size.
    #[error("{counts:?} do not add up to {total} blocks")]
    Conservation {
        /// Blocks by place.
        counts: PoolCounts,
        /// The pool's size.
        total: usize,
    },
    /// One block is wrong.
    #[error("block {id} {what}")]
    Block {
        /// The block.
        id: u32,
        /// What is wrong with it.
        what: &'static str,
    },
    /// One row is wrong.
    #[error("row {row} belongs to {owners} owners, not one")]
    Row {
        /// The row.
        row: u32,
        /// Requests, free list and limbo that have it.
        owners: u32,
    },
    /// One request is wrong.
    #[error("request {id} {what}")]
    Request {
        /// The request.
        id: u64,
        /// What is wrong with it.
        what: &'static str,
    },
}

impl Core {
    /// Checks every invariant; costs time in proportion to the pool and to all requests.
    ///
    /// # Errors
    /// The first invariant found broken.
    pub fn check(&self) -> Result<(), CheckError> {
        self.check_requests()?;
        self.check_rows()?;
        let mut refs = vec![0_u32; self.config.num_blocks as usize];
        for &slot in &self.running {
            self.slots[slot as usize]
                .blocks
                .iter()
                .for_each(|block| refs[block.id() as usize] += 1);
        }
        self.pool.check(&refs)?;
        let limbo = self.pool.counts().limbo as usize + self.rows.limbo();
        if self.steps.unfenced().is_none() && limbo > 0 {
            return Err(CheckError::Block {
                id: u32::MAX,
                what: "or a row is in limbo without a step in flight",
            });
        }
        Ok(())
    }

    fn check_rows(&self) -> Result<(), CheckError> {
        let mut owners = vec![0_u32; self.config.max_running as usize];
        let held = self.running.iter().map(|&slot| self.slots[slot as usize].row);
        held.chain(self.rows.idle())
            .for_each(|row| owners[row as usize] += 1);
        match (0..).zip(owners).find(|&(_, owners)| owners != 1) {
            Some((row, owners)) => Err(CheckError::Row { row, owners }),
            None => Ok(()),
        }
    }

    fn check_requests(&self) -> Result<(), CheckError> {
        let mut last_arrival = None;
        for (place, &slot) in self.running.iter().chain(&self.waiting).enumerate() {
            let state = &self.slots[slot as usize];
            let wrong = |what| CheckError::Request { id: state.id.0, what };
            if last_arrival >= Some(state.arrival) {
                return Err(wrong("is out of the order of arrival"));
            }
            last_arrival = Some(state.arrival);
            if self.by_id.get(&state.id) != Some(&slot) {
                return Err(wrong("cannot be found by its id"));
            }
            if state.known() >= state.max_len {
                return Err(wrong("has reached its length and was not ended"));
            }
            let running = place < self.running.len();
            if running != (state.row != NO_ROW) {
                return Err(wrong("has a row without running, or runs without a row"));
            }
            let has = u32::try_from(state.blocks.len()).unwrap_or(u32::MAX);
            if running && has < blocks_for(state.computed) {
                return Err(wrong("computes where it has no block"));
            }
            if !running && (has > 0 || state.computed > 0) {
                return Err(wrong("waits with blocks or computed tokens"));
            }
        }
        if self.by_id.len() != self.running.len() + self.waiting.len() {
            return Err(CheckError::Request {
                id: u64::MAX,
                what: "is known by id but neither runs nor waits",
            });
        }
        Ok(())
    }
}
