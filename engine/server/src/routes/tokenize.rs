//! `POST /tokenize` and `/chat_tokenize`: how a prompt falls into tokens.

use std::sync::Arc;

use agentlm_text::{Encoding, Tokenizer};
use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::chat::render::rendering;
use super::chat::types::ChatRequest;
use super::chat::validate::conversation;
use crate::app::App;
use crate::body;
use crate::error::ApiError;
use crate::openapi::{Answer, Operation, Schemas, failures};
use crate::prompt::{aside, encode};
use crate::routes::openai::describe::conversation as example;

/// What is to be tokenised. `/generate`'s other fields are not looked at.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct TokenizeRequest {
    inputs: String,
}

/// One token; `start` and `stop` are bytes of the text.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct SimpleToken {
    id: u32,
    text: String,
    start: usize,
    stop: usize,
}

/// A conversation's tokens.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ChatTokens {
    tokenize_response: Vec<SimpleToken>,
    templated_text: String,
}

/// What rendering a conversation looks at.
const OF_CHAT: [&str; 9] = [
    "messages",
    "tools",
    "tool_choice",
    "tool_prompt",
    "functions",
    "function_call",
    "chat_template_kwargs",
    "add_generation_prompt",
    "continue_final_message",
];

/// `POST /tokenize` in the API's document.
pub(crate) fn describe(schemas: &mut Schemas) -> Operation {
    let tokens = schemas.answered::<Vec<SimpleToken>>();
    Operation::new("generation", "tokenize", "How a prompt falls into tokens")
        .takes(
            &schemas.asked::<TokenizeRequest>(),
            &json!({"inputs": "Hello there."}),
        )
        .answering(Answer::Json(tokens))
        .failing([ApiError::Validation(String::new()), ApiError::Internal])
}

/// `POST /chat_tokenize`. The other fields of a chat are not looked at, but for their types.
pub(crate) fn describe_chat(schemas: &mut Schemas) -> Operation {
    let asked = schemas.derived::<ChatRequest>("ChatTokenizeRequest", |schema| {
        if let Some(fields) = schema["properties"].as_object_mut() {
            fields.retain(|name, _| OF_CHAT.contains(&name.as_str()));
        }
    });
    Operation::new(
        "generation",
        "chat_tokenize",
        "How a rendered chat falls into tokens",
    )
    .takes(&asked, &example())
    .answering(Answer::Json(schemas.answered::<ChatTokens>()))
    .failing([ApiError::Validation(String::new()), ApiError::Internal])
    .failing(failures::conversation())
}

/// With the special tokens that the tokenizer adds; parameters and lengths are not looked at, as in TGI.
pub(crate) async fn tokenize(State(app): State<Arc<App>>, request: Request) -> Response {
    let tokens = async {
        let request: TokenizeRequest = body::json(request, app.config.payload_limit).await?;
        let tokenizer = app.tokenizer.clone();
        aside(&app, move || {
            Ok(tokens(
                &request.inputs,
                encode(&tokenizer, &request.inputs, true)?,
            ))
        })
        .await
    };
    respond(tokens.await)
}

/// Of the rendered conversation; the template has put in what special tokens there are.
pub(crate) async fn chat_tokenize(State(app): State<Arc<App>>, request: Request) -> Response {
    let tokens = async {
        let mut request: ChatRequest = body::json(request, app.config.payload_limit).await?;
        let render = rendering(&app, conversation(&mut request)?)?;
        let tokenizer = app.tokenizer.clone();
        aside(&app, move || {
            let prompt = render()?;
            let encoding = encode(&tokenizer, &prompt.text, false)?;
            let tokenize_response = if encoding.ids == prompt.ids {
                tokens(&prompt.text, encoding)
            } else {
                // Special-token text in a message stays text in a prompt, which plain tokenisation does not know.
                prompt.ids.iter().map(|&id| unplaced(&tokenizer, id)).collect()
            };
            Ok(ChatTokens {
                tokenize_response,
                templated_text: prompt.text,
            })
        })
        .await
    };
    respond(tokens.await)
}

fn respond(answer: Result<impl Serialize, ApiError>) -> Response {
    match answer {
        Ok(answer) => Json(answer).into_response(),
        Err(error) => error.native(),
    }
}

/// A token whose place in the text is not known.
fn unplaced(tokenizer: &Tokenizer, id: u32) -> SimpleToken {
    SimpleToken {
        id,
        text: tokenizer.token_text(id).into_owned(),
        start: 0,
        stop: 0,
    }
}

fn tokens(text: &str, encoding: Encoding) -> Vec<SimpleToken> {
    let token = |(id, (start, stop)): (u32, (usize, usize))| {
        let bytes = text.as_bytes().get(start..stop).unwrap_or_default();
        SimpleToken {
            id,
            text: String::from_utf8_lossy(bytes).into_owned(),
            start,
            stop,
        }
    };
    encoding
        .ids
        .into_iter()
        .zip(encoding.offsets)
        .map(token)
        .collect()
}
