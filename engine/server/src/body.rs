//! From a request's body to a typed value. The statuses and texts of a body that does not fit are TGI's.

use std::error::Error as _;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use bytes::{Bytes, BytesMut};
use http_body::Body as _;
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, SeqAccess, Visitor};
use serde_json::error::Category;

use crate::body_timeout::Late;
use crate::error::{ApiError, MISFIT};
use crate::object::Object;
use crate::request_log::Record;

/// Larger bodies are parsed on the validation pool, so that they do not hold up other connections.
const PARSE_IN_PLACE: usize = 64 * 1024;

/// Reads and parses a JSON body of at most `limit` bytes. Unknown fields and bytes after the value are ignored.
pub(crate) async fn json<T>(mut request: Request, limit: usize) -> Result<T, ApiError>
where
    T: DeserializeOwned + Send + 'static,
{
    let bytes = whole(&mut request, limit).await?;
    let record: Option<&Arc<Record>> = request.extensions().get();
    if let Some(record) = record {
        record.asked(&bytes);
    }
    parsed(bytes).await
}

/// As [`json`], but a request without a body has the default value.
pub(crate) async fn json_or_default<T>(request: Request, limit: usize) -> Result<T, ApiError>
where
    T: DeserializeOwned + Default + Send + 'static,
{
    if request.body().is_end_stream() {
        return Ok(T::default());
    }
    json(request, limit).await
}

/// As [`json`], but leaves the body in the request, for whom it is meant for.
pub(crate) async fn peek<T>(request: &mut Request, limit: usize) -> Result<T, ApiError>
where
    T: DeserializeOwned + Send + 'static,
{
    let bytes = whole(request, limit).await?;
    *request.body_mut() = Body::from(bytes.clone());
    parsed(bytes).await
}

/// Takes the bytes of a JSON body.
async fn whole(request: &mut Request, limit: usize) -> Result<Bytes, ApiError> {
    if !is_json(request.headers()) {
        return Err(ApiError::Body(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "Expected request with `Content-Type: application/json`".to_owned(),
        ));
    }
    let body = std::mem::take(request.body_mut());
    Ok(read(body, limit).await?.freeze())
}

async fn parsed<T>(bytes: Bytes) -> Result<T, ApiError>
where
    T: DeserializeOwned + Send + 'static,
{
    if bytes.len() <= PARSE_IN_PLACE {
        return parse(&bytes);
    }
    tokio::task::spawn_blocking(move || parse(&bytes))
        .await
        .unwrap_or(Err(ApiError::Internal))
}

/// `application/json` or `application/*+json`, with any parameters.
fn is_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
    else {
        return false;
    };
    let essence = value
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    essence
        .strip_prefix("application/")
        .is_some_and(|kind| kind == "json" || kind.ends_with("+json"))
}

async fn read(mut body: Body, limit: usize) -> Result<BytesMut, ApiError> {
    let too_large = || {
        ApiError::Body(
            StatusCode::PAYLOAD_TOO_LARGE,
            "Failed to buffer the request body: length limit exceeded".to_owned(),
        )
    };
    if body.size_hint().lower() > limit as u64 {
        return Err(too_large());
    }
    let mut bytes = BytesMut::new();
    while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        let frame = frame.map_err(|error| {
            let late = error.source().is_some_and(|cause| cause.is::<Late>());
            let status = if late {
                StatusCode::REQUEST_TIMEOUT
            } else {
                StatusCode::BAD_REQUEST
            };
            ApiError::Body(status, format!("Failed to buffer the request body: {error}"))
        })?;
        let Ok(data) = frame.into_data() else { continue };
        if bytes.len() + data.len() > limit {
            return Err(too_large());
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut json);
    value
        .map(|Object(value)| value)
        .map_err(|error| match error.inner().classify() {
            Category::Data => ApiError::Body(StatusCode::UNPROCESSABLE_ENTITY, format!("{MISFIT}{error}")),
            Category::Syntax | Category::Eof | Category::Io => ApiError::Body(
                StatusCode::BAD_REQUEST,
                format!("Failed to parse the request body as JSON: {error}"),
            ),
        })
}

