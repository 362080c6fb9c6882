//! What a request's caller hears from the output thread.

use std::time::Duration;

use agentlm_core::{FinishReason, TopToken};
use thiserror::Error;

/// One generated token.
#[derive(Clone, Copy, Debug)]
pub struct Token<'a> {
    /// 1 for the first generated token.
    pub index: u32,
    /// Vocabulary id.
    pub id: u32,
    /// Incremental decode with special tokens; empty while a character is incomplete (TGI's `tokens[].text`).
    pub text: &'a str,
    /// Visible text that this token released: no special tokens, nothing that may still become a stop string.
    pub delta: &'a str,
    /// Natural logarithm of its probability.
    pub logprob: f32,
    /// Whether the tokenizer calls it special.
    pub special: bool,
    /// Most likely tokens at this position, most likely first; empty unless asked for.
    pub top: &'a [TopToken],
}

/// One token of a scored prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct PromptToken {
    /// Vocabulary id.
    pub id: u32,
    /// Natural logarithm of its probability after those before it, by the model's own logits; none for the first.
    pub logprob: Option<f32>,
    /// Most likely tokens at its place, most likely first; empty unless asked for, and for the first.
    pub top: Vec<TopToken>,
}

/// Wall-clock marks of one request.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Timing {
    /// From submission to the first plan that includes it.
    pub queue: Duration,
    /// From submission to the first token.
    pub first_token: Duration,
    /// From submission to the end.
    pub total: Duration,
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Finished {
    /// Why.
    pub reason: FinishReason,
    /// Tokens generated, the end-of-sequence token included.
    pub generated_tokens: u32,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Prompt tokens whose KV came from the prefix cache.
    pub cached_tokens: u32,
    /// All visible text: without special tokens, cut at the stop string as the submission asked.
    pub text: String,
    /// The stop string that its last token completed, if any, whatever the reason: its index in the submission.
    pub stop: Option<usize>,
    /// Wall-clock marks.
    pub timing: Timing,
}

/// Why a request ended without an answer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RequestError {
    /// The core refused it; the text is the core's, with the numbers.
    #[error("{0}")]
    Refused(String),
    /// The caller dropped or aborted it.
    #[error("the request was aborted")]
    Aborted,
    /// The runner reported this request's own failure (for example logits that are not numbers).
    #[error("{0}")]
    Generation(String),
    /// The engine failed as a whole; the text says how.
    #[error("the engine failed: {0}")]
    EngineFailed(String),
    /// The engine was closed before the request ended.
    #[error("the engine was closed")]
    Closed,
}

/// Where one request's events go. Called on the output thread: it must return at once and never block.
pub trait Sink: Send {
    /// The whole prompt was scored, as the submission asked. Comes once, before the first token.
    fn prompt(&mut self, _prompt: &[PromptToken]) {}

    /// A token was generated. `end` is set with the last token; no call follows it.
    fn token(&mut self, token: &Token<'_>, end: Option<&Finished>);

    /// The request ended without an answer; no call follows.
    fn fail(&mut self, error: &RequestError);
}
