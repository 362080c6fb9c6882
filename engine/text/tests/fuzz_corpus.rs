//! What the fuzzer found and kept, through the same checks: the targets of this crate's parts, without the fuzzer.

#![expect(clippy::expect_used, clippy::panic, reason = "a check fails by panicking")]

#[path = "../../fuzz/src/conversations.rs"]
mod conversations;
#[path = "../../fuzz/src/corpus.rs"]
mod corpus;
#[path = "../../fuzz/src/draw.rs"]
mod draw;
#[path = "../../fuzz/src/grammars.rs"]
mod grammars;
#[path = "../../fuzz/src/input.rs"]
mod input;
#[path = "../../fuzz/src/templates.rs"]
mod templates;
#[path = "../../fuzz/src/text.rs"]
mod text;
#[path = "../../fuzz/src/tokenizers.rs"]
mod tokenizers;
#[path = "../../fuzz/src/tools.rs"]
mod tools;

use corpus::replay;

#[test]
fn templates_hold() {
    replay("templates", templates::check);
}

#[test]
fn conversations_hold() {
    replay("conversations", conversations::check);
}

#[test]
fn grammars_hold() {
    replay("grammars", grammars::check);
}

#[test]
fn texts_hold() {
    replay("text", text::check);
}

#[test]
fn tool_calls_hold() {
    replay("tools", tools::check);
}
