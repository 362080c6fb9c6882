//! What of a completion request can be served.

use agentlm_core::params::{Limits, ParamError};

use super::types::{CompletionRequest, OnePrompt};
use crate::error::ApiError;
use crate::routes::openai::sampling::{Fields, Sampling};

/// A completion request that can be served, if its lengths allow.
#[derive(Debug)]
pub(crate) struct Valid {
    pub(crate) prompts: Vec<OnePrompt>,
    pub(crate) sampling: Sampling,
    /// Runs a prompt, of which the `n` best are answered.
    pub(crate) best_of: u32,
    /// Only the prompt is shown. The engine is asked for one token all the same: it knows no request without.
    pub(crate) prompt_only: bool,
    pub(crate) stream: bool,
    pub(crate) include_usage: bool,
    pub(crate) logprobs: bool,
    pub(crate) echo: bool,
    pub(crate) model: Option<String>,
}

impl Valid {
    /// Most tokens that are to be shown, if that was said.
    pub(crate) fn max_tokens(&self) -> Option<u32> {
        if self.prompt_only {
            Some(0)
        } else {
            self.sampling.params.max_new_tokens
        }
    }
}

/// Checks everything that needs no tokens.
pub(crate) fn validate(
    mut request: CompletionRequest,
    limits: &Limits,
    max_prompts: usize,
) -> Result<Valid, ApiError> {
    let refuse = |text: &str| Err(ApiError::Validation(text.to_owned()));
    if request.suffix.is_some() {
        return Err(ApiError::Suffix);
    }
    let prompts = std::mem::take(&mut request.prompt.0);
    if prompts.len() > max_prompts {
        return Err(ApiError::BatchSize(max_prompts));
    }
    let echo = request.echo.unwrap_or(false);
    let prompt_only = echo && request.max_tokens == Some(0);
    let min_tokens = request.min_tokens.unwrap_or(0);
    if prompt_only && min_tokens > 0 {
        let error = ParamError::MinNewTokens {
            min: min_tokens,
            max: 0,
        };
        return refuse(&error.to_string());
    }
    let fields = Fields {
        max_tokens: if prompt_only { Some(1) } else { request.max_tokens },
        top_logprobs: request.logprobs,
        ..request.take_fields()
    };
    let mut sampling = fields.validate(limits)?;
    let stream = request.stream.unwrap_or(false);
    let best_of = best_of(request.best_of, sampling.n, limits)?;
    if stream && best_of > sampling.n {
        return refuse("`best_of` > `n` is not supported when streaming tokens");
    }
    sampling.params.prompt_logprobs = echo && request.logprobs.is_some();
    // The best runs are chosen by them.
    sampling.params.logprobs |= best_of > sampling.n;
    if prompts
        .iter()
        .any(|prompt| matches!(prompt, OnePrompt::Text(text) if text.is_empty()))
    {
        return refuse("`inputs` cannot be empty");
    }
    Ok(Valid {
        prompts,
        sampling,
        best_of,
        prompt_only,
        stream,
        include_usage: request.includes_usage(),
        logprobs: request.logprobs.is_some(),
        echo,
        model: request.model,
    })
}

/// Runs a prompt: as many as choices, unless more were asked for.
fn best_of(asked: Option<u32>, n: u32, limits: &Limits) -> Result<u32, ApiError> {
    let max = limits.max_best_of.max(1);
    match asked {
        None => Ok(n),
        Some(given) if given == 0 || given > max => Err(ApiError::Validation(format!(
            "`best_of` must be > 0 and <= {max}. Given: {given}"
        ))),
        Some(given) if given < n => Err(ApiError::Validation(format!(
            "`best_of` must be >= `n`. Given: {given} and {n}"
        ))),
        Some(given) => Ok(given),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routes::LIMITS;

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
                r#"{"prompt":"a","best_of":3}"#,
                "Input validation error: `best_of` must be > 0 and <= 2. Given: 3",
            ),
            (
                r#"{"prompt":"a","best_of":0}"#,
                "Input validation error: `best_of` must be > 0 and <= 2. Given: 0",
            ),
            (
                r#"{"prompt":"a","best_of":1,"n":2}"#,
                "Input validation error: `best_of` must be >= `n`. Given: 1 and 2",
            ),
            (
                r#"{"prompt":"a","best_of":2,"stream":true}"#,
                "Input validation error: `best_of` > `n` is not supported when streaming tokens",
            ),
            (
                r#"{"prompt":"a","max_tokens":0}"#,
                "Input validation error: `max_new_tokens` must be strictly positive",
            ),
            (
                r#"{"prompt":"a","max_tokens":0,"min_tokens":1,"echo":true}"#,
                "Input validation error: `min_new_tokens` must be <= `max_new_tokens`. Given: 1 and 0",
            ),
            (
                r#"{"prompt":"a","guided_regex":7}"#,
                "Input validation error: grammar is not valid: a regex must be a string, but is a number",
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

    #[test]
    fn what_is_asked_of_the_engine() {
        // Fields; then runs, shown tokens, asked tokens, scores of the prompt, of the text.
        let cases = [
            ("", 1, None, None, false, false),
            (r#","n":2"#, 2, None, None, false, false),
            (r#","best_of":2"#, 2, None, None, false, true),
            (r#","n":2,"best_of":2"#, 2, None, None, false, false),
            (
                r#","echo":true,"max_tokens":0"#,
                1,
                Some(0),
                Some(1),
                false,
                false,
            ),
            (
                r#","echo":true,"max_tokens":1,"logprobs":1"#,
                1,
                Some(1),
                Some(1),
                true,
                true,
            ),
            (
                r#","echo":true,"max_tokens":0,"logprobs":0"#,
                1,
                Some(0),
                Some(1),
                true,
                true,
            ),
            (r#","logprobs":1"#, 1, None, None, false, true),
        ];
        for (fields, runs, shown, asked, prompt, text) in cases {
            let request = serde_json::from_str(&format!("{{\"prompt\":\"a\"{fields}}}")).unwrap();
            let valid = validate(request, &LIMITS, 4).unwrap();
            let params = &valid.sampling.params;
            assert_eq!((valid.best_of, valid.max_tokens()), (runs, shown), "{fields}");
            assert_eq!(params.max_new_tokens, asked, "{fields}");
            assert_eq!(
                (params.prompt_logprobs, params.logprobs),
                (prompt, text),
                "{fields}"
            );
        }
    }
}
