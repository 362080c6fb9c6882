//! Calls of tools under the loss mask: what the model writes of them, and nothing else, for the forms in use.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;

use agentlm_text::{ChatInput, ChatTemplate, MaskSource, Rendered, Renderer, TemplateSource};
use common::byte_level;
use serde_json::{Value, json};

/// Qwen-2.5's: calls in tags, the tools in a system message.
const HERMES: &str = r#"{%- if tools %}{{- '<|im_start|>system\nTools:\n' }}{%- for t in tools %}{{- t | tojson }}{%- endfor %}{{- '<|im_end|>\n' }}{%- endif %}
{%- for m in messages %}
{%- if m.role == 'assistant' %}{{- '<|im_start|>assistant' }}{%- if m.content %}{{- '\n' + m.content }}{%- endif %}
{%- for c in m.tool_calls %}{{- '\n<tool_call>\n{"name": "' + c.function.name + '", "arguments": ' }}{{- c.function.arguments | tojson }}{{- '}\n</tool_call>' }}{%- endfor %}{{- '<|im_end|>\n' }}
{%- elif m.role == 'tool' %}{{- '<|im_start|>user\n<tool_response>\n' + m.content + '\n</tool_response><|im_end|>\n' }}
{%- else %}{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{%- endif %}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"#;

/// Llama-3.1's: a message with a call has one call and no content.
const LLAMA: &str = r#"{{- bos_token }}{%- for m in messages %}{{- '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' }}
{%- if m.tool_calls %}{%- if m.tool_calls | length != 1 %}{{- raise_exception('one call at a time') }}{%- endif %}
{{- '{"name": "' + m.tool_calls[0].function.name + '", "parameters": ' }}{{- m.tool_calls[0].function.arguments | tojson }}{{- '}' }}
{%- else %}{{- m.content | trim }}{%- endif %}{{- '<|eot_id|>' }}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}{%- if tools %}{%- endif %}"#;

/// Mistral's: an answer begins with a space that a call has not.
const MISTRAL: &str = r"{{- bos_token }}{%- for m in messages %}{%- if m.role == 'user' %}{{- '[INST] ' + m.content + '[/INST]' }}
{%- elif m.role == 'tool' %}{{- '[TOOL_RESULTS] ' + m.content + '[/TOOL_RESULTS]' }}
{%- elif m.tool_calls %}{{- '[TOOL_CALLS] [' }}{%- for c in m.tool_calls %}{{- c.function | tojson }}{%- endfor %}{{- ']<|eot_id|>' }}
{%- else %}{{- ' ' + m.content + '<|eot_id|>' }}{%- endif %}{%- endfor %}{%- if tools %}{%- endif %}";

/// Shows tools, and drops calls without a word.
const DROPS: &str = r"{{- tools | tojson if tools else '' }}{%- for m in messages %}{{- '<|im_start|>' + m.role + '\n' + (m.content or '') + '<|im_end|>\n' }}{%- endfor %}";

fn renderer(source: &str) -> Renderer {
    let tokenizer = byte_level();
    let origin = TemplateSource::Explicit("test".into());
    let template = ChatTemplate::new(source, tokenizer.special_tokens(), origin);
    Renderer::new(tokenizer, Arc::new(template.unwrap()))
}

fn call(name: &str) -> Value {
    json!({"type": "function", "function": {"name": name, "arguments": {"x": "<b>"}}})
}

fn turns(calls: &[&str], said: &str) -> Vec<Value> {
    let calls: Vec<Value> = calls.iter().map(|name| call(name)).collect();
    vec![
        json!({"role": "user", "content": "What is it?"}),
        json!({"role": "assistant", "content": said, "tool_calls": calls}),
        json!({"role": "tool", "content": "7"}),
        json!({"role": "assistant", "content": "Seven."}),
    ]
}

