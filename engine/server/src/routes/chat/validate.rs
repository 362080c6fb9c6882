//! What of a chat request can be served, and the conversation in the form that templates take.

use agentlm_core::params::Limits;
use serde_json::{Map, Value};

use super::types::{ChatRequest, Content, Message};
use crate::error::ApiError;
use crate::routes::openai::sampling::{Fields, Sampling, is_empty};

/// What the template is given.
#[derive(Debug, Default)]
pub(crate) struct Conversation {
    pub(crate) messages: Vec<Value>,
    /// `chat_template_kwargs`.
    pub(crate) template_variables: Option<Map<String, Value>>,
}

/// A chat request that can be served, if its length allows.
#[derive(Debug)]
pub(crate) struct Valid {
    pub(crate) chat: Conversation,
    pub(crate) sampling: Sampling,
    pub(crate) stream: bool,
    pub(crate) include_usage: bool,
    pub(crate) logprobs: bool,
    pub(crate) model: Option<String>,
}

/// Checks everything that needs no tokens.
pub(crate) fn validate(request: ChatRequest, limits: &Limits) -> Result<Valid, ApiError> {
    refuse_tools(&request)?;
    refuse_formats(&request)?;
    let logprobs = request.logprobs.unwrap_or(false);
    let fields = Fields {
        temperature: request.temperature,
        top_p: request.top_p,
        top_k: request.top_k,
        min_p: request.min_p,
        typical_p: request.typical_p,
        repetition_penalty: request.repetition_penalty,
        frequency_penalty: request.frequency_penalty,
        presence_penalty: request.presence_penalty,
        max_tokens: request.max_completion_tokens.or(request.max_tokens),
        min_tokens: request.min_tokens,
        ignore_eos: request.ignore_eos,
        stop: request.stop,
        seed: request.seed,
        n: request.n,
        logit_bias: request.logit_bias,
        top_logprobs: (logprobs || request.top_logprobs.is_some()).then(|| request.top_logprobs.unwrap_or(0)),
    };
    let mut sampling = fields.validate(limits)?;
    sampling.params.logprobs = logprobs;
    if !logprobs {
        sampling.params.top_n_tokens = 0;
    }
    Ok(Valid {
        chat: Conversation {
            messages: messages(request.messages)?,
            template_variables: request.chat_template_kwargs,
        },
        sampling,
        stream: request.stream.unwrap_or(false),
        include_usage: request
            .stream_options
            .and_then(|options| options.include_usage)
            .unwrap_or(false),
        logprobs,
        model: request.model,
    })
}

fn refuse_tools(request: &ChatRequest) -> Result<(), ApiError> {
    let given = |field: &Option<Value>| field.as_ref().is_some_and(|value| !is_empty(value));
    let refuse = |text: &str| Err(ApiError::Tool(text.to_owned()));
    if given(&request.tools) {
        return refuse("`tools` is not supported by this server");
    }
    if given(&request.functions) {
        return refuse("`functions` is not supported by this server");
    }
    match &request.tool_choice {
        None | Some(Value::Null) => {}
        Some(Value::String(choice)) if choice == "auto" || choice == "none" => {}
        Some(_) => return refuse("`tool_choice` needs `tools`"),
    }
    if request.messages.iter().any(|message| given(&message.tool_calls)) {
        return refuse("`tool_calls` in messages is not supported by this server");
    }
    Ok(())
}

fn refuse_formats(request: &ChatRequest) -> Result<(), ApiError> {
    if let Some(format) = request
        .response_format
        .as_ref()
        .filter(|format| !format.is_null())
        && format.get("type").and_then(Value::as_str) != Some("text")
    {
        return Err(ApiError::Validation("grammar is not supported".to_owned()));
    }
    Ok(())
}

