//! `GET /v1/models`: the model that is served, and its adapters.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::Serialize;

use crate::app::App;
use crate::openapi::{Answer, Operation, Schemas};

/// All names that a request may call the model by.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Models {
    #[schemars(extend("const" = "list"))]
    object: &'static str,
    data: Vec<Model>,
}

/// One of them.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Model {
    id: String,
    #[schemars(extend("const" = "model"))]
    object: &'static str,
    /// 0, as in TGI.
    created: u64,
    owned_by: String,
    /// The model that an adapter adapts.
    #[serde(skip_serializing_if = "Option::is_none")]
    parent: Option<String>,
}

/// `GET /v1/models` in the API's document.
pub(crate) fn describe(schemas: &mut Schemas) -> Operation {
    Operation::new("openai", "models", "The served model and its adapters")
        .answering(Answer::Json(schemas.answered::<Models>()))
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
