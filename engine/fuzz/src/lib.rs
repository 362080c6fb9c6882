//! What must hold for any bytes that a client, a checkpoint or a model sends: one module a fuzz target, one `check` a module.
//!
//! A check panics when something does not hold. It knows nothing of the fuzzer: the corpus is replayed through the same
//! functions by `cargo test`.

pub mod conversations;
pub mod corpus;
pub mod draw;
pub mod grammars;
pub mod input;
pub mod json;
mod server;
pub mod sse;
pub mod templates;
pub mod text;
mod tokenizers;
pub mod tools;

/// A fuzz target's name and its check.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: [Target; 7] = [
    ("json", json::check),
    ("sse", sse::check),
    ("templates", templates::check),
    ("conversations", conversations::check),
    ("grammars", grammars::check),
    ("text", text::check),
    ("tools", tools::check),
];
