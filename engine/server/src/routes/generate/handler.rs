//! `/generate` and `/generate_stream`, and what `/` shares with them.

use std::sync::Arc;

use agentlm_core::params::SamplingParams;
use agentlm_host::AdapterRef;
use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};

use super::convert::{self, Form};
use super::stream::NativeStream;
use super::types::{GenerateRequest, GenerateResponse};
use super::validate::{Valid, validate};
use crate::app::App;
use crate::body;
use crate::error::ApiError;
use crate::flow::{self, Collector, Run, Running};
use crate::metrics::Meter;
use crate::prompt;
use crate::routes::adapter;
use crate::stream::{self, EventStream};

/// `POST /generate`.
pub(crate) async fn generate(State(app): State<Arc<App>>, request: Request) -> Response {
    let meter = flow::meter(&app, &request);
    let answer = async {
        let request = body::json(request, app.config.payload_limit).await?;
        whole(&app, &meter, request, false).await
    };
    match answer.await {
        Ok((headers, response)) => (headers, Json(response)).into_response(),
        Err(error) => refuse(&meter, &error),
    }
}

/// `POST /generate_stream`.
pub(crate) async fn generate_stream(State(app): State<Arc<App>>, request: Request) -> Response {
    let meter = flow::meter(&app, &request);
    match body::json(request, app.config.payload_limit).await {
        Ok(request) => streamed(&app, &meter, request, false).await,
        Err(error) => refuse(&meter, &error),
    }
}

/// The error answer of a native route.
pub(crate) fn refuse(meter: &Meter, error: &ApiError) -> Response {
    meter.failed(error);
    error.native()
}

/// Generates and answers with the whole text. `full_text` is what an absent `return_full_text` means.
pub(crate) async fn whole(
    app: &Arc<App>,
    meter: &Arc<Meter>,
    request: GenerateRequest,
    full_text: bool,
) -> Result<(axum::http::HeaderMap, GenerateResponse), ApiError> {
    // The place is taken before anything is checked: a full server answers 429 also to what is wrong.
    let runs = request
        .parameters
        .as_ref()
        .and_then(|parameters| parameters.0.best_of)
        .unwrap_or(1);
    let runs = runs.clamp(1, u64::from(app.engine.limits().max_best_of.max(1)));
    let mut running = Running::holding(app.gate.enter(usize::try_from(runs).unwrap_or(usize::MAX))?);
    let (valid, ready) = prepare(app, request, false).await?;
    meter.admitted(ready.runs.iter().map(Run::lengths));
    running.adapt(ready.adapter);
    let mut waiting = Vec::with_capacity(ready.runs.len());
    for run in ready.runs {
        let (collector, collected) = Collector::new(valid.details);
        waiting.push((collected, valid.samples().then_some(run.params.seed)));
        running.submit(app, run, collector)?;
    }
    let mut outputs = Vec::with_capacity(waiting.len());
    let mut seeds = Vec::with_capacity(waiting.len());
    for (collected, seed) in waiting {
        outputs.push(collected.output().await?);
        seeds.push(seed);
    }
    let headers = flow::settle(app, meter, ready.characters, &outputs, valid.best_of);
    let form = Form {
        before: if valid.return_full_text.unwrap_or(full_text) {
            &valid.inputs
        } else {
            ""
        },
        details: valid.details,
        top_tokens: valid.params.top_n_tokens > 0,
        tokenizer: &app.tokenizer,
    };
    let runs = outputs.into_iter().zip(seeds).collect();
    convert::response(runs, &form)
        .map(|response| (headers, response))
        .ok_or(ApiError::Incomplete)
}

/// Generates and answers with events. As in TGI the status is 200 whatever comes: errors are events too.
pub(crate) async fn streamed(
    app: &Arc<App>,
    meter: &Arc<Meter>,
    request: GenerateRequest,
    full_text: bool,
) -> Response {
    let (pipe, outlet) = stream::pipe();
    let characters = request.inputs.chars().count();
    let started = async {
        let mut running = Running::holding(app.gate.enter(1)?);
        let (valid, ready) = prepare(app, request, true).await?;
        meter.admitted(ready.runs.iter().map(Run::lengths));
        running.adapt(ready.adapter);
        // A stream has exactly one run.
        let Some(run) = ready.runs.into_iter().next() else {
            return Err(ApiError::Internal);
        };
        let sink = NativeStream {
            pipe: pipe.clone(),
            meter: meter.clone(),
            tokenizer: app.tokenizer.clone(),
            details: valid.details,
            seed: valid.samples().then_some(run.params.seed),
            before: if valid.return_full_text.unwrap_or(full_text) {
                valid.inputs
            } else {
                String::new()
            },
        };
        running.submit(app, run, sink)?;
        Ok::<_, ApiError>(running)
    };
    let running = started.await.unwrap_or_else(|error| {
        meter.failed(&error);
        pipe.write(true, |out| error.write_native_event(out));
        Running::default()
    });
    stream::response(
        EventStream::new(outlet, running),
        &app.config.compute_type,
        characters,
    )
}

/// Runs that can be submitted.
pub(crate) struct Ready {
    pub(crate) runs: Vec<Run>,
    pub(crate) adapter: AdapterRef,
    /// Unicode characters of the prompt.
    pub(crate) characters: usize,
}

/// Checks a request and makes its runs, `best_of` of one prompt.
pub(crate) async fn prepare(
    app: &Arc<App>,
    request: GenerateRequest,
    stream: bool,
) -> Result<(Valid, Ready), ApiError> {
    let valid = validate(request, stream, app.engine.limits())?;
    let text = valid.inputs.clone();
    let prompt = prompt::from_text(app, text, valid.truncate, valid.params.max_new_tokens).await?;
    let grammars = prompt::start_grammar(app, valid.grammar()?, valid.best_of).await?;
    let adapter = adapter::of_id(app, valid.adapter_id.as_deref())?;
    let run = |(sample_index, grammar)| Run {
        prompt: prompt.ids.clone(),
        params: SamplingParams {
            max_new_tokens: Some(prompt.max_new_tokens),
            seed: valid.seed.unwrap_or_else(|| app.seeds.next()),
            sample_index,
            ..valid.params.clone()
        },
        keep_stop: true,
        grammar,
    };
    let runs = (0..).zip(grammars).map(run).collect();
    let ready = Ready {
        runs,
        adapter,
        characters: prompt.characters,
    };
    Ok((valid, ready))
}
