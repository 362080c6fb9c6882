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
use crate::routes::openai::respond::respond;
use crate::routes::openai::sampling::{keeps_stop, model};
use crate::routes::openai::stream::{Group, Route};
use crate::stream::{self, EventStream};

/// The handler.
pub(crate) async fn chat_completions(State(app): State<Arc<App>>, request: Request) -> Response {
    respond(app, request, Route::Chat, |app, meter, request| async move {
        answer(&app, &meter, request).await
    })
    .await
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