/// `stop`: one string or a list of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Stop(pub(crate) Vec<String>);

impl<'de> Deserialize<'de> for Stop {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Strings;

        impl<'de> Visitor<'de> for Strings {
            type Value = Stop;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("a string or a sequence of strings")
            }

            fn visit_str<E>(self, value: &str) -> Result<Stop, E> {
                Ok(Stop(vec![value.to_owned()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Stop, A::Error> {
                let mut strings = Vec::new();
                while let Some(string) = seq.next_element()? {
                    strings.push(string);
                }
                Ok(Stop(strings))
            }
        }

        deserializer.deserialize_any(Strings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routes::generate::types::GenerateRequest;

    fn refusal(body: &str) -> (u16, String) {
        match parse::<GenerateRequest>(body.as_bytes()) {
            Err(error) => (error.status().as_u16(), error.to_string()),
            Ok(request) => panic!("accepted: {request:?}"),
        }
    }

    #[test]
    fn misfits_are_told_with_their_path() {
        let shape = "Failed to deserialize the JSON body into the target type: ";
        let cases = [
            (
                r#"{"parameters":{}}"#,
                "missing field `inputs` at line 1 column 17",
            ),
            (
                r#"{"inputs":"a","parameters":{"temperature":"x"}}"#,
                "parameters.temperature: invalid type: string \"x\", expected f32 at line 1 column 45",
            ),
            (
                r#"{"inputs":"a","parameters":{"seed":-1}}"#,
                "parameters.seed: invalid value: integer `-1`, expected u64 at line 1 column 37",
            ),
            (
                r#"{"inputs":"a","parameters":{"seed":1,"seed":2}}"#,
                "parameters: duplicate field `seed` at line 1 column 43",
            ),
            (
                r#"{"inputs":"a","parameters":{"max_new_tokens":1.5}}"#,
                "parameters.max_new_tokens: invalid type: floating point `1.5`, expected u32 at line 1 column 48",
            ),
            (
                r#"{"inputs":"a","parameters":{"stop":7}}"#,
                "parameters.stop: invalid type: integer `7`, expected a string or a sequence of strings \
                 at line 1 column 36",
            ),
        ];
        for (body, text) in cases {
            assert_eq!(refusal(body), (422, format!("{shape}{text}")), "{body}");
        }
    }

    #[test]
    fn broken_json_is_a_400() {
        let deep = format!("{{\"inputs\":\"a\",\"parameters\":{}", "[".repeat(100_000));
        let huge = format!(
            "{{\"inputs\":\"a\",\"parameters\":{{\"seed\":{}",
            "9".repeat(10_000)
        );
        for body in [
            "",
            "{",
            "{\"inputs\":",
            "nul",
            "{\"inputs\":\"\u{1}\"}",
            "{'inputs':1}",
            &huge,
        ] {
            let (status, text) = refusal(body);
            assert_eq!(status, 400, "{body}: {text}");
            assert!(
                text.starts_with("Failed to parse the request body as JSON: "),
                "{text}"
            );
        }
        assert!((400..500).contains(&refusal(&deep).0));
    }

    #[test]
    fn nulls_strings_and_trailing_bytes_are_accepted() {
        let body = r#"{"inputs":"a","stream":null,"unknown":{"x":[1]},"parameters":{"details":null,
            "do_sample":null,"stop":"END","watermark":null,"grammar":null}} trailing"#;
        let request: GenerateRequest = parse(body.as_bytes()).unwrap();
        let parameters = request.parameters.unwrap().0;
        assert_eq!(parameters.stop, Some(Stop(vec!["END".to_owned()])));
        assert_eq!(parameters.details, None);
    }

    #[test]
    fn content_types() {
        for (value, accepted) in [
            ("application/json", true),
            ("application/json; charset=utf-8", true),
            ("Application/Vnd.api+JSON", true),
            ("text/plain", false),
            ("application/x-www-form-urlencoded", false),
        ] {
            let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, value.parse().unwrap())]);
            assert_eq!(is_json(&headers), accepted, "{value}");
        }
        assert!(!is_json(&HeaderMap::new()));
    }
}
