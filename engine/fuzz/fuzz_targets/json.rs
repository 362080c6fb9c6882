//! Bodies of requests, as bytes.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| agentlm_fuzz::json::check(data));
