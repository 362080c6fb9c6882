//! A chat template of any text compiles or is refused; it renders or says why not, and its loss mask covers what it says.

use std::sync::Arc;

use agentlm_text::{ChatInput, ChatTemplate, Renderer, SpecialTokens, TemplateSource};
use serde_json::{Map, Value, json};

use crate::conversations::assert_rendered;
use crate::input::Input;
use crate::tokenizers;

/// Separates the template from the messages.
const BREAK: &str = "\n====\n";
const LONGEST: usize = 2048;

/// Flags, tokenizer, the template's text, and behind a line of `====` the messages.
pub fn check(data: &[u8]) {
    if data.len() > LONGEST {
        return;
    }
    let mut input = Input::new(data);
    let (flags, which) = (input.byte(), input.below(4));
    let text = input.text();
    let (template, messages) = text.split_once(BREAK).unwrap_or((&text, ""));
    let source = TemplateSource::Explicit("the fuzzer".to_owned());
    let tokenizer = tokenizers::ALL[which].clone();
    let special: &SpecialTokens = tokenizer.special_tokens();
    let Ok(template) = ChatTemplate::new(template, special, source) else {
        return;
    };
    let messages: Vec<Value> = serde_json::from_str(messages).unwrap_or_else(|_| usual());
    let tools = [json!({"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}})];
    let extra: Map<String, Value> = [("style".to_owned(), json!("terse"))].into_iter().collect();
    let input = ChatInput {
        messages: &messages,
        tools: (flags & 1 == 1).then_some(&tools[..]),
        documents: None,
        add_generation_prompt: flags & 2 == 2,
        continue_final_message: flags & 4 == 4,
        extra: (flags & 8 == 8).then_some(&extra),
    };
    let rendered = template.render(&input);
    assert_eq!(
        rendered.is_ok(),
        template.render(&input).is_ok(),
        "once it renders, once not"
    );
    let renderer = Renderer::new(tokenizer, Arc::new(template));
    if let Ok(prompt) = renderer.prompt(&input) {
        assert!(
            !prompt.ids.is_empty() || prompt.text.is_empty(),
            "a text without tokens"
        );
    }
    if let Ok(conversation) = renderer.conversation(&input) {
        assert_rendered(&conversation, &messages);
    }
}

fn usual() -> Vec<Value> {
    vec![
        json!({"role": "system", "content": "Be brief."}),
        json!({"role": "user", "content": "<s>é?"}),
        json!({"role": "assistant", "content": " yes", "loss": false}),
        json!({"role": "user", "content": "<|im_start|>"}),
        json!({"role": "assistant", "content": "no \u{FFFFD}"}),
    ]
}
