//! OpenAI's sampling fields, and those of ours beside them, checked and turned into the engine's.

use std::collections::BTreeMap;

use agentlm_core::params::{Limits, MAX_LOGIT_BIAS, ParamError, SamplingParams};
use agentlm_text::Grammar;
use serde::Deserialize;
use serde_json::Value;

use super::format::Formats;
use crate::app::App;
use crate::body::Stop;
use crate::config::V1Dialect;
use crate::error::ApiError;
use crate::number::Seed;

/// The fields as they came.
#[derive(Debug, Default)]
pub(crate) struct Fields {
    pub(crate) temperature: Option<f32>,
    pub(crate) top_p: Option<f32>,
    pub(crate) top_k: Option<i32>,
    pub(crate) min_p: Option<f32>,
    pub(crate) typical_p: Option<f32>,
    pub(crate) repetition_penalty: Option<f32>,
    pub(crate) frequency_penalty: Option<f32>,
    pub(crate) presence_penalty: Option<f32>,
    pub(crate) max_tokens: Option<u32>,
    pub(crate) min_tokens: Option<u32>,
    pub(crate) ignore_eos: Option<bool>,
    pub(crate) stop: Option<Stop>,
    pub(crate) seed: Option<Seed>,
    pub(crate) n: Option<u32>,
    pub(crate) logit_bias: Option<Value>,
    /// How many likely tokens are wanted at each position, if log-probabilities are wanted at all.
    pub(crate) top_logprobs: Option<u32>,
    pub(crate) formats: Formats,
}

/// Fields in range.
#[derive(Debug)]
pub(crate) struct Sampling {
    /// Ready but for the length and the seed.
    pub(crate) params: SamplingParams,
    pub(crate) seed: Option<u64>,
    /// Choices a prompt.
    pub(crate) n: u32,
    /// What the text must follow, if anything.
    pub(crate) grammar: Option<Grammar>,
}

impl Fields {
    /// Checks the fields. Unlike the native routes an absent temperature samples, 0 is greedy, and penalties follow
    /// OpenAI's formulas. Errors are TGI's: [`super::names`] knows what the route says instead.
    pub(crate) fn validate(self, limits: &Limits) -> Result<Sampling, ApiError> {
        let refuse = |text: String| Err(ApiError::Validation(text));
        let n = self.n.unwrap_or(1);
        let max = limits.max_best_of.max(1);
        if n == 0 || n > max {
            return refuse(format!("`n` must be > 0 and <= {max}. Given: {n}"));
        }
        // OpenAI allows 0: nothing but the most likely token is left.
        let greedy = self.top_p == Some(0.0);
        let mut params = SamplingParams {
            max_new_tokens: self.max_tokens,
            min_new_tokens: self.min_tokens.unwrap_or(0),
            ignore_eos: self.ignore_eos.unwrap_or(false),
            temperature: self.temperature.unwrap_or(1.0),
            top_k: u32::try_from(self.top_k.unwrap_or(0)).unwrap_or(0),
            top_p: if greedy { 1.0 } else { self.top_p.unwrap_or(1.0) },
            min_p: self.min_p.unwrap_or(0.0),
            typical_p: self.typical_p.unwrap_or(1.0),
            repetition_penalty: self.repetition_penalty.unwrap_or(1.0),
            frequency_penalty: self.frequency_penalty.unwrap_or(0.0),
            presence_penalty: self.presence_penalty.unwrap_or(0.0),
            openai_penalties: true,
            stop: self.stop.unwrap_or_default().0,
            logprobs: self.top_logprobs.is_some(),
            raw_logprobs: true,
            top_n_tokens: self.top_logprobs.unwrap_or(0),
            logit_bias: logit_bias(self.logit_bias.as_ref())?,
            ..SamplingParams::default()
        };
        params
            .validate(limits)
            .map_err(|error| ApiError::Validation(error.to_string()))?;
        // -1 is "off" to the clients of other servers.
        if let Some(k) = self.top_k.filter(|k| *k < -1) {
            return refuse(format!("`top_k` must be >= -1. Given: {k}"));
        }
        if greedy {
            params.temperature = 0.0;
        }
        Ok(Sampling {
            params,
            seed: self.seed.map(u64::from),
            n,
            grammar: self.formats.grammar()?,
        })
    }
}

