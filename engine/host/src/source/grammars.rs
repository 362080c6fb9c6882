//! The step source's side of grammars: which masks a planned step needs, and which tokens their grammars have to follow.

use std::sync::Arc;

use agentlm_core::{RequestId, Updates};
use rustc_hash::FxHashSet;

use super::StepSource;
use crate::grammar::{GrammarMessage, MaskSlot};

/// Who is constrained, and what was not asked for yet.
pub(super) struct Grammars {
    pub(super) masks: Arc<[MaskSlot]>,
    /// Requests that live and follow a grammar.
    constrained: FxHashSet<RequestId>,
    /// Masks of a step that follows one in flight: they wait for its tokens.
    unasked: Vec<GrammarMessage>,
}

impl Grammars {
    pub(super) fn new(masks: Arc<[MaskSlot]>) -> Self {
        Self {
            masks,
            constrained: FxHashSet::default(),
            unasked: Vec::new(),
        }
    }

    /// A constrained request has come.
    pub(super) fn follow(&mut self, request: RequestId) {
        self.constrained.insert(request);
    }
}

impl StepSource {
    /// Has the masks of the step just planned made.
    pub(super) fn ask_for_masks(&mut self, slot: usize) {
        let grammars = &mut self.grammars;
        if grammars.constrained.is_empty() {
            return;
        }
        let wanted = self.core.constrained();
        grammars
            .unasked
            .extend(wanted.map(|(request, sample)| GrammarMessage::Mask {
                request,
                slot,
                sample,
            }));
        grammars.masks[slot].expect(grammars.unasked.len());
        if self.in_flight == 0 {
            self.send_unasked();
        }
    }

    fn send_unasked(&mut self) {
        for message in self.grammars.unasked.drain(..) {
            // The grammar thread ends only after this one.
            let _ = self.shared.grammar.send(message);
        }
    }

    /// Lets the grammars follow what a commit brought; then the masks that waited for it can be made.
    pub(super) fn advance_grammars(&mut self, updates: &Updates) {
        for update in &updates.tokens {
            if update.finish.is_none() && self.grammars.constrained.contains(&update.request) {
                // As above.
                let message = GrammarMessage::Advance(update.request, update.token);
                let _ = self.shared.grammar.send(message);
            }
        }
        self.send_unasked();
    }

    /// A request has ended.
    pub(super) fn close_grammar(&mut self, request: RequestId) {
        if self.grammars.constrained.remove(&request) {
            // As above.
            let _ = self.shared.grammar.send(GrammarMessage::Close(request));
        }
    }

    /// Whether any request that lives follows a grammar.
    pub(super) fn has_constrained(&self) -> bool {
        !self.grammars.constrained.is_empty()
    }
}
