//! `POST /`: what TGI's own clients call. `stream` chooses the form; a whole answer comes in an array of one.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};

use crate::app::App;
use crate::routes::generate::handler::{refuse, streamed, whole};
use crate::routes::generate::types::GenerateRequest;
use crate::{body, flow};

/// `POST /`.
pub(crate) async fn generate(State(app): State<Arc<App>>, request: Request) -> Response {
    let meter = flow::meter(&app, &request);
    let request: GenerateRequest = match body::json(request, app.config.payload_limit).await {
        Ok(request) => request,
        Err(error) => return refuse(&meter, &error),
    };
    // The hub's pipeline returned prompt and text together; an unknown tag counts as text generation.
    let full_text = app
        .config
        .model_pipeline_tag
        .as_deref()
        .is_none_or(|tag| tag == "text-generation");
    if request.stream == Some(true) {
        return streamed(&app, &meter, request, full_text).await;
    }
    match whole(&app, &meter, request, full_text).await {
        Ok((headers, response)) => (headers, Json([response])).into_response(),
        Err(error) => refuse(&meter, &error),
    }
}
