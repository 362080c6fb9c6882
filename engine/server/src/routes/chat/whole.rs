//! Conversations of others, read as the chat route reads a request: whoever trains a model on them, or compares prompts,
//! gives the template what the server would. Knows no request beyond messages and tools.

use agentlm_text::{ChatInput, ChatTemplate};
use serde_json::Value;
use thiserror::Error;

use super::render::for_template;
use super::types::ChatRequest;
use super::validate;
use crate::error::ApiError;

/// Why a conversation cannot be read: what a client would be told.
#[derive(Debug, Error)]
#[error(transparent)]
pub struct ConversationError(ApiError);

/// What a chat template is given for a conversation.
#[derive(Clone, Debug, PartialEq)]
pub struct TemplateInput {
    /// Messages as the template takes them: tools, calls and results in words if it knows no tools.
    pub messages: Vec<Value>,
    /// Tools in OpenAI's shape, if the template shows them.
    pub tools: Option<Vec<Value>>,
}

impl TemplateInput {
    /// Reads messages and tools as `POST /v1/chat/completions` would.
    ///
    /// # Errors
    /// [`ConversationError`].
    pub fn read(
        template: &ChatTemplate,
        messages: Vec<Value>,
        tools: Option<Vec<Value>>,
    ) -> Result<Self, ConversationError> {
        let body = Value::from_iter([("messages", Value::from(messages)), ("tools", Value::from(tools))]);
        let mut request: ChatRequest = serde_json::from_value(body)
            .map_err(|error| ConversationError(ApiError::Validation(error.to_string())))?;
        let chat = validate::conversation(&mut request).map_err(ConversationError)?;
        let (messages, tools) = for_template(template, chat.messages, chat.tools.as_deref());
        Ok(Self {
            messages,
            tools: tools.map(<[Value]>::to_vec),
        })
    }

    /// The template's input, without a generation prompt.
    #[must_use]
    pub fn as_chat_input(&self) -> ChatInput<'_> {
        ChatInput {
            messages: &self.messages,
            tools: self.tools.as_deref(),
            ..ChatInput::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use agentlm_text::{SpecialTokens, TemplateSource};
    use serde_json::json;

    use super::*;

    fn read(template: &str, messages: Value, tools: Value) -> Result<TemplateInput, String> {
        let source = TemplateSource::Explicit("the tests".to_owned());
        let template = ChatTemplate::new(template, &SpecialTokens::default(), source).unwrap();
        let list = |value: Value| value.as_array().cloned();
        TemplateInput::read(&template, list(messages).unwrap(), list(tools))
            .map_err(|error| error.to_string())
    }

    fn turns() -> Value {
        let call =
            json!({"id": "1", "type": "function", "function": {"name": "f", "arguments": "{\"x\": 1}"}});
        json!([
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": null, "loss": false, "tool_calls": [call]},
            {"role": "tool", "content": "7", "tool_call_id": "1"},
            {"role": "assistant", "content": "seven"},
        ])
    }

    #[test]
    fn a_template_with_tools_gets_them_and_arguments_as_objects() {
        let tools = json!([{"type": "function", "function": {"name": "f", "strict": true}}]);
        let input = read("{{ tools }}<tool_call>", turns(), tools).unwrap();
        let function = json!({"name": "f", "parameters": {"type": "object", "properties": {}}});
        assert_eq!(
            input.tools,
            Some(vec![json!({"type": "function", "function": function})])
        );
        assert_eq!(
            input.messages[1]["tool_calls"][0]["function"]["arguments"],
            json!({"x": 1})
        );
        // Whether it is trained is the renderer's business, and comes through.
        assert_eq!(input.messages[1]["loss"], json!(false));
    }

    #[test]
    fn a_template_without_tools_gets_words() {
        let tools = json!([{"type": "function", "function": {"name": "f"}}]);
        let input = read("{{ messages }}", turns(), tools).unwrap();
        assert_eq!(input.tools, None);
        let said = |at: usize| input.messages[at]["content"].as_str().unwrap().to_owned();
        assert!(
            said(0).starts_with("You can call these functions:\n"),
            "{}",
            said(0)
        );
        assert_eq!(said(1), r#"[{"name":"f","arguments":{"x":1}}]"#);
        assert_eq!(input.messages[1]["loss"], json!(false));
        assert_eq!(said(2), "Result of f:\n7");
    }

    #[test]
    fn what_the_server_would_refuse_is_refused() {
        let error = read("", turns(), json!([{"type": "function"}])).unwrap_err();
        assert!(
            error.contains("`tools[0]` must be an object with `function`"),
            "{error}"
        );
        let error = read("", json!([{"role": "user"}]), Value::Null).unwrap_err();
        assert!(error.contains("`messages[0]` must have `content`"), "{error}");
    }
}
