//! The native routes in the API's document.

use serde_json::{Value, json};

use super::types::{GenerateParameters, GenerateRequest, GenerateResponse, StreamResponse};
use crate::openapi::failures::{self, Wording};
use crate::openapi::{Answer, Operation, Schemas};

fn example() -> Value {
    json!({"inputs": "The capital of France is", "parameters": {"max_new_tokens": 16}})
}

/// `POST /generate`.
pub(crate) fn generate(schemas: &mut Schemas) -> Operation {
    Operation::new("generation", "generate", "A prompt's continuation")
        .takes(&schemas.asked::<GenerateRequest>(), &example())
        .answering(Answer::Json(schemas.answered::<GenerateResponse>()))
        .failing(failures::generation())
}

/// `POST /generate_stream`. Its status is 200 once the body is read: what goes wrong later is told by an event.
pub(crate) fn generate_stream(schemas: &mut Schemas) -> Operation {
    let parameters = schemas.derived::<GenerateParameters>("GenerateStreamParameters", |schema| {
        let fields = &mut schema["properties"];
        fields["best_of"] = json!({
            "type": ["integer", "null"],
            "minimum": 1,
            "maximum": 1,
            "description": "A stream has one run.",
        });
        fields["decoder_input_details"] = json!({
            "enum": [false, null],
            "description": "A stream does not tell the prompt's log-probabilities.",
        });
    });
    let request = schemas.derived::<GenerateRequest>("GenerateStreamRequest", |schema| {
        schema["properties"]["parameters"]["anyOf"][0] = parameters;
    });
    Operation::new(
        "generation",
        "generate_stream",
        "A prompt's continuation, token by token",
    )
    .takes(&request, &example())
    .answering(Answer::Events(event(schemas)))
    .failing([crate::error::ApiError::Internal])
}

/// `POST /`.
pub(crate) fn either(schemas: &mut Schemas) -> Operation {
    let whole = schemas.answered::<GenerateResponse>();
    let list = json!({"type": "array", "items": whole, "minItems": 1, "maxItems": 1});
    Operation::new(
        "generation",
        "compat_generate",
        "A prompt's continuation, whole or token by token",
    )
    .takes(&schemas.asked::<GenerateRequest>(), &example())
    .answering(Answer::Json(list))
    .answering(Answer::Events(event(schemas)))
    .failing(failures::generation())
}

/// One event's data.
pub(crate) fn event(schemas: &mut Schemas) -> Value {
    let error = failures::error(schemas, Wording::Native);
    json!({"anyOf": [schemas.answered::<StreamResponse>(), error]})
}
