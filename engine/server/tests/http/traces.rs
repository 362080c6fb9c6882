//! Spans of requests, as a collector gets them.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::client::{get, post, receive, send};
use crate::fixture::Setup;

/// A collector that takes whatever it is sent. Its endpoint, and the spans that come.
fn collector() -> (String, Receiver<Value>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let (sender, spans) = channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            let mut head = String::new();
            while stream.read_line(&mut head).unwrap() > 2 {}
            assert!(head.starts_with("POST /v1/traces HTTP/1.1\r\n"), "{head}");
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "));
            let mut body = vec![0; length.unwrap().parse().unwrap()];
            stream.read_exact(&mut body).unwrap();
            stream
                .get_mut()
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
                .unwrap();
            let message: Value = serde_json::from_slice(&body).unwrap();
            let resource = &message["resourceSpans"][0];
            assert_eq!(
                resource["resource"]["attributes"][0]["value"]["stringValue"],
                "test service"
            );
            for span in resource["scopeSpans"][0]["spans"].as_array().unwrap() {
                // The test may have seen enough.
                let _ = sender.send(span.clone());
            }
        }
    });
    (endpoint, spans)
}

fn attribute<'a>(span: &'a Value, key: &str) -> &'a str {
    let attributes = span["attributes"].as_array().unwrap();
    let found = attributes.iter().find(|attribute| attribute["key"] == key);
    let value = &found.unwrap_or_else(|| panic!("no {key}: {span}"))["value"];
    value["stringValue"]
        .as_str()
        .or(value["intValue"].as_str())
        .unwrap()
}

#[test]
fn a_request_is_a_span_with_its_waits_inside() {
    let (endpoint, spans) = collector();
    let mut setup = Setup::default();
    setup.config.otlp_endpoint = Some(endpoint);
    setup.config.otlp_service_name = "test service".to_owned();
    let server = setup.start();
    // Looks at the server are not told.
    assert_eq!(get(server.address, "/health").status, 200);
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let parent = format!("00-{trace}-00f067aa0ba902b7-01");
    let headers = [
        ("content-type", "application/json"),
        ("traceparent", parent.as_str()),
    ];
    let body = br#"{"inputs":"hi","parameters":{"max_new_tokens":3}}"#;
    for path in ["/generate", "/generate_stream"] {
        let reply = receive(send(server.address, "POST", path, &headers, body));
        assert_eq!(reply.status, 200);
        let of = |name: &str| {
            let span = spans.recv_timeout(Duration::from_secs(30)).unwrap();
            assert_eq!(
                (&span["name"], &span["traceId"]),
                (&Value::from(name), &Value::from(trace))
            );
            span
        };
        let whole = of(&format!("POST {path}"));
        assert_eq!(whole["parentSpanId"], "00f067aa0ba902b7");
        assert_eq!(attribute(&whole, "http.response.status_code"), "200");
        assert_eq!(
            attribute(&whole, "http.request.id"),
            reply.header("x-request-id").unwrap()
        );
        assert_eq!(attribute(&whole, "gen_ai.usage.input_tokens"), "3");
        assert_eq!(attribute(&whole, "gen_ai.usage.output_tokens"), "3");
        for name in ["validation", "queue", "inference"] {
            assert_eq!(of(name)["parentSpanId"], whole["spanId"]);
        }
    }
    let refused = post(server.address, "/v1/chat/completions", r#"{"messages":[],"n":9}"#);
    assert_eq!(refused.status, 422);
    let whole = spans.recv_timeout(Duration::from_secs(30)).unwrap();
    assert_eq!(whole["status"]["message"], "validation");
    assert_ne!(whole["traceId"], trace, "a trace of its own");
    // Who does not want to see it does not.
    let unseen = parent.replace("-01", "-00");
    let headers = [headers[0], ("traceparent", unseen.as_str())];
    assert_eq!(
        receive(send(server.address, "POST", "/generate", &headers, body)).status,
        200
    );
    assert!(spans.recv_timeout(Duration::from_millis(1500)).is_err());
    assert!(
        get(server.address, "/metrics")
            .body
            .contains("agentlm_spans_dropped 0\n")
    );
}
