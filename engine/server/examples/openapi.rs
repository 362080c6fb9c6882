//! Prints the API's document, as it is committed in `docs/openapi.json`:
//! `cargo run -p agentlm-server --example openapi > docs/openapi.json`.

use agentlm_core::params::Limits;
use agentlm_server::{ServerConfig, openapi};

fn main() {
    // TGI's defaults; a server's own document has its own caps.
    let limits = Limits {
        max_input_tokens: 4095,
        max_total_tokens: 4096,
        max_stop_sequences: 4,
        max_top_n_tokens: 5,
        max_best_of: 2,
    };
    println!("{:#}", openapi(&ServerConfig::new("agentlm"), &limits));
}