/// OpenAI's map of token ids to biases, or a list of pairs of these. Of an id that comes twice the later bias counts.
pub(crate) fn logit_bias(given: Option<&Value>) -> Result<Vec<(u32, f32)>, ApiError> {
    let mut biases = BTreeMap::new();
    let entries = match given {
        Some(Value::Object(map)) => map.len(),
        Some(Value::Array(pairs)) => pairs.len(),
        _ => 0,
    };
    if entries > MAX_LOGIT_BIAS {
        let error = ParamError::LogitBiasCount { given: entries };
        return Err(ApiError::Validation(error.to_string()));
    }
    match given {
        None | Some(Value::Null) => {}
        Some(Value::Object(map)) => {
            for (key, bias) in map {
                let id = bias_id(key.parse().ok(), key)?;
                biases.insert(id, bias_value(id, bias)?);
            }
        }
        Some(Value::Array(pairs)) => {
            for pair in pairs {
                let Some([key, bias]) = pair.as_array().map(Vec::as_slice) else {
                    return Err(ApiError::Validation(format!(
                        "`logit_bias` entries must be pairs of a token id and a number. Given: {pair}"
                    )));
                };
                let id = match key {
                    Value::String(text) => bias_id(text.parse().ok(), text)?,
                    other => bias_id(u32::deserialize(other).ok(), other)?,
                };
                biases.insert(id, bias_value(id, bias)?);
            }
        }
        Some(other) => {
            return Err(ApiError::Validation(format!(
                "`logit_bias` must be a map of token ids to numbers or a list of such pairs. Given: {other}"
            )));
        }
    }
    Ok(biases.into_iter().collect())
}

fn bias_id(id: Option<u32>, given: impl std::fmt::Display) -> Result<u32, ApiError> {
    id.ok_or_else(|| ApiError::Validation(format!("`logit_bias` keys must be token ids. Given: {given}")))
}

fn bias_value(id: u32, given: &Value) -> Result<f32, ApiError> {
    f32::deserialize(given).map_err(|_| {
        ApiError::Validation(format!(
            "`logit_bias` values must be numbers. Given: {given} for token {id}"
        ))
    })
}

/// The name that an answer gives the model: the one that was asked for, or the served one.
pub(crate) fn model(app: &App, asked: Option<String>) -> Result<String, ApiError> {
    let served = || app.config.model_id.clone();
    match asked {
        None => Ok(served()),
        // TGI's own client says "tgi" to any model.
        Some(name) if name == "tgi" || name == app.config.model_id => Ok(served()),
        Some(name) if !app.config.strict_model || app.engine.adapter(&name).is_some() => Ok(name),
        // So does huggingface_hub's where it was given no name. TGI tells it its own word back.
        Some(name) if name == "dummy" => Ok(served()),
        Some(name) => Err(ApiError::UnknownModel(name)),
    }
}

