//! `POST /v1/chat/completions`.

use std::sync::Arc;

use agentlm_text::ChatInput;
use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};

use super::convert;
use super::types::ChatRequest;
use super::validate::{Conversation, Valid, validate};
use crate::app::App;
use crate::error::ApiError;
use crate::flow::{self, Collector, Running};
use crate::metrics::Meter;
use crate::prompt::{self, Prompt};
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
    let meter = flow::meter(&app);
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

/// Renders and tokenises a conversation on the validation pool. A last message of the assistant's is continued.
pub(crate) async fn render(app: &Arc<App>, chat: Conversation) -> Result<agentlm_text::Prompt, ApiError> {
    let Some(renderer) = app.renderer.clone() else {
        return Err(ApiError::Template("template not found".to_owned()));
    };
    prompt::on_pool(move || {
        let input = ChatInput {
            messages: &chat.messages,
            add_generation_prompt: true,
            continue_final_message: true,
            extra: chat.template_variables.as_ref(),
            ..ChatInput::default()
        };
        renderer
            .prompt(&input)
            .map_err(|error| ApiError::Template(error.to_string()))
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
    let identity = Identity::new(app, "chatcmpl", model(app, valid.model.take())?);
    let rendered = render(app, std::mem::take(&mut valid.chat)).await?;
    let max_new = valid.sampling.params.max_new_tokens;
    let prompt = prompt::from_ids(&limits, rendered.ids, rendered.text.chars().count(), max_new)?;
    let n = valid.sampling.n;
    meter.admitted((0..n).map(|_| (prompt.ids.len(), prompt.max_new_tokens)));
    let params = &mut valid.sampling.params;
    params.max_new_tokens = Some(prompt.max_new_tokens);
    params.seed = valid.sampling.seed.unwrap_or_else(|| app.seeds.next());
    if valid.stream {
        return streamed(app, meter, &valid, prompt, identity, running);
    }
    let mut waiting = Vec::with_capacity(n as usize);
    for choice in 0..n {
        let (collector, collected) = Collector::new(valid.logprobs);
        let mut params = valid.sampling.params.clone();
        params.sample_index = choice;
        running.submit(app, prompt.ids.clone(), params, keeps_stop(app), collector)?;
        waiting.push(collected);
    }
    let mut outputs = Vec::with_capacity(waiting.len());
    for collected in waiting {
        outputs.push(collected.output().await?);
    }
    let headers = flow::settle(app, meter, prompt.characters, &outputs, n);
    let dialect = app.config.v1_dialect;
    let answer = convert::response(identity, dialect, outputs, valid.logprobs, &app.tokenizer);
    Ok((headers, Json(answer)).into_response())
}

fn streamed(
    app: &Arc<App>,
    meter: &Arc<Meter>,
    valid: &Valid,
    prompt: Prompt,
    identity: Identity,
    mut running: Running,
) -> Result<Response, ApiError> {
    let (pipe, outlet) = stream::pipe();
    let n = valid.sampling.n;
    let kind = (Route::Chat, app.config.v1_dialect, identity);
    let tokenizer = app.tokenizer.clone();
    let group = Group::new(
        kind,
        valid.include_usage,
        n as usize,
        pipe,
        meter.clone(),
        tokenizer,
    );
    for choice in 0..n {
        let mut params = valid.sampling.params.clone();
        params.sample_index = choice;
        let logprobs = if valid.logprobs { Form::Chat } else { Form::Off };
        let sink = group.choice(choice, choice == 0, logprobs, "");
        running.submit(app, prompt.ids.clone(), params, keeps_stop(app), sink)?;
    }
    let events = EventStream::new(outlet, running);
    Ok(stream::response(
        events,
        &app.config.compute_type,
        prompt.characters,
    ))
}
