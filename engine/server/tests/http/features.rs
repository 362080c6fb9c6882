//! What a request may ask besides its text: scored prompts, echoes, the best of several runs, grammars, biases, adapters.

use std::sync::mpsc::channel;
use std::time::Duration;

use agentlm_host::{Control, Quiesce};
use agentlm_server::V1Dialect;
use serde_json::{Value, json};

use crate::client::{Reply, post};
use crate::fixture::{Fixture, Setup, start};

const COMPLETIONS: &str = "/v1/completions";

fn generate(server: &Fixture, parameters: &str) -> Reply {
    let body = format!(r#"{{"inputs":"hi","parameters":{parameters}}}"#);
    post(server.address, "/generate", &body)
}

fn complete(server: &Fixture, fields: &str) -> Reply {
    let body = format!(r#"{{"prompt":"hi","temperature":0{fields}}}"#);
    post(server.address, COMPLETIONS, &body)
}

/// The text of a refusal on a native route.
fn refused(reply: &Reply) -> String {
    assert_eq!(reply.status, 422, "{}", reply.body);
    let text = reply.json()["error"].as_str().unwrap().to_owned();
    text.replacen("Input validation error: ", "", 1)
}

/// The same on a `/v1` route.
fn refused_v1(reply: &Reply) -> String {
    assert_eq!(reply.status, 422, "{}", reply.body);
    let text = reply.json()["error"]["message"].as_str().unwrap().to_owned();
    text.replacen("Input validation error: ", "", 1)
}

/// The events of a stream, its end left out.
fn events(reply: &Reply) -> Vec<Value> {
    let (end, events) = reply
        .events()
        .split_last()
        .map(|(e, all)| (*e, all.to_vec()))
        .unwrap();
    assert_eq!(end, "[DONE]");
    events
        .into_iter()
        .map(|event| serde_json::from_str(event).unwrap())
        .collect()
}

#[test]
fn a_prompts_tokens_are_told_on_request() {
    let server = start();
    let prefill = r#""prefill":[{"id":256,"text":"<s>","logprob":null},{"id":104,"text":"h","logprob":-1.0},{"id":105,"text":"i","logprob":-1.0}]"#;
    let reply = generate(
        &server,
        r#"{"max_new_tokens":1,"decoder_input_details":true,"top_n_tokens":2}"#,
    );
    assert!(reply.body.contains(prefill), "{}", reply.body);
    assert_eq!(reply.json()["details"]["tokens"][0]["logprob"], -1.0);
    let reply = generate(
        &server,
        r#"{"max_new_tokens":1,"decoder_input_details":true,"truncate":2}"#,
    )
    .json();
    let kept =
        json!([{"id": 256, "text": "<s>", "logprob": null}, {"id": 105, "text": "i", "logprob": -1.0}]);
    assert_eq!(reply["details"]["prefill"], kept, "what truncation left");
    let best = r#"{"max_new_tokens":1,"decoder_input_details":true,"best_of":2,"do_sample":true}"#;
    let reply = generate(&server, best);
    assert_eq!(reply.body.matches(prefill).count(), 2, "{}", reply.body);
    let reply = generate(&server, r#"{"max_new_tokens":1,"details":true}"#);
    assert_eq!(reply.json()["details"]["prefill"], json!([]));
    server.wait_idle();
}

#[test]
fn a_long_prompt_is_scored_in_parts_and_told_whole() {
    let server = start();
    let text = "abcdefgh".repeat(20);
    let body = json!({"inputs": text, "parameters": {"max_new_tokens": 1, "decoder_input_details": true}});
    // The second time its blocks are in the prefix cache, which has no scores.
    for _ in 0..2 {
        let reply = post(server.address, "/generate", &body.to_string()).json();
        let prefill = reply["details"]["prefill"].as_array().unwrap().clone();
        let told: String = prefill[1..]
            .iter()
            .map(|token| token["text"].as_str().unwrap())
            .collect();
        assert_eq!(told, text);
        assert_eq!(prefill[0]["logprob"], Value::Null);
        assert!(prefill[1..].iter().all(|token| token["logprob"] == -1.0));
    }
}

#[test]
fn an_echo_is_scored_with_its_text() {
    let server = start();
    let reply = complete(&server, r#","max_tokens":2,"echo":true,"logprobs":1"#);
    let lists = r#"{"tokens":["<s>","h","i","a","a"],"token_logprobs":[null,-1.0,-1.0,-1.0,-1.0],"top_logprobs":[null,{"a":-1.0},{"a":-1.0},{"a":-1.0},{"a":-1.0}],"text_offset":[0,0,1,2,3]}"#;
    let choice = &reply.json()["choices"][0];
    assert_eq!(
        (choice["text"].as_str(), choice["logprobs"].to_string()),
        (Some("hiaa"), lists.to_owned())
    );
    // Ids are shown as they are, special ones too.
    let body = r#"{"prompt":[[256,104],[105]],"max_tokens":1,"echo":true,"logprobs":0,"temperature":0}"#;
    let reply = post(server.address, COMPLETIONS, body).json();
    let choice = |index: usize| {
        let choice = &reply["choices"][index];
        (choice["text"].clone(), choice["logprobs"]["text_offset"].clone())
    };
    assert_eq!(choice(0), (json!("<s>ha"), json!([0, 3, 4])));
    assert_eq!(choice(1), (json!("ia"), json!([0, 1])));
    // Without an echo nothing is told of the prompt.
    let reply = complete(&server, r#","max_tokens":1,"logprobs":1"#).json();
    assert_eq!(reply["choices"][0]["logprobs"]["tokens"], json!(["a"]));
    server.wait_idle();
}

#[test]
fn an_echo_streams_the_same_text_and_scores() {
    for v1_dialect in [V1Dialect::OpenAi, V1Dialect::Tgi] {
        let mut setup = Setup::default();
        setup.config.v1_dialect = v1_dialect;
        let server = setup.start();
        for max_tokens in [0, 1, 3] {
            assert_echo_streams(&server, max_tokens);
        }
    }
}

fn assert_echo_streams(server: &Fixture, max_tokens: u32) {
    let fields = format!(",\"max_tokens\":{max_tokens},\"echo\":true,\"logprobs\":1");
    let whole = complete(server, &fields).json();
    let whole = &whole["choices"][0];
    let streamed = events(&complete(server, &format!("{fields},\"stream\":true")));
    let text: String = streamed
        .iter()
        .map(|event| event["choices"][0]["text"].as_str().unwrap())
        .collect();
    assert_eq!(whole["text"], text);
    for list in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
        let parts = streamed.iter();
        let parts = parts.flat_map(|event| {
            let part = &event["choices"][0]["logprobs"][list];
            part.as_array().unwrap().clone()
        });
        assert_eq!(whole["logprobs"][list], Value::Array(parts.collect()), "{list}");
    }
    let reasons: Vec<&Value> = streamed
        .iter()
        .map(|event| &event["choices"][0]["finish_reason"])
        .collect();
    assert_eq!(reasons.last(), Some(&&json!("length")));
}

#[test]
fn a_prompt_is_scored_without_an_answer() {
    let server = start();
    let reply = complete(&server, r#","max_tokens":0,"echo":true,"logprobs":1"#);
    assert_eq!(reply.header("x-generated-tokens"), Some("0"));
    let reply = reply.json();
    let choice = &reply["choices"][0];
    assert_eq!(
        (&choice["text"], &choice["finish_reason"]),
        (&json!("hi"), &json!("length"))
    );
    assert_eq!(choice["logprobs"]["tokens"], json!(["<s>", "h", "i"]));
    assert_eq!(
        (
            &reply["usage"]["prompt_tokens"],
            &reply["usage"]["completion_tokens"]
        ),
        (&json!(3), &json!(0))
    );
    let fields = r#","max_tokens":0,"echo":true,"stream":true,"stream_options":{"include_usage":true}"#;
    let streamed = events(&complete(&server, fields));
    assert_eq!(streamed.len(), 2, "the prompt and the usage: {streamed:?}");
    assert_eq!(streamed[0]["choices"][0]["text"], "hi");
    assert_eq!(streamed[0]["choices"][0]["finish_reason"], "length");
    assert_eq!(streamed[1]["usage"]["completion_tokens"], 0);
    assert_eq!(
        refused_v1(&complete(&server, r#","max_tokens":0"#)),
        "`max_tokens` must be strictly positive"
    );
    server.wait_idle();
}

/// What lm-eval's `local-completions` sends, and how it reads the answer.
#[test]
fn continuations_are_scored_as_lm_eval_does() {
    let server = start();
    let body = r#"{"prompt":[[104,105,97],[104,97]],"temperature":0,"max_tokens":1,"logprobs":1,"seed":1234,"echo":true}"#;
    let reply = post(server.address, COMPLETIONS, body).json();
    let mut choices = reply["choices"].as_array().unwrap().clone();
    choices.sort_by_key(|choice| choice["index"].as_u64());
    for (choice, (context, length)) in choices.iter().zip([(2, 3), (1, 2)]) {
        let logprobs = choice["logprobs"]["token_logprobs"].as_array().unwrap();
        let top = choice["logprobs"]["top_logprobs"].as_array().unwrap();
        assert_eq!((logprobs.len(), top.len()), (length + 1, length + 1));
        let sum: f64 = logprobs[context..length]
            .iter()
            .map(|logprob| logprob.as_f64().unwrap())
            .sum();
        assert!((sum + 1.0).abs() < 1e-9);
        for (logprob, top) in logprobs[context..length].iter().zip(&top[context..]) {
            let likely = top.as_object().unwrap().values().filter_map(Value::as_f64);
            assert_eq!(
                likely.fold(f64::MIN, f64::max),
                logprob.as_f64().unwrap(),
                "greedy"
            );
        }
    }
}

#[test]
fn the_best_of_several_completions() {
    let server = start();
    let reply = complete(&server, r#","max_tokens":2,"best_of":2"#).json();
    assert_eq!(reply["choices"].as_array().unwrap().len(), 1);
    assert_eq!(
        (
            &reply["usage"]["prompt_tokens"],
            &reply["usage"]["completion_tokens"]
        ),
        (&json!(3), &json!(4)),
        "what was not chosen was generated too"
    );
    let body = r#"{"prompt":["hi","you"],"max_tokens":1,"best_of":2,"n":2,"echo":true}"#;
    let reply = post(server.address, COMPLETIONS, body).json();
    let choices = reply["choices"].as_array().unwrap().iter();
    let choices: Vec<_> = choices
        .map(|choice| {
            (
                choice["index"].as_u64().unwrap(),
                choice["text"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(choices, [(0, "hia"), (1, "hia"), (2, "youa"), (3, "youa")]);
    assert_eq!(
        refused_v1(&complete(&server, r#","best_of":2,"stream":true"#)),
        "`best_of` > `n` is not supported when streaming tokens"
    );
}

#[test]
fn grammars_bind_the_text_on_every_route() {
    let server = start();
    let native = [
        (r#"{"type":"regex","value":"[0-9]{2}"}"#, "00"),
        (r#"{"type":"json","value":{"enum":["b"]}}"#, "\"b\""),
        (r#"{"type":"json_object","value":"{\"enum\":[7]}"}"#, "7"),
        (
            r#"{"type":"json_schema","value":{"name":"n","schema":{"const":true}}}"#,
            "true",
        ),
    ];
    for (grammar, text) in native {
        let parameters = format!(r#"{{"details":true,"grammar":{grammar}}}"#);
        let reply = generate(&server, &parameters).json();
        assert_eq!(reply["generated_text"], text, "{grammar}");
        assert_eq!(reply["details"]["finish_reason"], "eos_token");
        let body = format!(r#"{{"inputs":"hi","parameters":{parameters}}}"#);
        let stream = post(server.address, "/generate_stream", &body);
        let last: Value = serde_json::from_str(stream.events().last().unwrap()).unwrap();
        assert_eq!(last["generated_text"], text, "{grammar}");
    }
    let completions = [
        (r#","guided_regex":"[0-9]{2}""#, "00"),
        (r#","guided_choice":["bc","bd"]"#, "bc"),
        (r#","guided_json":{"enum":["b"]}"#, "\"b\""),
        (r#","guided_grammar":"start: \"xy\"""#, "xy"),
        (r#","structured_outputs":{"regex":"z"}"#, "z"),
        (
            r#","response_format":{"type":"json_schema","json_schema":{"name":"n","schema":{"const":7}}}"#,
            "7",
        ),
        (r#","response_format":{"type":"text"},"max_tokens":1"#, "a"),
    ];
    for (fields, text) in completions {
        let reply = complete(&server, fields).json();
        assert_eq!(reply["choices"][0]["text"], text, "{fields}");
    }
    let body = r#"{"prompt":["hi","you"],"n":2,"guided_regex":"[0-9]{3}"}"#;
    let reply = post(server.address, COMPLETIONS, body).json();
    let choices = reply["choices"].as_array().unwrap();
    assert_eq!(choices.len(), 4);
    assert!(
        choices.iter().all(|choice| choice["text"] == "000"),
        "{choices:?}"
    );
    server.wait_idle();
}

#[test]
fn a_bad_grammar_is_refused_and_told_why() {
    let server = start();
    let text = refused(&generate(&server, r#"{"grammar":{"type":"regex","value":"(a"}}"#));
    assert!(text.starts_with("grammar is not valid: "), "{text}");
    let text = refused_v1(&complete(&server, r#","guided_regex":"(a""#));
    assert!(text.starts_with("grammar is not valid: "), "{text}");
    // The lengths are looked at first, as in TGI.
    let text = refused(&generate(
        &server,
        r#"{"max_new_tokens":500,"grammar":{"type":"regex","value":"(a"}}"#,
    ));
    assert!(text.starts_with("`inputs` tokens + `max_new_tokens`"), "{text}");

    let mut setup = Setup::default();
    setup.config.disable_grammar_support = true;
    let server = setup.start();
    let regex = r#"{"grammar":{"type":"regex","value":"a"}}"#;
    assert_eq!(refused(&generate(&server, regex)), "grammar is not supported");
    let regex = r#","guided_regex":"a""#;
    assert_eq!(refused_v1(&complete(&server, regex)), "grammar is not supported");
    assert_eq!(generate(&server, r#"{"max_new_tokens":1}"#).status, 200);
}

#[test]
fn biases_and_watermarks_are_taken() {
    let server = start();
    for parameters in [
        r#"{"max_new_tokens":1,"logit_bias":{"97":-100,"98":100}}"#,
        r#"{"max_new_tokens":1,"logit_bias":[[97,-1.5]]}"#,
        r#"{"max_new_tokens":1,"logit_bias":[]}"#,
        r#"{"max_new_tokens":1,"watermark":true}"#,
    ] {
        let reply = generate(&server, parameters);
        assert_eq!(reply.status, 200, "{parameters}: {}", reply.body);
    }
    let unknown = "`logit_bias` names token 999, but ids must be below 258";
    assert_eq!(
        refused(&generate(&server, r#"{"logit_bias":{"999":1}}"#)),
        unknown
    );
    let reply = complete(&server, r#","logit_bias":{"999":1}"#);
    assert_eq!(refused_v1(&reply), unknown);
    assert_eq!(reply.json()["error"]["param"], "logit_bias");
    let reply = complete(&server, r#","max_tokens":1,"logit_bias":{"97":1}"#);
    assert_eq!(reply.status, 200);
    server.wait_idle();
}

#[test]
fn adapters_are_chosen_by_name() {
    let server = start();
    for (id, status) in [("null", 200), (r#""test/model""#, 200), (r#""mine""#, 422)] {
        let reply = generate(&server, &format!(r#"{{"max_new_tokens":1,"adapter_id":{id}}}"#));
        assert_eq!(reply.status, status, "{id}: {}", reply.body);
    }
    assert_eq!(
        refused(&generate(&server, r#"{"adapter_id":"mine"}"#)),
        "`adapter_id` must be the name of a loaded adapter. Given: \"mine\""
    );
    let (tell, outcome) = channel();
    let load = Control::LoadAdapter {
        name: "mine".to_owned(),
        path: "/nowhere".to_owned(),
        number: 0,
    };
    let done = Box::new(move |result| tell.send(result).unwrap());
    server
        .engine
        .control(load, Quiesce::Drain, Duration::from_secs(10), done);
    outcome.recv().unwrap().unwrap();
    let reply = generate(&server, r#"{"max_new_tokens":1,"adapter_id":"mine"}"#);
    assert_eq!(reply.status, 200, "{}", reply.body);
    let reply = complete(&server, r#","max_tokens":1,"model":"mine""#).json();
    assert_eq!(reply["model"], "mine");
    // Blocks of a prompt are shared only by requests of one adapter: so one sees who was computed by which.
    let hits = || server.engine.snapshot().core.prefix_hit_tokens;
    for path in ["/generate", "/vertex", "/v1/completions", "/v1/chat/completions"] {
        let text = format!("{path}: as long as several blocks of the prefix cache, so as to be found there");
        let ask = |adapter: &str| {
            let native = json!({"inputs": text, "parameters": {"max_new_tokens": 1, "adapter_id": adapter}});
            let body = match path {
                "/generate" => native,
                "/vertex" => json!({"instances": [native]}),
                "/v1/completions" => json!({"prompt": text, "model": adapter, "max_tokens": 1}),
                _ => {
                    json!({"messages": [{"role": "user", "content": text}], "model": adapter, "max_tokens": 1})
                }
            };
            let before = hits();
            let reply = post(server.address, path, &body.to_string());
            assert_eq!(reply.status, 200, "{path}: {}", reply.body);
            hits() - before
        };
        assert_eq!(
            [ask("test/model"), ask("mine")],
            [0, 0],
            "{path}: it is not shared"
        );
        assert!(ask("test/model") > 0 && ask("mine") > 0, "{path}: it is kept");
    }
}
