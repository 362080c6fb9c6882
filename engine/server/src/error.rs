//! Every way in which a request can go wrong, and its two wire forms. Texts are TGI's: clients match them.

use agentlm_host::{ControlError, RequestError, SubmitError};
use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use bytes::BytesMut;
use thiserror::Error;

use crate::config::V1Dialect;
use crate::metrics::Failure;
use crate::wire;

/// Seconds after which a refused client may try again.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// What the text of a body begins with that is JSON and does not fit.
pub(crate) const MISFIT: &str = "Failed to deserialize the JSON body into the target type: ";
/// What the text of a chat without a template is.
pub(crate) const NO_TEMPLATE: &str = "template not found";
/// What the text of a tool begins with that has to be called and is not there.
pub(crate) const UNKNOWN_TOOL: &str = "Tool with name ";

/// A request that gets no answer.
#[derive(Clone, Debug, PartialEq, Error)]
pub(crate) enum ApiError {
    /// A parameter is out of range, unsupported, or the prompt does not fit.
    #[error("Input validation error: {0}")]
    Validation(String),
    /// The same of this field, which the text does not name.
    #[error("Input validation error: {1}")]
    Field(&'static str, String),
    /// The body is not what the route takes; the status tells which way.
    #[error("{1}")]
    Body(StatusCode, String),
    /// No place, or the engine's queue is full.
    #[error("Model is overloaded")]
    Overloaded,
    /// The engine failed during this request.
    #[error("Request failed during generation: {0}")]
    Generation(String),
    /// The engine ended the request without an answer.
    #[error("Incomplete generation")]
    Incomplete,
    /// The chat template refused the messages.
    #[error("Template error: {0}")]
    Template(String),
    /// Tools are asked for that cannot be used.
    #[error("Tool error: {0}")]
    Tool(String),
    /// `suffix` is set.
    #[error("Suffix is not supported and can be achieved by preprocessing the prompt.")]
    Suffix,
    /// Too many prompts in one request.
    #[error("Number of prompts exceeds the maximum allowed batch size of {0}")]
    BatchSize(usize),
    /// The engine does not serve.
    #[error("unhealthy")]
    Unhealthy,
    /// The server is closing.
    #[error("the server is shutting down")]
    Closing,
    /// `strict_model` is set and the name is another one.
    #[error("The model `{0}` does not exist")]
    UnknownModel(String),
    /// No or a wrong API key.
    #[error("a valid API key is needed: send it as `Authorization: Bearer KEY`")]
    Unauthorized,
    /// An operator's route on a server without keys.
    #[error("this route needs an API key: start the server with --api-key")]
    NeedsKey,
    /// What the operator asked for was not done.
    #[error("{0}")]
    Control(ControlError),
    /// A fault of the server's own.
    #[error("internal server error")]
    Internal,
}

impl ApiError {
    /// The status of a whole answer.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Validation(_)
            | Self::Field(..)
            | Self::Template(_)
            | Self::Tool(_)
            | Self::Suffix
            | Self::BatchSize(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Body(status, _) => *status,
            Self::Overloaded => StatusCode::TOO_MANY_REQUESTS,
            Self::Generation(_) => StatusCode::FAILED_DEPENDENCY,
            Self::Incomplete | Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Unhealthy | Self::Closing => StatusCode::SERVICE_UNAVAILABLE,
            Self::UnknownModel(_) | Self::Control(ControlError::UnknownAdapter(_)) => StatusCode::NOT_FOUND,
            Self::NeedsKey => StatusCode::FORBIDDEN,
            Self::Control(ControlError::AdapterExists(_) | ControlError::Asleep) => StatusCode::CONFLICT,
            Self::Control(ControlError::Timeout { .. }) => StatusCode::GATEWAY_TIMEOUT,
            Self::Control(ControlError::Failed(_)) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Control(ControlError::Closed) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
        }
    }

