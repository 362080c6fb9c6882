//! Sampled ids that become text.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| agentlm_fuzz::text::check(data));
