//! Every status that the document tells of a route is brought about, and none comes that it does not tell.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};

use crate::client::{Reply, get, receive, send};
use crate::fixture::{Fixture, Setup};

const KEY: (&str, &str) = ("authorization", "Bearer secret");
const JSON: (&str, &str) = ("content-type", "application/json");
/// Room for each route's example.
const PAYLOAD_LIMIT: usize = 2000;
/// Who needs no key: as in TGI. `/docs/` is where its `/docs` leads.
const OPEN: [&str; 9] = [
    "/",
    "/api-doc/openapi.json",
    "/docs",
    "/docs/",
    "/health",
    "/info",
    "/metrics",
    "/ping",
    "/v1/models",
];

/// A server's word on itself, and what came of it.
struct Told {
    document: Value,
    seen: BTreeSet<(String, String, u16)>,
}

fn setup() -> Setup {
    let mut setup = Setup {
        max_total_tokens: 4000,
        ..Setup::default()
    };
    setup.config.api_keys = vec!["secret".to_owned()];
    setup.config.payload_limit = PAYLOAD_LIMIT;
    setup
}

impl Told {
    /// Each route, by its method in small letters, with the example of its body.
    fn routes(&self) -> Vec<(String, String, Option<Value>)> {
        let mut routes = Vec::new();
        for (path, methods) in self.document["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                let example = &operation["requestBody"]["content"]["application/json"]["example"];
                let example = (!example.is_null()).then(|| example.clone());
                routes.push((method.clone(), path.clone(), example));
            }
        }
        routes
    }

    /// Those that take a body.
    fn with_bodies(&self) -> Vec<(String, Value)> {
        let routes = self.routes().into_iter();
        routes
            .filter_map(|(_, path, example)| Some((path, example?)))
            .collect()
    }

    /// Those of them that generate.
    fn generating(&self) -> Vec<(String, Value)> {
        let mut routes = self.with_bodies();
        routes.retain(|(path, _)| {
            let responses = &self.document["paths"][path]["post"]["responses"];
            !responses["429"].is_null() || path == "/generate_stream"
        });
        assert_eq!(routes.len(), 7, "{routes:?}");
        routes
    }

    /// Asks and notes what came: its status and its kind have to be in the document.
    fn ask(
        &mut self,
        server: &Fixture,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Reply {
        let place = match path.strip_prefix("/adapters/") {
            Some(_) => "/adapters/{name}",
            None => path,
        };
        let reply = receive(send(
            server.address,
            &method.to_uppercase(),
            path,
            headers,
            body.as_bytes(),
        ));
        self.note(method, place, &reply);
        reply
    }

    fn post(&mut self, server: &Fixture, path: &str, body: &Value) -> Reply {
        self.ask(server, "post", path, &[KEY, JSON], &body.to_string())
    }

    fn note(&mut self, method: &str, path: &str, reply: &Reply) {
        let responses = &self.document["paths"][path][method]["responses"];
        let mut response = &responses[reply.status.to_string()];
        let shown = format!("{method} {path}: {} {}", reply.status, reply.body);
        assert!(!response.is_null(), "{shown}");
        if let Some(reference) = response["$ref"].as_str() {
            response = self
                .document
                .pointer(reference.strip_prefix('#').unwrap())
                .unwrap();
        }
        if reply.status != 200 {
            let mut kinds = BTreeSet::new();
            gather(response, &mut kinds);
            match serde_json::from_str::<Value>(&reply.body) {
                Ok(body) => assert!(
                    kinds.contains(body["error_type"].as_str().unwrap()),
                    "{shown}: {kinds:?}"
                ),
                Err(_) => assert!(reply.body.is_empty(), "{shown}"),
            }
            let retries = !response["headers"]["retry-after"].is_null();
            assert!(retries || reply.header("retry-after").is_none(), "{shown}");
        }
        self.seen
            .insert((method.to_owned(), path.to_owned(), reply.status));
    }
}

/// The kinds of error in a response's schema.
fn gather(value: &Value, kinds: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            let named = fields
                .get("error_type")
                .and_then(|field| field["enum"].as_array());
            kinds.extend(
                named
                    .into_iter()
                    .flatten()
                    .filter_map(|kind| kind.as_str().map(str::to_owned)),
            );
            fields.values().for_each(|value| gather(value, kinds));
        }
        Value::Array(items) => items.iter().for_each(|value| gather(value, kinds)),
        _ => {}
    }
}

