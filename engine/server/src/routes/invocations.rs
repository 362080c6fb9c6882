//! `POST /invocations`: SageMaker's one path, behind which lie three routes. The body's fields tell which one is meant.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::generate::handler::refuse;
use super::{chat, compat, completions};
use crate::app::App;
use crate::error::ApiError;
use crate::{body, flow};

/// The fields that tell the forms apart. Nulls are taken for absence.
#[derive(Debug, Deserialize)]
struct Form {
    inputs: Option<IgnoredAny>,
    messages: Option<IgnoredAny>,
    prompt: Option<IgnoredAny>,
}

/// Answers as `/`, `/v1/chat/completions` or `/v1/completions` would, errors included.
pub(crate) async fn invocations(State(app): State<Arc<App>>, mut request: Request) -> Response {
    let error = match body::peek(&mut request, app.config.payload_limit).await {
        Ok(Form { inputs: Some(_), .. }) => return compat::generate(State(app), request).await,
        Ok(Form {
            messages: Some(_), ..
        }) => return chat::handler::chat_completions(State(app), request).await,
        Ok(Form { prompt: Some(_), .. }) => {
            return completions::handler::completions(State(app), request).await;
        }
        Ok(_) => ApiError::Body(
            StatusCode::UNPROCESSABLE_ENTITY,
            "Failed to deserialize the JSON body into the target type: missing field `inputs`, `messages` or `prompt`"
                .to_owned(),
        ),
        Err(error) => error,
    };
    refuse(&flow::meter(&app, &request), &error)
}
