//! Chat templates, as a checkpoint brings them.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| agentlm_fuzz::templates::check(data));
