//! TGI's checks of the parameters, in TGI's order. Lengths are checked after tokenisation, in [`crate::prompt`].

use agentlm_core::params::{Limits, ParamError, SamplingParams};

use agentlm_text::Grammar;
use serde_json::Value;

use super::types::{GenerateParameters, GenerateRequest};
use crate::error::ApiError;
use crate::number::Single;
use crate::object::Object;
use crate::routes::openai::format;
use crate::routes::openai::sampling::logit_bias;

/// A native request whose parameters are in range.
#[derive(Debug)]
pub(crate) struct Valid {
    pub(crate) inputs: String,
    /// Ready but for the length and, without a seed of its own, the seed.
    pub(crate) params: SamplingParams,
    /// The seed that was asked for.
    pub(crate) seed: Option<u64>,
    pub(crate) best_of: u32,
    pub(crate) truncate: Option<u64>,
    pub(crate) return_full_text: Option<bool>,
    pub(crate) details: bool,
    pub(crate) adapter_id: Option<String>,
    grammar: Option<Value>,
}

impl Valid {
    /// What the text must follow. TGI looks at it after the lengths.
    pub(crate) fn grammar(&self) -> Result<Option<Grammar>, ApiError> {
        self.grammar.as_ref().map(format::native).transpose()
    }

    /// Whether the sampler draws, so that a seed means something.
    pub(crate) fn samples(&self) -> bool {
        self.params.temperature > 0.0
    }
}

/// What the parameters are where there are none.
fn sampled() -> GenerateParameters {
    GenerateParameters {
        do_sample: Some(true),
        ..Default::default()
    }
}