    /// TGI's `error_type`.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Validation(_) | Self::Field(..) | Self::Body(..) => "validation",
            Self::Overloaded => "overloaded",
            Self::Generation(_) => "generation",
            Self::Incomplete => "incomplete_generation",
            Self::Template(_) => "template_error",
            Self::Tool(_) => "tool_error",
            Self::Suffix => "suffix not supported",
            Self::BatchSize(_) => "batch size exceeded",
            Self::Unhealthy => "healthcheck",
            Self::Closing => "shutting_down",
            Self::UnknownModel(_) => "model_not_found",
            Self::Unauthorized => "invalid_api_key",
            Self::NeedsKey => "api_key_needed",
            Self::Control(ControlError::UnknownAdapter(_)) => "adapter_not_found",
            Self::Control(ControlError::AdapterExists(_) | ControlError::Asleep) => "conflict",
            Self::Control(ControlError::Timeout { .. }) => "timeout",
            Self::Control(ControlError::Failed(_)) => "control",
            Self::Control(ControlError::Closed) => "shutting_down",
            Self::Internal => "internal",
        }
    }

    /// Whether the client is told when to try again.
    pub(crate) fn retries(&self) -> bool {
        matches!(
            self,
            Self::Overloaded | Self::Closing | Self::Control(ControlError::Closed)
        )
    }

    /// The label of `tgi_request_failure`.
    pub(crate) fn failure(&self) -> Failure {
        match self {
            Self::Overloaded => Failure::Overloaded,
            Self::Generation(_) | Self::Unhealthy | Self::Closing | Self::Internal => Failure::Generation,
            Self::Incomplete => Failure::Incomplete,
            Self::Template(_) => Failure::Template,
            _ => Failure::Validation,
        }
    }

    /// `{"error":"…","error_type":"…"}`.
    pub(crate) fn write_native(&self, out: &mut BytesMut) {
        out.extend_from_slice(b"{\"error\":");
        wire::string(out, &self.to_string());
        out.extend_from_slice(b",\"error_type\":");
        wire::string(out, self.kind());
        out.extend_from_slice(b"}");
    }

    /// OpenAI's error object. `error_type` stays beside it: TGI's own client reads it.
    pub(crate) fn write_openai(&self, out: &mut BytesMut) {
        let message = self.to_string();
        let status = self.status();
        let kind = match status {
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            _ if status.is_client_error() && status != StatusCode::FAILED_DEPENDENCY => {
                "invalid_request_error"
            }
            _ => "server_error",
        };
        out.extend_from_slice(b"{\"error\":{\"message\":");
        wire::string(out, &message);
        out.extend_from_slice(b",\"type\":");
        wire::string(out, kind);
        out.extend_from_slice(b",\"param\":");
        match self.parameter() {
            Some(name) => wire::string(out, name),
            None => out.extend_from_slice(b"null"),
        }
        out.extend_from_slice(b",\"code\":");
        wire::string(out, self.kind());
        out.extend_from_slice(b",\"http_status_code\":");
        wire::integer(out, status.as_u16());
        out.extend_from_slice(b"},\"error_type\":");
        wire::string(out, self.kind());
        out.extend_from_slice(b"}");
    }

    /// The field at fault, if it is one: texts begin with its name in backticks, and those of a body with its place.
    fn parameter(&self) -> Option<&str> {
        match self {
            Self::Validation(text) => quoted(text),
            Self::Field(name, _) => Some(name),
            Self::Body(_, text) => misfit(text.strip_prefix(MISFIT)?),
            Self::Template(text) => (text != NO_TEMPLATE).then_some("messages"),
            Self::Tool(text) => Some(quoted(text).unwrap_or(if text.starts_with(UNKNOWN_TOOL) {
                "tool_choice"
            } else {
                "tools"
            })),
            Self::UnknownModel(_) => Some("model"),
            Self::Suffix => Some("suffix"),
            Self::BatchSize(_) => Some("prompt"),
            _ => None,
        }
    }

    /// The error event of a `/v1` stream, its closing marker included.
    pub(crate) fn write_v1_event(&self, out: &mut BytesMut, dialect: V1Dialect) {
        out.extend_from_slice(b"data: ");
        match dialect {
            V1Dialect::OpenAi => self.write_openai(out),
            V1Dialect::Tgi => {
                out.extend_from_slice(b"{\"error\":{\"message\":");
                wire::string(out, &self.to_string());
                out.extend_from_slice(b",\"http_status_code\":422}}");
            }
        }
        out.extend_from_slice(b"\n\ndata: [DONE]\n\n");
    }

    /// The error event of a native stream.
    pub(crate) fn write_native_event(&self, out: &mut BytesMut) {
        out.extend_from_slice(b"data: ");
        if *self == Self::Incomplete {
            out.extend_from_slice(
                b"{\"error\":\"Incomplete generation stream\",\"error_type\":\"incomplete_generation_stream\"}",
            );
        } else {
            self.write_native(out);
        }
        out.extend_from_slice(b"\n\n");
    }

    /// The whole answer of a native route.
    pub(crate) fn native(&self) -> Response {
        let mut body = BytesMut::new();
        if *self != Self::Unauthorized {
            self.write_native(&mut body);
        }
        self.respond(body)
    }

    /// The whole answer of a `/v1` route.
    pub(crate) fn v1(&self, dialect: V1Dialect) -> Response {
        match dialect {
            V1Dialect::Tgi => self.native(),
            V1Dialect::OpenAi => {
                let mut body = BytesMut::new();
                self.write_openai(&mut body);
                self.respond(body)
            }
        }
    }

    fn respond(&self, body: BytesMut) -> Response {
        let empty = body.is_empty();
        let mut response = Response::new(Body::from(body.freeze()));
        *response.status_mut() = self.status();
        if !empty {
            response
                .headers_mut()
                .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        if self.retries() {
            response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER);
        }
        response
    }
}

