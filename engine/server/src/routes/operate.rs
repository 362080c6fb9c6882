//! The operator's routes: adapters, other weights, sleep. All of them need an API key; without one configured they are refused,
//! because they read the server's disk.

use std::sync::Arc;
use std::time::Duration;

use agentlm_host::{Control, ControlError, Quiesce};
use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::oneshot;

use crate::app::App;
use crate::body;
use crate::error::ApiError;
use crate::openapi::{Answer, Operation, Schemas, failures};

/// How long requests in the way may take to end, unless the caller says otherwise.
const PATIENCE_SECONDS: f64 = 60.0;
/// The longest that a caller may say.
const MAX_PATIENCE_SECONDS: f64 = 3600.0;

/// A loaded adapter.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Adapter {
    /// Requests choose it by this name, which is neither the model's own nor `tgi`.
    #[schemars(length(min = 1))]
    pub(crate) name: String,
    /// Directory on the server, in peft's format.
    pub(crate) path: String,
}

/// All loaded adapters.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Adapters {
    pub(crate) adapters: Vec<Adapter>,
}

/// What becomes of the requests that run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mode {
    /// They finish; new ones wait.
    #[default]
    Drain,
    /// They end with an error.
    Abort,
}

/// How to exchange the weights, or to fall asleep.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub(crate) struct Exchange {
    /// Directory on the server with a checkpoint of the same shape; the served one again if absent.
    pub(crate) path: Option<String>,
    /// `drain` if absent.
    pub(crate) mode: Option<Mode>,
    /// Seconds that running requests have to finish.
    #[schemars(extend("minimum" = 0, "maximum" = MAX_PATIENCE_SECONDS, "default" = PATIENCE_SECONDS))]
    pub(crate) timeout: Option<f64>,
}

/// What the engine is after an exchange.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Weights {
    /// How often the weights were exchanged.
    pub(crate) weight_version: u32,
    /// Whether their memory was given back.
    pub(crate) asleep: bool,
}

/// `GET /adapters` in the API's document.
pub(crate) fn describe_list(schemas: &mut Schemas) -> Operation {
    Operation::new("operator", "list_adapters", "The loaded adapters")
        .answering(Answer::Json(schemas.answered::<Adapters>()))
        .failing([ApiError::Internal])
}

/// `POST /adapters`.
pub(crate) fn describe_load(schemas: &mut Schemas) -> Operation {
    let example = json!({"name": "support", "path": "/data/adapters/support"});
    Operation::new("operator", "load_adapter", "Loads an adapter")
        .takes(&schemas.asked::<Adapter>(), &example)
        .answering(Answer::Json(schemas.answered::<Adapter>()))
        .failing(failures::control([
            ControlError::AdapterExists(String::new()),
            ControlError::Asleep,
        ]))
}

/// `DELETE /adapters/{name}`.
pub(crate) fn describe_unload(_: &mut Schemas) -> Operation {
    Operation::new(
        "operator",
        "unload_adapter",
        "Unloads an adapter, once the requests that use it have ended",
    )
    .named("name", "The adapter's name.")
    .failing(failures::control([
        ControlError::UnknownAdapter(String::new()),
        failures::in_the_way(),
    ]))
}

/// `POST /weights/reload`.
pub(crate) fn describe_reload(schemas: &mut Schemas) -> Operation {
    described(
        schemas,
        "reload_weights",
        "Exchanges the weights for those of another checkpoint of the same shape",
    )
    .failing(failures::control([ControlError::Asleep, failures::in_the_way()]))
}

/// `POST /sleep`.
pub(crate) fn describe_sleep(schemas: &mut Schemas) -> Operation {
    described(
        schemas,
        "sleep",
        "Gives back the memory of weights and cache, until the engine is woken",
    )
    .failing(failures::control([failures::in_the_way()]))
}

/// `POST /wake`.
pub(crate) fn describe_wake(schemas: &mut Schemas) -> Operation {
    described(schemas, "wake", "Wakes the engine").failing(failures::control([]))
}

fn described(schemas: &mut Schemas, id: &'static str, summary: &'static str) -> Operation {
    Operation::new("operator", id, summary)
        .may_take(
            &schemas.asked::<Exchange>(),
            &json!({"mode": "drain", "timeout": 60}),
        )
        .answering(Answer::Json(schemas.answered::<Weights>()))
}

