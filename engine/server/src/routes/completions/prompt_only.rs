//! Requests that want nothing but their prompt: the engine makes one token all the same, which nobody gets to see.

use agentlm_core::FinishReason;
use agentlm_host::{Finished, PromptToken, RequestError, Sink, Token};

/// Keeps the token from the sink behind it.
pub(super) struct PromptOnly<S>(pub(super) S);

impl<S: Sink> Sink for PromptOnly<S> {
    fn prompt(&mut self, prompt: &[PromptToken]) {
        self.0.prompt(prompt);
    }

    fn token(&mut self, token: &Token<'_>, end: Option<&Finished>) {
        let Some(finished) = end else { return };
        let unsaid = Token {
            text: "",
            delta: "",
            ..*token
        };
        let finished = Finished {
            reason: FinishReason::Length,
            generated_tokens: 0,
            text: String::new(),
            stop: None,
            ..finished.clone()
        };
        self.0.token(&unsaid, Some(&finished));
    }

    fn fail(&mut self, error: &RequestError) {
        self.0.fail(error);
    }
}
