//! What clients of `/v1` call the fields that checks shared with the native routes name as TGI does.

use super::stream::Route;
use crate::config::V1Dialect;
use crate::error::ApiError;

/// TGI's names and chat's.
const CHAT: [(&str, &str); 4] = [
    ("`max_new_tokens`", "`max_tokens`"),
    ("`min_new_tokens`", "`min_tokens`"),
    ("`top_n_tokens`", "`top_logprobs`"),
    ("`inputs`", "`messages`"),
];
/// TGI's names and those of completions.
const COMPLETIONS: [(&str, &str); 4] = [
    ("`max_new_tokens`", "`max_tokens`"),
    ("`min_new_tokens`", "`min_tokens`"),
    ("`top_n_tokens`", "`logprobs`"),
    ("`inputs`", "`prompt`"),
];

/// The error in the names of the fields that `route` takes. [`V1Dialect::Tgi`] keeps TGI's.
pub(crate) fn renamed(error: ApiError, route: Route, dialect: V1Dialect) -> ApiError {
    let names = match (dialect, route) {
        (V1Dialect::Tgi, _) => return error,
        (V1Dialect::OpenAi, Route::Chat) => &CHAT,
        (V1Dialect::OpenAi, Route::Completions) => &COMPLETIONS,
    };
    match error {
        ApiError::Validation(mut text) => {
            for &(tgi, own) in names {
                text = text.replace(tgi, own);
            }
            ApiError::Validation(text)
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
        ];
        for (tgi, chat, completions) in texts {
            let cases = [
                (Route::Chat, V1Dialect::OpenAi, chat),
                (Route::Completions, V1Dialect::OpenAi, completions),
                (Route::Chat, V1Dialect::Tgi, tgi),
                (Route::Completions, V1Dialect::Tgi, tgi),
            ];
            for (route, dialect, text) in cases {
                let told = renamed(ApiError::Validation(tgi.to_owned()), route, dialect);
                assert_eq!(told, ApiError::Validation(text.to_owned()));
            }
        }
    }
}
