//! From collected runs to the completion answer.

use agentlm_text::Tokenizer;

use super::types::{Completion, CompletionChoice};
use crate::config::V1Dialect;
use crate::flow::Output;
use crate::routes::openai::answer::{Identity, Usage, finish_reason};
use crate::routes::openai::logprobs;

/// The answer whose choices are `outputs`: `n` of each prompt in a row, in the prompts' order. `echoes` has what comes
/// before the text of each prompt's choices.
pub(crate) fn response(
    identity: Identity,
    dialect: V1Dialect,
    (outputs, n): (Vec<Output>, u32),
    echoes: &[String],
    with_logprobs: bool,
    tokenizer: &Tokenizer,
) -> Completion {
    let usage = Usage::of(dialect, &outputs, n);
    let choice = |(index, output): (u32, Output)| CompletionChoice {
        index,
        logprobs: with_logprobs.then(|| logprobs::completion(tokenizer, &output.tokens, 0)),
        finish_reason: finish_reason(dialect, &output.finished),
        text: match echoes.get((index / n.max(1)) as usize) {
            Some(echo) => format!("{echo}{}", output.finished.text),
            None => output.finished.text,
        },
    };
    Completion {
        object: "text_completion",
        id: identity.id,
        created: identity.created,
        model: identity.model,
        system_fingerprint: identity.fingerprint,
        choices: (0..).zip(outputs).map(choice).collect(),
        usage,
    }
}
