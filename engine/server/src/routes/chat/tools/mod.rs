//! Tools in chat: what a request offers, how the model is told and held to it, and how its calls are told to the
//! client.

mod ids;
mod reader;
mod request;
mod schema;
mod stream;
mod words;

use agentlm_core::params::SamplingParams;
use agentlm_text::ToolEvent;
use serde_json::Value;

pub(super) use self::ids::{nine_characters, takes_nine_characters};
pub(super) use self::stream::ToolStream;
pub(super) use self::words::in_words;

use self::ids::CallIds;
use self::reader::{Reader, Shown};
use super::types::{AssistantMessage, CalledFunction, ToolCall};
use crate::app::App;
use crate::config::V1Dialect;
use crate::flow::Output;

/// Tools that the model may or must use.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tools {
    definitions: Vec<Value>,
    choice: Choice,
    /// Whether several calls may be made at once.
    parallel: bool,
    /// `tool_prompt`.
    prompt: Option<String>,
}

/// What the model is to do with its tools.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Choice {
    /// Call or speak.
    Auto,
    /// Call something.
    Required,
    /// Call this one.
    Named(String),
}

impl Tools {
    /// Each tool in OpenAI's shape: `type`, and a `function` of `name`, `description` and `parameters`.
    pub(super) fn definitions(&self) -> &[Value] {
        &self.definitions
    }

    /// The tools' names, in their order.
    fn names(&self) -> impl Iterator<Item = &str> {
        self.definitions
            .iter()
            .filter_map(|tool| tool.pointer("/function/name")?.as_str())
    }

    /// What is needed to read one answer's calls.
    pub(super) fn listener(&self, app: &App, params: &SamplingParams) -> Listener {
        Listener {
            reader: Reader::new(app, self, params),
            ids: CallIds::new(app),
        }
    }
}

/// Reads one answer and names its calls.
pub(super) struct Listener {
    reader: Reader,
    ids: CallIds,
}

/// `finish_reason` of an answer with calls.
fn called(dialect: V1Dialect, reason: &'static str) -> &'static str {
    match (dialect, reason) {
        (V1Dialect::OpenAi, "stop") => "tool_calls",
        _ => reason,
    }
}

/// A whole answer as a message, and why it ended if `reason` is why the text did.
pub(super) fn message(
    listener: Listener,
    dialect: V1Dialect,
    output: &Output,
    reason: &'static str,
) -> (AssistantMessage, &'static str) {
    let Listener { mut reader, ids } = listener;
    let mut events = Vec::new();
    for token in &output.tokens {
        reader.token(Shown::from(token), &mut events);
    }
    reader.finish(&output.finished, &mut events);
    let (mut text, mut calls) = (String::new(), Vec::new());
    for event in events {
        match event {
            ToolEvent::Text(more) => text.push_str(&more),
            ToolEvent::Start { index, name } => calls.push((index, name, String::new())),
            ToolEvent::Arguments { fragment, .. } => {
                if let Some((.., arguments)) = calls.last_mut() {
                    arguments.push_str(&fragment);
                }
            }
            ToolEvent::End { .. } => {}
            ToolEvent::Broken { index, raw } => {
                calls.retain(|call| call.0 != index);
                text.push_str(&raw);
            }
        }
    }
    let call = |(index, name, arguments)| ToolCall {
        id: ids.of(index),
        kind: "function",
        function: CalledFunction {
            description: (dialect == V1Dialect::Tgi).then_some(Value::Null),
            name,
            arguments,
        },
    };
    let tool_calls: Vec<ToolCall> = calls.into_iter().map(call).collect();
    let content = match (tool_calls.is_empty(), text.is_empty()) {
        (false, true) => (dialect == V1Dialect::OpenAi).then_some(None),
        _ => Some(Some(text)),
    };
    let reason = if tool_calls.is_empty() {
        reason
    } else {
        called(dialect, reason)
    };
    let message = AssistantMessage {
        role: "assistant",
        content,
        tool_calls,
    };
    (message, reason)
}
