//! `GET /health`, `/ping` and `/`: whether the engine serves.

use std::sync::Arc;

use agentlm_host::Health;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use crate::app::App;
use crate::error::ApiError;
use crate::openapi::{Operation, Schemas};

/// `GET /health` in the API's document.
pub(crate) fn describe(_: &mut Schemas) -> Operation {
    described("health")
}

/// `GET /ping`, SageMaker's name of it.
pub(crate) fn describe_ping(_: &mut Schemas) -> Operation {
    described("ping")
}

/// `GET /`.
pub(crate) fn describe_root(_: &mut Schemas) -> Operation {
    described("root")
}

fn described(id: &'static str) -> Operation {
    Operation::new("server", id, "200 while the engine serves, else 503").failing([ApiError::Unhealthy])
}

/// 200 with an empty body, or 503.
pub(crate) async fn health(State(app): State<Arc<App>>) -> Response {
    match app.engine.health() {
        Health::Ready => StatusCode::OK.into_response(),
        Health::Draining | Health::Closed | Health::Failed(_) => ApiError::Unhealthy.native(),
    }
}
