//! A mock engine behind the real server, for the programs that measure the server.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use agentlm_core::CoreConfig;
use agentlm_core::params::Limits;
use agentlm_host::{Ends, EngineConfig, EngineHandle, MockConfig, spawn_mock};
use agentlm_server::{RunningServer, ServerConfig, serve};
use agentlm_text::{ChatTemplate, Renderer, SpecialTokens, TemplateSource, Tokenizer};

/// What these programs fail with.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What one process of a measurement does with its arguments.
pub type Role = fn(&[String]) -> Result<(), Failure>;

/// Runs the role that the first argument names, `measure` when it names none.
pub fn run(measure: Role, others: &[(&str, Role)]) -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let named = arguments
        .first()
        .and_then(|first| others.iter().find(|(name, _)| name == first));
    let done = match named {
        Some((_, role)) => role(&arguments[1..]),
        None => measure(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// The mock's step.
pub const STEP: Duration = Duration::from_millis(10);
const TOKENIZER: &str = r#"{"version":"1.0","truncation":null,"padding":null,"normalizer":null,"added_tokens":[],
    "pre_tokenizer":null,"decoder":{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":false,"use_regex":false},
    "post_processor":null,"model":{"type":"BPE","dropout":null,"unk_token":null,"continuing_subword_prefix":null,
    "end_of_word_suffix":null,"fuse_unk":false,"byte_fallback":false,"ignore_merges":false,
    "vocab":{"a":0,"b":1,"c":2,"Ġ":3,"Ġa":4,"ab":5},"merges":["Ġ a","a b"]}}"#;

/// Starts both, on a free port.
pub fn start(connections: u32) -> Result<(EngineHandle, RunningServer), Failure> {
    let tokenizer = Arc::new(Tokenizer::from_json(
        TOKENIZER.as_bytes(),
        SpecialTokens::default(),
    )?);
    let limits = Limits {
        max_input_tokens: 1000,
        max_total_tokens: 4000,
        max_stop_sequences: 4,
        max_top_n_tokens: 5,
        max_best_of: 2,
    };
    let core = CoreConfig {
        num_blocks: connections * 64,
        max_running: connections,
        max_step_tokens: 8192,
        limits,
        steps_in_flight: 1,
        prefix_cache: true,
        eos_token_ids: Vec::new(),
        top_cap: 5,
        max_scores: 32,
        vocab_size: 6,
        hash_key: [7; 32],
    };
    let mock = MockConfig {
        step_time: STEP,
        token_ids: vec![0, 1, 2, 3, 4, 5],
        ends: Ends::default(),
    };
    let engine = EngineConfig {
        core,
        max_unfinished: 2 * connections as usize,
        step_timeout: None,
    };
    let engine = spawn_mock(engine, mock, tokenizer.clone())?;
    let template = "{% for message in messages %}{{ message.content }}{% endfor %}";
    let source = TemplateSource::Explicit("stream_cost".to_owned());
    let template = ChatTemplate::new(template, &SpecialTokens::default(), source)?;
    let renderer = Renderer::new(tokenizer.clone(), Arc::new(template));
    let config = ServerConfig {
        hostname: "127.0.0.1".to_owned(),
        port: 0,
        max_concurrent_requests: connections as usize,
        ..ServerConfig::new("mock")
    };
    let server = serve(config, engine.clone(), tokenizer, Some(Arc::new(renderer)))?;
    Ok((engine, server))
}
