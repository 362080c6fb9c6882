//! What a caller hands in, and why it may be turned away at once.

use agentlm_core::Refusal;
use agentlm_core::params::SamplingParams;
use agentlm_text::GrammarState;
use thiserror::Error;

use crate::{AdapterRef, Sink};

/// A request on its way in.
pub struct Submission {
    /// Prompt token ids.
    pub prompt: Vec<u32>,
    /// Sampling parameters, stop strings among them.
    pub params: SamplingParams,
    /// Text ends after the stop string (TGI) rather than before it (OpenAI, Python).
    pub keep_stop: bool,
    /// Whose weights are added to the model's, if anyone's.
    pub adapter: AdapterRef,
    /// What its tokens must follow, if anything.
    pub grammar: Option<GrammarState>,
    /// Where the events go.
    pub sink: Box<dyn Sink>,
}

/// Why a submission was turned away.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum SubmitError {
    /// Too many requests are unfinished.
    #[error("Model is overloaded")]
    Overloaded,
    /// A parameter is out of range or the prompt does not fit; the text is TGI's where TGI has one.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The engine finishes what it has.
    #[error("the engine is shutting down")]
    Draining,
    /// The engine is closed.
    #[error("the engine is closed")]
    Closed,
    /// The engine failed.
    #[error("the engine failed: {0}")]
    Failed(String),
}
