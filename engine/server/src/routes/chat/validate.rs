//! What of a chat request can be served.

use std::sync::Arc;

use agentlm_core::params::Limits;

use super::messages::messages;
use super::render::Conversation;
use super::tools::Tools;
use super::types::ChatRequest;
use crate::error::ApiError;
use crate::routes::openai::sampling::{Fields, Sampling};

/// A chat request that can be served, if its length allows.
#[derive(Debug)]
pub(crate) struct Valid {
    pub(crate) chat: Conversation,
    pub(crate) tools: Option<Arc<Tools>>,
    pub(crate) sampling: Sampling,
    pub(crate) stream: bool,
    pub(crate) include_usage: bool,
    pub(crate) logprobs: bool,
    pub(crate) model: Option<String>,
}

/// Takes the conversation out of a request, and what the template is to make of it.
pub(crate) fn conversation(request: &mut ChatRequest) -> Result<Conversation, ApiError> {
    let tools = Tools::read(request)?.map(Arc::new);
    let messages = messages(std::mem::take(&mut request.messages))?;
    let last = messages.last().filter(|last| last["role"] == "assistant");
    let continues = match request.continue_final_message {
        Some(true) if last.is_none() => {
            return Err(ApiError::Validation(
                "`continue_final_message` needs a last message of role `assistant`".to_owned(),
            ));
        }
        Some(asked) => asked,
        // What it calls is complete: there is nothing to continue.
        None => last.is_some_and(|last| last.get("tool_calls").is_none()),
    };
    Ok(Conversation {
        messages,
        tools,
        template_variables: request.chat_template_kwargs.take(),
        add_generation_prompt: request.add_generation_prompt.unwrap_or(true),
        continue_final_message: continues,
    })
}

/// Checks everything that needs no tokens.
pub(crate) fn validate(mut request: ChatRequest, limits: &Limits) -> Result<Valid, ApiError> {
    let chat = conversation(&mut request)?;
    let logprobs = request.logprobs.unwrap_or(false);
    let fields = Fields {
        max_tokens: request.max_completion_tokens.or(request.max_tokens),
        top_logprobs: (logprobs || request.top_logprobs.is_some()).then(|| request.top_logprobs.unwrap_or(0)),
        ..request.take_fields()
    };
    let mut sampling = fields.validate(limits)?;
    sampling.params.logprobs = logprobs;
    if !logprobs {
        sampling.params.top_n_tokens = 0;
    }
    if let Some(tools) = &chat.tools {
        if sampling.grammar.is_some() {
            return Err(ApiError::Tool(
                "Grammar and tools are mutually exclusive".to_owned(),
            ));
        }
        sampling.grammar = tools.grammar();
    }
    Ok(Valid {
        tools: chat.tools.clone(),
        chat,
        sampling,
        stream: request.stream.unwrap_or(false),
        include_usage: request.includes_usage(),
        logprobs,
        model: request.model,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routes::LIMITS;

    const TOOLS: &str = r#","tools":[{"type":"function","function":{"name":"a"}}]"#;

    fn check_turns(turns: &str, fields: &str) -> Result<Valid, String> {
        let body = format!("{{\"messages\":[{turns}]{fields}}}");
        validate(serde_json::from_str(&body).unwrap(), &LIMITS).map_err(|error| error.to_string())
    }

    fn check(fields: &str) -> Result<Valid, String> {
        check_turns(r#"{"role":"user","content":"hi"}"#, fields)
    }

    #[test]
    fn what_excludes_another_thing_is_refused() {
        let format = r#","response_format":{"type":"json_object"}"#;
        let exclusive = "Tool error: Grammar and tools are mutually exclusive";
        assert_eq!(check(&format!("{TOOLS}{format}")).unwrap_err(), exclusive);
        let guided = r#","guided_regex":"a+""#;
        assert_eq!(check(&format!("{TOOLS}{guided}")).unwrap_err(), exclusive);
        let without = check(&format!("{TOOLS}{format},\"tool_choice\":\"none\"")).unwrap();
        assert!(without.tools.is_none() && without.sampling.grammar.is_some());
        let text = check(&format!("{TOOLS},\"response_format\":{{\"type\":\"text\"}}")).unwrap();
        assert!(text.tools.is_some() && text.sampling.grammar.is_none());
        assert_eq!(
            check(r#","continue_final_message":true"#).unwrap_err(),
            "Input validation error: `continue_final_message` needs a last message of role `assistant`"
        );
    }

    #[test]
    fn a_call_that_must_come_has_a_grammar() {
        for (choice, forced) in [("\"auto\"", false), ("\"required\"", true), ("\"a\"", true)] {
            let valid = check(&format!("{TOOLS},\"tool_choice\":{choice}")).unwrap();
            assert_eq!(valid.sampling.grammar.is_some(), forced, "{choice}");
        }
    }

    #[test]
    fn the_assistants_last_message_is_continued_unless_told_otherwise() {
        let open = r#"{"role":"assistant","content":"so"}"#;
        let call = r#"{"role":"assistant","tool_calls":[{"id":"1","function":{"name":"a"}}]}"#;
        let user = r#"{"role":"user","content":"hi"}"#;
        let cases = [
            (open, "", true),
            (open, r#","continue_final_message":null"#, true),
            (open, r#","continue_final_message":false"#, false),
            (call, "", false),
            (user, "", false),
            (
                user,
                r#","continue_final_message":false,"add_generation_prompt":true"#,
                false,
            ),
        ];
        for (turn, fields, continues) in cases {
            let chat = check_turns(turn, fields).unwrap().chat;
            assert_eq!(chat.continue_final_message, continues, "{turn} {fields}");
            assert!(chat.add_generation_prompt);
        }
        assert!(
            !check(r#","add_generation_prompt":false"#)
                .unwrap()
                .chat
                .add_generation_prompt
        );
    }

    #[test]
    fn nulls_and_neutral_values_are_accepted() {
        let valid = check(
            r#","model":null,"tools":null,"tool_choice":null,"n":null,"logit_bias":null,"logprobs":null,"stop":null,
            "stream":null,"stream_options":null,"response_format":{"type":"text"},"top_logprobs":null,"seed":null,
            "max_tokens":5,"max_completion_tokens":7,"user":"x","top_p":1,"presence_penalty":0,"tool_prompt":null,
            "parallel_tool_calls":null,"guided_json":null,"guided_regex":null,"guided_choice":null,
            "guided_grammar":null,"structured_outputs":null,"add_generation_prompt":null,"top_k":null,
            "repetition_penalty":null"#,
        )
        .unwrap();
        assert_eq!(valid.sampling.params.max_new_tokens, Some(7));
        assert!(!valid.stream && !valid.logprobs);
        assert!(check(r#","tools":[],"tool_choice":"none""#).is_ok());
    }
}
