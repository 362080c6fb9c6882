//! `POST /v1/chat/completions`.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};

use super::convert;
use super::render::render;
use super::tools::ToolStream;
use super::types::ChatRequest;
use super::validate::{Valid, validate};
use crate::app::App;
use crate::error::ApiError;
use crate::flow::{self, Collector, Run, Running};
use crate::metrics::Meter;
use crate::prompt;
use crate::routes::adapter;
use crate::routes::openai::answer::Identity;
use crate::routes::openai::logprobs::Form;
use crate::routes::openai::names;
use crate::routes::openai::sampling::{keeps_stop, model};
use crate::routes::openai::stream::{Group, Route};
use crate::stream::{self, EventStream};
use crate::{V1Dialect, body};

/// The handler. Errors found before the engine has the request are real statuses; [`V1Dialect::Tgi`] puts those of a
/// stream inside it, save the template's and the tools'.
pub(crate) async fn chat_completions(State(app): State<Arc<App>>, request: Request) -> Response {
    let meter = flow::meter(&app, &request);
    let dialect = app.config.v1_dialect;
    let request: ChatRequest = match body::json(request, app.config.payload_limit).await {
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
            names::renamed(error, Route::Chat, dialect).v1(dialect)
        }
    }
}

/// A stream that says nothing but `error`.
pub(crate) fn failed_stream(app: &App, error: &ApiError) -> Response {
    let (pipe, outlet) = stream::pipe();
    pipe.write(true, |out| error.write_v1_event(out, app.config.v1_dialect));
    stream::response(
        EventStream::new(outlet, Running::default()),
        &app.config.compute_type,
        0,
    )
}

async fn answer(app: &Arc<App>, meter: &Arc<Meter>, request: ChatRequest) -> Result<Response, ApiError> {
    let runs = request
        .n
        .unwrap_or(1)
        .clamp(1, app.engine.limits().max_best_of.max(1));
    let mut running = Running::holding(app.gate.enter(runs as usize)?);
    let limits = *app.engine.limits();
    let mut valid = validate(request, &limits)?;
    let name = model(app, valid.model.take())?;
    running.adapt(adapter::of_model(app, &name));
    let identity = Identity::new(app, "chatcmpl", name);
    let rendered = render(app, std::mem::take(&mut valid.chat)).await?;
    let max_new = valid.sampling.params.max_new_tokens;
    let prompt = prompt::from_ids(&limits, rendered.ids, rendered.text.chars().count(), max_new)?;
    let n = valid.sampling.n;
    let grammars = prompt::start_grammar(app, valid.sampling.grammar.take(), n).await?;
    meter.admitted((0..n).map(|_| (prompt.ids.len(), prompt.max_new_tokens)));
    let params = &mut valid.sampling.params;
    params.max_new_tokens = Some(prompt.max_new_tokens);
    params.seed = valid.sampling.seed.unwrap_or_else(|| app.seeds.next());
    let mut runs = Vec::with_capacity(n as usize);
    for (choice, grammar) in (0..n).zip(grammars) {
        let mut params = valid.sampling.params.clone();
        params.sample_index = choice;
        runs.push(Run {
            prompt: prompt.ids.clone(),
            params,
            keep_stop: keeps_stop(app),
            grammar,
        });
    }
    if valid.stream {
        return streamed(app, meter, &valid, (runs, prompt.characters), identity, running);
    }
    let mut waiting = Vec::with_capacity(runs.len());
    for run in runs {
        // Calls are found among the tokens, special ones too.
        let (collector, collected) = Collector::new(valid.logprobs || valid.tools.is_some());
        running.submit(app, run, collector)?;
        waiting.push(collected);
    }
    let mut outputs = Vec::with_capacity(waiting.len());
    for collected in waiting {
        outputs.push(collected.output().await?);
    }
    let headers = flow::settle(app, meter, prompt.characters, &outputs, n);
    let answer = convert::response(app, identity, &valid, outputs);
    Ok((headers, Json(answer)).into_response())
}

/// Starts the runs of a prompt of so many characters and answers with their stream.
fn streamed(
    app: &Arc<App>,
    meter: &Arc<Meter>,
    valid: &Valid,
    (runs, characters): (Vec<Run>, usize),
    identity: Identity,
    mut running: Running,
) -> Result<Response, ApiError> {
    let (pipe, outlet) = stream::pipe();
    let group = Group::new(
        (Route::Chat, app.config.v1_dialect, identity),
        valid.include_usage,
        runs.len(),
        pipe,
        meter.clone(),
        app.tokenizer.clone(),
    );
    for (choice, run) in (0..).zip(runs) {
        let logprobs = if valid.logprobs { Form::Chat } else { Form::Off };
        let first = choice == 0;
        match &valid.tools {
            None => running.submit(app, run, group.choice(choice, first, logprobs, ""))?,
            Some(tools) => {
                let listener = tools.listener(app, &run.params);
                let sink = ToolStream::new(&group, listener, choice, first, logprobs);
                running.submit(app, run, sink)?;
            }
        }
    }
    let events = EventStream::new(outlet, running);
    Ok(stream::response(events, &app.config.compute_type, characters))
}