/// Refuses these routes on a server without a key.
pub(crate) async fn require_configured_key(
    State(app): State<Arc<App>>,
    request: Request,
    next: Next,
) -> Response {
    if app.config.api_keys.is_empty() {
        return ApiError::NeedsKey.native();
    }
    next.run(request).await
}

/// `GET /adapters`
pub(crate) async fn list_adapters(State(app): State<Arc<App>>) -> Response {
    let loaded = app.engine.adapters().into_iter();
    let adapters = loaded.map(|adapter| Adapter {
        name: adapter.name,
        path: adapter.path,
    });
    Json(Adapters {
        adapters: adapters.collect(),
    })
    .into_response()
}

/// `POST /adapters`
pub(crate) async fn load_adapter(State(app): State<Arc<App>>, request: Request) -> Response {
    let adapter: Adapter = match body::json(request, app.config.payload_limit).await {
        Ok(adapter) => adapter,
        Err(error) => return error.native(),
    };
    if adapter.name.is_empty() || adapter.name == app.config.model_id || adapter.name == "tgi" {
        let text = format!(
            "`name` must be neither empty nor the model's own, and is {:?}",
            adapter.name
        );
        return ApiError::Validation(text).native();
    }
    let control = Control::LoadAdapter {
        name: adapter.name.clone(),
        path: adapter.path.clone(),
        number: 0,
    };
    match ask(&app, control, &Exchange::default()).await {
        Ok(()) => Json(adapter).into_response(),
        Err(error) => error.native(),
    }
}

/// `DELETE /adapters/{name}`: requests that use it finish first.
pub(crate) async fn unload_adapter(
    State(app): State<Arc<App>>,
    name: Result<Path<String>, PathRejection>,
) -> Response {
    // A name that is no UTF-8 is nobody's.
    let Ok(Path(name)) = name else {
        return ApiError::Control(ControlError::UnknownAdapter("\u{fffd}".to_owned())).native();
    };
    match ask(
        &app,
        Control::UnloadAdapter { name, number: 0 },
        &Exchange::default(),
    )
    .await
    {
        Ok(()) => StatusCode::OK.into_response(),
        Err(error) => error.native(),
    }
}

/// `POST /weights/reload`
pub(crate) async fn reload_weights(State(app): State<Arc<App>>, request: Request) -> Response {
    exchange(app, request, |exchange| Control::ReloadWeights {
        path: exchange.path.clone().unwrap_or_default(),
    })
    .await
}

/// `POST /sleep`
pub(crate) async fn sleep(State(app): State<Arc<App>>, request: Request) -> Response {
    exchange(app, request, |_| Control::Sleep).await
}

/// `POST /wake`
pub(crate) async fn wake(State(app): State<Arc<App>>, request: Request) -> Response {
    exchange(app, request, |_| Control::Wake).await
}

async fn exchange(app: Arc<App>, request: Request, control: impl FnOnce(&Exchange) -> Control) -> Response {
    // Everything in it has a default, and so has the whole.
    let exchange = match body::json_or_default(request, app.config.payload_limit).await {
        Ok(exchange) => exchange,
        Err(error) => return error.native(),
    };
    match ask(&app, control(&exchange), &exchange).await {
        Ok(()) => Json(Weights {
            weight_version: app.engine.weight_version(),
            asleep: app.engine.is_asleep(),
        })
        .into_response(),
        Err(error) => error.native(),
    }
}

async fn ask(app: &App, control: Control, exchange: &Exchange) -> Result<(), ApiError> {
    let seconds = exchange.timeout.unwrap_or(PATIENCE_SECONDS);
    if !(0.0..=MAX_PATIENCE_SECONDS).contains(&seconds) {
        return Err(ApiError::Validation(format!(
            "`timeout` must be >= 0.0 and <= {MAX_PATIENCE_SECONDS:.1} seconds. Given: {seconds}"
        )));
    }
    let quiesce = match exchange.mode.unwrap_or_default() {
        Mode::Drain => Quiesce::Drain,
        Mode::Abort => Quiesce::Abort,
    };
    let (tell, outcome) = oneshot::channel();
    let done = Box::new(move |result| {
        // A client that is gone has stopped caring; what it asked for is done all the same.
        let _ = tell.send(result);
    });
    app.engine
        .control(control, quiesce, Duration::from_secs_f64(seconds), done);
    outcome
        .await
        .unwrap_or(Err(ControlError::Closed))
        .map_err(ApiError::Control)
}
