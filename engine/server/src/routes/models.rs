//! `GET /v1/models`: the one model that is served.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::app::App;

#[derive(Serialize)]
struct Models<'a> {
    object: &'static str,
    data: [Model<'a>; 1],
}

#[derive(Serialize)]
struct Model<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    owned_by: &'a str,
}

/// `created` is 0, as in TGI.
pub(crate) async fn models(State(app): State<Arc<App>>) -> Response {
    let id = app.config.model_id.as_str();
    let data = [Model {
        id,
        object: "model",
        created: 0,
        owned_by: id,
    }];
    Json(Models { object: "list", data }).into_response()
}