/// Each message as an object with `role`, a string `content` and what else templates may look at.
pub(crate) fn messages(messages: Vec<Message>) -> Result<Vec<Value>, ApiError> {
    let one = |(at, message): (usize, Message)| {
        let mut fields = Map::new();
        fields.insert("role".to_owned(), Value::from(message.role));
        let content = match message.content {
            Some(content) => text(content, at)?,
            None => {
                return Err(ApiError::Validation(format!(
                    "`messages[{at}]` must have `content`: a string or a list of text parts"
                )));
            }
        };
        fields.insert("content".to_owned(), Value::from(content));
        for (key, value) in [("name", message.name), ("tool_call_id", message.tool_call_id)] {
            if let Some(value) = value {
                fields.insert(key.to_owned(), Value::from(value));
            }
        }
        Ok(Value::from(fields))
    };
    messages.into_iter().enumerate().map(one).collect()
}

fn text(content: Content, at: usize) -> Result<String, ApiError> {
    let parts = match content {
        Content::Text(text) => return Ok(text),
        Content::Parts(parts) => parts,
    };
    let mut whole = String::new();
    for part in parts {
        match (part.kind.as_str(), part.text) {
            ("text", Some(text)) => whole.push_str(&text),
            ("text", None) => {
                return Err(ApiError::Validation(format!(
                    "`messages[{at}].content`: a part of type `text` must have `text`"
                )));
            }
            (kind, _) => {
                return Err(ApiError::Validation(format!(
                    "`messages[{at}].content`: a part of type `{kind}` is not supported, only `text` is"
                )));
            }
        }
    }
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        max_input_tokens: 100,
        max_total_tokens: 200,
        max_stop_sequences: 4,
        max_top_n_tokens: 5,
        max_best_of: 2,
    };

    fn check(fields: &str) -> Result<Valid, String> {
        let body = format!("{{\"messages\":[{{\"role\":\"user\",\"content\":\"hi\"}}]{fields}}}");
        validate(serde_json::from_str(&body).unwrap(), &LIMITS).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_not_there_is_refused_and_never_ignored() {
        let cases = [
            (
                r#","tools":[{"type":"function"}]"#,
                "Tool error: `tools` is not supported by this server",
            ),
            (
                r#","functions":[{}]"#,
                "Tool error: `functions` is not supported by this server",
            ),
            (
                r#","tool_choice":"required""#,
                "Tool error: `tool_choice` needs `tools`",
            ),
            (
                r#","response_format":{"type":"json_object"}"#,
                "Input validation error: grammar is not supported",
            ),
        ];
        for (fields, text) in cases {
            assert_eq!(check(fields).unwrap_err(), text);
        }
    }

    #[test]
    fn nulls_and_neutral_values_are_accepted() {
        let valid = check(
            r#","model":null,"tools":null,"tool_choice":null,"n":null,"logit_bias":null,"logprobs":null,"stop":null,
            "stream":null,"stream_options":null,"response_format":{"type":"text"},"top_logprobs":null,"seed":null,
            "max_tokens":5,"max_completion_tokens":7,"user":"x","top_p":1,"presence_penalty":0"#,
        )
        .unwrap();
        assert_eq!(valid.sampling.params.max_new_tokens, Some(7));
        assert!(!valid.stream && !valid.logprobs);
        assert!(check(r#","tools":[],"tool_choice":"none""#).is_ok());
    }

    #[test]
    fn parts_are_joined_and_images_refused() {
        let read = |json: &str| messages(serde_json::from_str(json).unwrap());
        let parts = r#"[{"role":"user","name":"n","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}]"#;
        let found = read(parts).unwrap();
        assert_eq!(
            found,
            [serde_json::json!({"role": "user", "content": "ab", "name": "n"})]
        );
        let image = r#"[{"role":"user","content":[{"type":"image_url","image_url":{"url":"x"}}]}]"#;
        assert!(
            read(image)
                .unwrap_err()
                .to_string()
                .contains("`image_url` is not supported")
        );
        assert!(read(r#"[{"role":"user"}]"#).is_err());
    }
}
