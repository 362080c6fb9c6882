//! What the fuzzer found and kept, through the same checks: requests' bodies and streams, without the fuzzer.

#![expect(clippy::expect_used, clippy::panic, reason = "a check fails by panicking")]

#[path = "../../fuzz/src/corpus.rs"]
mod corpus;
#[path = "../../fuzz/src/input.rs"]
mod input;
#[path = "../../fuzz/src/json.rs"]
mod json;
#[path = "../../fuzz/src/server.rs"]
mod server;
#[path = "../../fuzz/src/sse.rs"]
mod sse;
#[path = "../../fuzz/src/tokenizers.rs"]
mod tokenizers;

use corpus::replay;

#[test]
fn bodies_hold() {
    replay("json", json::check);
}

#[test]
fn streams_hold() {
    replay("sse", sse::check);
}
