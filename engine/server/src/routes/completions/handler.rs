//! `POST /v1/completions`.

use std::sync::Arc;

use agentlm_core::params::SamplingParams;
use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};

use super::convert;
use super::echo::Echo;
use super::prompt_only::PromptOnly;
use super::types::{CompletionRequest, OnePrompt};
use super::validate::{Valid, validate};
use crate::V1Dialect;
use crate::app::App;
use crate::error::ApiError;
use crate::flow::{self, Collector, Run, Running};
use crate::metrics::Meter;
use crate::prompt::{self, Prompt};
use crate::routes::adapter;
use crate::routes::openai::answer::Identity;
use crate::routes::openai::logprobs::{Form, Lists};
use crate::routes::openai::respond::respond;
use crate::routes::openai::sampling::{keeps_stop, model};
use crate::routes::openai::stream::{Group, Route};
use crate::stream::{self, EventStream};

/// The handler.
pub(crate) async fn completions(State(app): State<Arc<App>>, request: Request) -> Response {
    respond(
        app,
        request,
        Route::Completions,
        |app, meter, request| async move { answer(&app, &meter, request).await },
    )
    .await
}

/// What is needed to begin, all of one prompt's runs in a row.
struct Ready {
    identity: Identity,
    runs: Vec<Run>,
    /// One a prompt.
    echoes: Vec<Echo>,
    /// Unicode characters of all prompts.
    characters: usize,
}

async fn answer(
    app: &Arc<App>,
    meter: &Arc<Meter>,
    request: CompletionRequest,
) -> Result<Response, ApiError> {
    let limits = *app.engine.limits();
    let max_prompts = app.config.max_client_batch_size;
    let each = request.n.max(request.best_of).unwrap_or(1);
    let each = each.clamp(1, limits.max_best_of.max(1));
    let places = request.prompt.0.len().min(max_prompts) * each as usize;
    let mut running = Running::holding(app.gate.enter(places)?);
    let mut valid = validate(request, &limits, max_prompts)?;
    let mut name = model(app, valid.model.take())?;
    running.adapt(adapter::of_model(app, &name));
    if app.config.v1_dialect == V1Dialect::Tgi {
        name.clone_from(&app.config.model_id);
    }
    let identity = Identity::new(app, "cmpl", name);
    let ready = prepare(app, &mut valid, identity).await?;
    meter.admitted(ready.runs.iter().map(|run| {
        let (prompt, max_new) = run.lengths();
        (prompt, if valid.prompt_only { 0 } else { max_new })
    }));
    if valid.stream {
        streamed(app, meter, &valid, ready, running)
    } else {
        whole(app, meter, &valid, ready, running).await
    }
}

/// Makes the runs of all prompts.
async fn prepare(app: &Arc<App>, valid: &mut Valid, identity: Identity) -> Result<Ready, ApiError> {
    let (mut prompts, mut echoes) = (Vec::new(), Vec::new());
    for prompt in std::mem::take(&mut valid.prompts) {
        let (prompt, echo) = read(app, valid, prompt).await?;
        prompts.push(prompt);
        echoes.push(echo);
    }
    let all = u32::try_from(prompts.len()).unwrap_or(u32::MAX);
    let all = all.saturating_mul(valid.best_of);
    let grammars = prompt::start_grammar(app, valid.sampling.grammar.take(), all).await?;
    let seed = valid.sampling.seed.unwrap_or_else(|| app.seeds.next());
    let each = prompts
        .iter()
        .flat_map(|prompt| (0..valid.best_of).map(move |sample| (prompt, sample)));
    let run = |((prompt, sample_index), grammar): ((&Prompt, u32), _)| Run {
        prompt: prompt.ids.clone(),
        params: SamplingParams {
            max_new_tokens: Some(prompt.max_new_tokens.max(1)),
            seed,
            sample_index,
            ..valid.sampling.params.clone()
        },
        keep_stop: keeps_stop(app),
        grammar,
    };
    Ok(Ready {
        runs: each.zip(grammars).map(run).collect(),
        identity,
        echoes,
        characters: prompts.iter().map(|prompt| prompt.characters).sum(),
    })
}

/// A prompt's ids, checked, and what is shown of it.
async fn read(app: &Arc<App>, valid: &Valid, prompt: OnePrompt) -> Result<(Prompt, Echo), ApiError> {
    let (shown, max_tokens) = (valid.echo, valid.max_tokens());
    let app = app.clone();
    prompt::on_pool(move || {
        let (ids, echo) = match prompt {
            OnePrompt::Text(text) => {
                let encoding = prompt::encode(&app.tokenizer, &text, true)?;
                (encoding.ids, Echo::of_text(text, &encoding.offsets))
            }
            OnePrompt::Ids(ids) => {
                prompt::check_ids(&app, &ids)?;
                let text = app
                    .tokenizer
                    .decode(&ids, false)
                    .map_err(|error| ApiError::Validation(format!("tokenizer error {error}")))?;
                let echo = Echo::of_ids(text, &ids, &app.tokenizer);
                (ids, echo)
            }
        };
        let prompt = prompt::from_ids(app.engine.limits(), ids, echo.characters, max_tokens)?;
        Ok((prompt, if shown { echo } else { Echo::default() }))
    })
    .await
}

async fn whole(
    app: &Arc<App>,
    meter: &Arc<Meter>,
    valid: &Valid,
    ready: Ready,
    mut running: Running,
) -> Result<Response, ApiError> {
    let mut waiting = Vec::with_capacity(ready.runs.len());
    for run in ready.runs {
        let (collector, collected) = Collector::new(valid.logprobs && !valid.prompt_only);
        if valid.prompt_only {
            running.submit(app, run, PromptOnly(collector))?;
        } else {
            running.submit(app, run, collector)?;
        }
        waiting.push(collected);
    }
    let mut outputs = Vec::with_capacity(waiting.len());
    for collected in waiting {
        outputs.push(collected.output().await?);
    }
    let mut headers = flow::settle(app, meter, ready.characters, &outputs, valid.best_of);
    headers.remove("x-compute-time");
    let answer = convert::response(app, ready.identity, valid, &ready.echoes, outputs);
    Ok((headers, Json(answer)).into_response())
}

fn streamed(
    app: &Arc<App>,
    meter: &Arc<Meter>,
    valid: &Valid,
    ready: Ready,
    mut running: Running,
) -> Result<Response, ApiError> {
    let (pipe, outlet) = stream::pipe();
    let group = Group::new(
        (Route::Completions, app.config.v1_dialect, ready.identity),
        valid.include_usage,
        ready.runs.len(),
        pipe,
        meter.clone(),
        app.tokenizer.clone(),
    );
    let each = ready
        .echoes
        .iter()
        .flat_map(|echo| (0..valid.sampling.n).map(move |sample| (echo, sample)));
    for ((index, run), (echo, sample)) in (0..).zip(ready.runs).zip(each) {
        let logprobs = if valid.logprobs {
            Form::Completion(Lists::after(echo, valid.prompt_only))
        } else {
            Form::Off
        };
        let sink = group.choice(index, sample == 0, logprobs, &echo.text);
        if valid.prompt_only {
            running.submit(app, run, PromptOnly(sink))?;
        } else {
            running.submit(app, run, sink)?;
        }
    }
    let events = EventStream::new(outlet, running);
    Ok(stream::response(
        events,
        &app.config.compute_type,
        ready.characters,
    ))
}
