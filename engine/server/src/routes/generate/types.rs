//! TGI's request and answer, as they are on the wire. Keys are in TGI's order. Nulls are taken for absence.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::body::Stop;
use crate::number::Single;
use crate::object::Object;
use crate::openapi::shapes;

/// What `/generate`, `/generate_stream` and `/` take.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct GenerateRequest {
    /// The prompt.
    #[schemars(length(min = 1))]
    pub(crate) inputs: String,
    /// Absent, the text is sampled; `{}` takes the likeliest tokens.
    #[serde(default)]
    pub(crate) parameters: Option<Object<GenerateParameters>>,
    /// The answer is a stream of events. Only `/` looks at it.
    #[serde(default)]
    #[schemars(extend("default" = false))]
    pub(crate) stream: Option<bool>,
}

/// TGI's parameters, and five that it lacks: `min_new_tokens`, `ignore_eos`, `min_p`, `presence_penalty`, `logit_bias`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub(crate) struct GenerateParameters {
    /// Runs, of which the likeliest is answered; 0 is 1. More than 1 need sampling, and 1 is all that a stream can have.
    #[schemars(extend("default" = 1, "x-cap" = {"maximum": "max-best-of"}))]
    pub(crate) best_of: Option<u64>,
    /// The larger, the more even the chances. Other than 1, it turns sampling on.
    #[schemars(extend("minimum" = 1e-15, "maximum" = 1e15, "default" = 1))]
    pub(crate) temperature: Option<Single>,
    /// Divides or multiplies the logits of tokens that are there already; 1 is off.
    #[schemars(extend("minimum" = 1e-15, "maximum" = 1e15, "default" = 1))]
    pub(crate) repetition_penalty: Option<Single>,
    /// Taken from a token's logit, times its share of all tokens.
    #[schemars(extend("minimum" = -2, "maximum" = 2, "default" = 0))]
    pub(crate) frequency_penalty: Option<Single>,
    /// Taken from the logits of tokens that are there already.
    #[schemars(extend("minimum" = -2, "maximum" = 2, "default" = 0))]
    pub(crate) presence_penalty: Option<Single>,
    /// Only so many of the likeliest tokens are drawn from. It turns sampling on.
    #[schemars(extend("minimum" = 1))]
    pub(crate) top_k: Option<i32>,
    /// Only the likeliest tokens that together have this share are drawn from; 1 is off. It turns sampling on.
    #[schemars(extend("exclusiveMinimum" = 0, "maximum" = 1, "default" = 1))]
    pub(crate) top_p: Option<Single>,
    /// Tokens below this share of the likeliest one's probability are not drawn; 0 is off. It turns sampling on.
    #[schemars(extend("minimum" = 0, "exclusiveMaximum" = 1, "default" = 0))]
    pub(crate) min_p: Option<Single>,
    /// Locally typical sampling; 1 is off. It turns sampling on.
    #[schemars(extend("exclusiveMinimum" = 0, "maximum" = 1, "default" = 1))]
    pub(crate) typical_p: Option<Single>,
    #[schemars(with = "Option<shapes::LogitBias>")]
    pub(crate) logit_bias: Option<Value>,
    /// Tokens are drawn; else the likeliest is taken.
    #[schemars(extend("default" = false))]
    pub(crate) do_sample: Option<bool>,
    /// Most tokens to generate; up to the context's end if absent.
    #[schemars(extend("minimum" = 1))]
    pub(crate) max_new_tokens: Option<u32>,
    /// The text is not ended by the model before it has this many tokens; at most `max_new_tokens`, and what
    /// fits behind the prompt.
    #[schemars(extend("default" = 0, "x-cap" = {"maximum": "max-total-tokens"}))]
    pub(crate) min_new_tokens: Option<u32>,
    /// The end-of-sequence token does not end the text.
    #[schemars(extend("default" = false))]
    pub(crate) ignore_eos: Option<bool>,
    /// The text begins with the prompt. Absent, it does so on `/` of a text-generation model and nowhere else.
    pub(crate) return_full_text: Option<bool>,
    #[schemars(with = "Option<shapes::StopSequences>")]
    pub(crate) stop: Option<Stop>,
    /// Only so many tokens of the prompt are kept, the last ones.
    #[schemars(extend("minimum" = 1, "x-cap" = {"maximum": "max-input-tokens"}))]
    pub(crate) truncate: Option<u64>,
    /// Tokens of a pseudo-random half of the vocabulary are favoured, so that the text can be recognised.
    #[schemars(extend("default" = false))]
    pub(crate) watermark: Option<bool>,
    /// The answer has `details`.
    #[schemars(extend("default" = false))]
    pub(crate) details: Option<bool>,
    /// The details tell the prompt's log-probabilities; not in a stream.
    #[schemars(extend("default" = false))]
    pub(crate) decoder_input_details: Option<bool>,
    /// The same seed draws the same tokens; drawn itself if absent. Not with several runs.
    pub(crate) seed: Option<u64>,
    /// So many of the likeliest tokens are told at each position.
    #[schemars(extend("default" = 0, "x-cap" = {"maximum": "max-top-n-tokens"}))]
    pub(crate) top_n_tokens: Option<u32>,
    #[schemars(with = "Option<shapes::GrammarType>")]
    pub(crate) grammar: Option<Value>,
    /// Name of a loaded adapter, or of the model.
    #[schemars(length(min = 1))]
    pub(crate) adapter_id: Option<String>,
}

/// What `/generate` answers.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct GenerateResponse {
    pub(crate) generated_text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) details: Option<Details>,
}

/// How the text came about.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Details {
    #[schemars(extend("enum" = ["length", "eos_token", "stop_sequence"]))]
    pub(crate) finish_reason: &'static str,
    pub(crate) generated_tokens: u32,
    /// Null if nothing was drawn.
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
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct BestOfSequence {
    pub(crate) generated_text: String,
    #[schemars(extend("enum" = ["length", "eos_token", "stop_sequence"]))]
    pub(crate) finish_reason: &'static str,
    pub(crate) generated_tokens: u32,
    pub(crate) seed: Option<u64>,
    pub(crate) prefill: Vec<PrefillToken>,
    pub(crate) tokens: Vec<TokenDetail>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) top_tokens: Vec<Vec<TokenDetail>>,
}

/// One token of the prompt.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct PrefillToken {
    pub(crate) id: u32,
    pub(crate) text: String,
    /// Null for the first, which follows nothing.
    pub(crate) logprob: Option<f32>,
}

/// One generated token.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct TokenDetail {
    pub(crate) id: u32,
    pub(crate) text: String,
    pub(crate) logprob: f32,
    pub(crate) special: bool,
}

/// One event of a stream. The bytes are [`super::stream`]'s.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "it says what is written by hand")]
pub(crate) struct StreamResponse {
    /// From 1 on.
    index: u32,
    token: TokenDetail,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    top_tokens: Vec<TokenDetail>,
    /// Null before the last event.
    generated_text: Option<String>,
    /// Null before the last event, and where they were not asked for.
    details: Option<StreamDetails>,
}

/// How a stream's text came about.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "it says what is written by hand")]
pub(crate) struct StreamDetails {
    #[schemars(extend("enum" = ["length", "eos_token", "stop_sequence"]))]
    finish_reason: String,
    generated_tokens: u32,
    /// Null if nothing was drawn.
    seed: Option<u64>,
    /// Tokens of the prompt.
    input_length: u32,
}
