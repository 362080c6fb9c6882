//! `POST /v1/completions`.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};

use super::convert;
use super::types::{CompletionRequest, OnePrompt};
use super::validate::{Valid, validate};
use crate::app::App;
use crate::error::ApiError;
use crate::flow::{self, Collector, Running};
use crate::metrics::Meter;
use crate::prompt::{self, Prompt};
use crate::routes::chat::handler::failed_stream;
use crate::routes::openai::answer::Identity;
use crate::routes::openai::logprobs::Form;
use crate::routes::openai::names;
use crate::routes::openai::sampling::{keeps_stop, model};
use crate::routes::openai::stream::{Group, Route};
use crate::stream::{self, EventStream};
use crate::{V1Dialect, body};

/// The handler. Errors found before the engine has the request are real statuses; [`V1Dialect::Tgi`] puts those of a
/// stream inside it.
pub(crate) async fn completions(State(app): State<Arc<App>>, request: Request) -> Response {
    let meter = flow::meter(&app);
    let dialect = app.config.v1_dialect;
    let request: CompletionRequest = match body::json(request, app.config.payload_limit).await {
        Ok(request) => request,
        Err(error) => {
            meter.failed(&error);
            return error.v1(dialect);
        }
    };
    let stream = request.stream == Some(true);
    match answer(&app, &meter, request).await {
        Ok(response) => response,
        Err(error) => {
            meter.failed(&error);
            let inside = matches!(error, ApiError::Validation(_) | ApiError::Overloaded);
            if stream && inside && dialect == V1Dialect::Tgi {
                return failed_stream(&app, &error);
            }
            names::renamed(error, Route::Completions, dialect).v1(dialect)
        }
    }
}

/// One run a prompt and choice.
struct Run {
    prompt: Prompt,
    /// Which of its prompt's choices it is.
    sample: u32,
    /// Comes before its text.
    echo: String,
}

async fn answer(
    app: &Arc<App>,
    meter: &Arc<Meter>,
    request: CompletionRequest,
) -> Result<Response, ApiError> {
    let limits = *app.engine.limits();
    let max_prompts = app.config.max_client_batch_size;
    let n = request.n.unwrap_or(1).clamp(1, limits.max_best_of.max(1));
    let places = request.prompt.0.len().min(max_prompts) * n as usize;
    let running = Running::holding(app.gate.enter(places)?);
    let mut valid = validate(request, &limits, max_prompts)?;
    let mut name = model(app, valid.model.take())?;
    if app.config.v1_dialect == V1Dialect::Tgi {
        name.clone_from(&app.config.model_id);
    }
    let identity = Identity::new(app, "cmpl", name);
    let mut runs = Vec::with_capacity(places);
    for prompt in std::mem::take(&mut valid.prompts) {
        let (prompt, echo) = prepare(app, &valid, prompt).await?;
        for sample in 0..valid.sampling.n {
            runs.push(Run {
                prompt: prompt.clone(),
                sample,
                echo: echo.clone(),
            });
        }
    }
    meter.admitted(
        runs.iter()
            .map(|run| (run.prompt.ids.len(), run.prompt.max_new_tokens)),
    );
    valid.sampling.params.seed = valid.sampling.seed.unwrap_or_else(|| app.seeds.next());
    if valid.stream {
        streamed(app, meter, &valid, runs, identity, running)
    } else {
        whole(app, meter, &valid, runs, identity, running).await
    }
}

/// A prompt's ids, checked, and the text to echo.
async fn prepare(app: &Arc<App>, valid: &Valid, prompt: OnePrompt) -> Result<(Prompt, String), ApiError> {
    let max_new = valid.sampling.params.max_new_tokens;
    match prompt {
        OnePrompt::Text(text) => {
            let echo = if valid.echo { text.clone() } else { String::new() };
            Ok((prompt::from_text(app, text, None, max_new).await?, echo))
        }
        OnePrompt::Ids(ids) => {
            let vocabulary = app.tokenizer.vocab_size();
            if let Some(id) = ids.iter().find(|id| **id as usize >= vocabulary) {
                return Err(ApiError::Validation(format!(
                    "`prompt` token ids must be below {vocabulary}. Given: {id}"
                )));
            }
            let (app, echo) = (app.clone(), valid.echo);
            prompt::on_pool(move || {
                let text = app
                    .tokenizer
                    .decode(&ids, false)
                    .map_err(|error| ApiError::Validation(format!("tokenizer error {error}")))?;
                let prompt = prompt::from_ids(app.engine.limits(), ids, text.chars().count(), max_new)?;
                Ok((prompt, if echo { text } else { String::new() }))
            })
            .await
        }
    }
}

async fn whole(
    app: &Arc<App>,
    meter: &Arc<Meter>,
    valid: &Valid,
    runs: Vec<Run>,
    identity: Identity,
    mut running: Running,
) -> Result<Response, ApiError> {
    let n = valid.sampling.n;
    let mut waiting = Vec::with_capacity(runs.len());
    let (mut echoes, mut characters) = (Vec::new(), 0);
    for run in runs {
        if run.sample == 0 {
            characters += run.prompt.characters;
            echoes.push(run.echo);
        }
        let mut params = valid.sampling.params.clone();
        params.max_new_tokens = Some(run.prompt.max_new_tokens);
        params.sample_index = run.sample;
        let (collector, collected) = Collector::new(valid.logprobs);
        running.submit(app, run.prompt.ids, params, keeps_stop(app), collector)?;
        waiting.push(collected);
    }
    let mut outputs = Vec::with_capacity(waiting.len());
    for collected in waiting {
        outputs.push(collected.output().await?);
    }
    let mut headers = flow::settle(app, meter, characters, &outputs, n);
    headers.remove("x-compute-time");
    let dialect = app.config.v1_dialect;
    let answer = convert::response(
        identity,
        dialect,
        (outputs, n),
        &echoes,
        valid.logprobs,
        &app.tokenizer,
    );
    Ok((headers, Json(answer)).into_response())
}

fn streamed(
    app: &Arc<App>,
    meter: &Arc<Meter>,
    valid: &Valid,
    runs: Vec<Run>,
    identity: Identity,
    mut running: Running,
) -> Result<Response, ApiError> {
    let (pipe, outlet) = stream::pipe();
    let kind = (Route::Completions, app.config.v1_dialect, identity);
    let tokenizer = app.tokenizer.clone();
    let group = Group::new(
        kind,
        valid.include_usage,
        runs.len(),
        pipe,
        meter.clone(),
        tokenizer,
    );
    let mut characters = 0;
    for (index, run) in (0..).zip(runs) {
        let first = run.sample == 0;
        if first {
            characters += run.prompt.characters;
        }
        let mut params = valid.sampling.params.clone();
        params.max_new_tokens = Some(run.prompt.max_new_tokens);
        params.sample_index = run.sample;
        let logprobs = if valid.logprobs {
            Form::Completion { offset: 0 }
        } else {
            Form::Off
        };
        let sink = group.choice(index, first, logprobs, &run.echo);
        running.submit(app, run.prompt.ids, params, keeps_stop(app), sink)?;
    }
    let events = EventStream::new(outlet, running);
    Ok(stream::response(events, &app.config.compute_type, characters))
}
