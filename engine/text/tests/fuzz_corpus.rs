//! What the fuzzer found and kept, through the same checks: the targets of this crate's parts, without the fuzzer.

#![expect(clippy::expect_used, clippy::panic, reason = "a check fails by panicking")]

#[path = "../../fuzz/src/conversations.rs"]
mod conversations;
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

use std::path::Path;

/// Every input of a target's corpus. An input is named when its check panics.
fn replay(target: &str, check: fn(&[u8])) {
    struct Named<'a>(&'a Path);
    impl Drop for Named<'_> {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("the input is {}", self.0.display());
            }
        }
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../fuzz/corpus")
        .join(target);
    let mut inputs = 0;
    for entry in std::fs::read_dir(folder).expect("each target has a corpus") {
        let path = entry.expect("a readable folder").path();
        let _named = Named(&path);
        check(&std::fs::read(&path).expect("a readable input"));
        inputs += 1;
    }
    assert!(inputs > 0);
}

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
