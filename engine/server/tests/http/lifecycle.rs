//! Ends: clients that leave, engines that fail, servers that close.

use std::io::Read;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use agentlm_host::Health;
use agentlm_server::{ServeError, ServerConfig, serve};
use serde_json::json;

use crate::client::{get, post, receive, send};
use crate::fixture::{Fixture, Setup, start};

const JSON: [(&str, &str); 1] = [("content-type", "application/json")];
/// Longer than any test waits, at a millisecond a token.
const ENDLESS: &str = r#"{"inputs":"hi","parameters":{"max_new_tokens":100000}}"#;

fn slow() -> Fixture {
    // Blocks for all: a request of this length alone fits the cache.
    Setup {
        step_time: Duration::from_millis(1),
        max_total_tokens: 4000,
        ..Setup::default()
    }
    .start()
}

/// A stream whose first bytes have come.
fn streaming(server: &Fixture, body: &str) -> TcpStream {
    let mut stream = send(server.address, "POST", "/generate_stream", &JSON, body.as_bytes());
    stream.read_exact(&mut [0; 400]).expect("the stream begins");
    stream
}

#[test]
fn a_client_that_leaves_frees_its_request() {
    let server = slow();
    let stream = streaming(&server, ENDLESS);
    let whole = send(server.address, "POST", "/generate", &JSON, ENDLESS.as_bytes());
    while server.engine.snapshot().core.running < 2 {
        thread::sleep(Duration::from_millis(1));
    }
    drop(stream);
    drop(whole);
    let snapshot = server.wait_idle();
    assert_eq!(snapshot.core.aborted, 2);
    let dropped = "tgi_request_failure{err=\"dropped\"} 2\n";
    let metrics = get(server.address, "/metrics").body;
    assert!(metrics.contains(dropped), "{metrics}");
}

#[test]
fn two_hundred_clients_that_misbehave_leave_nothing_behind() {
    let server = Setup {
        step_time: Duration::from_micros(200),
        max_total_tokens: 1000,
        ..Setup::default()
    }
    .start();
    let paths = [
        "/generate_stream",
        "/generate",
        "/v1/chat/completions",
        "/v1/completions",
    ];
    // A fixed pseudo-random sequence: every run does the same.
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    let mut open = Vec::new();
    for _ in 0..200 {
        let path = paths[random(4) as usize];
        let tokens = 1 + random(900);
        let prompt = "x".repeat(1 + random(90) as usize);
        let n = 1 + random(2);
        let body = format!(
            "{{\"inputs\":\"{prompt}\",\"prompt\":[\"{prompt}\",\"b\"],\"messages\":[{{\"role\":\"user\",\"content\":\
             \"{prompt}\"}}],\"stream\":{},\"n\":{n},\"max_tokens\":{tokens},\"parameters\":{{\"max_new_tokens\":{tokens}}}}}",
            random(2) == 0,
        );
        let body = match random(4) {
            0 => &body[..random(body.len() as u64) as usize],
            _ => &body,
        };
        let mut stream = send(server.address, "POST", path, &JSON, body.as_bytes());
        match random(4) {
            0 => drop(stream),
            1 => {
                let _ = stream.shutdown(Shutdown::Both);
            }
            2 => {
                let _ = stream.read(&mut [0; 100]);
            }
            _ => open.push(stream),
        }
        if open.len() > 8 {
            open.remove(random(8) as usize);
        }
    }
    drop(open);
    server.wait_idle();
    let reply = post(
        server.address,
        "/generate",
        r#"{"inputs":"hi","parameters":{"max_new_tokens":2}}"#,
    );
    assert_eq!(reply.body, r#"{"generated_text":"aa"}"#);
}

#[test]
fn a_shutdown_lets_a_stream_finish() {
    let server = slow();
    let body = r#"{"inputs":"hi","parameters":{"max_new_tokens":300}}"#;
    let stream = send(server.address, "POST", "/generate_stream", &JSON, body.as_bytes());
    while server.engine.snapshot().core.running == 0 {
        thread::sleep(Duration::from_millis(1));
    }
    server.server.begin_shutdown(Duration::from_secs(60));
    let reply = receive(stream);
    assert_eq!(reply.events().len(), 300, "every token came");
    assert!(reply.events()[299].contains("\"generated_text\":\"aaa"));
    server.server.wait();
    assert!(
        TcpStream::connect(server.address).is_err(),
        "nobody listens any more"
    );
    server.wait_idle();
}

#[test]
fn a_grace_that_is_over_closes_what_is_left() {
    let server = slow();
    let stream = streaming(&server, ENDLESS);
    server.server.begin_shutdown(Duration::from_millis(20));
    server.server.wait();
    let mut rest = String::new();
    // A reset is as good an end as any.
    let _ = (&stream).read_to_string(&mut rest);
    assert!(
        !rest.contains("\"generated_text\":\""),
        "the stream did not come to its end"
    );
    assert!(server.wait_idle().core.aborted >= 1);
}

#[test]
fn a_shutdown_closes_idle_connections_at_once() {
    let server = start();
    let idle = TcpStream::connect(server.address).unwrap();
    let begun = Instant::now();
    server.server.begin_shutdown(Duration::from_secs(600));
    server.server.wait();
    assert!(
        begun.elapsed() < Duration::from_secs(300),
        "it did not wait for the grace"
    );
    drop(idle);
}

#[test]
fn a_taken_port_is_an_error_that_names_it() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let other = start();
    let config = ServerConfig {
        hostname: "127.0.0.1".to_owned(),
        port: address.port(),
        ..ServerConfig::new("test/model")
    };
    let engine = other.engine.clone();
    let tokenizer = engine.tokenizer().clone();
    let Err(error) = serve(config.clone(), engine.clone(), tokenizer.clone(), None) else {
        panic!("the port was taken");
    };
    assert!(matches!(error, ServeError::Bind { address: found, .. } if found == address));
    let text = error.to_string();
    assert!(
        text.contains(&address.to_string()) && !text.contains('\n'),
        "{text}"
    );

    let config = ServerConfig {
        validation_workers: 0,
        ..config
    };
    let Err(error) = serve(config, engine, tokenizer, None) else {
        panic!("zero workers")
    };
    assert_eq!(
        error.to_string(),
        "`validation_workers` must be at least 1, but is 0"
    );
}