/// A request in the way of whoever wants the engine for himself; its first event has come.
fn busy(server: &Fixture) -> TcpStream {
    let body = br#"{"inputs":"hi","parameters":{"max_new_tokens":3900}}"#;
    let mut stream = send(server.address, "POST", "/generate_stream", &[KEY, JSON], body);
    stream.read_exact(&mut [0; 15]).unwrap();
    let mut seen = String::new();
    while !seen.contains("data: ") {
        let mut bytes = [0; 256];
        let count = stream.read(&mut bytes).unwrap();
        seen.push_str(std::str::from_utf8(&bytes[..count]).unwrap());
    }
    stream
}

#[test]
fn every_status_of_the_document_comes_about_and_no_other() {
    let mut setup_of_names = setup();
    setup_of_names.config.strict_model = true;
    let server = setup_of_names.start();
    let mut told = Told {
        document: get(server.address, "/api-doc/openapi.json").json(),
        seen: BTreeSet::new(),
    };
    what_a_request_is_told(&mut told, &server);
    what_operators_are_told(&mut told);
    who_stalls_is_told(&mut told);
    who_comes_to_a_full_server_is_told(&mut told);
    what_a_broken_engine_is_said_to_be(&mut told);

    let mut never = Vec::new();
    for (method, path, _) in told.routes() {
        for status in told.document["paths"][&path][&method]["responses"]
            .as_object()
            .unwrap()
            .keys()
        {
            let status: u16 = status.parse().unwrap();
            // A fault of the server's own; and an adapter that cannot be unloaded, or only after a minute.
            let rare = status == 500 || method == "delete" && (status == 504 || status == 422);
            if !rare && !told.seen.contains(&(method.clone(), path.clone(), status)) {
                never.push(format!("{method} {path}: {status}"));
            }
        }
    }
    assert!(never.is_empty(), "told and never seen: {never:#?}");
}

fn what_a_request_is_told(told: &mut Told, server: &Fixture) {
    for (method, path, example) in told.routes() {
        let path = path.replace("{name}", "unknown");
        let body = example.map_or_else(String::new, |example| example.to_string());
        let headers: &[_] = if body.is_empty() { &[] } else { &[JSON] };
        let reply = told.ask(server, &method, &path, headers, &body);
        let open = method == "get" && OPEN.contains(&path.as_str());
        assert_eq!(
            reply.status,
            if open { 200 } else { 401 },
            "{method} {path} without a key"
        );
        let headers: &[_] = if body.is_empty() { &[KEY] } else { &[KEY, JSON] };
        let reply = told.ask(server, &method, &path, headers, &body);
        assert_eq!(
            reply.status,
            if method == "delete" { 404 } else { 200 },
            "{}",
            reply.body
        );
        if path == "/sleep" {
            told.ask(server, "post", "/wake", &[KEY], "");
        }
    }
    let long = "x".repeat(PAYLOAD_LIMIT);
    for (path, _) in told.with_bodies() {
        for (headers, body, status) in [
            (&[KEY, JSON][..], "{", 400),
            (&[KEY, JSON], "[]", 422),
            (&[KEY, JSON], &format!("{{\"long\":\"{long}\"}}"), 413),
            (&[KEY, ("content-type", "text/plain")], "{}", 415),
        ] {
            assert_eq!(
                told.ask(server, "post", &path, headers, body).status,
                status,
                "{path}"
            );
        }
    }
    for (path, mut example) in told.generating() {
        let instance = example.pointer_mut("/instances/0");
        let request = match instance {
            Some(instance) => {
                *instance = json!({"messages": [{"role": "user", "content": "hi"}]});
                instance
            }
            None => &mut example,
        };
        request["model"] = json!("another");
        let named = !request["messages"].is_null() || !request["prompt"].is_null();
        let status = told.post(server, &path, &example).status;
        assert_eq!(status, if named { 404 } else { 200 }, "{path}");
    }
    for (name, status) in [("support", 200), ("support", 404), ("%ff", 404)] {
        let reply = told.ask(server, "delete", &format!("/adapters/{name}"), &[KEY], "");
        assert_eq!(reply.status, status, "{name}");
    }
}

