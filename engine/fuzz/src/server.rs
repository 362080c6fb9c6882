//! A server of each dialect on the mock runner, and one client connection to each that is kept.
//!
//! The mock's tokens depend on the token before and on the position alone: the same body has the same answer.

use std::cell::RefCell;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use agentlm_core::CoreConfig;
use agentlm_core::params::Limits;
use agentlm_host::{Ends, EngineConfig, EngineHandle, MockConfig, spawn_mock};
use agentlm_server::{RunningServer, ServerConfig, V1Dialect, serve};
use agentlm_text::{ChatTemplate, Renderer, TemplateSource};

use crate::tokenizers;

const BLOCKS: u32 = 256;
/// An answer or the engine's rest that takes longer has hung.
const PATIENCE: Duration = Duration::from_secs(20);
/// ChatML with tools, in the manner of Qwen and Hermes. The role "bad" is refused.
const TEMPLATE: &str = "{% if tools %}<tool_call>{{ tools | tojson }}{% endif %}{% for m in messages %}\
    {% if m.role == 'bad' %}{{ raise_exception('no such role') }}{% endif %}\
    <|im_start|>{{ m.role }}\n{{ m.content }}{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% endif %}<|im_end|>\n\
    {% endfor %}{% if style %}({{ style }}){% endif %}\
    {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// A running server.
pub(crate) struct Server {
    engine: EngineHandle,
    address: SocketAddr,
    _server: RunningServer,
}

/// OpenAI's dialect, and TGI's.
pub(crate) static SERVERS: LazyLock<[Server; 2]> =
    LazyLock::new(|| [V1Dialect::OpenAi, V1Dialect::Tgi].map(Server::start));

thread_local! {
    static CONNECTIONS: RefCell<[Option<BufReader<TcpStream>>; 2]> = const { RefCell::new([None, None]) };
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) content_type: String,
    pub(crate) body: String,
}

impl Server {
    fn start(dialect: V1Dialect) -> Self {
        let tokenizer = tokenizers::ALL[0].clone();
        let vocab_size = u32::try_from(tokenizer.vocab_size()).expect("a small vocabulary");
        let limits = Limits {
            max_input_tokens: 199,
            max_total_tokens: 200,
            max_stop_sequences: 4,
            max_top_n_tokens: 5,
            max_best_of: 2,
        };
        let core = CoreConfig {
            num_blocks: BLOCKS,
            max_running: 16,
            max_step_tokens: 256,
            limits,
            steps_in_flight: 1,
            prefix_cache: true,
            eos_token_ids: tokenizer.eos_token_ids().to_vec(),
            top_cap: 5,
            max_scores: 32,
            vocab_size: vocab_size + 3,
            hash_key: [7; 32],
        };
        let engine = EngineConfig {
            core,
            max_unfinished: 256,
            step_timeout: None,
        };
        // Every token, special ones and single bytes too.
        let mock = MockConfig {
            step_time: Duration::ZERO,
            token_ids: (0..vocab_size).collect(),
            ends: Ends::default(),
        };
        let engine = spawn_mock(engine, mock, tokenizer.clone()).expect("the mock starts");
        let source = TemplateSource::Explicit("the fuzzer".to_owned());
        let template = ChatTemplate::new(TEMPLATE, tokenizer.special_tokens(), source);
        let template = Arc::new(template.expect("the template is valid"));
        let renderer = Arc::new(Renderer::new(tokenizer.clone(), template));
        let config = ServerConfig {
            hostname: "127.0.0.1".to_owned(),
            port: 0,
            v1_dialect: dialect,
            ..ServerConfig::new("fuzz/model")
        };
        let server = serve(config, engine.clone(), tokenizer, Some(renderer)).expect("the server starts");
        Self {
            address: server.local_addr(),
            engine,
            _server: server,
        }
    }

    /// Waits until nothing runs and every block is free or cached.
    fn wait_idle(&self) {
        let until = Instant::now() + PATIENCE;
        loop {
            let snapshot = self.engine.snapshot();
            let blocks = &snapshot.core.blocks;
            if snapshot.unfinished == 0 && blocks.free + blocks.cached == BLOCKS {
                return;
            }
            assert!(
                Instant::now() < until,
                "the engine still holds something: {snapshot:?}"
            );
            std::thread::yield_now();
        }
    }
}

/// Posts a JSON body to one of [`SERVERS`] and reads the whole answer. Whatever it is, the connection goes on or is closed
/// in order, the server is not at fault, and it holds nothing afterwards.
pub(crate) fn post(which: usize, path: &str, body: &[u8]) -> Reply {
    let reply = CONNECTIONS.with_borrow_mut(|connections| {
        // The server may have closed the kept one.
        for _ in 0..2 {
            let fresh = connections[which].is_none();
            let connection = connections[which].get_or_insert_with(|| {
                let stream = TcpStream::connect(SERVERS[which].address).expect("the server accepts");
                stream.set_nodelay(true).expect("a socket");
                stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
                BufReader::new(stream)
            });
            match exchange(connection, path, body) {
                Ok((reply, true)) => return reply,
                Ok((reply, false)) => {
                    connections[which] = None;
                    return reply;
                }
                Err(error) if fresh => panic!("no answer to {path}: {error}"),
                Err(_) => connections[which] = None,
            }
        }
        panic!("no answer to {path}")
    });
    SERVERS[which].wait_idle();
    reply
}

/// The answer, and whether the connection may be used again.
fn exchange(
    connection: &mut BufReader<TcpStream>,
    path: &str,
    body: &[u8],
) -> std::io::Result<(Reply, bool)> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: fuzz\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    connection
        .get_mut()
        .write_all(&[head.as_bytes(), body].concat())?;
    let status = line(connection)?;
    let status = status
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .unwrap_or_else(|| panic!("no status in {status:?}"));
    let (mut length, mut chunked, mut close, mut content_type) = (None, false, false, String::new());
    loop {
        let header = line(connection)?;
        if header.is_empty() {
            break;
        }
        let (name, value) = header
            .split_once(": ")
            .unwrap_or_else(|| panic!("no header: {header:?}"));
        match name {
            "content-length" => length = Some(value.parse().expect("a length")),
            "transfer-encoding" => chunked = value == "chunked",
            "connection" => close = value == "close",
            "content-type" => value.clone_into(&mut content_type),
            _ => {}
        }
    }
    let mut body = Vec::new();
    if chunked {
        loop {
            let size = line(connection)?;
            let size = usize::from_str_radix(&size, 16).unwrap_or_else(|_| panic!("no size: {size:?}"));
            let start = body.len();
            body.resize(start + size, 0);
            connection.read_exact(&mut body[start..])?;
            assert_eq!(line(connection)?, "", "a chunk ends where its size says");
            if size == 0 {
                break;
            }
        }
    } else {
        body.resize(length.expect("an answer says how long it is"), 0);
        connection.read_exact(&mut body)?;
    }
    assert!(connection.buffer().is_empty(), "bytes after the answer");
    let reply = Reply {
        status,
        content_type,
        body: String::from_utf8(body).expect("an answer is UTF-8"),
    };
    Ok((reply, !close))
}

fn line(connection: &mut BufReader<TcpStream>) -> std::io::Result<String> {
    let mut line = String::new();
    connection.read_line(&mut line)?;
    match line.strip_suffix("\r\n") {
        Some(line) => Ok(line.to_owned()),
        None => Err(std::io::ErrorKind::UnexpectedEof.into()),
    }
}
