//! From collected runs to the chat answer.

use agentlm_text::Tokenizer;

use super::types::{AssistantMessage, ChatChoice, ChatCompletion};
use crate::config::V1Dialect;
use crate::flow::Output;
use crate::routes::openai::answer::{Identity, Usage, finish_reason};
use crate::routes::openai::logprobs;

/// The answer whose choices are `outputs`, in order.
pub(crate) fn response(
    identity: Identity,
    dialect: V1Dialect,
    outputs: Vec<Output>,
    with_logprobs: bool,
    tokenizer: &Tokenizer,
) -> ChatCompletion {
    let n = u32::try_from(outputs.len()).unwrap_or(u32::MAX);
    let usage = Usage::of(dialect, &outputs, n);
    let choice = |(index, output): (u32, Output)| ChatChoice {
        index,
        logprobs: with_logprobs.then(|| logprobs::chat(dialect, tokenizer, &output.tokens)),
        finish_reason: finish_reason(dialect, &output.finished),
        message: AssistantMessage {
            role: "assistant",
            content: output.finished.text,
        },
    };
    ChatCompletion {
        object: "chat.completion",
        id: identity.id,
        created: identity.created,
        model: identity.model,
        system_fingerprint: identity.fingerprint,
        choices: (0..).zip(outputs).map(choice).collect(),
        usage,
    }
}
