//! Steps in flight: what was planned and waits for its results. It refuses to know requests.

use thiserror::Error;

use crate::StepId;

/// A commit that does not fit the steps in flight. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum StepError {
    /// Steps are committed in the order of their plans, each once.
    #[error("step {given} cannot be committed: {}", match next { Some(step) => format!("step {step} is next"), None => "no step is in flight".to_owned() })]
    OutOfOrder {
        /// The step given.
        given: u64,
        /// The step that is next, if any is in flight.
        next: Option<u64>,
    },
    /// The results slot is shorter than its layout.
    #[error("results slot has {given} words but its layout has {needed}; pass the whole slot")]
    ResultsTooShort {
        /// Words given.
        given: usize,
        /// Words needed.
        needed: usize,
    },
}

/// One entry of a step in flight.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Planned {
    /// The request's slot in the core's slab.
    pub(crate) slot: u32,
    /// The slot's generation: another one means that the request has ended.
    pub(crate) generation: u32,
    /// The request's residency: another one means that it was preempted.
    pub(crate) residency: u32,
    /// Positions whose KV is in the cache once the step has run.
    pub(crate) end: u32,
    /// Index among the samples, or [`crate::arena::NO_SAMPLE`].
    pub(crate) sample: u32,
    /// What it scores.
    pub(crate) scores: Scores,
}

/// A run of scored positions.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Scores {
    /// Index of the first among the step's scores.
    pub(crate) index: u32,
    /// The prompt token that the first one scores.
    pub(crate) token: u32,
    /// How many there are.
    pub(crate) n: u32,
}

/// The steps between plan and commit, and between plan and fence.
#[derive(Debug)]
pub(crate) struct Steps {
    /// Entries of step `s` at `s % 2`.
    entries: [Vec<Planned>; 2],
    planned: u64,
    committed: u64,
    fenced: u64,
}

impl Steps {
    pub(crate) fn new(max_entries: u32) -> Self {
        let list = || Vec::with_capacity(max_entries as usize);
        Self {
            entries: [list(), list()],
            planned: 0,
            committed: 0,
            fenced: 0,
        }
    }

    /// Steps planned and not committed.
    pub(crate) const fn in_flight(&self) -> u64 {
        self.planned - self.committed
    }

    /// The last step that a device may still be running, if any.
    pub(crate) const fn unfenced(&self) -> Option<u64> {
        if self.fenced < self.planned {
            Some(self.planned)
        } else {
            None
        }
    }

    /// The list that the next plan fills; empty it first.
    pub(crate) fn next_entries(&mut self) -> &mut Vec<Planned> {
        &mut self.entries[((self.planned + 1) % 2) as usize]
    }

    /// The entries of the step planned last.
    pub(crate) fn newest(&self) -> &[Planned] {
        &self.entries[(self.planned % 2) as usize]
    }

    pub(crate) fn launch(&mut self) -> StepId {
        self.planned += 1;
        StepId(self.planned)
    }

    /// Fails unless `step` is the next to be committed.
    pub(crate) fn check_next(&self, step: StepId) -> Result<(), StepError> {
        let next = (self.in_flight() > 0).then_some(self.committed + 1);
        if next == Some(step.0) {
            Ok(())
        } else {
            Err(StepError::OutOfOrder { given: step.0, next })
        }
    }

    /// Takes the next step's entries out; give them back with [`Steps::recycle`].
    pub(crate) fn take_next(&mut self) -> Vec<Planned> {
        self.committed += 1;
        std::mem::take(&mut self.entries[(self.committed % 2) as usize])
    }

    pub(crate) fn recycle(&mut self, entries: Vec<Planned>) {
        self.entries[(self.committed % 2) as usize] = entries;
    }

    /// Notes that every step up to `step` has left the device; returns the newest fenced step.
    pub(crate) fn fence(&mut self, step: StepId) -> u64 {
        self.fenced = self.fenced.max(step.0.min(self.planned));
        self.fenced
    }
}
