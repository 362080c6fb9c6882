//! Conversations under known templates, with their loss masks.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| agentlm_fuzz::conversations::check(data));