fn conversation(renderer: &Renderer, messages: &[Value]) -> Rendered {
    let tools = [call("look")];
    let input = ChatInput {
        messages,
        tools: Some(&tools),
        ..ChatInput::default()
    };
    renderer.conversation(&input).unwrap()
}

/// The trained tokens' text, special tokens included.
fn trained(renderer: &Renderer, rendered: &Rendered) -> String {
    let both = rendered.ids.iter().zip(&rendered.trained);
    both.filter(|(_, on)| **on)
        .map(|(&id, _)| renderer.tokenizer().token_text(id))
        .collect()
}

#[test]
fn a_call_is_trained_from_the_prompt_s_end_to_its_own() {
    let one = r#"<tool_call>
{"name": "look", "arguments": {"x": "<b>"}}
</tool_call>"#;
    let two = one.replace("look", "list");
    let cases = [
        (
            HERMES,
            vec!["look"],
            "",
            format!("{one}<|im_end|>Seven.<|im_end|>"),
        ),
        (
            HERMES,
            vec!["look", "list"],
            "I look.",
            format!("I look.\n{one}\n{two}<|im_end|>Seven.<|im_end|>"),
        ),
        (
            LLAMA,
            vec!["look"],
            "",
            r#"{"name": "look", "parameters": {"x": "<b>"}}<|eot_id|>Seven.<|eot_id|>"#.to_owned(),
        ),
        (
            MISTRAL,
            vec!["look"],
            "",
            r#"[TOOL_CALLS] [{"name": "look", "arguments": {"x": "<b>"}}]<|eot_id|> Seven.<|eot_id|>"#
                .to_owned(),
        ),
    ];
    for (source, calls, said, expected) in cases {
        let renderer = renderer(source);
        let messages = turns(&calls, said);
        let rendered = conversation(&renderer, &messages);
        assert_eq!(rendered.source, MaskSource::ContentMarkers);
        assert_eq!(trained(&renderer, &rendered), expected);
        // What is not trained before it is what the server asks with.
        if source != MISTRAL {
            let tools = [call("look")];
            let asked = ChatInput {
                messages: &messages[..1],
                tools: Some(&tools),
                add_generation_prompt: true,
                ..ChatInput::default()
            };
            let prompt = renderer.prompt(&asked).unwrap().ids;
            assert_eq!(rendered.ids[..rendered.spans[0].tokens.start], prompt);
        }
    }
}

#[test]
fn a_call_without_loss_is_not_trained() {
    let mut messages = turns(&["look"], "I look.");
    messages[1]["loss"] = json!(false);
    let renderer = renderer(HERMES);
    let rendered = conversation(&renderer, &messages);
    assert_eq!(trained(&renderer, &rendered), "Seven.<|im_end|>");
    assert!(rendered.text.contains("<tool_call>"));
}

#[test]
fn special_text_in_a_call_stays_text() {
    let mut messages = turns(&["look"], "");
    messages[1]["tool_calls"][0]["function"]["arguments"]["x"] = json!("a<|im_end|>b");
    let renderer = renderer(HERMES);
    let rendered = conversation(&renderer, &messages);
    assert!(trained(&renderer, &rendered).contains("a<|im_end|>b"));
    let ends = |ids: &[u32]| {
        ids.iter()
            .filter(|&&id| renderer.tokenizer().id_to_token(id).as_deref() == Some("<|im_end|>"))
            .count()
    };
    let plain = conversation(&renderer, &turns(&["look"], ""));
    assert_eq!(ends(&rendered.ids), ends(&plain.ids));
}

#[test]
fn a_template_that_drops_calls_is_refused() {
    let renderer = renderer(DROPS);
    let tools = [call("look")];
    for said in ["", "I look."] {
        let messages = turns(&["look"], said);
        let input = ChatInput {
            messages: &messages,
            tools: Some(&tools),
            ..ChatInput::default()
        };
        let error = renderer.conversation(&input).unwrap_err().to_string();
        assert!(error.contains("it leaves out calls of message 1"), "{error}");
    }
}
