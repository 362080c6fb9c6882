//! `GET /docs` and the document that it shows. The page is one file and asks nothing of the internet.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};

use crate::app::App;
use crate::openapi::{Answer, Operation, Schemas};

const PAGE: &str = include_str!("docs/page.html");
/// The page may run and style itself, ask this server, and nothing else.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; img-src data:; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

/// The document in the API's document.
pub(crate) fn describe_document(_: &mut Schemas) -> Operation {
    Operation::new("server", "openapi", "This document").answering(Answer::Json(
        serde_json::json!({"type": "object", "required": ["openapi", "info", "paths"]}),
    ))
}

/// `GET /docs` in the API's document.
pub(crate) fn describe_page(_: &mut Schemas) -> Operation {
    Operation::new(
        "server",
        "docs",
        "This document as a page, on which requests can be tried out",
    )
    .answering(Answer::Text("text/html; charset=utf-8"))
}

/// `GET /docs/`, where TGI's page is.
pub(crate) fn describe_slash(_: &mut Schemas) -> Operation {
    Operation::new("server", "docs_slash", "The same page")
        .answering(Answer::Text("text/html; charset=utf-8"))
}

/// `GET /api-doc/openapi.json`.
pub(crate) async fn document(State(app): State<Arc<App>>) -> Response {
    let json = HeaderValue::from_static("application/json");
    ([(header::CONTENT_TYPE, json)], app.document()).into_response()
}

/// `GET /docs`.
pub(crate) async fn page() -> Response {
    let html = HeaderValue::from_static("text/html; charset=utf-8");
    let headers = [
        (header::CONTENT_TYPE, html),
        (header::CONTENT_SECURITY_POLICY, POLICY),
    ];
    (headers, PAGE).into_response()
}
