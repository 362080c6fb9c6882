//! What one commit tells the output stage: a reusable buffer of token updates. It refuses to know text.

use std::ops::Range;

use crate::{FinishReason, RequestId};

/// A likely token at a sampled position.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TopToken {
    /// Token id.
    pub id: u32,
    /// Its log-probability.
    pub logprob: f32,
}

/// A request's first admission to a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Started {
    /// Whose it is.
    pub request: RequestId,
    /// Prompt tokens whose KV the prefix cache had.
    pub cached_tokens: u32,
}

/// One sampled token.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenUpdate {
    /// Whose it is.
    pub request: RequestId,
    /// The sampled id.
    pub token: u32,
    /// Its log-probability; meaningful only when the request asked for it.
    pub logprob: f32,
    /// Tokens generated so far, this one included.
    pub generated: u32,
    /// The request ended with this token.
    pub finish: Option<FinishReason>,
    /// Where its top-n lies; see [`Updates::top`].
    pub(crate) top: Range<u32>,
}

/// One scored prompt token.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoreUpdate {
    /// Whose it is.
    pub request: RequestId,
    /// Its place in the prompt, at least 1.
    pub position: u32,
    /// Its id.
    pub token: u32,
    /// Its log-probability; not a number where the model gave none.
    pub logprob: f32,
    /// Where its top-n lies; see [`Updates::score_top`].
    pub(crate) top: Range<u32>,
}

/// The result of one commit. Reuse one buffer: it stops allocating once it has seen the largest step.
#[derive(Debug, Default)]
pub struct Updates {
    /// Sampled tokens, at most one a request, in the order of the step's entries.
    pub tokens: Vec<TokenUpdate>,
    /// Scored prompt tokens, each once and in order; those of a request come before its first sampled token.
    pub scores: Vec<ScoreUpdate>,
    /// Requests that were first admitted since the last commit, by this step or by one planned after it.
    pub started: Vec<Started>,
    /// Requests that `abort` ended since the last commit (or since [`crate::Core::take_aborted`]).
    pub aborted: Vec<RequestId>,
    /// Requests that ended because their row had no valid sample; the other requests are not affected.
    pub failed: Vec<RequestId>,
    pub(crate) top: Vec<TopToken>,
}

impl Updates {
    /// An empty buffer.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The most likely tokens at an update's position, most likely first; empty unless asked for.
    #[must_use]
    pub fn top(&self, update: &TokenUpdate) -> &[TopToken] {
        self.top
            .get(update.top.start as usize..update.top.end as usize)
            .unwrap_or_default()
    }

    /// The most likely tokens at a scored position, most likely first; empty unless asked for.
    #[must_use]
    pub fn score_top(&self, update: &ScoreUpdate) -> &[TopToken] {
        self.top
            .get(update.top.start as usize..update.top.end as usize)
            .unwrap_or_default()
    }

    /// Whether there is nothing to tell.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
            && self.scores.is_empty()
            && self.started.is_empty()
            && self.aborted.is_empty()
            && self.failed.is_empty()
    }

    pub(crate) fn clear(&mut self) {
        self.tokens.clear();
        self.scores.clear();
        self.started.clear();
        self.aborted.clear();
        self.failed.clear();
        self.top.clear();
    }
}
