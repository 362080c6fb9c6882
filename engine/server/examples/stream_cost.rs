//! What streaming costs: CPU time a token of this process, by thread, with the clients in a process of their own.
//!
//! `cargo run --release -p agentlm-server --example stream_cost -- [connections] [tokens] [native|chat]`. Linux only.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::{Duration, Instant};

use agentlm_core::CoreConfig;
use agentlm_core::params::Limits;
use agentlm_host::{EngineConfig, MockConfig, spawn_mock};
use agentlm_server::{ServerConfig, serve};
use agentlm_text::{ChatTemplate, Renderer, SpecialTokens, TemplateSource, Tokenizer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

type Failure = Box<dyn std::error::Error + Send + Sync>;

const STEP: Duration = Duration::from_millis(10);
const TOKENIZER: &str = r#"{"version":"1.0","truncation":null,"padding":null,"normalizer":null,"added_tokens":[],
    "pre_tokenizer":null,"decoder":{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":false,"use_regex":false},
    "post_processor":null,"model":{"type":"BPE","dropout":null,"unk_token":null,"continuing_subword_prefix":null,
    "end_of_word_suffix":null,"fuse_unk":false,"byte_fallback":false,"ignore_merges":false,
    "vocab":{"a":0,"b":1,"c":2,"Ġ":3,"Ġa":4,"ab":5},"merges":["Ġ a","a b"]}}"#;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.first().map(String::as_str) {
        Some("--clients") => clients(&arguments[1..]),
        _ => measure(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(arguments: &[String]) -> Result<(), Failure> {
    let connections: u32 = arguments.first().map_or(Ok(256), |text| text.parse())?;
    let tokens: u32 = arguments.get(1).map_or(Ok(500), |text| text.parse())?;
    let route = arguments.get(2).map_or("native", String::as_str);
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
        vocab_size: 6,
        hash_key: [7; 32],
    };
    let mock = MockConfig {
        step_time: STEP,
        token_ids: vec![0, 1, 2, 3, 4, 5],
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
    let server = serve(config, engine, tokenizer, Some(Arc::new(renderer)))?;
    let before = thread_times()?;
    let began = Instant::now();
    let status = Command::new(std::env::current_exe()?)
        .args(["--clients", &server.local_addr().to_string()])
        .args([connections.to_string(), tokens.to_string(), route.to_owned()])
        .status()?;
    let (wall, after) = (began.elapsed(), thread_times()?);
    if !status.success() {
        return Err("the clients failed".into());
    }
    let streamed = f64::from(connections) * f64::from(tokens);
    println!(
        "{connections} connections, {tokens} tokens each, {route}, {:.1} s",
        wall.as_secs_f64()
    );
    let mut total = 0.0;
    for (name, nanos) in &after {
        let spent = (nanos - before.get(name).unwrap_or(&0)) as f64 / 1000.0;
        total += spent;
        println!("{:>8.2} µs a token  {name}", spent / streamed);
    }
    println!("{:>8.2} µs a token  in all", total / streamed);
    Ok(())
}

/// CPU nanoseconds of this process's threads, by thread name.
fn thread_times() -> Result<BTreeMap<String, u64>, Failure> {
    let mut times = BTreeMap::new();
    for task in std::fs::read_dir("/proc/self/task")? {
        let task = task?.path();
        let name = std::fs::read_to_string(task.join("comm"))?.trim().to_owned();
        let spent = std::fs::read_to_string(task.join("schedstat"))?;
        let spent: u64 = spent.split(' ').next().unwrap_or("0").parse()?;
        *times.entry(name).or_default() += spent;
    }
    Ok(times)
}

/// The other process: one thread reads all streams to their ends.
fn clients(arguments: &[String]) -> Result<(), Failure> {
    let [address, connections, tokens, route] = arguments else {
        return Err("wrong arguments".into());
    };
    let address: SocketAddr = address.parse()?;
    let (path, body) = match route.as_str() {
        "chat" => (
            "/v1/chat/completions",
            format!(
                r#"{{"messages":[{{"role":"user","content":"abc"}}],"stream":true,"max_tokens":{tokens}}}"#
            ),
        ),
        _ => (
            "/generate_stream",
            format!(r#"{{"inputs":"abc","parameters":{{"max_new_tokens":{tokens}}}}}"#),
        ),
    };
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    let least = 20 * tokens.parse::<u64>()?;
    let connections: u32 = connections.parse()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let streams: Vec<_> = (0..connections)
            .map(|_| tokio::spawn(stream(address, head.clone())))
            .collect();
        for stream in streams {
            let read = stream.await??;
            if read < least {
                return Err(format!("a stream had only {read} bytes").into());
            }
        }
        Ok(())
    })
}

/// Reads one stream to its end; the bytes it had.
async fn stream(address: SocketAddr, head: String) -> std::io::Result<u64> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(head.as_bytes()).await?;
    let (mut buffer, mut read) = ([0; 4096], 0);
    loop {
        match stream.read(&mut buffer).await? {
            0 => return Ok(read),
            n => read += n as u64,
        }
    }
}
