//! The operator's routes: adapters, other weights, sleep.

use std::thread;
use std::time::Duration;

use crate::client::{Reply, get, post, receive, send};
use crate::fixture::{Fixture, Setup, start};

const KEY: (&str, &str) = ("authorization", "Bearer secret");
const JSON: (&str, &str) = ("content-type", "application/json");

fn guarded() -> Fixture {
    let mut setup = Setup::default();
    setup.config.api_keys = vec!["secret".to_owned()];
    setup.start()
}

/// The same at a millisecond a token.
fn slow() -> Fixture {
    let mut setup = Setup {
        step_time: Duration::from_millis(1),
        ..Setup::default()
    };
    setup.config.api_keys = vec!["secret".to_owned()];
    setup.start()
}

fn call(server: &Fixture, method: &str, path: &str, body: &str) -> Reply {
    let headers: &[_] = if body.is_empty() { &[KEY] } else { &[KEY, JSON] };
    receive(send(server.address, method, path, headers, body.as_bytes()))
}

#[test]
fn without_a_configured_key_nothing_is_operated() {
    let server = start();
    let adapter = r#"{"name":"a","path":"/somewhere"}"#;
    for (path, body) in [
        ("/adapters", adapter),
        ("/weights/reload", "{}"),
        ("/sleep", "{}"),
        ("/wake", "{}"),
    ] {
        let reply = post(server.address, path, body);
        assert_eq!(reply.status, 403, "{path}");
        assert_eq!(reply.json()["error_type"], "api_key_needed");
    }
    let server = guarded();
    assert_eq!(post(server.address, "/adapters", adapter).status, 401);
    assert_eq!(get(server.address, "/adapters").status, 401);
}

#[test]
fn an_adapter_is_loaded_chosen_and_unloaded() {
    let server = guarded();
    let load = |name: &str| {
        let body = format!(r#"{{"name":"{name}","path":"/somewhere"}}"#);
        call(&server, "POST", "/adapters", &body)
    };
    let loaded = load("poet");
    assert_eq!(
        (loaded.status, loaded.body.as_str()),
        (200, r#"{"name":"poet","path":"/somewhere"}"#)
    );
    assert_eq!(
        (load("poet").status, load("").status, load("test/model").status),
        (409, 422, 422)
    );
    let listed = call(&server, "GET", "/adapters", "");
    assert_eq!(
        listed.body,
        r#"{"adapters":[{"name":"poet","path":"/somewhere"}]}"#
    );
    let models = get(server.address, "/v1/models").json();
    assert_eq!(models["data"][1]["id"], "poet");
    assert_eq!(models["data"][1]["parent"], "test/model");
    let generate = r#"{"inputs":"hi","parameters":{"max_new_tokens":2,"adapter_id":"poet"}}"#;
    assert_eq!(call(&server, "POST", "/generate", generate).status, 200);
    let chat = r#"{"model":"poet","messages":[{"role":"user","content":"hi"}],"max_tokens":2}"#;
    let answer = call(&server, "POST", "/v1/chat/completions", chat);
    assert_eq!(
        (answer.status, answer.json()["model"].as_str()),
        (200, Some("poet"))
    );
    assert_eq!(call(&server, "DELETE", "/adapters/poet", "").status, 200);
    assert_eq!(call(&server, "DELETE", "/adapters/poet", "").status, 404);
    assert_eq!(call(&server, "POST", "/generate", generate).status, 422);
}

#[test]
fn weights_are_reloaded_and_sleep_holds_requests() {
    let server = guarded();
    let reload = call(&server, "POST", "/weights/reload", "");
    assert_eq!(
        (reload.status, reload.body.as_str()),
        (200, r#"{"weight_version":1,"asleep":false}"#)
    );
    let late = slow();
    let body = br#"{"inputs":"hi","parameters":{"max_new_tokens":150}}"#;
    let running = send(late.address, "POST", "/generate", &[KEY, JSON], body);
    while late.engine.snapshot().core.running == 0 {
        thread::sleep(Duration::from_millis(1));
    }
    let reload = call(&late, "POST", "/weights/reload", "{}");
    assert_eq!(reload.status, 200, "by itself it waits: {}", reload.body);
    assert_eq!(receive(running).header("x-generated-tokens"), Some("150"));
    let wrong = call(&server, "POST", "/weights/reload", r#"{"timeout":-1}"#);
    assert!(
        wrong.status == 422
            && wrong
                .body
                .contains("`timeout` must be >= 0.0 and <= 3600.0 seconds. Given: -1")
    );
    let wrong = call(&server, "POST", "/weights/reload", r#"{"mode":"now"}"#);
    assert!(
        wrong.status == 422 && wrong.body.contains("unknown variant `now`"),
        "{}",
        wrong.body
    );
    let asleep = call(&server, "POST", "/sleep", r#"{"mode":"abort"}"#);
    assert_eq!(asleep.body, r#"{"weight_version":1,"asleep":true}"#);
    let adapter = call(&server, "POST", "/adapters", r#"{"name":"a","path":"b"}"#);
    assert_eq!(
        (adapter.status, adapter.json()["error_type"].as_str()),
        (409, Some("conflict"))
    );
    let body = br#"{"inputs":"hi","parameters":{"max_new_tokens":2}}"#;
    let waiting = send(server.address, "POST", "/generate", &[KEY, JSON], body);
    thread::sleep(Duration::from_millis(50));
    assert_eq!(get(server.address, "/health").status, 200);
    let awake = call(&server, "POST", "/wake", "");
    assert_eq!(awake.body, r#"{"weight_version":1,"asleep":false}"#);
    assert_eq!(receive(waiting).status, 200);
}
