//! TGI's request and answer, as they are on the wire. Keys are in TGI's order. Nulls are taken for absence.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::body::Stop;

/// What `/generate`, `/generate_stream`, `/tokenize` and `/` take.
#[derive(Debug, Deserialize)]
pub(crate) struct GenerateRequest {
    pub(crate) inputs: String,
    #[serde(default)]
    pub(crate) parameters: Option<GenerateParameters>,
    /// Only `/` looks at it.
    #[serde(default)]
    pub(crate) stream: Option<bool>,
}

/// TGI's parameters, and five that it lacks: `min_new_tokens`, `ignore_eos`, `min_p`, `presence_penalty`, `logit_bias`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct GenerateParameters {
    pub(crate) best_of: Option<u64>,
    pub(crate) temperature: Option<f32>,
    pub(crate) repetition_penalty: Option<f32>,
    pub(crate) frequency_penalty: Option<f32>,
    pub(crate) presence_penalty: Option<f32>,
    pub(crate) top_k: Option<i32>,
    pub(crate) top_p: Option<f32>,
    pub(crate) min_p: Option<f32>,
    pub(crate) typical_p: Option<f32>,
    pub(crate) logit_bias: Option<Value>,
    pub(crate) do_sample: Option<bool>,
    pub(crate) max_new_tokens: Option<u32>,
    pub(crate) min_new_tokens: Option<u32>,
    pub(crate) ignore_eos: Option<bool>,
    pub(crate) return_full_text: Option<bool>,
    pub(crate) stop: Option<Stop>,
    pub(crate) truncate: Option<u64>,
    pub(crate) watermark: Option<bool>,
    pub(crate) details: Option<bool>,
    pub(crate) decoder_input_details: Option<bool>,
    pub(crate) seed: Option<u64>,
    pub(crate) top_n_tokens: Option<u32>,
    pub(crate) grammar: Option<Value>,
    pub(crate) adapter_id: Option<String>,
}

/// What `/generate` answers.
#[derive(Debug, Serialize)]
pub(crate) struct GenerateResponse {
    pub(crate) generated_text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) details: Option<Details>,
}

/// How the text came about.
#[derive(Debug, Serialize)]
pub(crate) struct Details {
    pub(crate) finish_reason: &'static str,
    pub(crate) generated_tokens: u32,
    pub(crate) seed: Option<u64>,
    /// The prompt's, if they were asked for.
    pub(crate) prefill: Vec<PrefillToken>,
    pub(crate) tokens: Vec<TokenDetail>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) best_of_sequences: Option<Vec<BestOfSequence>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) top_tokens: Vec<Vec<TokenDetail>>,
}

/// One of the runs that were not the best.
#[derive(Debug, Serialize)]
pub(crate) struct BestOfSequence {
    pub(crate) generated_text: String,
    pub(crate) finish_reason: &'static str,
    pub(crate) generated_tokens: u32,
    pub(crate) seed: Option<u64>,
    pub(crate) prefill: Vec<PrefillToken>,
    pub(crate) tokens: Vec<TokenDetail>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) top_tokens: Vec<Vec<TokenDetail>>,
}

/// One token of the prompt.
#[derive(Debug, Serialize)]
pub(crate) struct PrefillToken {
    pub(crate) id: u32,
    pub(crate) text: String,
    /// Null for the first, which follows nothing.
    pub(crate) logprob: Option<f32>,
}

/// One generated token.
#[derive(Debug, Serialize)]
pub(crate) struct TokenDetail {
    pub(crate) id: u32,
    pub(crate) text: String,
    pub(crate) logprob: f32,
    pub(crate) special: bool,
}
