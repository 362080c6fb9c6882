//! Names and counts that every `/v1` answer carries.

use std::time::{SystemTime, UNIX_EPOCH};

use agentlm_core::FinishReason;
use agentlm_host::Finished;
use bytes::BytesMut;
use schemars::JsonSchema;
use serde::Serialize;

use crate::app::App;
use crate::config::V1Dialect;
use crate::flow::Output;
use crate::wire;

/// An answer's name, date and origin.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) id: String,
    /// Unix seconds.
    pub(crate) created: u64,
    pub(crate) model: String,
    pub(crate) fingerprint: String,
}

impl Identity {
    /// A new answer's. TGI leaves the id empty.
    pub(crate) fn new(app: &App, prefix: &str, model: String) -> Self {
        let id = match app.config.v1_dialect {
            V1Dialect::OpenAi => format!("{prefix}-{:016x}{:016x}", app.seeds.next(), app.seeds.next()),
            V1Dialect::Tgi => String::new(),
        };
        // A clock before 1970 is told as 1970.
        let created = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs();
        Self {
            id,
            created,
            model,
            fingerprint: app.fingerprint.clone(),
        }
    }
}

/// Tokens of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct Usage {
    pub(crate) prompt_tokens: u32,
    pub(crate) completion_tokens: u32,
    pub(crate) total_tokens: u32,
    /// OpenAI's; TGI has no such key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) prompt_tokens_details: Option<PromptDetails>,
}

/// Tokens of the prompt that were not computed anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct PromptDetails {
    pub(crate) cached_tokens: u32,
}

impl Usage {
    pub(crate) fn new(dialect: V1Dialect, prompt: u32, completion: u32, cached: u32) -> Self {
        let details = (dialect == V1Dialect::OpenAi).then_some(PromptDetails {
            cached_tokens: cached,
        });
        Self {
            prompt_tokens: prompt,
            completion_tokens: completion,
            total_tokens: prompt.saturating_add(completion),
            prompt_tokens_details: details,
        }
    }

    /// Of whole outputs, `n` of each prompt in a row: a prompt counts once however many choices it has.
    pub(crate) fn of(dialect: V1Dialect, outputs: &[Output], n: u32) -> Self {
        let each = || outputs.iter().map(|output| &output.finished);
        let firsts = || each().step_by(n.max(1) as usize);
        Self::new(
            dialect,
            firsts().map(|finished| finished.prompt_tokens).sum(),
            each().map(|finished| finished.generated_tokens).sum(),
            firsts().map(|finished| finished.cached_tokens).sum(),
        )
    }

    /// As JSON, by hand.
    pub(crate) fn write(&self, out: &mut BytesMut) {
        out.extend_from_slice(b"{\"prompt_tokens\":");
        wire::integer(out, self.prompt_tokens);
        out.extend_from_slice(b",\"completion_tokens\":");
        wire::integer(out, self.completion_tokens);
        out.extend_from_slice(b",\"total_tokens\":");
        wire::integer(out, self.total_tokens);
        if let Some(details) = &self.prompt_tokens_details {
            out.extend_from_slice(b",\"prompt_tokens_details\":{\"cached_tokens\":");
            wire::integer(out, details.cached_tokens);
            out.extend_from_slice(b"}");
        }
        out.extend_from_slice(b"}");
    }
}

/// Why a choice ended: OpenAI knows only `stop` and `length`, and a stop string, which cuts the text, comes first; TGI
/// tells a stop string apart.
pub(crate) fn finish_reason(dialect: V1Dialect, finished: &Finished) -> &'static str {
    match (dialect, finished.reason) {
        (V1Dialect::OpenAi, _) if finished.stop.is_some() => "stop",
        (_, FinishReason::Length) => "length",
        (_, FinishReason::EosToken) | (V1Dialect::OpenAi, FinishReason::StopSequence) => "stop",
        (V1Dialect::Tgi, FinishReason::StopSequence) => "stop_sequence",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_is_the_same_by_hand_and_by_serde() {
        for dialect in [V1Dialect::OpenAi, V1Dialect::Tgi] {
            let usage = Usage::new(dialect, 3, 4, 2);
            let mut out = BytesMut::new();
            usage.write(&mut out);
            assert_eq!(&out[..], serde_json::to_vec(&usage).unwrap());
        }
    }
}
