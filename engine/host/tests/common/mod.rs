//! A small engine's tokenizer and settings; each test changes what it is about.

use std::path::Path;
use std::sync::Arc;

use agentlm_core::CoreConfig;
use agentlm_core::params::Limits;
use agentlm_text::Tokenizer;

/// The byte-level fixture.
pub(crate) fn tokenizer() -> Arc<Tokenizer> {
    let fixture = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../text/tests/fixtures/byte_level.json"
    );
    Arc::new(Tokenizer::from_file(Path::new(fixture)).expect("the fixture is there"))
}

/// Eight running requests of at most these tokens, in 64 blocks.
pub(crate) fn core(tokenizer: &Tokenizer, max_input_tokens: u32, max_total_tokens: u32) -> CoreConfig {
    CoreConfig {
        num_blocks: 64,
        max_running: 8,
        max_step_tokens: 64,
        limits: Limits {
            max_input_tokens,
            max_total_tokens,
            max_stop_sequences: 4,
            max_top_n_tokens: 5,
            max_best_of: 1,
        },
        steps_in_flight: 1,
        prefix_cache: true,
        eos_token_ids: Vec::new(),
        top_cap: 5,
        max_scores: 32,
        vocab_size: u32::try_from(tokenizer.vocab_size()).expect("a small vocabulary"),
        hash_key: [7; 32],
    }
}
