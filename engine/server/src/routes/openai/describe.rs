//! The `/v1` routes that generate, and the clouds' ways to them, in the API's document.

use serde_json::{Value, json};

use crate::error::ApiError;
use crate::openapi::failures::{self, Wording};
use crate::openapi::{Answer, Operation, Schemas};
use crate::routes::chat::types::{ChatCompletion, ChatCompletionChunk, ChatRequest};
use crate::routes::completions::types::{Completion, CompletionChunk, CompletionRequest};
use crate::routes::generate::describe::event as native_event;
use crate::routes::generate::types::{GenerateRequest, GenerateResponse};
use crate::routes::vertex::{Predictions, VertexRequest};

/// The example of a chat.
pub(crate) fn conversation() -> Value {
    json!({"messages": [{"role": "user", "content": "Name a city."}], "max_tokens": 16})
}

fn of_chat() -> Vec<ApiError> {
    [
        failures::generation(),
        failures::conversation(),
        failures::model(),
    ]
    .concat()
}

fn of_completions() -> Vec<ApiError> {
    [failures::generation(), failures::prompts(), failures::model()].concat()
}

/// `POST /v1/chat/completions`.
pub(crate) fn chat(schemas: &mut Schemas) -> Operation {
    Operation::new("openai", "chat_completions", "A chat's next message")
        .takes(&schemas.asked::<ChatRequest>(), &conversation())
        .answering(Answer::Json(schemas.answered::<ChatCompletion>()))
        .answering(Answer::Events(chat_event(schemas)))
        .failing(of_chat())
        .wording(&[Wording::OpenAi])
}

/// `POST /v1/completions`.
pub(crate) fn completions(schemas: &mut Schemas) -> Operation {
    let example = json!({"prompt": "The capital of France is", "max_tokens": 16});
    Operation::new("openai", "completions", "Continuations of one or more prompts")
        .takes(&schemas.asked::<CompletionRequest>(), &example)
        .answering(Answer::Json(schemas.answered::<Completion>()))
        .answering(Answer::Events(completion_event(schemas)))
        .failing(of_completions())
        .wording(&[Wording::OpenAi])
}

/// `POST /invocations`.
pub(crate) fn invocations(schemas: &mut Schemas) -> Operation {
    let asked = json!({"anyOf": [
        schemas.asked::<GenerateRequest>(),
        schemas.asked::<ChatRequest>(),
        schemas.asked::<CompletionRequest>(),
    ]});
    let whole = json!({"anyOf": [
        {"type": "array", "items": schemas.answered::<GenerateResponse>()},
        schemas.answered::<ChatCompletion>(),
        schemas.answered::<Completion>(),
    ]});
    let event = json!({"anyOf": [native_event(schemas), chat_event(schemas), completion_event(schemas)]});
    Operation::new(
        "clouds",
        "invocations",
        "SageMaker's: what `/`, chat or completions would answer, by the fields that are there",
    )
    .takes(&asked, &conversation())
    .answering(Answer::Json(whole))
    .answering(Answer::Events(event))
    .failing([of_chat(), of_completions()].concat())
    .wording(&[Wording::Native, Wording::OpenAi])
}

/// `POST /vertex`.
pub(crate) fn vertex(schemas: &mut Schemas) -> Operation {
    let example =
        json!({"instances": [{"inputs": "The capital of France is", "parameters": {"max_new_tokens": 16}}]});
    // What the engine did wrong is told in TGI's own words.
    let told = |error: &ApiError| !matches!(error, ApiError::Generation(_) | ApiError::Incomplete);
    Operation::new(
        "clouds",
        "vertex",
        "Vertex AI's: several prompts or chats at once, of which the texts are answered",
    )
    .takes(&schemas.asked::<VertexRequest>(), &example)
    .answering(Answer::Json(schemas.answered::<Predictions>()))
    .failing(of_chat().into_iter().filter(told))
    .failing([ApiError::BatchSize(0)])
    .failing_as(422, "Input validation error")
    .failing_as(500, "Incomplete generation")
}

fn chat_event(schemas: &mut Schemas) -> Value {
    let error = failures::error(schemas, Wording::OpenAi);
    json!({"anyOf": [schemas.answered::<ChatCompletionChunk>(), error]})
}

fn completion_event(schemas: &mut Schemas) -> Value {
    let error = failures::error(schemas, Wording::OpenAi);
    json!({"anyOf": [schemas.answered::<CompletionChunk>(), error]})
}
