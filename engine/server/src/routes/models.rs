//! `GET /v1/models`: the model that is served, and its adapters.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::app::App;

/// All names that a request may call the model by.
#[derive(Debug, Serialize)]
pub(crate) struct Models {
    object: &'static str,
    data: Vec<Model>,
}

/// One of them.
#[derive(Debug, Serialize)]
pub(crate) struct Model {
    id: String,
    object: &'static str,
    /// 0, as in TGI.
    created: u64,
    owned_by: String,
    /// The model that an adapter adapts.
    #[serde(skip_serializing_if = "Option::is_none")]
    parent: Option<String>,
}

/// The handler.
pub(crate) async fn models(State(app): State<Arc<App>>) -> Response {
    let base = &app.config.model_id;
    let model = |id: String, parent: Option<String>| Model {
        id,
        object: "model",
        created: 0,
        owned_by: base.clone(),
        parent,
    };
    let adapters = app.engine.adapters().into_iter();
    let adapters = adapters.map(|adapter| model(adapter.name, Some(base.clone())));
    Json(Models {
        object: "list",
        data: std::iter::once(model(base.clone(), None))
            .chain(adapters)
            .collect(),
    })
    .into_response()
}
