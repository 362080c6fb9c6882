//! The routes of hosted platforms: `/invocations` and `/vertex`.

use serde_json::{Value, json};

use crate::client::{get, post, receive, send};
use crate::fixture::{Setup, normalised, start};

const CHAT: &str = r#"{"messages":[{"role":"user","content":"hi"}],"max_tokens":1,"temperature":0}"#;

#[test]
fn an_invocation_is_what_its_fields_say() {
    let server = start();
    let long = format!(
        r#"{{"unknown":"{}","inputs":"hi","parameters":{{"max_new_tokens":1}}}}"#,
        "x".repeat(70_000)
    );
    let cases = [
        ("/", r#"{"inputs":"hi","parameters":{"max_new_tokens":2}}"#),
        (
            "/",
            r#"{"inputs":"hi","parameters":{"max_new_tokens":2,"details":true},"stream":true}"#,
        ),
        // The first form that fits.
        (
            "/",
            r#"{"inputs":"hi","parameters":{"max_new_tokens":2},"prompt":"you"}"#,
        ),
        ("/", &long),
        ("/v1/chat/completions", CHAT),
        (
            "/v1/completions",
            r#"{"inputs":null,"prompt":"hi","max_tokens":1,"temperature":0}"#,
        ),
        // Errors are those of the form.
        ("/", r#"{"inputs":"hi","parameters":{"temperature":0}}"#),
        ("/", r#"{"inputs":7}"#),
        (
            "/v1/chat/completions",
            r#"{"messages":[{"role":"user","content":"hi"}],"top_p":7}"#,
        ),
        ("/v1/completions", r#"{"prompt":[]}"#),
        ("/v1/completions", r#"{"prompt":"hi","max_tokens":1.5}"#),
    ];
    for (path, body) in cases {
        // Afterwards its prompt is in the prefix cache, so that the counts of cached tokens are the same.
        post(server.address, path, body);
        let meant = post(server.address, path, body);
        let reply = post(server.address, "/invocations", body);
        let head: String = body.chars().take(80).collect();
        assert_eq!(reply.status, meant.status, "{head}");
        assert_eq!(reply.header("content-type"), meant.header("content-type"));
        let shown = |body: &str| match serde_json::from_str::<Value>(body) {
            Ok(json) => normalised(json).to_string(),
            Err(_) => body.to_owned(),
        };
        assert_eq!(shown(&reply.body), shown(&meant.body), "{head}");
    }
    let stream = post(
        server.address,
        "/invocations",
        r#"{"prompt":"hi","max_tokens":1,"stream":true}"#,
    );
    assert_eq!(stream.events().last(), Some(&"[DONE]"));
    server.wait_idle();
}

#[test]
fn an_invocation_of_no_form_is_told_the_fields() {
    let server = start();
    let missing = "Failed to deserialize the JSON body into the target type: missing field `inputs`, `messages` or \
                   `prompt`";
    for body in ["{}", r#"{"inputs":null}"#, r#"{"stream":true}"#] {
        let reply = post(server.address, "/invocations", body);
        assert_eq!(
            (reply.status, reply.json()),
            (422, json!({"error": missing, "error_type": "validation"}))
        );
    }
    for (body, status) in [("{", 400), ("", 400), ("[]", 422), ("7", 422)] {
        assert_eq!(
            post(server.address, "/invocations", body).status,
            status,
            "{body}"
        );
    }
    let reply = receive(send(server.address, "POST", "/invocations", &[], b"{}"));
    assert_eq!(reply.status, 415);
}

#[test]
fn requests_are_counted_once() {
    let server = start();
    post(
        server.address,
        "/invocations",
        r#"{"inputs":"hi","parameters":{"max_new_tokens":1}}"#,
    );
    post(server.address, "/invocations", "{}");
    post(
        server.address,
        "/vertex",
        r#"{"instances":[{"inputs":"hi","parameters":{"max_new_tokens":1}}]}"#,
    );
    let metrics = get(server.address, "/metrics").body;
    for line in [
        "tgi_request_count 3",
        "tgi_request_success 2",
        "tgi_request_failure{err=\"validation\"} 1",
    ] {
        assert!(metrics.contains(&format!("\n{line}\n")), "{line}: {metrics}");
    }
}

#[test]
fn predictions_are_texts() {
    let server = start();
    let body = json!({"instances": [
        {"inputs": "hi", "parameters": {"max_new_tokens": 2, "best_of": 2, "details": true}},
        serde_json::from_str::<Value>(CHAT).unwrap(),
        {"inputs": "hi", "parameters": {"max_new_tokens": 9, "stop": ["aaa"], "seed": 7}},
        {"inputs": "hi", "messages": null, "parameters": {"grammar": {"type": "regex", "value": "[0-9]{2}"}}},
    ]});
    let reply = post(server.address, "/vertex", &body.to_string());
    assert_eq!(
        (reply.status, reply.body.as_str()),
        (200, r#"{"predictions":["aa","a","aaa","00"]}"#)
    );
    let many = json!({"instances": vec![json!({"inputs": "hi", "parameters": {"max_new_tokens": 1}}); 9]});
    let reply = post(server.address, "/vertex", &many.to_string()).json();
    assert_eq!(reply["predictions"].as_array().unwrap().len(), 9);
    server.wait_idle();
}

#[test]
fn vertex_tells_what_can_be_mended() {
    let mut setup = Setup::default();
    setup.config.max_concurrent_requests = 2;
    let server = setup.start();
    let ask = |body: &str| post(server.address, "/vertex", body);
    let reply = ask(r#"{"instances":[]}"#);
    let opaque = r#"{"error":"Input validation error","error_type":"Input validation error"}"#;
    assert_eq!((reply.status, reply.body.as_str()), (422, opaque));
    let shape = "Failed to deserialize the JSON body into the target type: ";
    let cases = [
        ("{}", format!("{shape}missing field `instances`")),
        (
            r#"{"instances":[{}]}"#,
            format!("{shape}instances[0]: missing field `inputs`"),
        ),
        (
            r#"{"instances":[{"inputs":"hi"},{"inputs":"hi","parameters":{"temperature":"x"}}]}"#,
            format!("{shape}instances[1]: parameters.temperature: invalid type: string \"x\", expected f32"),
        ),
        (
            r#"{"instances":[{"messages":7}]}"#,
            format!("{shape}instances[0]: messages: invalid type: integer `7`, expected a sequence"),
        ),
        (
            r#"{"instances":[{"inputs":"hi","parameters":{"temperature":0}}]}"#,
            "Input validation error: `temperature` must be strictly positive".to_owned(),
        ),
        (
            r#"{"instances":[{"messages":[{"role":"bad","content":""}]}]}"#,
            "Template error: roles must alternate".to_owned(),
        ),
        (
            r#"{"instances":[{"inputs":"a"},{"inputs":"b"},{"inputs":"c"}]}"#,
            "Number of prompts exceeds the maximum allowed batch size of 2".to_owned(),
        ),
    ];
    for (body, text) in cases {
        let reply = ask(body);
        let error = reply.json()["error"].as_str().unwrap().to_owned();
        assert_eq!(reply.status, 422, "{body}");
        assert!(error.starts_with(&text), "{body}: {error}");
    }
    server.wait_idle();
    server.engine.fail("the test says so");
    let reply = ask(r#"{"instances":[{"inputs":"hi"}]}"#);
    let opaque = r#"{"error":"Incomplete generation","error_type":"Incomplete generation"}"#;
    assert_eq!((reply.status, reply.body.as_str()), (500, opaque));
}

#[test]
fn keys_guard_both() {
    let mut setup = Setup::default();
    setup.config.api_keys = vec!["key".to_owned()];
    let server = setup.start();
    let cases = [
        (
            "/invocations",
            r#"{"inputs":"hi","parameters":{"max_new_tokens":1}}"#,
        ),
        (
            "/vertex",
            r#"{"instances":[{"inputs":"hi","parameters":{"max_new_tokens":1}}]}"#,
        ),
    ];
    for (path, body) in cases {
        assert_eq!(post(server.address, path, body).status, 401, "{path}");
        let headers = [
            ("content-type", "application/json"),
            ("authorization", "Bearer key"),
        ];
        let reply = receive(send(server.address, "POST", path, &headers, body.as_bytes()));
        assert_eq!(reply.status, 200, "{path}: {}", reply.body);
    }
}
