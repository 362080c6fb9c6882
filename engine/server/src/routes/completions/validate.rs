//! What of a completion request can be served.

use agentlm_core::params::Limits;

use super::types::{CompletionRequest, OnePrompt};
use crate::error::ApiError;
use crate::routes::openai::sampling::{Fields, Sampling};

/// A completion request that can be served, if its lengths allow.
#[derive(Debug)]
pub(crate) struct Valid {
    pub(crate) prompts: Vec<OnePrompt>,
    pub(crate) sampling: Sampling,
    pub(crate) stream: bool,
    pub(crate) include_usage: bool,
    pub(crate) logprobs: bool,
    pub(crate) echo: bool,
    pub(crate) model: Option<String>,
}

/// Checks everything that needs no tokens.
pub(crate) fn validate(
    request: CompletionRequest,
    limits: &Limits,
    max_prompts: usize,
) -> Result<Valid, ApiError> {
    let refuse = |text: &str| Err(ApiError::Validation(text.to_owned()));
    if request.suffix.is_some() {
        return Err(ApiError::Suffix);
    }
    let prompts = request.prompt.0;
    if prompts.len() > max_prompts {
        return Err(ApiError::BatchSize(max_prompts));
    }
    let echo = request.echo.unwrap_or(false);
    let fields = Fields {
        temperature: request.temperature,
        top_p: request.top_p,
        top_k: request.top_k,
        min_p: request.min_p,
        typical_p: request.typical_p,
        repetition_penalty: request.repetition_penalty,
        frequency_penalty: request.frequency_penalty,
        presence_penalty: request.presence_penalty,
        max_tokens: request.max_tokens,
        min_tokens: request.min_tokens,
        ignore_eos: request.ignore_eos,
        stop: request.stop,
        seed: request.seed,
        n: request.n,
        logit_bias: request.logit_bias,
        top_logprobs: request.logprobs,
    };
    let sampling = fields.validate(limits)?;
    if request.best_of.is_some_and(|best_of| best_of > sampling.n) {
        return refuse("`best_of` above `n` is not supported on this route; `/generate` has it");
    }
    if echo && request.logprobs.is_some() {
        return refuse(
            "`echo` with `logprobs` is not supported: this server gives no log-probabilities of prompts",
        );
    }
    if prompts
        .iter()
        .any(|prompt| matches!(prompt, OnePrompt::Text(text) if text.is_empty()))
    {
        return refuse("`inputs` cannot be empty");
    }
    Ok(Valid {
        prompts,
        sampling,
        stream: request.stream.unwrap_or(false),
        include_usage: request
            .stream_options
            .and_then(|options| options.include_usage)
            .unwrap_or(false),
        logprobs: request.logprobs.is_some(),
        echo,
        model: request.model,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        max_input_tokens: 100,
        max_total_tokens: 200,
        max_stop_sequences: 4,
        max_top_n_tokens: 5,
        max_best_of: 2,
    };

    #[test]
    fn what_cannot_be_done_is_refused() {
        let cases = [
            (
                r#"{"prompt":"a","suffix":"b"}"#,
                "Suffix is not supported and can be achieved by preprocessing the prompt.",
            ),
            (
                r#"{"prompt":["a","b","c","d","e"]}"#,
                "Number of prompts exceeds the maximum allowed batch size of 4",
            ),
            (
                r#"{"prompt":"a","best_of":2}"#,
                "Input validation error: `best_of` above `n` is not supported on this route; `/generate` has it",
            ),
            (
                r#"{"prompt":"a","echo":true,"logprobs":1}"#,
                "Input validation error: `echo` with `logprobs` is not supported: this server gives no \
                 log-probabilities of prompts",
            ),
            (
                r#"{"prompt":["a",""]}"#,
                "Input validation error: `inputs` cannot be empty",
            ),
        ];
        for (body, text) in cases {
            let request = serde_json::from_str(body).unwrap();
            assert_eq!(validate(request, &LIMITS, 4).unwrap_err().to_string(), text);
        }
        let neutral = r#"{"prompt":"a","suffix":null,"best_of":1,"echo":false,"user":"u","stop":null}"#;
        assert!(validate(serde_json::from_str(neutral).unwrap(), &LIMITS, 4).is_ok());
    }
}
