//! Answers with tool calls in them.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| agentlm_fuzz::tools::check(data));