#[test]
fn a_failed_engine_answers_everybody() {
    let server = slow();
    let native = send(
        server.address,
        "POST",
        "/generate_stream",
        &JSON,
        ENDLESS.as_bytes(),
    );
    let whole = send(server.address, "POST", "/generate", &JSON, ENDLESS.as_bytes());
    let chat = r#"{"messages":[{"role":"user","content":"hi"}],"stream":true}"#;
    let chat = send(
        server.address,
        "POST",
        "/v1/chat/completions",
        &JSON,
        chat.as_bytes(),
    );
    while server.engine.snapshot().core.running < 3 {
        thread::sleep(Duration::from_millis(1));
    }
    server.engine.fail("the runner is gone");
    let text = "Request failed during generation: the engine failed: the runner is gone";
    let error = format!(r#"{{"error":"{text}","error_type":"generation"}}"#);
    let reply = receive(native);
    assert_eq!(
        (reply.status, *reply.events().last().unwrap()),
        (200, error.as_str())
    );
    let reply = receive(whole);
    assert_eq!((reply.status, reply.body.as_str()), (424, error.as_str()));
    let reply = receive(chat);
    let events = reply.events();
    assert_eq!(events.last(), Some(&"[DONE]"));
    let event: serde_json::Value = serde_json::from_str(events[events.len() - 2]).unwrap();
    assert_eq!(
        (&event["error"]["message"], &event["error"]["http_status_code"]),
        (&json!(text), &json!(424))
    );

    assert!(matches!(server.engine.health(), Health::Failed(_)));
    let reply = get(server.address, "/health");
    assert_eq!(
        (reply.status, reply.body.as_str()),
        (503, r#"{"error":"unhealthy","error_type":"healthcheck"}"#)
    );
    let reply = post(
        server.address,
        "/generate",
        r#"{"inputs":"hi","parameters":{"max_new_tokens":1}}"#,
    );
    assert_eq!((reply.status, reply.body.as_str()), (424, error.as_str()));
}

#[test]
fn a_closing_engine_says_try_elsewhere() {
    let server = start();
    server.engine.shutdown(true);
    let reply = post(
        server.address,
        "/generate",
        r#"{"inputs":"hi","parameters":{"max_new_tokens":1}}"#,
    );
    assert_eq!((reply.status, reply.header("retry-after")), (503, Some("1")));
    assert_eq!(get(server.address, "/health").status, 503);
}
