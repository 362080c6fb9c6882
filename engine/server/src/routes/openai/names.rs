//! How clients of `/v1` are told what is wrong with a field, where the checks speak as TGI does: by the names that they sent, and
//! with the ranges that their routes take.

use super::format;
use super::stream::Route;
use crate::config::V1Dialect;
use crate::error::ApiError;

/// What a client calls what it sent, where there is more than one name for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent {
    /// The field of the most tokens to generate, in backticks.
    pub(crate) length: &'static str,
    /// The field that binds the text.
    pub(crate) grammar: Option<&'static str>,
}

impl Default for Sent {
    fn default() -> Self {
        Self {
            length: "`max_tokens`",
            grammar: None,
        }
    }
}

/// TGI's names and chat's.
const CHAT: [(&str, &str); 4] = [
    // Nothing is empty that the client sent, but what the template made of it.
    (
        "`inputs` cannot be empty",
        "`messages` make an empty prompt: the chat template writes nothing for them",
    ),
    ("`min_new_tokens`", "`min_tokens`"),
    ("`top_n_tokens`", "`top_logprobs`"),
    ("`inputs`", "`messages`"),
];
/// TGI's names and those of completions.
const COMPLETIONS: [(&str, &str); 3] = [
    ("`min_new_tokens`", "`min_tokens`"),
    ("`top_n_tokens`", "`logprobs`"),
    ("`inputs`", "`prompt`"),
];

/// 0 is greedy here.
const TEMPERATURE: &str = "`temperature` must be 0.0, or >= 1e-15 and <= 1e15";
/// TGI's texts that tell a narrower range than the routes take, and what they do take.
const RANGES: [(&str, &str); 5] = [
    ("`temperature` must be strictly positive", TEMPERATURE),
    ("`temperature` must be >= 1e-15 and <= 1e15", TEMPERATURE),
    (
        "`repetition_penalty` must be strictly positive",
        "`repetition_penalty` must be >= 1e-15 and <= 1e15",
    ),
    (
        "`top_p` must be > 0.0 and < 1.0",
        "`top_p` must be >= 0.0 and <= 1.0",
    ),
    (
        "`typical_p` must be > 0.0 and < 1.0",
        "`typical_p` must be > 0.0 and <= 1.0",
    ),
];

/// The error in the names of the fields that the client of `route` sent, and with their ranges. [`V1Dialect::Tgi`] has TGI's texts.
pub(crate) fn worded(error: ApiError, route: Route, dialect: V1Dialect, sent: Sent) -> ApiError {
    let names: &[(&str, &str)] = match (dialect, route) {
        (V1Dialect::Tgi, _) => return format::as_tgi(error),
        (V1Dialect::OpenAi, Route::Chat) => &CHAT,
        (V1Dialect::OpenAi, Route::Completions) => &COMPLETIONS,
    };
    match error {
        ApiError::Validation(mut text) => {
            for &(tgi, own) in names.iter().chain(&RANGES) {
                text = text.replace(tgi, own);
            }
            text = text.replace("`max_new_tokens`", sent.length);
            match sent.grammar {
                Some(field) if text.starts_with("grammar is not ") => ApiError::Field(field, text),
                _ => ApiError::Validation(text),
            }
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_told_the_names_that_it_sent() {
        let texts = [
            (
                "`inputs` tokens + `max_new_tokens` must be <= 9",
                "`messages` tokens + `max_tokens` must be <= 9",
                "`prompt` tokens + `max_tokens` must be <= 9",
            ),
            (
                "`min_new_tokens` must be <= `max_new_tokens`",
                "`min_tokens` must be <= `max_tokens`",
                "`min_tokens` must be <= `max_tokens`",
            ),
            (
                "`top_n_tokens` must be >= 0",
                "`top_logprobs` must be >= 0",
                "`logprobs` must be >= 0",
            ),
            ("inputs", "inputs", "inputs"),
            (
                "`top_p` must be > 0.0 and < 1.0",
                "`top_p` must be >= 0.0 and <= 1.0",
                "`top_p` must be >= 0.0 and <= 1.0",
            ),
        ];
        for (tgi, chat, completions) in texts {
            let cases = [
                (Route::Chat, V1Dialect::OpenAi, chat),
                (Route::Completions, V1Dialect::OpenAi, completions),
                (Route::Chat, V1Dialect::Tgi, tgi),
                (Route::Completions, V1Dialect::Tgi, tgi),
            ];
            for (route, dialect, text) in cases {
                let told = worded(
                    ApiError::Validation(tgi.to_owned()),
                    route,
                    dialect,
                    Sent::default(),
                );
                assert_eq!(told, ApiError::Validation(text.to_owned()));
            }
        }
    }
}
