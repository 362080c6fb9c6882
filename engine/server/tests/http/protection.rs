//! What the server does about clients that stall, vanish or hurry, and what it tells whoever watches it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use agentlm_server::{TlsFiles, check_tls};

use crate::client::{get, narrow, post, receive, send};
use crate::fixture::{Fixture, Setup, start};

const JSON: (&str, &str) = ("content-type", "application/json");
/// Longer than any test waits, at a millisecond a token.
const ENDLESS: &str = r#"{"inputs":"hi","parameters":{"max_new_tokens":100000,"top_n_tokens":5}}"#;

fn slow() -> Setup {
    Setup {
        step_time: Duration::from_millis(1),
        max_total_tokens: 4000,
        ..Setup::default()
    }
}

fn request(path: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream
}

fn wait_running(server: &Fixture) {
    while server.engine.snapshot().core.running == 0 {
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn bytes_after_a_request_do_not_hide_that_the_client_leaves() {
    for after in ["\r\n", "garbage", &request("/generate", ENDLESS)] {
        let server = slow().start();
        let mut client = connect(server.address);
        let bytes = request("/generate", ENDLESS) + after;
        client.write_all(bytes.as_bytes()).unwrap();
        wait_running(&server);
        drop(client);
        let core = server.wait_idle().core;
        assert_eq!((core.aborted, core.finished_length), (1, 0), "{after:?}");
    }
}

#[test]
fn requests_that_hurry_ahead_are_answered_in_turn() {
    let server = slow().start();
    let mut client = connect(server.address);
    let short = r#"{"inputs":"hi","parameters":{"max_new_tokens":30}}"#;
    let mut bytes = request("/generate", short);
    bytes += &request("/generate_stream", short);
    bytes += "GET /health HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n";
    client.write_all(bytes.as_bytes()).unwrap();
    let mut answers = String::new();
    client.read_to_string(&mut answers).unwrap();
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 3, "{answers}");
    assert_eq!(answers.matches("\"generated_text\":\"a").count(), 2, "{answers}");
    assert_eq!(server.wait_idle().core.aborted, 0);
}

#[test]
fn a_body_that_stalls_is_a_408() {
    let mut setup = Setup::default();
    setup.config.read_timeout = Duration::from_millis(200);
    let server = setup.start();
    let mut client = connect(server.address);
    let bytes = request("/generate", r#"{"inputs":"hi"}"#);
    client.write_all(&bytes.as_bytes()[..bytes.len() - 3]).unwrap();
    let reply = receive(client);
    assert_eq!(reply.status, 408);
    assert_eq!(
        reply.body,
        r#"{"error":"Failed to buffer the request body: it did not come in time","error_type":"validation"}"#
    );
}

#[test]
fn a_head_that_stalls_is_given_up() {
    let mut setup = Setup::default();
    setup.config.read_timeout = Duration::from_millis(200);
    let server = setup.start();
    let mut client = connect(server.address);
    client.write_all(b"POST /generate HTTP/1.1\r\nhost: te").unwrap();
    let begun = Instant::now();
    // With or without an answer, it ends.
    let _ = client.read_to_end(&mut Vec::new());
    assert!(begun.elapsed() < Duration::from_secs(30));
}

#[test]
fn who_reads_the_end_of_a_stream_slowly_takes_nobodys_place() {
    let mut setup = Setup::default();
    setup.config.max_concurrent_requests = 1;
    let server = setup.start();
    let mut client = narrow(server.address);
    // The last event has the whole prompt before its text: far more than the kernel takes.
    let prompt = "x".repeat(700_000);
    let body = format!(
        "{{\"inputs\":\"{prompt}\",\"stream\":true,\"parameters\":{{\"max_new_tokens\":1,\"truncate\":2,\"return_full_text\":true}}}}"
    );
    client.write_all(request("/", &body).as_bytes()).unwrap();
    while server.engine.snapshot().core.finished_length == 0 {
        thread::sleep(Duration::from_millis(1));
    }
    let short = r#"{"inputs":"hi","parameters":{"max_new_tokens":1}}"#;
    // The place is free once the end is written, which is soon; the client would have it for two minutes.
    let patience = Instant::now() + Duration::from_secs(30);
    let mut status = 429;
    while status == 429 && Instant::now() < patience {
        status = post(server.address, "/generate", short).status;
    }
    assert_eq!(status, 200);
    let told = receive(client).body;
    assert!(
        told.ends_with("}\n\n") && told.len() > prompt.len(),
        "it has its end"
    );
}

#[test]
fn prompts_wait_neither_for_grammars_nor_for_texts_to_be_tokenised() {
    let object = |properties: Vec<String>| format!("{{\"properties\":{{{}}}}}", properties.join(","));
    let wide = object((0..1000).map(|at| format!("\"p{at}\":{{}}")).collect());
    let schema = object((0..6).map(|at| format!("\"o{at}\":{wide}")).collect());
    let grammar = format!("{{\"prompt\":\"hi\",\"max_tokens\":1,\"guided_json\":{schema}}}");
    let text = "x".repeat(1_000_000);
    let chat = format!("{{\"messages\":[{{\"role\":\"user\",\"content\":\"{text}\"}}]}}");
    for (path, slow) in [
        ("/v1/completions", grammar),
        ("/tokenize", format!("{{\"inputs\":\"{text}\"}}")),
        ("/chat_tokenize", chat),
    ] {
        let mut setup = Setup::default();
        setup.config.validation_workers = 1;
        let server = setup.start();
        let address = server.address;
        let (done, ended) = channel();
        let clients: Vec<_> = (0..3)
            .map(|_| {
                let (slow, done) = (slow.clone(), done.clone());
                thread::spawn(move || {
                    let reply = post(address, path, &slow);
                    done.send(reply.status).unwrap();
                })
            })
            .collect();
        // Each takes long, so they are at it.
        thread::sleep(Duration::from_millis(200));
        let short = r#"{"inputs":"hi","parameters":{"max_new_tokens":1}}"#;
        assert_eq!(post(address, "/generate", short).status, 200);
        assert!(
            ended.try_iter().count() < 3,
            "{path}: what was to take long did not"
        );
        for client in clients {
            client.join().unwrap();
        }
    }
}

#[test]
fn a_client_that_stops_reading_loses_its_request() {
    let mut setup = slow();
    setup.config.write_timeout = Duration::from_millis(300);
    let server = setup.start();
    let mut client = narrow(server.address);
    client
        .write_all(request("/generate_stream", ENDLESS).as_bytes())
        .unwrap();
    wait_running(&server);
    let core = server.wait_idle().core;
    assert_eq!((core.aborted, core.finished_length), (1, 0));
    let metrics = get(server.address, "/metrics").body;
    assert!(
        metrics.contains("tgi_request_failure{err=\"dropped\"} 1\n"),
        "{metrics}"
    );
    drop(client);
}

#[test]
fn an_answer_that_nobody_reads_gives_its_place_back() {
    let mut setup = Setup {
        step_time: Duration::ZERO,
        ..slow()
    };
    setup.config.write_timeout = Duration::from_millis(300);
    setup.config.max_concurrent_requests = 1;
    let server = setup.start();
    let mut client = narrow(server.address);
    client
        .write_all(request("/generate_stream", ENDLESS).as_bytes())
        .unwrap();
    // All of it is generated long before anything else happens; what is left is the connection's.
    while server.engine.snapshot().core.finished_length + server.engine.snapshot().core.aborted == 0 {
        thread::sleep(Duration::from_millis(1));
    }
    let patience = Instant::now() + Duration::from_secs(60);
    let body = r#"{"inputs":"hi","parameters":{"max_new_tokens":1}}"#;
    while post(server.address, "/generate", body).status == 429 {
        assert!(Instant::now() < patience, "the place is still taken");
        thread::sleep(Duration::from_millis(20));
    }
    drop(client);
}

#[test]
fn a_request_keeps_its_name_or_gets_one() {
    let mut setup = Setup::default();
    setup.config.api_keys = vec!["key".to_owned()];
    let server = setup.start();
    let mine = ("x-request-id", "mine-1");
    for (method, path, status) in [
        ("GET", "/health", 200),
        ("GET", "/nowhere", 404),
        ("GET", "/generate", 401),
        ("POST", "/generate", 401),
    ] {
        let reply = receive(send(server.address, method, path, &[mine], b""));
        assert_eq!(
            (reply.status, reply.header("x-request-id")),
            (status, Some("mine-1"))
        );
    }
    let mut made = Vec::new();
    for name in [None, Some(("x-request-id", "two words"))] {
        let headers: Vec<_> = name.into_iter().collect();
        let reply = receive(send(server.address, "GET", "/info", &headers, b""));
        let id = reply.header("x-request-id").expect("a new name").to_owned();
        assert!(id.len() == 32 && !made.contains(&id), "{id}");
        made.push(id);
    }
    let headers = [JSON, mine, ("authorization", "Bearer key")];
    let body = br#"{"inputs":"hi","parameters":{"max_new_tokens":2}}"#;
    let reply = receive(send(server.address, "POST", "/generate_stream", &headers, body));
    assert_eq!(
        (reply.events().len(), reply.header("x-request-id")),
        (2, Some("mine-1"))
    );
}

#[test]
fn chat_tokenisation_needs_the_key_too() {
    let mut setup = Setup::default();
    setup.config.api_keys = vec!["key".to_owned()];
    let server = setup.start();
    let body = br#"{"messages":[{"role":"user","content":"hi"}]}"#;
    let call = |headers: &[(&str, &str)]| {
        receive(send(server.address, "POST", "/chat_tokenize", headers, body)).status
    };
    assert_eq!(call(&[JSON]), 401);
    assert_eq!(call(&[JSON, ("authorization", "Bearer key")]), 200);
}

/// TGI's names. `tgi_request_skipped_tokens` is a summary there, while its dashboard asks for buckets.
const TGI: [(&str, &str); 28] = [
    ("tgi_request_count", "counter"),
    ("tgi_request_success", "counter"),
    ("tgi_request_failure", "counter"),
    ("tgi_request_duration", "histogram"),
    ("tgi_request_validation_duration", "histogram"),
    ("tgi_request_queue_duration", "histogram"),
    ("tgi_request_inference_duration", "histogram"),
    ("tgi_request_mean_time_per_token_duration", "histogram"),
    ("tgi_request_input_length", "histogram"),
    ("tgi_request_max_new_tokens", "histogram"),
    ("tgi_request_generated_tokens", "histogram"),
    ("tgi_request_skipped_tokens", "histogram"),
    ("tgi_batch_inference_count", "counter"),
    ("tgi_batch_inference_success", "counter"),
    ("tgi_batch_inference_failure", "counter"),
    ("tgi_batch_inference_duration", "histogram"),
    ("tgi_batch_forward_duration", "histogram"),
    ("tgi_batch_decode_duration", "histogram"),
    ("tgi_batch_filter_duration", "histogram"),
    ("tgi_batch_concat_duration", "histogram"),
    ("tgi_batch_concat", "counter"),
    ("tgi_batch_next_size", "histogram"),
    ("tgi_batch_current_size", "gauge"),
    ("tgi_batch_current_max_tokens", "gauge"),
    ("tgi_queue_size", "gauge"),
    ("agentlm_queue_age_seconds", "gauge"),
    ("agentlm_open_connections", "gauge"),
    ("agentlm_log_lines_dropped", "counter"),
];

/// One sample, by its name with labels.
fn sample(metrics: &str, name: &str) -> f64 {
    let line = metrics
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{name} is not in\n{metrics}"))
        .parse()
        .unwrap()
}

#[test]
fn every_metric_of_tgis_dashboards_is_there_after_one_request() {
    let server = start();
    let body = r#"{"inputs":"hello","parameters":{"max_new_tokens":4}}"#;
    assert_eq!(post(server.address, "/generate", body).status, 200);
    server.wait_idle();
    let metrics = get(server.address, "/metrics").body;
    for (name, kind) in TGI {
        assert!(
            metrics.contains(&format!("\n# TYPE {name} {kind}\n")),
            "{name} is no {kind} in\n{metrics}"
        );
        let series = match kind {
            "histogram" => format!("\n{name}_bucket{{"),
            _ => format!("\n{name}"),
        };
        assert!(metrics.contains(&series), "{name}\n{metrics}");
    }
    // `<s>hello` in one step, then a token in each of three.
    for (name, value) in [
        ("tgi_request_count", 1.0),
        ("tgi_request_success", 1.0),
        ("tgi_request_input_length_sum", 6.0),
        ("tgi_request_generated_tokens_sum", 4.0),
        ("tgi_batch_inference_count{method=\"prefill\"}", 1.0),
        ("tgi_batch_inference_count{method=\"decode\"}", 3.0),
        ("tgi_batch_inference_success{method=\"decode\"}", 3.0),
        ("tgi_batch_inference_failure{method=\"decode\"}", 0.0),
        ("tgi_batch_inference_duration_count{method=\"prefill\"}", 1.0),
        ("tgi_batch_forward_duration_count{method=\"decode\"}", 3.0),
        ("tgi_batch_next_size_sum", 4.0),
        ("tgi_request_duration_count", 1.0),
        ("tgi_request_validation_duration_count", 1.0),
        ("tgi_request_queue_duration_count", 1.0),
        ("tgi_request_inference_duration_count", 1.0),
        ("tgi_request_mean_time_per_token_duration_count", 1.0),
        ("tgi_request_max_new_tokens_sum", 4.0),
        ("tgi_batch_decode_duration_count{method=\"decode\"}", 3.0),
        ("tgi_queue_size", 0.0),
        ("agentlm_queue_age_seconds", 0.0),
        ("agentlm_steps", 4.0),
    ] {
        assert_eq!(sample(&metrics, name), value, "{name}");
    }
    assert!(
        sample(&metrics, "agentlm_open_connections") >= 1.0,
        "this one is open"
    );
    let bad = r#"{"messages":[{"role":"bad","content":""}]}"#;
    assert_eq!(post(server.address, "/v1/chat/completions", bad).status, 422);
    let metrics = get(server.address, "/metrics").body;
    assert_eq!(sample(&metrics, "tgi_request_failure{err=\"template\"}"), 1.0);
    assert_eq!(sample(&metrics, "tgi_request_failure{err=\"validation\"}"), 0.0);
}

#[test]
fn the_queue_has_an_age() {
    let mut setup = slow();
    setup.config.max_concurrent_requests = 100;
    let server = setup.start();
    // More than the engine runs at once.
    let clients: Vec<_> = (0..33)
        .map(|_| send(server.address, "POST", "/generate", &[JSON], ENDLESS.as_bytes()))
        .collect();
    let age = || sample(&get(server.address, "/metrics").body, "agentlm_queue_age_seconds");
    let patience = Instant::now() + Duration::from_secs(60);
    while age() < 0.05 {
        assert!(Instant::now() < patience, "nobody seems to wait");
        thread::sleep(Duration::from_millis(5));
    }
    drop(clients);
    server.wait_idle();
    while age() > 0.0 {
        assert!(Instant::now() < patience, "somebody still seems to wait");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_second_port_answers_metrics_alone() {
    let mut setup = Setup::default();
    setup.config.prometheus_port = Some(0);
    setup.config.api_keys = vec!["key".to_owned()];
    let server = setup.start();
    let address = server.server.metrics_addr().unwrap().expect("it was asked for");
    let reply = get(address, "/metrics");
    assert_eq!(reply.status, 200);
    assert!(reply.body.contains("# TYPE tgi_request_count counter\n"));
    assert_eq!(get(address, "/info").status, 404);
    assert_eq!(post(address, "/generate", r#"{"inputs":"hi"}"#).status, 404);
    server.server.begin_shutdown(Duration::from_secs(600));
    server.server.wait();
    assert!(TcpStream::connect(address).is_err(), "it closes with the first");
}

#[test]
fn a_taken_second_port_is_said_and_the_server_serves() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let mut setup = Setup::default();
    setup.config.prometheus_port = Some(port);
    let server = setup.start();
    let said = server.server.metrics_addr().unwrap_err().to_string();
    assert!(
        said.starts_with(&format!("cannot listen on 127.0.0.1:{port}: ")),
        "{said}"
    );
    assert!(!said.contains('\n'), "{said}");
    assert_eq!(get(server.address, "/metrics").status, 200);
    assert_eq!(start().server.metrics_addr().unwrap(), None);
}

#[test]
fn a_certificate_that_is_not_there_is_said_before_anything_else() {
    let files = TlsFiles {
        certificate: "/nowhere/certificate.pem".into(),
        key: "/nowhere/key.pem".into(),
    };
    let said = check_tls(&files).unwrap_err().to_string();
    assert!(
        said.starts_with("cannot read the certificate /nowhere/certificate.pem: ") && !said.contains('\n'),
        "{said}"
    );
}
