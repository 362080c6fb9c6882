//! Grammars, compiled and walked.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| agentlm_fuzz::grammars::check(data));
