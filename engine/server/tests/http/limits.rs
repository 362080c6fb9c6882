//! What the server turns away before the engine hears of it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::client::{get, post, receive, send};
use crate::fixture::{Setup, start};

const JSON: (&str, &str) = ("content-type", "application/json");

#[test]
fn a_full_server_says_so_even_to_what_is_wrong() {
    let mut setup = Setup {
        step_time: Duration::from_millis(1),
        max_total_tokens: 4000,
        ..Setup::default()
    };
    setup.config.max_concurrent_requests = 1;
    let server = setup.start();
    let body = br#"{"inputs":"hi","parameters":{"max_new_tokens":3900}}"#;
    let mut busy = send(server.address, "POST", "/generate_stream", &[JSON], body);
    std::io::Read::read_exact(&mut busy, &mut [0; 15]).unwrap();
    for (path, body) in [
        ("/generate", r#"{"inputs":"hi","parameters":{"temperature":-1}}"#),
        ("/", r#"{"inputs":"hi"}"#),
    ] {
        let reply = post(server.address, path, body);
        assert_eq!((reply.status, reply.header("retry-after")), (429, Some("1")));
        assert_eq!(
            reply.body,
            r#"{"error":"Model is overloaded","error_type":"overloaded"}"#
        );
    }
    let reply = post(
        server.address,
        "/v1/completions",
        r#"{"prompt":"hi","stream":true}"#,
    );
    assert_eq!((reply.status, reply.header("retry-after")), (429, Some("1")));
    assert_eq!(reply.json()["error"]["message"], "Model is overloaded");
    let reply = post(server.address, "/generate_stream", r#"{"inputs":"hi"}"#);
    assert_eq!((reply.status, reply.events().len()), (200, 1), "{}", reply.body);
    // What generates nothing needs no place.
    assert_eq!(get(server.address, "/health").status, 200);
    assert_eq!(
        post(server.address, "/tokenize", r#"{"inputs":"hi"}"#).status,
        200
    );
    drop(busy);
    server.wait_idle();
    let reply = loop {
        let reply = post(
            server.address,
            "/generate",
            r#"{"inputs":"hi","parameters":{"max_new_tokens":1}}"#,
        );
        if reply.status != 429 {
            break reply;
        }
    };
    assert_eq!(reply.status, 200, "the place is free again");
}

#[test]
fn each_run_takes_a_place() {
    let mut setup = Setup {
        step_time: Duration::from_millis(1),
        max_total_tokens: 4000,
        ..Setup::default()
    };
    setup.config.max_concurrent_requests = 3;
    let server = setup.start();
    let body = br#"{"inputs":"hi","parameters":{"max_new_tokens":3900}}"#;
    let running: Vec<_> = (0..2)
        .map(|_| send(server.address, "POST", "/generate", &[JSON], body))
        .collect();
    while server.engine.snapshot().core.running < 2 {
        std::thread::sleep(Duration::from_millis(1));
    }
    let one = r#"{"inputs":"hi","parameters":{"max_new_tokens":1}}"#;
    for (path, fits, fields, doubled) in [
        (
            "/generate",
            one.to_owned(),
            r#""max_new_tokens":1"#,
            r#""max_new_tokens":1,"do_sample":true,"best_of":2"#,
        ),
        (
            "/vertex",
            format!("{{\"instances\":[{one}]}}"),
            "[{",
            &format!("[{one},{{"),
        ),
        (
            "/v1/completions",
            r#"{"prompt":["hi"],"max_tokens":1}"#.to_owned(),
            r#"["hi"]"#,
            r#"["hi","you"]"#,
        ),
        (
            "/v1/completions",
            r#"{"prompt":"hi","max_tokens":1}"#.to_owned(),
            r#""hi""#,
            r#""hi","n":2"#,
        ),
        (
            "/v1/completions",
            r#"{"prompt":"hi","max_tokens":1}"#.to_owned(),
            r#""hi""#,
            r#""hi","best_of":2"#,
        ),
        (
            "/v1/chat/completions",
            r#"{"messages":[{"role":"u","content":"hi"}],"max_tokens":1}"#.to_owned(),
            "}]",
            r#"}],"n":2"#,
        ),
    ] {
        // The place may still be that of the one before.
        let patience = Instant::now() + Duration::from_secs(30);
        while post(server.address, path, &fits).status == 429 {
            assert!(Instant::now() < patience, "{path}: there is room for one");
        }
        let asked = fits.replacen(fields, doubled, 1);
        assert_eq!(post(server.address, path, &asked).status, 429, "{path}: {asked}");
    }
    drop(running);
    server.wait_idle();
}

#[test]
fn a_body_above_the_limit_is_a_413() {
    let mut setup = Setup::default();
    setup.config.payload_limit = 1000;
    let server = setup.start();
    let large = format!(r#"{{"inputs":"{}"}}"#, "x".repeat(2000));
    let text =
        r#"{"error":"Failed to buffer the request body: length limit exceeded","error_type":"validation"}"#;
    let reply = post(server.address, "/generate", &large);
    assert_eq!((reply.status, reply.body.as_str()), (413, text));
    let chunked = format!("{:x}\r\n{large}\r\n0\r\n\r\n", large.len());
    let headers = [JSON, ("transfer-encoding", "chunked")];
    let reply = receive(send(
        server.address,
        "POST",
        "/generate",
        &headers,
        chunked.as_bytes(),
    ));
    assert_eq!((reply.status, reply.body.as_str()), (413, text));
}

#[test]
fn other_content_types_are_a_415() {
    let server = start();
    let body = br#"{"inputs":"hi"}"#;
    for headers in [&[][..], &[("content-type", "text/plain")]] {
        let reply = receive(send(server.address, "POST", "/generate", headers, body));
        assert_eq!(reply.status, 415);
        assert_eq!(
            reply.json()["error"],
            "Expected request with `Content-Type: application/json`"
        );
    }
}

#[test]
fn who_is_answered_before_the_body_was_read_is_told_that_the_connection_ends() {
    let mut setup = Setup::default();
    setup.config.api_keys = vec!["secret".to_owned()];
    let server = setup.start();
    let head = |media: &str, key: &str| {
        format!(
            "POST /generate HTTP/1.1\r\nhost: test\r\ncontent-type: {media}\r\nauthorization: Bearer {key}\r\n\
             content-length: 15\r\n\r\n"
        )
    };
    for (media, key, status, closes) in [
        ("text/plain", "secret", 415, true),
        ("application/json", "other", 401, true),
        ("application/json", "secret", 200, false),
    ] {
        let mut stream = TcpStream::connect(server.address).unwrap();
        stream.write_all(head(media, key).as_bytes()).unwrap();
        if !closes {
            stream.write_all(br#"{"inputs":"hi"}"#).unwrap();
        }
        let mut answer = [0; 2048];
        let count = stream.read(&mut answer).unwrap();
        let answer = std::str::from_utf8(&answer[..count]).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        assert_eq!(answer.contains("connection: close\r\n"), closes, "{answer}");
    }
}

#[test]
fn unknown_paths_and_methods_are_empty() {
    let server = start();
    let reply = get(server.address, "/v1/embeddings");
    assert_eq!((reply.status, reply.body.as_str()), (404, ""));
    let reply = get(server.address, "/generate");
    assert_eq!(
        (reply.status, reply.body.as_str(), reply.header("allow")),
        (405, "", Some("POST"))
    );
}

#[test]
fn keys_guard_what_costs() {
    let mut setup = Setup::default();
    setup.config.api_keys = vec!["Secret".to_owned(), "other".to_owned()];
    let server = setup.start();
    let body = br#"{"inputs":"hi","parameters":{"max_new_tokens":1},"prompt":"hi","max_tokens":1}"#;
    let call = |path: &str, key: Option<&str>| {
        let key = key.map(|key| ("authorization", key));
        let headers: Vec<_> = [JSON].into_iter().chain(key).collect();
        receive(send(server.address, "POST", path, &headers, body))
    };
    for path in [
        "/",
        "/generate",
        "/generate_stream",
        "/tokenize",
        "/v1/completions",
    ] {
        for key in [None, Some("Bearer secret"), Some("Secret")] {
            assert_eq!(call(path, key).status, 401, "{path} {key:?}");
        }
        assert_eq!(call(path, Some("Bearer Secret")).status, 200, "{path}");
        assert_eq!(call(path, Some("Bearer other")).status, 200, "{path}");
    }
    assert_eq!(call("/generate", None).body, "");
    assert_eq!(
        call("/v1/completions", None).json()["error"]["type"],
        "authentication_error"
    );
    for path in ["/", "/health", "/ping", "/info", "/metrics", "/v1/models"] {
        assert_eq!(get(server.address, path).status, 200, "{path}");
    }
}

#[test]
fn browsers_are_told_who_may_call() {
    let ask = [("origin", "http://a"), ("access-control-request-method", "POST")];
    let server = start();
    let reply = receive(send(server.address, "OPTIONS", "/generate", &ask, b""));
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("access-control-allow-origin"), Some("*"));
    assert_eq!(reply.header("access-control-allow-methods"), Some("GET,POST"));
    assert_eq!(
        reply.header("access-control-allow-headers"),
        Some("content-type,authorization")
    );
    let vary = "origin, access-control-request-method, access-control-request-headers";
    assert_eq!(get(server.address, "/info").header("vary"), Some(vary));

    let mut setup = Setup::default();
    setup.config.cors_allow_origin = vec!["http://a".to_owned()];
    let server = setup.start();
    for (origin, allowed) in [("http://a", Some("http://a")), ("http://b", None)] {
        let reply = receive(send(server.address, "GET", "/info", &[("origin", origin)], b""));
        assert_eq!(reply.header("access-control-allow-origin"), allowed);
    }

    let mut setup = Setup::default();
    setup.config.cors_allow_origin = vec!["http://a".to_owned(), "*".to_owned()];
    let server = setup.start();
    let reply = receive(send(
        server.address,
        "GET",
        "/info",
        &[("origin", "http://b")],
        b"",
    ));
    assert_eq!(reply.header("access-control-allow-origin"), Some("*"));
}

#[test]
fn absurd_bodies_are_refused_and_the_server_lives() {
    let server = start();
    let deep = |open: &str| {
        format!(
            r#"{{"inputs":"hi","parameters":{{"stop":{}"#,
            open.repeat(100_000)
        )
    };
    let bodies = [
        String::new(),
        "null".to_owned(),
        "[]".to_owned(),
        "{".to_owned(),
        r#"{"inputs":7}"#.to_owned(),
        r#"{"inputs":"hi","parameters":{"max_new_tokens":1e400}}"#.to_owned(),
        r#"{"inputs":"hi","parameters":{"max_new_tokens":-1}}"#.to_owned(),
        r#"{"inputs":"hi","parameters":{"best_of":18446744073709551615}}"#.to_owned(),
        r#"{"inputs":"hi","parameters":{"truncate":18446744073709551615}}"#.to_owned(),
        r#"{"inputs":"hi","parameters":{"top_p":1e-400}}"#.to_owned(),
        r#"{"inputs":"\ud800"}"#.to_owned(),
        r#"{"messages":[],"n":4294967295}"#.to_owned(),
        r#"{"prompt":"hi","n":4294967295}"#.to_owned(),
        deep("["),
        deep("{\"a\":"),
        format!(r#"{{"messages":{}"#, "[".repeat(100_000)),
    ];
    for path in ["/generate", "/", "/v1/chat/completions", "/v1/completions"] {
        for body in &bodies {
            let reply = post(server.address, path, body);
            let head: String = body.chars().take(60).collect();
            assert!((400..500).contains(&reply.status), "{path} {head}: {reply:?}");
            assert!(reply.json()["error"].is_string() || reply.json()["error"]["message"].is_string());
        }
    }
    let reply = post(
        server.address,
        "/generate",
        r#"{"inputs":"hi","parameters":{"max_new_tokens":1}}"#,
    );
    assert_eq!(reply.status, 200);
    server.wait_idle();
}