/// Whether stop strings stay in the text.
pub(crate) fn keeps_stop(app: &App) -> bool {
    app.config.v1_dialect == V1Dialect::Tgi
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::routes::LIMITS;

    #[test]
    fn what_openai_clients_send_is_accepted() {
        let sampling = Fields {
            top_p: Some(1.0),
            presence_penalty: Some(0.0),
            logit_bias: Some(json!({})),
            ..Fields::default()
        };
        let sampling = sampling.validate(&LIMITS).unwrap();
        assert_eq!((sampling.params.temperature, sampling.n), (1.0, 1));
        assert!(sampling.params.openai_penalties && sampling.params.raw_logprobs);
        for fields in [
            Fields {
                temperature: Some(0.0),
                ..Fields::default()
            },
            Fields {
                top_p: Some(0.0),
                ..Fields::default()
            },
        ] {
            assert_eq!(fields.validate(&LIMITS).unwrap().params.temperature, 0.0);
        }
    }

    #[test]
    fn biases_come_as_a_map_or_as_pairs() {
        let cases = [
            (json!(null), Ok(vec![])),
            (json!([]), Ok(vec![])),
            (json!({"9": -100, "7": 0.5}), Ok(vec![(7, 0.5), (9, -100.0)])),
            (json!([[9, 1], ["7", 2], [9, 3]]), Ok(vec![(7, 2.0), (9, 3.0)])),
            (
                json!({"x": 1}),
                Err("`logit_bias` keys must be token ids. Given: x"),
            ),
            (
                json!({"-1": 1}),
                Err("`logit_bias` keys must be token ids. Given: -1"),
            ),
            (
                json!([[1.5, 1]]),
                Err("`logit_bias` keys must be token ids. Given: 1.5"),
            ),
            (
                json!({"4294967296": 1}),
                Err("`logit_bias` keys must be token ids. Given: 4294967296"),
            ),
            (
                json!({"7": "1"}),
                Err("`logit_bias` values must be numbers. Given: \"1\" for token 7"),
            ),
            (
                json!({"7": null}),
                Err("`logit_bias` values must be numbers. Given: null for token 7"),
            ),
            (
                json!([0.5, 1]),
                Err("`logit_bias` entries must be pairs of a token id and a number. Given: 0.5"),
            ),
            (
                json!([[1, 2, 3]]),
                Err("`logit_bias` entries must be pairs of a token id and a number. Given: [1,2,3]"),
            ),
            (
                json!(7),
                Err("`logit_bias` must be a map of token ids to numbers or a list of such pairs. Given: 7"),
            ),
        ];
        for (given, expected) in cases {
            let found = logit_bias(Some(&given)).map_err(|error| error.to_string());
            let expected = expected.map_err(|text| format!("Input validation error: {text}"));
            assert_eq!(found, expected, "{given}");
        }
        assert_eq!(logit_bias(None), Ok(vec![]));
    }

    #[test]
    fn what_cannot_be_done_is_refused() {
        let cases = [
            (
                Fields {
                    n: Some(3),
                    ..Fields::default()
                },
                "`n` must be > 0 and <= 2. Given: 3",
            ),
            (
                Fields {
                    n: Some(0),
                    ..Fields::default()
                },
                "`n` must be > 0 and <= 2. Given: 0",
            ),
            (
                Fields {
                    temperature: Some(-0.1),
                    ..Fields::default()
                },
                "`temperature` must be strictly positive",
            ),
            (
                Fields {
                    top_p: Some(1.5),
                    ..Fields::default()
                },
                "`top_p` must be > 0.0 and < 1.0",
            ),
            (
                Fields {
                    top_k: Some(-2),
                    ..Fields::default()
                },
                "`top_k` must be >= -1. Given: -2",
            ),
            (
                Fields {
                    top_logprobs: Some(6),
                    ..Fields::default()
                },
                "`top_n_tokens` must be >= 0 and <= 5. Given: 6",
            ),
            (
                Fields {
                    logit_bias: Some(json!({"7": 101})),
                    ..Fields::default()
                },
                "`logit_bias` values must be >= -100.0 and <= 100.0. Given: 101 for token 7",
            ),
            (
                Fields {
                    formats: Formats {
                        guided_json: Some(json!({})),
                        guided_regex: Some(json!("a")),
                        ..Formats::default()
                    },
                    ..Fields::default()
                },
                "`guided_json` and `guided_regex` cannot be used together",
            ),
        ];
        for (fields, text) in cases {
            let error = fields.validate(&LIMITS).unwrap_err().to_string();
            assert_eq!(error, format!("Input validation error: {text}"));
        }
    }
}