impl From<SubmitError> for ApiError {
    fn from(error: SubmitError) -> Self {
        match error {
            SubmitError::Overloaded => Self::Overloaded,
            SubmitError::Refused(refusal) => Self::Validation(refusal.to_string()),
            SubmitError::Draining | SubmitError::Closed => Self::Closing,
            SubmitError::Failed(text) => Self::Generation(format!("the engine failed: {text}")),
        }
    }
}

impl From<&RequestError> for ApiError {
    fn from(error: &RequestError) -> Self {
        match error {
            RequestError::Refused(text) => Self::Validation(text.clone()),
            RequestError::Aborted => Self::Incomplete,
            RequestError::Generation(_) | RequestError::EngineFailed(_) => {
                Self::Generation(error.to_string())
            }
            RequestError::Closed => Self::Closing,
        }
    }
}

/// The name in backticks that a text begins with.
fn quoted(text: &str) -> Option<&str> {
    text.strip_prefix('`')?.split_once('`').map(|(name, _)| name)
}

/// The field of a body that does not fit: the place before the first colon, or one that is missing or there twice.
fn misfit(text: &str) -> Option<&str> {
    let at_the_root = ["missing field ", "duplicate field "];
    match at_the_root.iter().find_map(|start| text.strip_prefix(start)) {
        Some(name) => quoted(name),
        None => {
            let (place, _) = text.split_once(": ")?;
            (!place.contains(' ')).then_some(place)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(write: impl Fn(&mut BytesMut)) -> String {
        let mut out = BytesMut::new();
        write(&mut out);
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn kinds_and_statuses_are_those_of_the_table() {
        let cases = [
            (
                ApiError::Validation("x".into()),
                422,
                "validation",
                "Input validation error: x",
            ),
            (ApiError::Overloaded, 429, "overloaded", "Model is overloaded"),
            (
                ApiError::Generation("x".into()),
                424,
                "generation",
                "Request failed during generation: x",
            ),
            (
                ApiError::Incomplete,
                500,
                "incomplete_generation",
                "Incomplete generation",
            ),
            (
                ApiError::Template("template not found".into()),
                422,
                "template_error",
                "Template error: template not found",
            ),
            (ApiError::Tool("x".into()), 422, "tool_error", "Tool error: x"),
            (
                ApiError::Suffix,
                422,
                "suffix not supported",
                "Suffix is not supported and can be achieved by preprocessing the prompt.",
            ),
            (
                ApiError::BatchSize(4),
                422,
                "batch size exceeded",
                "Number of prompts exceeds the maximum allowed batch size of 4",
            ),
            (ApiError::Unhealthy, 503, "healthcheck", "unhealthy"),
        ];
        for (error, status, kind, message) in cases {
            assert_eq!(error.status().as_u16(), status);
            assert_eq!(
                text(|out| error.write_native(out)),
                format!("{{\"error\":\"{message}\",\"error_type\":\"{kind}\"}}")
            );
        }
    }

    #[test]
    fn the_field_at_fault_is_found_in_the_text() {
        let body = |text: &str| ApiError::Body(StatusCode::UNPROCESSABLE_ENTITY, format!("{MISFIT}{text}"));
        let cases = [
            (ApiError::Validation("`n` must be > 0".into()), Some("n")),
            (ApiError::Validation("grammar is not supported".into()), None),
            (
                ApiError::Field("guided_json", "grammar is not valid".into()),
                Some("guided_json"),
            ),
            (
                body("stop: invalid type: integer `5`, expected a string"),
                Some("stop"),
            ),
            (
                body("messages[0].content[1]: invalid type: null"),
                Some("messages[0].content[1]"),
            ),
            (body("missing field `prompt` at line 1 column 2"), Some("prompt")),
            (body("duplicate field `seed` at line 1 column 9"), Some("seed")),
            (
                body("invalid type: sequence, expected struct ChatRequest: x"),
                None,
            ),
            (
                ApiError::Body(StatusCode::BAD_REQUEST, "Failed to parse".into()),
                None,
            ),
            (
                ApiError::Template("roles must alternate".into()),
                Some("messages"),
            ),
            (ApiError::Template(NO_TEMPLATE.into()), None),
            (
                ApiError::Tool("`tools[0].type` must be".into()),
                Some("tools[0].type"),
            ),
            (
                ApiError::Tool(format!("{UNKNOWN_TOOL}x not found")),
                Some("tool_choice"),
            ),
            (
                ApiError::Tool("Grammar and tools are mutually exclusive".into()),
                Some("tools"),
            ),
            (ApiError::BatchSize(4), Some("prompt")),
            (ApiError::Overloaded, None),
        ];
        for (error, name) in cases {
            assert_eq!(error.parameter(), name, "{error}");
        }
    }

    #[test]
    fn openai_errors_name_the_parameter() {
        let error = ApiError::Validation("`top_p` must be > 0.0 and < 1.0".into());
        assert_eq!(
            text(|out| error.write_openai(out)),
            "{\"error\":{\"message\":\"Input validation error: `top_p` must be > 0.0 and < 1.0\",\
             \"type\":\"invalid_request_error\",\"param\":\"top_p\",\"code\":\"validation\",\
             \"http_status_code\":422},\"error_type\":\"validation\"}"
        );
    }

    #[test]
    fn a_stream_that_breaks_off_has_its_own_kind() {
        assert_eq!(
            text(|out| ApiError::Incomplete.write_native_event(out)),
            "data: {\"error\":\"Incomplete generation stream\",\"error_type\":\"incomplete_generation_stream\"}\n\n"
        );
        assert_eq!(
            text(|out| ApiError::Overloaded.write_v1_event(out, V1Dialect::Tgi)),
            "data: {\"error\":{\"message\":\"Model is overloaded\",\"http_status_code\":422}}\n\ndata: [DONE]\n\n"
        );
    }
}