/// Checks everything that needs no tokens.
pub(crate) fn validate(request: GenerateRequest, stream: bool, limits: &Limits) -> Result<Valid, ApiError> {
    let GenerateRequest {
        inputs, parameters, ..
    } = request;
    // TGI samples by default when `parameters` is absent and is greedy by default when it is present.
    let given = parameters.map_or_else(sampled, |Object(parameters)| parameters);
    let refuse = |text: String| Err(ApiError::Validation(text));
    let refuse_param = |error: ParamError| Err(ApiError::Validation(error.to_string()));

    let best_of = given.best_of.unwrap_or(1);
    let max_best_of = u64::from(limits.max_best_of);
    if stream {
        if best_of != 1 {
            return refuse("`best_of` != 1 is not supported when streaming tokens".to_owned());
        }
        if given.decoder_input_details == Some(true) {
            return refuse(
                "`decoder_input_details` == true is not supported when streaming tokens".to_owned(),
            );
        }
    } else if best_of > 1 && best_of > max_best_of {
        return refuse(if max_best_of == 1 {
            "`best_of` != 1 is not allowed for this endpoint".to_owned()
        } else {
            format!("`best_of` must be > 0 and <= {max_best_of}. Given: {best_of}")
        });
    }
    let single = |given: Option<Single>| given.map(f32::from);
    let (asked_temperature, top_p) = (single(given.temperature), single(given.top_p));
    let (min_p, typical_p) = (single(given.min_p), single(given.typical_p));
    let off = 1.0;
    let warps = asked_temperature.is_some_and(|value| value != off)
        || given.top_k.is_some()
        || top_p.is_some_and(|value| value != off)
        || min_p.is_some_and(|value| value != 0.0)
        || typical_p.is_some_and(|value| value != off);
    let sampling = given.do_sample == Some(true) || warps;
    let asks_to_sample =
        sampling || asked_temperature.is_some() || top_p.is_some() || min_p.is_some() || typical_p.is_some();
    if best_of > 1 && !asks_to_sample {
        return refuse("you must use sampling when `best_of` is > 1".to_owned());
    }
    let temperature = asked_temperature.unwrap_or(1.0);
    if temperature <= 0.0 {
        return refuse_param(ParamError::Temperature);
    }
    let scores_prompt = given.decoder_input_details.unwrap_or(false);
    let details = scores_prompt || given.details.unwrap_or(false);
    let params = SamplingParams {
        max_new_tokens: given.max_new_tokens,
        min_new_tokens: given.min_new_tokens.unwrap_or(0),
        ignore_eos: given.ignore_eos.unwrap_or(false),
        temperature: if sampling { temperature } else { 0.0 },
        top_k: u32::try_from(given.top_k.unwrap_or(0)).unwrap_or(0),
        top_p: top_p.unwrap_or(1.0),
        min_p: min_p.unwrap_or(0.0),
        typical_p: typical_p.unwrap_or(1.0),
        repetition_penalty: single(given.repetition_penalty).unwrap_or(1.0),
        frequency_penalty: single(given.frequency_penalty).unwrap_or(0.0),
        presence_penalty: single(given.presence_penalty).unwrap_or(0.0),
        stop: given.stop.unwrap_or_default().0,
        top_n_tokens: given.top_n_tokens.unwrap_or(0),
        // A stream shows them at each token, and the best of several runs is chosen by them.
        logprobs: stream || best_of > 1 || details,
        logit_bias: logit_bias(given.logit_bias.as_ref())?,
        watermark: given.watermark.unwrap_or(false),
        prompt_logprobs: scores_prompt,
        ..SamplingParams::default()
    };
    // TGI checks `top_k` between what the core checks before and after it, and likewise `seed`.
    match params.validate(limits) {
        Err(
            error @ (ParamError::TemperatureRange
            | ParamError::RepetitionPenalty
            | ParamError::RepetitionPenaltyRange
            | ParamError::FrequencyPenalty
            | ParamError::PresencePenalty
            | ParamError::TopP
            | ParamError::TypicalP),
        ) => return refuse_param(error),
        _ if given.top_k.is_some_and(|k| k <= 0) => {
            return refuse("`top_k` must be strictly positive".to_owned());
        }
        Err(error) if !matches!(error, ParamError::TopNTokens { .. }) => return refuse_param(error),
        _ if best_of > 1 && given.seed.is_some() => {
            return refuse("`seed` must not be set when `best_of` > 1".to_owned());
        }
        Err(error) => return refuse_param(error),
        Ok(()) => {}
    }
    if inputs.is_empty() {
        return refuse("`inputs` cannot be empty".to_owned());
    }
    let max_input = limits.max_input_tokens;
    if let Some(keep) = given.truncate
        && (keep == 0 || keep > u64::from(max_input))
    {
        return refuse(format!(
            "`truncate` must be strictly positive and less than {max_input}. Given: {keep}"
        ));
    }
    Ok(Valid {
        inputs,
        params,
        seed: given.seed,
        best_of: u32::try_from(best_of.max(1)).unwrap_or(1),
        truncate: given.truncate,
        return_full_text: given.return_full_text,
        details,
        adapter_id: given.adapter_id,
        grammar: given.grammar,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routes::LIMITS;

    fn check(parameters: &str, stream: bool, limits: &Limits) -> Result<Valid, String> {
        let body = format!("{{\"inputs\":\"a\",\"parameters\":{parameters}}}");
        let valid = validate(serde_json::from_str(&body).unwrap(), stream, limits);
        let valid = valid.and_then(|valid| valid.grammar().map(|_| valid));
        valid.map_err(|error| error.to_string().replacen("Input validation error: ", "", 1))
    }

    #[test]
    fn every_text_is_tgis() {
        let whole = [
            (r#"{"best_of":3}"#, "`best_of` must be > 0 and <= 2. Given: 3"),
            (r#"{"best_of":2}"#, "you must use sampling when `best_of` is > 1"),
            (r#"{"temperature":0}"#, "`temperature` must be strictly positive"),
            (r#"{"temperature":-1}"#, "`temperature` must be strictly positive"),
            (
                r#"{"repetition_penalty":0}"#,
                "`repetition_penalty` must be strictly positive",
            ),
            (
                r#"{"temperature":1e-300}"#,
                "`temperature` must be >= 1e-15 and <= 1e15",
            ),
            (
                r#"{"repetition_penalty":1e-44}"#,
                "`repetition_penalty` must be >= 1e-15 and <= 1e15",
            ),
            (
                r#"{"frequency_penalty":2.5}"#,
                "`frequency_penalty` must be >= -2.0 and <= 2.0",
            ),
            (
                r#"{"presence_penalty":-3}"#,
                "`presence_penalty` must be >= -2.0 and <= 2.0",
            ),
            (r#"{"top_p":0}"#, "`top_p` must be > 0.0 and < 1.0"),
            (r#"{"top_p":1.1}"#, "`top_p` must be > 0.0 and < 1.0"),
            (r#"{"typical_p":-0.5}"#, "`typical_p` must be > 0.0 and < 1.0"),
            (r#"{"min_p":1}"#, "`min_p` must be >= 0.0 and < 1.0"),
            (r#"{"top_k":0}"#, "`top_k` must be strictly positive"),
            (r#"{"top_k":-5}"#, "`top_k` must be strictly positive"),
            (
                r#"{"max_new_tokens":0}"#,
                "`max_new_tokens` must be strictly positive",
            ),
            (
                r#"{"stop":["a","b","c","d","e"]}"#,
                "`stop` supports up to 4 stop sequences. Given: 5",
            ),
            (r#"{"stop":[""]}"#, "`stop` sequences cannot be empty"),
            (
                r#"{"best_of":2,"do_sample":true,"seed":1}"#,
                "`seed` must not be set when `best_of` > 1",
            ),
            (
                r#"{"top_n_tokens":6}"#,
                "`top_n_tokens` must be >= 0 and <= 5. Given: 6",
            ),
            (
                r#"{"truncate":0}"#,
                "`truncate` must be strictly positive and less than 100. Given: 0",
            ),
            (
                r#"{"truncate":101}"#,
                "`truncate` must be strictly positive and less than 100. Given: 101",
            ),
            (
                r#"{"grammar":{"type":"json","value":7}}"#,
                "grammar is not supported",
            ),
            (
                r#"{"grammar":{"type":"json","value":"{"}}"#,
                "grammar is not valid: EOF while parsing an object at line 1 column 1",
            ),
            (
                r#"{"logit_bias":{"5":101}}"#,
                "`logit_bias` values must be >= -100.0 and <= 100.0. Given: 101 for token 5",
            ),
            (
                r#"{"logit_bias":[5]}"#,
                "`logit_bias` entries must be pairs of a token id and a number. Given: 5",
            ),
            (
                r#"{"min_new_tokens":5,"max_new_tokens":4}"#,
                "`min_new_tokens` must be <= `max_new_tokens`. Given: 5 and 4",
            ),
        ];
        for (parameters, text) in whole {
            assert_eq!(
                check(parameters, false, &LIMITS).unwrap_err(),
                text,
                "{parameters}"
            );
        }
        let streamed = [
            (
                r#"{"best_of":2}"#,
                "`best_of` != 1 is not supported when streaming tokens",
            ),
            (
                r#"{"best_of":0}"#,
                "`best_of` != 1 is not supported when streaming tokens",
            ),
            // More than any route takes.
            (
                r#"{"best_of":3}"#,
                "`best_of` != 1 is not supported when streaming tokens",
            ),
            (
                r#"{"decoder_input_details":true}"#,
                "`decoder_input_details` == true is not supported when streaming tokens",
            ),
        ];
        for (parameters, text) in streamed {
            assert_eq!(
                check(parameters, true, &LIMITS).unwrap_err(),
                text,
                "{parameters}"
            );
        }
        let one = Limits {
            max_best_of: 1,
            ..LIMITS
        };
        let text = "`best_of` != 1 is not allowed for this endpoint";
        assert_eq!(check(r#"{"best_of":2}"#, false, &one).unwrap_err(), text);
    }

    #[test]
    fn texts_have_the_servers_own_caps() {
        let limits = Limits {
            max_input_tokens: 7,
            max_total_tokens: 9,
            max_stop_sequences: 1,
            max_top_n_tokens: 0,
            max_best_of: 3,
        };
        let cases = [
            (r#"{"best_of":4}"#, "`best_of` must be > 0 and <= 3. Given: 4"),
            (
                r#"{"stop":["a","b"]}"#,
                "`stop` supports up to 1 stop sequences. Given: 2",
            ),
            (
                r#"{"top_n_tokens":1}"#,
                "`top_n_tokens` must be >= 0 and <= 0. Given: 1",
            ),
            (
                r#"{"truncate":8}"#,
                "`truncate` must be strictly positive and less than 7. Given: 8",
            ),
        ];
        for (parameters, text) in cases {
            assert_eq!(
                check(parameters, false, &limits).unwrap_err(),
                text,
                "{parameters}"
            );
        }
        for parameters in [r#"{"best_of":3,"do_sample":true}"#, r#"{"truncate":7}"#] {
            assert!(check(parameters, false, &limits).is_ok(), "{parameters}");
        }
    }

    #[test]
    fn the_first_fault_in_tgis_order_is_told() {
        // Each of these parameters is at fault; the list is in the order in which TGI looks.
        let faults = [
            (r#""best_of":3"#, "`best_of` must"),
            (r#""temperature":0"#, "`temperature`"),
            (r#""repetition_penalty":-1"#, "`repetition_penalty`"),
            (r#""frequency_penalty":9"#, "`frequency_penalty`"),
            (r#""top_p":0"#, "`top_p`"),
            (r#""typical_p":0"#, "`typical_p`"),
            (r#""top_k":0"#, "`top_k`"),
            (r#""max_new_tokens":0"#, "`max_new_tokens`"),
            (r#""stop":["a","b","c","d","e"]"#, "`stop`"),
            (r#""top_n_tokens":6"#, "`top_n_tokens`"),
            (r#""truncate":0"#, "`truncate`"),
            (r#""grammar":{}"#, "`grammar.type`"),
        ];
        for first in 0..faults.len() {
            let all: Vec<&str> = faults[first..].iter().map(|fault| fault.0).collect();
            let text = check(&format!("{{{}}}", all.join(",")), false, &LIMITS).unwrap_err();
            assert!(text.starts_with(faults[first].1), "{all:?}: {text}");
        }
        let seed_first = r#"{"best_of":2,"do_sample":true,"seed":1,"top_n_tokens":6}"#;
        assert!(
            check(seed_first, false, &LIMITS)
                .unwrap_err()
                .starts_with("`seed`")
        );
    }

    #[test]
    fn what_is_asked_of_the_engine() {
        let plain = check("{}", false, &LIMITS).unwrap();
        assert!(!plain.details && !plain.params.logprobs && !plain.params.prompt_logprobs);
        let scored = check(r#"{"decoder_input_details":true}"#, false, &LIMITS).unwrap();
        assert!(
            scored.details && scored.params.logprobs && scored.params.prompt_logprobs,
            "the prompt's details come with those of the text"
        );
        let biased = check(
            r#"{"watermark":true,"logit_bias":[[7,-1],["8",2.5]],"adapter_id":"x"}"#,
            true,
            &LIMITS,
        )
        .unwrap();
        assert!(biased.params.watermark && !biased.details);
        assert_eq!(biased.params.logit_bias, [(7, -1.0), (8, 2.5)]);
        assert_eq!(biased.adapter_id.as_deref(), Some("x"));
        let bound = check(r#"{"grammar":{"type":"regex","value":"a+"}}"#, true, &LIMITS).unwrap();
        assert_eq!(bound.grammar().unwrap(), Some(Grammar::Regex("a+".to_owned())));
    }

    #[test]
    fn what_turns_sampling_on() {
        let cases = [
            ("{}", 0.0),
            (r#"{"temperature":1.0}"#, 0.0),
            (r#"{"top_p":1.0,"typical_p":1}"#, 0.0),
            (r#"{"seed":7}"#, 0.0),
            (r#"{"do_sample":false,"temperature":0.5}"#, 0.5),
            (r#"{"do_sample":true}"#, 1.0),
            (r#"{"top_k":1}"#, 1.0),
            (r#"{"top_p":0.9}"#, 1.0),
            (r#"{"min_p":0.1}"#, 1.0),
            (r#"{"best_of":1,"typical_p":0.5}"#, 1.0),
            ("null", 1.0),
        ];
        for (parameters, temperature) in cases {
            let valid = check(parameters, false, &LIMITS).unwrap();
            assert_eq!(valid.params.temperature, temperature, "{parameters}");
        }
        let absent = validate(serde_json::from_str(r#"{"inputs":"a"}"#).unwrap(), false, &LIMITS).unwrap();
        assert!(absent.samples(), "without `parameters` TGI samples");
    }
}
