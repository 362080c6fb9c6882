//! TGI's own routes, byte for byte.

use serde_json::{Value, json};

use crate::client::{get, post};
use crate::fixture::{EOS, Setup, start};

const A: &str = r#"{"id":97,"text":"a","logprob":-1.0,"special":false}"#;

#[test]
fn a_whole_answer() {
    let server = start();
    let reply = post(
        server.address,
        "/generate",
        r#"{"inputs":"hi","parameters":{"max_new_tokens":3}}"#,
    );
    assert_eq!(
        (reply.status, reply.body.as_str()),
        (200, r#"{"generated_text":"aaa"}"#)
    );
    assert_eq!(reply.header("content-type"), Some("application/json"));
    assert_eq!(reply.header("x-compute-type"), Some("cpu"));
    assert_eq!(reply.header("x-compute-characters"), Some("2"));
    assert_eq!(reply.header("x-prompt-tokens"), Some("3"));
    assert_eq!(reply.header("x-generated-tokens"), Some("3"));
    for name in [
        "x-compute-time",
        "x-total-time",
        "x-validation-time",
        "x-queue-time",
        "x-inference-time",
        "x-time-per-token",
    ] {
        assert!(
            reply
                .header(name)
                .is_some_and(|value| value.parse::<f64>().is_ok()),
            "{name}: {reply:?}"
        );
    }

    let body = r#"{"inputs":"hi","parameters":{"max_new_tokens":2,"details":true},"stream":true}"#;
    let reply = post(server.address, "/generate", body);
    let details = format!(
        r#"{{"finish_reason":"length","generated_tokens":2,"seed":null,"prefill":[],"tokens":[{A},{A}]}}"#
    );
    assert_eq!(
        reply.body,
        format!(r#"{{"generated_text":"aa","details":{details}}}"#)
    );
}

#[test]
fn a_stream() {
    let server = start();
    let body = r#"{"inputs":"hi","parameters":{"max_new_tokens":2,"details":true,"do_sample":true,"seed":18446744073709551615}}"#;
    let reply = post(server.address, "/generate_stream", body);
    assert_eq!(
        reply.body,
        format!(
            "data: {{\"index\":1,\"token\":{A},\"generated_text\":null,\"details\":null}}\n\n\
             data: {{\"index\":2,\"token\":{A},\"generated_text\":\"aa\",\"details\":{{\"finish_reason\":\"length\",\
             \"generated_tokens\":2,\"seed\":18446744073709551615,\"input_length\":3}}}}\n\n"
        )
    );
    let headers = [
        ("content-type", "text/event-stream"),
        ("cache-control", "no-cache"),
        ("x-compute-type", "cpu"),
        ("x-compute-characters", "2"),
        ("x-accel-buffering", "no"),
        ("access-control-allow-origin", "*"),
    ];
    for (name, value) in headers {
        assert_eq!(reply.header(name), Some(value), "{name}");
    }
}

#[test]
fn text_is_escaped_and_characters_come_whole() {
    let server = Setup {
        says: vec![u32::from(b'"')],
        ..Setup::default()
    }
    .start();
    let reply = post(
        server.address,
        "/generate_stream",
        r#"{"inputs":"hi","parameters":{"max_new_tokens":1}}"#,
    );
    let event: Value = serde_json::from_str(reply.events()[0]).unwrap();
    assert_eq!(
        (&event["token"]["text"], &event["generated_text"]),
        (&json!("\""), &json!("\""))
    );

    // Half a character: no text yet, and never a broken one.
    let server = Setup {
        says: vec![0xe4],
        ..Setup::default()
    }
    .start();
    let reply = post(
        server.address,
        "/generate_stream",
        r#"{"inputs":"hi","parameters":{"max_new_tokens":1}}"#,
    );
    let event: Value = serde_json::from_str(reply.events()[0]).unwrap();
    assert_eq!(event["token"]["text"], "");
}

#[test]
fn the_end_of_sequence_is_a_token_without_visible_text() {
    let server = Setup {
        says: vec![EOS],
        ..Setup::default()
    }
    .start();
    let body = r#"{"inputs":"hi","parameters":{"max_new_tokens":5,"details":true}}"#;
    let end = r#"{"id":257,"text":"</s>","logprob":-1.0,"special":true}"#;
    let reply = post(server.address, "/generate", body).json();
    assert_eq!(reply["generated_text"], "");
    assert_eq!(reply["details"]["finish_reason"], "eos_token");
    assert_eq!(reply["details"]["generated_tokens"], 1);
    assert_eq!(reply["details"]["tokens"][0].to_string(), end);
    let reply = post(server.address, "/generate_stream", body);
    assert_eq!(reply.events().len(), 1);
    assert!(reply.body.starts_with(&format!(
        "data: {{\"index\":1,\"token\":{end},\"generated_text\":\"\","
    )));

    let body = r#"{"inputs":"hi","parameters":{"max_new_tokens":3,"ignore_eos":true,"details":true}}"#;
    let reply = post(server.address, "/generate", body).json();
    assert_eq!(
        (
            &reply["details"]["finish_reason"],
            &reply["details"]["generated_tokens"]
        ),
        (&json!("length"), &json!(3))
    );
}

#[test]
fn a_stop_string_ends_the_text_and_stays_in_it() {
    let server = start();
    let body = r#"{"inputs":"hi","parameters":{"max_new_tokens":9,"details":true,"stop":"aa"}}"#;
    let reply = post(server.address, "/generate", body).json();
    assert_eq!(
        (&reply["generated_text"], &reply["details"]["finish_reason"]),
        (&json!("aa"), &json!("stop_sequence"))
    );
    server.wait_idle();
}

#[test]
fn the_compatible_route_answers_in_an_array_and_with_the_prompt() {
    let server = start();
    let reply = post(
        server.address,
        "/",
        r#"{"inputs":"hi","parameters":{"max_new_tokens":2}}"#,
    );
    assert_eq!(reply.body, r#"[{"generated_text":"hiaa"}]"#);
    let body = r#"{"inputs":"hi","parameters":{"max_new_tokens":2,"return_full_text":false}}"#;
    assert_eq!(
        post(server.address, "/", body).body,
        r#"[{"generated_text":"aa"}]"#
    );
    let body = r#"{"inputs":"hi","parameters":{"max_new_tokens":1},"stream":true}"#;
    let expected =
        format!("data: {{\"index\":1,\"token\":{A},\"generated_text\":\"hia\",\"details\":null}}\n\n");
    assert_eq!(post(server.address, "/", body).body, expected);

    let mut setup = Setup::default();
    setup.config.model_pipeline_tag = Some("text2text-generation".to_owned());
    let server = setup.start();
    let reply = post(
        server.address,
        "/",
        r#"{"inputs":"hi","parameters":{"max_new_tokens":2}}"#,
    );
    assert_eq!(reply.body, r#"[{"generated_text":"aa"}]"#);
}

#[test]
fn best_of_keeps_the_other_runs() {
    let server = start();
    let body =
        r#"{"inputs":"hi","parameters":{"max_new_tokens":1,"best_of":2,"do_sample":true,"details":true}}"#;
    let reply = post(server.address, "/generate", body);
    assert_eq!(reply.header("x-prompt-tokens"), Some("3"), "counted once");
    let reply = reply.json();
    let others = reply["details"]["best_of_sequences"].as_array().unwrap();
    assert_eq!(others.len(), 1);
    let keys: Vec<&str> = others[0]
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    assert_eq!(
        keys,
        [
            "generated_text",
            "finish_reason",
            "generated_tokens",
            "seed",
            "prefill",
            "tokens"
        ]
    );
    let (one, other) = (&reply["details"]["seed"], &others[0]["seed"]);
    assert!(
        one.is_u64() && other.is_u64() && one != other,
        "each run has its own seed"
    );
}

#[test]
fn likely_tokens_stand_beside_each_token() {
    let server = start();
    let parameters = r#"{"max_new_tokens":1,"top_n_tokens":2,"details":true}"#;
    let body = format!(r#"{{"inputs":"hi","parameters":{parameters}}}"#);
    let second = r#"{"id":97,"text":"a","logprob":-2.0,"special":false}"#;
    let reply = post(server.address, "/generate", &body);
    assert!(
        reply
            .body
            .ends_with(&format!("\"tokens\":[{A}],\"top_tokens\":[[{A},{second}]]}}}}")),
        "{}",
        reply.body
    );
    let reply = post(server.address, "/generate_stream", &body);
    let start =
        format!("data: {{\"index\":1,\"token\":{A},\"top_tokens\":[{A},{second}],\"generated_text\":\"a\"");
    assert!(reply.body.starts_with(&start), "{}", reply.body);
}

#[test]
fn truncation_keeps_the_end_and_the_first_special_token() {
    let server = start();
    let body = r#"{"inputs":"abcdefgh","parameters":{"max_new_tokens":1,"truncate":4,"details":true,"return_full_text":true}}"#;
    let reply = post(server.address, "/generate_stream", body);
    let event: Value = serde_json::from_str(reply.events()[0]).unwrap();
    assert_eq!(event["details"]["input_length"], 4);
    assert_eq!(
        event["generated_text"], "abcdefgha",
        "the full text has the whole prompt"
    );
}

#[test]
fn errors_are_tgis() {
    let server = start();
    let body = r#"{"inputs":"hi","parameters":{"temperature":0}}"#;
    let error = r#"{"error":"Input validation error: `temperature` must be strictly positive","error_type":"validation"}"#;
    let reply = post(server.address, "/generate", body);
    assert_eq!((reply.status, reply.body.as_str()), (422, error));
    assert_eq!(reply.header("content-type"), Some("application/json"));
    // A stream has said 200 before it looks.
    let reply = post(server.address, "/generate_stream", body);
    assert_eq!((reply.status, reply.body), (200, format!("data: {error}\n\n")));

    let long = format!(r#"{{"inputs":"{}"}}"#, "x".repeat(300));
    let reply = post(server.address, "/generate", &long);
    let text = "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 200. Given: 301 `inputs` \
                tokens and 0 `max_new_tokens`";
    assert_eq!((reply.status, &reply.json()["error"]), (422, &json!(text)));
    let reply = post(server.address, "/generate", r#"{"inputs":""}"#);
    assert_eq!(
        reply.json()["error"],
        "Input validation error: `inputs` cannot be empty"
    );
    server.wait_idle();
}

#[test]
fn the_context_is_the_default_length() {
    let server = start();
    let reply = post(
        server.address,
        "/generate",
        r#"{"inputs":"hi","parameters":{"details":true}}"#,
    )
    .json();
    assert_eq!(reply["details"]["generated_tokens"], 197);
}

#[test]
fn tokens_have_their_bytes_in_the_text() {
    let server = start();
    let reply = post(server.address, "/tokenize", r#"{"inputs":"a b"}"#);
    assert_eq!(
        reply.body,
        "[{\"id\":256,\"text\":\"\",\"start\":0,\"stop\":0},{\"id\":97,\"text\":\"a\",\"start\":0,\"stop\":1},\
         {\"id\":32,\"text\":\" \",\"start\":1,\"stop\":2},{\"id\":98,\"text\":\"b\",\"start\":2,\"stop\":3}]"
    );
    // After a character of two bytes, positions are bytes too.
    let reply = post(server.address, "/tokenize", r#"{"inputs":"\u00e9b"}"#).json();
    assert_eq!(reply[3], json!({"id": 98, "text": "b", "start": 2, "stop": 3}));

    let reply = post(
        server.address,
        "/chat_tokenize",
        r#"{"messages":[{"role":"u","content":"x"}]}"#,
    )
    .json();
    assert_eq!(reply["templated_text"], "[u]x[assistant]");
    assert_eq!(reply["tokenize_response"].as_array().unwrap().len(), 15);
}

#[test]
fn what_the_server_says_of_itself() {
    let server = start();
    assert_eq!(
        get(server.address, "/info").body,
        format!(
            "{{\"model_id\":\"test/model\",\"model_sha\":null,\"model_pipeline_tag\":null,\"max_concurrent_requests\":128,\
             \"max_best_of\":2,\"max_stop_sequences\":4,\"max_input_tokens\":199,\"max_total_tokens\":200,\
             \"validation_workers\":2,\"max_client_batch_size\":4,\"router\":\"text-generation-router\",\
             \"version\":\"{}\",\"sha\":null,\"docker_label\":null}}",
            env!("CARGO_PKG_VERSION")
        )
    );
    assert_eq!(
        get(server.address, "/v1/models").body,
        r#"{"object":"list","data":[{"id":"test/model","object":"model","created":0,"owned_by":"test/model"}]}"#
    );
    for path in ["/", "/health", "/ping"] {
        let reply = get(server.address, path);
        assert_eq!((reply.status, reply.body.as_str()), (200, ""), "{path}");
    }
    post(
        server.address,
        "/generate",
        r#"{"inputs":"hi","parameters":{"max_new_tokens":3}}"#,
    );
    let reply = get(server.address, "/metrics");
    assert_eq!(reply.header("content-type"), Some("text/plain; charset=utf-8"));
    assert!(reply.body.contains("\ntgi_request_success 1\n"), "{}", reply.body);
    assert!(
        reply.body.contains("\nagentlm_blocks{state=\"held\"} 0\n"),
        "{}",
        reply.body
    );
}
