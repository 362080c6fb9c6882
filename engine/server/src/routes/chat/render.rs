//! From a conversation to the prompt: by the template, and in words where the template knows no tools.

use std::sync::Arc;

use agentlm_text::{ChatInput, ChatTemplate, Prompt};
use serde_json::{Map, Value};

use super::tools::{Tools, in_words, nine_characters, takes_nine_characters};
use crate::app::App;
use crate::error::{ApiError, NO_TEMPLATE};
use crate::prompt;

/// What the template is given.
#[derive(Debug, Default)]
pub(crate) struct Conversation {
    pub(crate) messages: Vec<Value>,
    pub(crate) tools: Option<Arc<Tools>>,
    /// `chat_template_kwargs`.
    pub(crate) template_variables: Option<Map<String, Value>>,
    pub(crate) add_generation_prompt: bool,
    pub(crate) continue_final_message: bool,
}

/// Renders and tokenises a conversation on the validation pool.
pub(crate) async fn render(app: &Arc<App>, chat: Conversation) -> Result<Prompt, ApiError> {
    prompt::on_pool(rendering(app, chat)?).await
}

/// The same as work that is still to be done.
pub(crate) fn rendering(
    app: &App,
    chat: Conversation,
) -> Result<impl FnOnce() -> Result<Prompt, ApiError> + Send + 'static, ApiError> {
    let Some(renderer) = app.renderer.clone() else {
        return Err(ApiError::Template(NO_TEMPLATE.to_owned()));
    };
    Ok(move || {
        let (messages, tools) = for_template(renderer.template(), chat.messages, chat.tools.as_deref());
        let input = ChatInput {
            messages: &messages,
            tools,
            add_generation_prompt: chat.add_generation_prompt,
            continue_final_message: chat.continue_final_message,
            extra: chat.template_variables.as_ref(),
            ..ChatInput::default()
        };
        renderer.prompt(&input).map_err(|error| {
            ApiError::Template(if messages.is_empty() {
                format!("`messages` is empty, and the chat template needs some: {error}")
            } else {
                error.to_string()
            })
        })
    })
}

/// Messages and tools as a template takes them.
pub(super) fn for_template<'a>(
    template: &ChatTemplate,
    mut messages: Vec<Value>,
    tools: Option<&'a Tools>,
) -> (Vec<Value>, Option<&'a [Value]>) {
    if !template.uses_tools() {
        return (in_words(messages, tools), None);
    }
    if takes_nine_characters(template.tool_format()) {
        for message in &mut messages {
            name_calls(message);
        }
    }
    (messages, tools.map(Tools::definitions))
}

/// Makes the names of a message's calls, or of the call that it answers, fit.
fn name_calls(message: &mut Value) {
    let fit = |id: Option<&mut Value>| {
        if let Some(Value::String(id)) = id {
            *id = nine_characters(id);
        }
    };
    fit(message.get_mut("tool_call_id"));
    let calls = message.get_mut("tool_calls").and_then(Value::as_array_mut);
    for call in calls.into_iter().flatten() {
        fit(call.get_mut("id"));
    }
}

#[cfg(test)]
mod tests {
    use agentlm_text::{SpecialTokens, TemplateSource};
    use serde_json::json;

    use super::*;

    fn template(text: &str) -> ChatTemplate {
        let source = TemplateSource::Explicit("the tests".to_owned());
        ChatTemplate::new(text, &SpecialTokens::default(), source).unwrap()
    }

    fn turns(id: &str) -> Vec<Value> {
        let call = json!({"id": id, "type": "function", "function": {"name": "a", "arguments": {}}});
        vec![
            json!({"role": "assistant", "content": "", "tool_calls": [call]}),
            json!({"role": "tool", "content": "7", "tool_call_id": id}),
        ]
    }

    #[test]
    fn calls_keep_their_names_where_the_template_takes_them() {
        let (messages, tools) = for_template(&template("{{ tools }}<tool_call>"), turns("call_1"), None);
        assert_eq!((messages, tools), (turns("call_1"), None));
        let mistral = template("{{ tools }}[TOOL_CALLS]");
        let (messages, _) = for_template(&mistral, turns("call_1"), None);
        assert_eq!(messages, turns(&nine_characters("call_1")));
    }

    #[test]
    fn a_template_without_tools_gets_words() {
        let (messages, tools) = for_template(&template("{{ messages }}"), turns("call_1"), None);
        assert!(tools.is_none());
        let roles: Vec<&Value> = messages.iter().map(|message| &message["role"]).collect();
        assert_eq!(roles, ["assistant", "user"]);
    }
}