fn what_operators_are_told(told: &mut Told) {
    let mut open = setup();
    open.config.api_keys.clear();
    let server = open.start();
    for (method, path, _) in told.routes() {
        let operated =
            path.starts_with("/adapters") || ["/sleep", "/wake", "/weights/reload"].contains(&path.as_str());
        if operated {
            let path = path.replace("{name}", "unknown");
            assert_eq!(told.ask(&server, &method, &path, &[], "").status, 403);
        }
    }
    let slow = Setup {
        step_time: Duration::from_millis(1),
        ..setup()
    };
    let server = slow.start();
    let adapter = json!({"name": "support", "path": "/somewhere"});
    assert_eq!(told.post(&server, "/adapters", &adapter).status, 200);
    assert_eq!(told.post(&server, "/adapters", &adapter).status, 409);
    let running = busy(&server);
    for path in ["/weights/reload", "/sleep"] {
        let reply = told.post(&server, path, &json!({"timeout": 0.05}));
        assert_eq!(
            (reply.status, &reply.json()["error_type"]),
            (504, &json!("timeout"))
        );
    }
    assert_eq!(server.engine.snapshot().core.aborted, 0, "it goes on");
    let reply = told.post(&server, "/sleep", &json!({"mode": "abort", "timeout": 0}));
    assert_eq!(reply.json()["asleep"], true);
    let rest = receive_rest(running);
    let aborted = "Request failed during generation: the request was aborted by `sleep`";
    assert!(rest.contains(aborted), "{rest}");
    for (path, body) in [("/weights/reload", json!({})), ("/adapters", adapter)] {
        assert_eq!(told.post(&server, path, &body).status, 409, "{path} asleep");
    }
    assert_eq!(told.ask(&server, "post", "/wake", &[KEY], "").status, 200);
}

fn receive_rest(mut stream: TcpStream) -> String {
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    rest
}

fn who_stalls_is_told(told: &mut Told) {
    let mut hasty = setup();
    hasty.config.read_timeout = Duration::from_millis(200);
    let server = hasty.start();
    let waiting: Vec<_> = told
        .with_bodies()
        .into_iter()
        .map(|(path, _)| {
            let mut stream = TcpStream::connect(server.address).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
            let head = format!(
                "POST {path} HTTP/1.1\r\nhost: test\r\nauthorization: Bearer secret\r\ncontent-type: application/json\r\n\
                 content-length: 10\r\n\r\n{{"
            );
            stream.write_all(head.as_bytes()).unwrap();
            (path, stream)
        })
        .collect();
    for (path, stream) in waiting {
        let reply = receive(stream);
        told.note("post", &path, &reply);
        assert_eq!(reply.status, 408, "{path}");
    }
}

fn who_comes_to_a_full_server_is_told(told: &mut Told) {
    let mut narrow = Setup {
        step_time: Duration::from_millis(1),
        ..setup()
    };
    narrow.config.max_concurrent_requests = 1;
    let server = narrow.start();
    let _running = busy(&server);
    for (path, example) in told.generating() {
        let reply = told.post(&server, &path, &example);
        if path == "/generate_stream" {
            assert!(reply.body.contains("Model is overloaded"), "{}", reply.body);
        } else {
            assert_eq!(
                (reply.status, reply.header("retry-after")),
                (429, Some("1")),
                "{path}"
            );
        }
    }
}

fn what_a_broken_engine_is_said_to_be(told: &mut Told) {
    let server = setup().start();
    server.engine.shutdown(true);
    for (path, example) in told.with_bodies() {
        let reply = told.post(&server, &path, &example);
        // What needs no engine is answered; so is a wish that is fulfilled.
        let expected = match path.as_str() {
            "/generate_stream" | "/tokenize" | "/chat_tokenize" => 200,
            _ => 503,
        };
        assert_eq!(reply.status, expected, "{path}: {}", reply.body);
    }
    let reply = told.ask(&server, "delete", "/adapters/unknown", &[KEY], "");
    assert_eq!(reply.status, 503);

    let server = setup().start();
    server.engine.fail("the test says so");
    for (path, example) in told.generating() {
        let reply = told.post(&server, &path, &example);
        let expected = match path.as_str() {
            "/generate_stream" => 200,
            "/vertex" => 500,
            _ => 424,
        };
        assert_eq!(reply.status, expected, "{path}: {}", reply.body);
    }
    for path in ["/health", "/ping", "/"] {
        assert_eq!(told.ask(&server, "get", path, &[], "").status, 503, "{path}");
    }
}
