//! Streams of the server beside the answers that come whole.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| agentlm_fuzz::sse::check(data));
