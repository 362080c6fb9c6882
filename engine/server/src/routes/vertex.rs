//! `POST /vertex`: Vertex AI's form, several prompts or conversations at once, of which only the texts are answered.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::de::{DeserializeOwned, Deserializer, Error as _};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::adapter;
use super::chat::render::render;
use super::chat::types::ChatRequest;
use super::chat::validate::validate;
use super::generate::handler::{Ready, prepare, refuse};
use super::generate::types::{GenerateParameters, GenerateRequest};
use super::openai::names::worded;
use super::openai::request::V1Request;
use super::openai::sampling::model;
use super::openai::stream::Route;
use crate::app::App;
use crate::error::ApiError;
use crate::flow::{self, Collector, Run, Running};
use crate::metrics::Meter;
use crate::object::Object;
use crate::{body, prompt};

/// What is asked.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct VertexRequest {
    #[schemars(length(min = 1), extend("x-cap" = {"maxItems": "max-concurrent-requests"}))]
    instances: Vec<Instance>,
}

/// One prompt, or one conversation.
#[derive(Debug, JsonSchema)]
#[schemars(untagged)]
enum Instance {
    Generate(Box<GenerateRequest>),
    Chat(Box<ChatRequest>),
}

impl<'de> Deserialize<'de> for Instance {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let has = |field: &str| value.get(field).is_some_and(|value| !value.is_null());
        if has("messages") && !has("inputs") {
            typed(value).map(|chat| Self::Chat(Box::new(chat)))
        } else {
            typed(value).map(|prompt| Self::Generate(Box::new(prompt)))
        }
        .map_err(D::Error::custom)
    }
}

/// The value as a `T`; an error tells where in it something is wrong.
fn typed<T: DeserializeOwned>(value: Value) -> Result<T, serde_path_to_error::Error<serde_json::Error>> {
    serde_path_to_error::deserialize(value).map(|Object(value)| value)
}

/// The texts, in the order of the instances.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Predictions {
    predictions: Vec<String>,
}

/// An error that says no more than what kind it is.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Opaque {
    error: &'static str,
    error_type: &'static str,
}

fn opaque(status: StatusCode, text: &'static str) -> Response {
    let error = Opaque {
        error: text,
        error_type: text,
    };
    (status, Json(error)).into_response()
}

/// The handler. Where TGI is opaque about everything, what the client can mend is told as on the native routes.
pub(crate) async fn vertex(State(app): State<Arc<App>>, request: Request) -> Response {
    let meter = flow::meter(&app, &request);
    let instances = match body::json(request, app.config.payload_limit).await {
        Ok(VertexRequest { instances }) => instances,
        Err(error) => return refuse(&meter, &error),
    };
    if instances.is_empty() {
        meter.failed(&ApiError::Validation("`instances` cannot be empty".to_owned()));
        return opaque(StatusCode::UNPROCESSABLE_ENTITY, "Input validation error");
    }
    match predict(&app, &meter, instances).await {
        Ok(predictions) => Json(Predictions { predictions }).into_response(),
        Err(error @ (ApiError::Generation(_) | ApiError::Incomplete)) => {
            meter.failed(&error);
            opaque(StatusCode::INTERNAL_SERVER_ERROR, "Incomplete generation")
        }
        Err(error) => refuse(&meter, &error),
    }
}

async fn predict(app: &Arc<App>, meter: &Meter, instances: Vec<Instance>) -> Result<Vec<String>, ApiError> {
    let places = app.config.max_concurrent_requests;
    if instances.len() > places {
        return Err(ApiError::BatchSize(places));
    }
    let mut running = Running::holding(app.gate.enter(instances.len())?);
    let mut all = Vec::with_capacity(instances.len());
    for instance in instances {
        all.push(match instance {
            Instance::Generate(request) => of_prompt(app, *request).await?,
            Instance::Chat(request) => {
                let sent = request.sent();
                of_chat(app, *request)
                    .await
                    .map_err(|error| worded(error, Route::Chat, app.config.v1_dialect, sent))?
            }
        });
    }
    meter.admitted(all.iter().flat_map(|ready| ready.runs.iter().map(Run::lengths)));
    let (mut waiting, mut characters) = (Vec::with_capacity(all.len()), 0);
    for ready in all {
        characters += ready.characters;
        running.adapt(ready.adapter);
        for run in ready.runs {
            let (collector, collected) = Collector::new(false);
            running.submit(app, run, collector)?;
            waiting.push(collected);
        }
    }
    let mut outputs = Vec::with_capacity(waiting.len());
    for collected in waiting {
        outputs.push(collected.output().await?);
    }
    // TGI's answer has no headers of its own here.
    flow::settle(app, meter, characters, &outputs, 1);
    Ok(outputs.into_iter().map(|output| output.finished.text).collect())
}

/// Always sampled, and once: there is room for one text and for nothing else.
async fn of_prompt(app: &Arc<App>, mut request: GenerateRequest) -> Result<Ready, ApiError> {
    request.parameters = Some(Object(GenerateParameters {
        do_sample: Some(true),
        best_of: None,
        details: None,
        decoder_input_details: None,
        ..request.parameters.unwrap_or_default().0
    }));
    Ok(prepare(app, request, false).await?.1)
}

async fn of_chat(app: &Arc<App>, request: ChatRequest) -> Result<Ready, ApiError> {
    let limits = *app.engine.limits();
    let mut valid = validate(request, &limits)?;
    let name = model(app, valid.model.take())?;
    let rendered = render(app, std::mem::take(&mut valid.chat)).await?;
    let mut params = valid.sampling.params;
    let prompt = prompt::from_ids(
        &limits,
        rendered.ids,
        rendered.text.chars().count(),
        params.max_new_tokens,
    )?;
    params.max_new_tokens = Some(prompt.max_new_tokens);
    params.seed = valid.sampling.seed.unwrap_or_else(|| app.seeds.next());
    let grammars = prompt::start_grammar(app, valid.sampling.grammar, 1).await?;
    let run = |grammar| Run {
        prompt: prompt.ids.clone(),
        params: params.clone(),
        keep_stop: true,
        grammar,
    };
    Ok(Ready {
        runs: grammars.into_iter().map(run).collect(),
        adapter: adapter::of_model(app, &name),
        characters: prompt.characters,
    })
}
