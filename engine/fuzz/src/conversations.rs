//! Conversations under known templates: what a message says never becomes a special token, and the mask covers what the
//! model writes.

use std::sync::{Arc, LazyLock};

use agentlm_text::{ChatInput, ChatTemplate, Rendered, Renderer, TemplateSource, Tokenizer};
use serde_json::{Value, json};

use crate::input::Input;
use crate::tokenizers;

const TEMPLATES: [(&str, usize); 7] = [
    (
        include_str!("../../text/tests/fixtures/templates/llama2.jinja"),
        1,
    ),
    (
        include_str!("../../text/tests/fixtures/templates/llama2.jinja"),
        2,
    ),
    (
        include_str!("../../text/tests/fixtures/templates/llama3.jinja"),
        0,
    ),
    (
        include_str!("../../text/tests/fixtures/templates/chatml.jinja"),
        0,
    ),
    (
        include_str!("../../text/tests/fixtures/templates/mistral.jinja"),
        1,
    ),
    (
        include_str!("../../text/tests/fixtures/templates/tagged.jinja"),
        0,
    ),
    (
        include_str!("../../text/tests/fixtures/templates/plain_turns.jinja"),
        3,
    ),
];

/// Each template with the tokenizer that it belongs to, and the texts of its special tokens.
static RENDERERS: LazyLock<Vec<(Renderer, Vec<String>)>> = LazyLock::new(|| {
    let renderer = |&(text, which): &(&str, usize)| {
        let special = special_texts(&tokenizers::ALL[which]);
        let tokenizer = tokenizers::ALL[which].clone();
        let source = TemplateSource::Explicit("the tests".to_owned());
        let template = ChatTemplate::new(text, tokenizer.special_tokens(), source);
        let template = Arc::new(template.expect("the fixture is valid"));
        (Renderer::new(tokenizer, template), special)
    };
    TEMPLATES.iter().map(renderer).collect()
});

/// Template, flags, and the messages: a JSON list, or lines whose first byte is the role.
pub fn check(data: &[u8]) {
    let mut input = Input::new(data);
    let (renderer, special) = &RENDERERS[input.below(TEMPLATES.len())];
    let flags = input.byte();
    let text = input.text();
    let messages = serde_json::from_str(&text).unwrap_or_else(|_| by_line(&text));
    let input = ChatInput {
        messages: &messages,
        add_generation_prompt: flags & 1 == 1,
        continue_final_message: flags & 2 == 2,
        ..ChatInput::default()
    };
    let prompt = renderer.prompt(&input);
    if let Ok(prompt) = &prompt {
        // The same messages with other letters in place of special tokens' texts have the same special tokens.
        let plain: Vec<Value> = messages
            .iter()
            .map(|message| without_special(message, special))
            .collect();
        let input = ChatInput {
            messages: &plain,
            ..input
        };
        if let Ok(other) = renderer.prompt(&input) {
            let found = |ids: &[u32]| special_ids(renderer.tokenizer(), ids);
            assert_eq!(found(&prompt.ids), found(&other.ids), "{:?}", prompt.text);
        }
    }
    let conversation = renderer.conversation(&input);
    if let Ok(conversation) = &conversation {
        assert_rendered(conversation, &messages);
        if let Ok(prompt) = &prompt
            && flags & 3 == 0
        {
            assert_eq!(
                (&conversation.text, &conversation.ids),
                (&prompt.text, &prompt.ids)
            );
        }
    }
}

fn by_line(text: &str) -> Vec<Value> {
    let message = |line: &str| {
        let mut characters = line.chars();
        let role = match characters.next().map_or(0, |c| u32::from(c) % 4) {
            0 => "user",
            1 => "assistant",
            2 => "system",
            _ => "tool",
        };
        json!({"role": role, "content": characters.as_str()})
    };
    text.lines().map(message).collect()
}

fn special_ids(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<u32> {
    ids.iter()
        .copied()
        .filter(|&id| tokenizer.is_special(id))
        .collect()
}

/// With the first letter of each special token's text replaced, wherever a message has one.
fn without_special(message: &Value, special: &[String]) -> Value {
    match message {
        Value::String(text) => {
            let replace = |text: String, special: &String| {
                let is_there = text.contains(special.as_str());
                if is_there {
                    text.replace(special, &format!("x{}", &special[1..]))
                } else {
                    text
                }
            };
            Value::String(special.iter().fold(text.clone(), replace))
        }
        Value::Array(items) => items.iter().map(|item| without_special(item, special)).collect(),
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| (name.clone(), without_special(value, special)))
            .collect(),
        other => other.clone(),
    }
}

/// The texts of the special tokens.
fn special_texts(tokenizer: &Tokenizer) -> Vec<String> {
    let ids = 0..u32::try_from(tokenizer.vocab_size()).expect("a small vocabulary");
    ids.filter(|&id| tokenizer.is_special(id))
        .filter_map(|id| tokenizer.id_to_token(id))
        .collect()
}

/// Spans are in order and inside the text, and exactly what lies in a trained one is trained.
pub(crate) fn assert_rendered(rendered: &Rendered, messages: &[Value]) {
    assert_eq!(rendered.ids.len(), rendered.trained.len());
    let mut trained = vec![false; rendered.ids.len()];
    let (mut byte, mut token) = (0, 0);
    for span in &rendered.spans {
        assert!(
            byte <= span.bytes.start && span.bytes.start <= span.bytes.end,
            "spans overlap"
        );
        assert!(
            rendered.text.get(span.bytes.clone()).is_some(),
            "half a character"
        );
        if !span.tokens.is_empty() {
            assert!(token <= span.tokens.start && span.tokens.end <= trained.len());
            token = span.tokens.end;
        }
        byte = span.bytes.end;
        let message = &messages[span.message];
        assert_eq!(message["role"], "assistant");
        assert_eq!(span.trained, message.get("loss") != Some(&Value::Bool(false)));
        trained[span.tokens.clone()].fill(span.trained);
    }
    assert_eq!(trained, rendered.trained);
}
