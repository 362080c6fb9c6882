//! Who may call: API keys and browsers' origins. Also the last net under a handler that panics.

use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;

use crate::app::App;
use crate::config::V1Dialect;
use crate::error::ApiError;

/// Refuses requests without one of the configured keys.
pub(crate) async fn require_key(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    if is_allowed(&app.config.api_keys, request.headers()) {
        return next.run(request).await;
    }
    worded(&ApiError::Unauthorized, is_v1(&request), app.config.v1_dialect)
}

fn is_v1(request: &Request) -> bool {
    request.uri().path().starts_with("/v1/")
}

/// An error's answer in the wording of its route.
fn worded(error: &ApiError, v1: bool, dialect: V1Dialect) -> Response {
    if v1 { error.v1(dialect) } else { error.native() }
}

const BEARER: &[u8] = b"Bearer ";

fn is_allowed(keys: &[String], headers: &HeaderMap) -> bool {
    if keys.is_empty() {
        return true;
    }
    let given = headers
        .get(header::AUTHORIZATION)
        .map(HeaderValue::as_bytes)
        .unwrap_or_default();
    // The scheme's case does not matter, the key's does.
    let Some((scheme, given)) = given.split_at_checked(BEARER.len()) else {
        return false;
    };
    if !scheme.eq_ignore_ascii_case(BEARER) {
        return false;
    }
    // Every key is compared to its end: the time taken tells nothing about any of them.
    keys.iter()
        .fold(false, |found, key| found | same(key.as_bytes(), given))
}

/// Equality whose time depends on the lengths only.
fn same(key: &[u8], given: &[u8]) -> bool {
    let differences = key.iter().zip(given).fold(0u8, |bits, (a, b)| bits | (a ^ b));
    std::hint::black_box(differences) == 0 && key.len() == given.len()
}

/// Answers preflights and marks every answer with the origins that may read it.
pub(crate) async fn cors(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let origins = &app.config.cors_allow_origin;
    let origin = request.headers().get(header::ORIGIN).cloned();
    let preflight = request.method() == Method::OPTIONS
        && request
            .headers()
            .contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let mut response = if preflight {
        Response::new(Body::empty())
    } else {
        next.run(request).await
    };
    let headers = response.headers_mut();
    let any = origins.is_empty() || origins.iter().any(|origin| origin == "*");
    let allowed = if any {
        Some(HeaderValue::from_static("*"))
    } else {
        origin.filter(|origin| {
            origins
                .iter()
                .any(|allowed| allowed.as_bytes() == origin.as_bytes())
        })
    };
    if let Some(allowed) = allowed {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
    }
    let vary = "origin, access-control-request-method, access-control-request-headers";
    headers.insert(header::VARY, HeaderValue::from_static(vary));
    if preflight {
        headers.insert(
            header::ACCESS_CONTROL_ALLOW_METHODS,
            HeaderValue::from_static("GET,POST"),
        );
        headers.insert(
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            HeaderValue::from_static("content-type,authorization"),
        );
    }
    response
}

/// A handler that panics is answered with a 500, and the connection lives on.
pub(crate) async fn catch_panic(State(dialect): State<V1Dialect>, request: Request, next: Next) -> Response {
    let v1 = is_v1(&request);
    let mut answer = pin!(next.run(request));
    std::future::poll_fn(|context| {
        // The future is not polled again after a panic, so nobody sees what it left half done.
        match std::panic::catch_unwind(AssertUnwindSafe(|| answer.as_mut().poll(context))) {
            Ok(poll) => poll,
            Err(_) => Poll::Ready(worded(&ApiError::Internal, v1, dialect)),
        }
    })
    .await
}

/// The empty answer of a path or method that does not exist.
pub(crate) async fn not_found() -> StatusCode {
    StatusCode::NOT_FOUND
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;

    use axum::Router;
    use axum::middleware::from_fn_with_state;
    use axum::routing::get;

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_handler_that_panics_is_a_500() {
        async fn broken() -> StatusCode {
            panic!("a fault of the handler's own")
        }
        let catch = from_fn_with_state(V1Dialect::OpenAi, catch_panic);
        let router = Router::new()
            .route("/", get(broken))
            .route("/v1/", get(broken))
            .layer(catch);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(axum::serve(listener, router).into_future());
        let native = r#"{"error":"internal server error","error_type":"internal"}"#;
        for (path, body) in [
            ("/", native),
            ("/v1/", r#","http_status_code":500},"error_type":"internal"}"#),
        ] {
            let ask = tokio::task::spawn_blocking(move || {
                let mut stream = TcpStream::connect(address).unwrap();
                let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
                stream.write_all(request.as_bytes()).unwrap();
                let mut answer = String::new();
                stream.read_to_string(&mut answer).unwrap();
                answer
            });
            let answer = ask.await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 500 "), "{answer}");
            assert!(answer.ends_with(body), "{answer}");
        }
        server.abort();
    }

    #[test]
    fn keys_are_case_sensitive_and_any_one_opens() {
        let keys = ["first".to_owned(), "Second".to_owned()];
        let cases = [
            (Some("Bearer first"), true),
            (Some("Bearer Second"), true),
            (Some("bearer first"), true),
            (Some("Bearer second"), false),
            (Some("Bearer firs"), false),
            (Some("Bearer first "), false),
            (Some("Bearer "), false),
            (Some("first"), false),
            (None, false),
        ];
        for (given, allowed) in cases {
            let mut headers = HeaderMap::new();
            if let Some(given) = given {
                headers.insert(header::AUTHORIZATION, given.parse().unwrap());
            }
            assert_eq!(is_allowed(&keys, &headers), allowed, "{given:?}");
            assert!(is_allowed(&[], &headers), "no key configured means open");
        }
    }
}
