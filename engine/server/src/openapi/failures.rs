//! The errors of operations: which there are, and the responses that tell them. Statuses and kinds are [`ApiError`]'s own.

use std::time::Duration;

use agentlm_host::ControlError;
use axum::http::StatusCode;
use schemars::JsonSchema;
use serde_json::{Value, json};

use super::Schemas;
use super::operation::having;
use crate::error::ApiError;

/// How errors are phrased.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wording {
    /// `{"error": "…", "error_type": "…"}`.
    Native,
    /// OpenAI's object, with `error_type` beside it.
    OpenAi,
}

impl Wording {
    /// In names of components.
    const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::OpenAi => "openai",
        }
    }
}

/// The native error.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "it says what is written by hand")]
pub(crate) struct ErrorResponse {
    error: String,
    /// What kind of error it is.
    error_type: String,
}

/// OpenAI's error.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "it says what is written by hand")]
pub(crate) struct OpenAiErrorResponse {
    error: OpenAiError,
    /// As `error.code`.
    error_type: String,
}

/// What it says.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "it says what is written by hand")]
struct OpenAiError {
    message: String,
    #[schemars(extend("enum" = ["invalid_request_error", "authentication_error", "rate_limit_error", "server_error"]))]
    r#type: String,
    /// The field at fault, if it is one field's.
    param: Option<String>,
    /// What kind of error it is.
    code: String,
    http_status_code: u16,
}

/// Of a body that is not what a route takes.
pub(crate) fn body() -> Vec<ApiError> {
    [
        StatusCode::BAD_REQUEST,
        StatusCode::REQUEST_TIMEOUT,
        StatusCode::PAYLOAD_TOO_LARGE,
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        StatusCode::UNPROCESSABLE_ENTITY,
    ]
    .map(|status| ApiError::Body(status, String::new()))
    .to_vec()
}

/// Of every route that generates.
pub(crate) fn generation() -> Vec<ApiError> {
    vec![
        ApiError::Validation(String::new()),
        ApiError::Overloaded,
        ApiError::Generation(String::new()),
        ApiError::Incomplete,
        ApiError::Internal,
        ApiError::Closing,
    ]
}

/// Of a conversation that cannot be rendered.
pub(crate) fn conversation() -> Vec<ApiError> {
    vec![ApiError::Template(String::new()), ApiError::Tool(String::new())]
}

/// Of a request that names its model.
pub(crate) fn model() -> Vec<ApiError> {
    vec![ApiError::UnknownModel(String::new())]
}

/// Of the prompts of a completion.
pub(crate) fn prompts() -> Vec<ApiError> {
    vec![ApiError::Suffix, ApiError::BatchSize(0)]
}

/// Of what an operator asks for: these, and what any of it may end with.
pub(crate) fn control(own: impl IntoIterator<Item = ControlError>) -> Vec<ApiError> {
    let common = [ControlError::Failed(String::new()), ControlError::Closed];
    let all = own.into_iter().chain(common).map(ApiError::Control);
    all.chain([ApiError::Internal]).collect()
}

/// Requests in the way that did not end in time.
pub(crate) const fn in_the_way() -> ControlError {
    ControlError::Timeout {
        running: 0,
        waited: Duration::ZERO,
    }
}

/// The response to errors of one status.
pub(super) fn response(
    schemas: &mut Schemas,
    failures: &[&ApiError],
    others: &[&'static str],
    wordings: &[Wording],
) -> Value {
    let mut kinds: Vec<&str> = failures.iter().map(|failure| failure.kind()).collect();
    kinds.extend(others);
    kinds.sort_unstable();
    kinds.dedup();
    let mut headers = vec!["x-request-id"];
    if failures.iter().any(|failure| failure.retries()) {
        headers.push("retry-after");
    }
    let mut response = json!({"description": kinds.join(", "), "headers": having(&headers)});
    let mut told = Vec::new();
    for wording in wordings {
        // TGI has no body there.
        if *wording != Wording::Native || !failures.contains(&&ApiError::Unauthorized) {
            let kinds = json!({"properties": {"error_type": {"enum": kinds}}});
            told.push(json!({"allOf": [error(schemas, *wording), kinds]}));
        }
    }
    match told.len() {
        0 => {}
        1 => response["content"] = json!({"application/json": {"schema": told.remove(0)}}),
        _ => response["content"] = json!({"application/json": {"schema": {"anyOf": told}}}),
    }
    let wordings = wordings.iter().map(|wording| wording.name());
    let words: Vec<&str> = wordings.chain(kinds).collect();
    let status = failures.first().map_or(0, |failure| failure.status().as_u16());
    let name = format!("{status}.{}", words.join(".").replace(' ', "_"));
    schemas.response(&name, response)
}

/// Any error, as a stream may tell it too.
pub(crate) fn error(schemas: &mut Schemas, wording: Wording) -> Value {
    match wording {
        Wording::Native => schemas.answered::<ErrorResponse>(),
        Wording::OpenAi => schemas.answered::<OpenAiErrorResponse>(),
    }
}
