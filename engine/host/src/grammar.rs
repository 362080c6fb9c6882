//! The grammar thread: follows each constrained request through its grammar and makes the masks of a step's samples while the
//! step runs. A grammar that fails ends its own request; the step and the others go on.

use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use agentlm_core::RequestId;
use agentlm_text::{GrammarError, GrammarState};
use parking_lot::{Condvar, Mutex};
use rustc_hash::FxHashMap;

use crate::RequestError;
use crate::handle::{Command, Shared};
use crate::output::OutputMessage;
use crate::queue::Receiver;

/// What reaches the grammar thread, in order: a request's tokens come before the mask of its next one.
pub(crate) enum GrammarMessage {
    /// A constrained request is on its way to the engine.
    Open(RequestId, Box<GrammarState>),
    /// It sampled a token.
    Advance(RequestId, u32),
    /// A planned step samples its next token.
    Mask {
        request: RequestId,
        slot: usize,
        sample: u32,
    },
    /// It has ended.
    Close(RequestId),
    /// The engine is closed; the thread ends.
    Stop,
}

/// The masks of one step, one a sample: bit `id % 32` of word `id / 32` says whether an id is allowed.
pub struct MaskSlot {
    words: UnsafeCell<Box<[u32]>>,
    words_per_mask: usize,
    /// Masks of the step that are not made yet.
    pending: Mutex<usize>,
    made: Condvar,
}

// SAFETY: the words are written by the grammar thread while masks are pending and read by runners when none is; the step
// protocol lets a slot be planned again only after its step was committed.
unsafe impl Sync for MaskSlot {}

impl MaskSlot {
    pub(crate) fn new(max_samples: usize, vocab_size: usize) -> Self {
        let words_per_mask = vocab_size.div_ceil(32);
        Self {
            // Zeroed memory that is never written takes no place.
            words: UnsafeCell::new(vec![0; max_samples * words_per_mask].into()),
            words_per_mask,
            pending: Mutex::new(0),
            made: Condvar::new(),
        }
    }

    /// So many masks will be made for the step just planned.
    pub(crate) fn expect(&self, masks: usize) {
        *self.pending.lock() = masks;
    }

    fn make(&self, sample: u32, fill: impl FnOnce(&mut [u32])) {
        let start = sample as usize * self.words_per_mask;
        // SAFETY: this mask is pending, so no runner reads, and only the grammar thread writes.
        let words = unsafe { &mut *self.words.get() };
        fill(&mut words[start..start + self.words_per_mask]);
        let mut pending = self.pending.lock();
        *pending = pending.saturating_sub(1);
        if *pending == 0 {
            self.made.notify_all();
        }
    }

    /// The mask of a constrained sample of the step; waits until all of the step's masks are made. A runner may ask between
    /// the step's plan and its commit.
    #[must_use]
    pub fn of_sample(&self, index: usize) -> &[u32] {
        let mut pending = self.pending.lock();
        while *pending > 0 {
            self.made.wait(&mut pending);
        }
        drop(pending);
        // SAFETY: nothing is pending, so nobody writes before the next plan, which follows the commit.
        let words = unsafe { &*self.words.get() };
        let start = index * self.words_per_mask;
        &words[start..start + self.words_per_mask]
    }
}

/// The thread's own state.
pub(crate) struct GrammarStage {
    states: FxHashMap<RequestId, Box<GrammarState>>,
    slots: Arc<[MaskSlot]>,
    shared: Arc<Shared>,
}

impl GrammarStage {
    pub fn new(slots: Arc<[MaskSlot]>, shared: Arc<Shared>) -> Self {
        Self {
            states: FxHashMap::default(),
            slots,
            shared,
        }
    }

    /// Serves messages until [`GrammarMessage::Stop`].
    pub fn run(mut self, messages: &Receiver<GrammarMessage>) {
        loop {
            match messages.recv() {
                GrammarMessage::Open(request, state) => {
                    self.states.insert(request, state);
                }
                GrammarMessage::Advance(request, token) => {
                    self.with(request, |state| state.advance(token));
                }
                GrammarMessage::Mask {
                    request,
                    slot,
                    sample,
                } => self.mask(request, slot, sample),
                GrammarMessage::Close(request) => {
                    self.states.remove(&request);
                }
                GrammarMessage::Stop => return,
            }
        }
    }

    fn mask(&mut self, request: RequestId, slot: usize, sample: u32) {
        let slots = self.slots.clone();
        slots[slot].make(sample, |mask| {
            if !self.with(request, |state| state.fill_mask(mask)) {
                // It has ended meanwhile: what it samples is not used.
                mask.fill(u32::MAX);
            }
        });
    }

    /// Works on a request's state; false if it has none or has just lost it.
    fn with(
        &mut self,
        request: RequestId,
        work: impl FnOnce(&mut GrammarState) -> Result<(), GrammarError>,
    ) -> bool {
        let Some(state) = self.states.get_mut(&request) else {
            return false;
        };
        // A state that panicked is not used again.
        let why = match catch_unwind(AssertUnwindSafe(|| work(state))) {
            Ok(Ok(())) => return true,
            Ok(Err(error)) => format!("the grammar cannot be followed: {error}"),
            Err(_) => "the grammar cannot be followed: its parser panicked".to_owned(),
        };
        self.states.remove(&request);
        // Either thread may be gone already; then the request has ended with it.
        let _ = self
            .shared
            .output
            .send(OutputMessage::End(request, RequestError::Generation(why)));
        let _ = self.shared.commands.send(Command::Abort(request));
        false
    }
}
