//! `POST /tokenize` and `/chat_tokenize`: how a prompt falls into tokens.

use std::sync::Arc;

use agentlm_text::{Encoding, Tokenizer};
use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::chat::render::render;
use super::chat::types::ChatRequest;
use super::chat::validate::conversation;
use super::generate::types::GenerateRequest;
use crate::app::App;
use crate::body;
use crate::error::ApiError;
use crate::prompt::{encode, on_pool};

/// One token; `start` and `stop` are bytes of the text.
#[derive(Debug, Serialize)]
struct SimpleToken {
    id: u32,
    text: String,
    start: usize,
    stop: usize,
}

#[derive(Debug, Serialize)]
struct ChatTokens {
    tokenize_response: Vec<SimpleToken>,
    templated_text: String,
}

/// With the special tokens that the tokenizer adds; parameters and lengths are not looked at, as in TGI.
pub(crate) async fn tokenize(State(app): State<Arc<App>>, request: Request) -> Response {
    let tokens = async {
        let request: GenerateRequest = body::json(request, app.config.payload_limit).await?;
        let tokenizer = app.tokenizer.clone();
        on_pool(move || {
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
        let prompt = render(&app, conversation(&mut request)?).await?;
        let tokenizer = app.tokenizer.clone();
        on_pool(move || {
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
