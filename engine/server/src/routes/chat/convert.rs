//! From collected runs to the chat answer.

use super::tools;
use super::types::{AssistantMessage, ChatChoice, ChatCompletion};
use super::validate::Valid;
use crate::app::App;
use crate::flow::Output;
use crate::routes::openai::answer::{Identity, Usage, finish_reason};
use crate::routes::openai::logprobs;

/// The answer whose choices are `outputs`, in order.
pub(crate) fn response(app: &App, identity: Identity, valid: &Valid, outputs: Vec<Output>) -> ChatCompletion {
    let dialect = app.config.v1_dialect;
    let n = u32::try_from(outputs.len()).unwrap_or(u32::MAX);
    let usage = Usage::of(dialect, &outputs, n);
    let choice = |(index, output): (u32, Output)| {
        let logprobs = valid
            .logprobs
            .then(|| logprobs::chat(dialect, &app.tokenizer, &output.tokens));
        let reason = finish_reason(dialect, &output.finished);
        let (message, finish_reason) = match &valid.tools {
            None => (spoken(output.finished.text), reason),
            Some(tools) => {
                let listener = tools.listener(app, &valid.sampling.params);
                tools::message(listener, dialect, &output, reason)
            }
        };
        ChatChoice {
            index,
            message,
            logprobs,
            finish_reason,
        }
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

fn spoken(text: String) -> AssistantMessage {
    AssistantMessage {
        role: "assistant",
        content: Some(Some(text)),
        tool_calls: Vec::new(),
    }
}
