//! `GET /info`: the served model and its limits.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::Serialize;

use crate::app::App;
use crate::openapi::{Answer, Operation, Schemas};

/// The served model and its limits.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Info<'a> {
    model_id: &'a str,
    model_sha: Option<&'a str>,
    model_pipeline_tag: Option<&'a str>,
    max_concurrent_requests: usize,
    max_best_of: u32,
    max_stop_sequences: u32,
    max_input_tokens: u32,
    max_total_tokens: u32,
    validation_workers: usize,
    max_client_batch_size: usize,
    /// Clients take it as the mark of this API.
    router: &'static str,
    version: &'a str,
    sha: Option<&'a str>,
    docker_label: Option<&'a str>,
}

/// `GET /info` in the API's document.
pub(crate) fn describe(schemas: &mut Schemas) -> Operation {
    Operation::new("server", "info", "The model and the limits")
        .answering(Answer::Json(schemas.answered::<Info<'_>>()))
}

/// The keys and their order are TGI's.
pub(crate) async fn info(State(app): State<Arc<App>>) -> Response {
    let (config, limits) = (&app.config, app.engine.limits());
    Json(Info {
        model_id: &config.model_id,
        // It names what was loaded at the start; of what was reloaded since nobody told a name.
        model_sha: config
            .model_sha
            .as_deref()
            .filter(|_| app.engine.weight_version() == 0),
        model_pipeline_tag: config.model_pipeline_tag.as_deref(),
        max_concurrent_requests: config.max_concurrent_requests,
        max_best_of: limits.max_best_of,
        max_stop_sequences: limits.max_stop_sequences,
        max_input_tokens: limits.max_input_tokens,
        max_total_tokens: limits.max_total_tokens,
        validation_workers: config.validation_workers,
        max_client_batch_size: config.max_client_batch_size,
        router: "text-generation-router",
        version: &config.version,
        sha: config.sha.as_deref(),
        docker_label: config.docker_label.as_deref(),
    })
    .into_response()
}
