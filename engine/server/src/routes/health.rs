//! `GET /health`, `/ping` and `/`: whether the engine serves.

use std::sync::Arc;

use agentlm_host::Health;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use crate::app::App;
use crate::error::ApiError;

/// 200 with an empty body, or 503.
pub(crate) async fn health(State(app): State<Arc<App>>) -> Response {
    match app.engine.health() {
        Health::Ready => StatusCode::OK.into_response(),
        Health::Draining | Health::Closed | Health::Failed(_) => ApiError::Unhealthy.native(),
    }
}
