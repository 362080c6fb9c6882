//! The `/v1` routes, in OpenAI's wording and in TGI's.

use agentlm_server::{ServerConfig, V1Dialect, serve};
use serde_json::{Value, json};

use crate::client::{Reply, post};
use crate::fixture::{EOS, Fixture, Setup, normalised, start};

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";

fn chat(server: &Fixture, fields: &str) -> Reply {
    let body =
        format!("{{\"messages\":[{{\"role\":\"user\",\"content\":\"hi\"}}],\"temperature\":0{fields}}}");
    post(server.address, CHAT, &body)
}

fn tgi() -> Fixture {
    let mut setup = Setup::default();
    setup.config.v1_dialect = V1Dialect::Tgi;
    setup.start()
}

/// A stream's bytes with its id and date replaced.
fn stable(reply: &Reply) -> String {
    let first: Value = serde_json::from_str(reply.events()[0]).unwrap();
    let (id, created) = (first["id"].to_string(), first["created"].to_string());
    reply
        .body
        .replace(&format!("\"id\":{id}"), "\"id\":\"ID\"")
        .replace(&created, "0")
}

const ORIGIN: &str = concat!(
    "\"model\":\"test/model\",\"system_fingerprint\":\"",
    env!("CARGO_PKG_VERSION"),
    "-native\""
);

#[test]
fn a_whole_chat_answer() {
    let server = start();
    let reply = chat(&server, r#","max_tokens":2"#);
    assert_eq!(
        normalised(reply.json()).to_string(),
        format!(
            "{{\"object\":\"chat.completion\",\"id\":\"ID\",\"created\":0,{ORIGIN},\"choices\":[{{\"index\":0,\"message\":\
             {{\"role\":\"assistant\",\"content\":\"aa\"}},\"logprobs\":null,\"finish_reason\":\"length\"}}],\"usage\":\
             {{\"prompt_tokens\":19,\"completion_tokens\":2,\"total_tokens\":21,\
             \"prompt_tokens_details\":{{\"cached_tokens\":0}}}}}}"
        )
    );
    assert!(reply.json()["id"].as_str().unwrap().starts_with("chatcmpl-"));
    assert_eq!(reply.header("x-compute-characters"), Some("19"));
}

#[test]
fn a_chat_stream() {
    let server = start();
    let reply = chat(
        &server,
        r#","max_tokens":2,"stream":true,"stream_options":{"include_usage":true}"#,
    );
    let head = format!(
        "data: {{\"object\":\"chat.completion.chunk\",\"id\":\"ID\",\"created\":0,{ORIGIN},\"choices\":"
    );
    assert_eq!(
        stable(&reply),
        format!(
            "{head}[{{\"index\":0,\"delta\":{{\"role\":\"assistant\",\"content\":\"a\"}},\"logprobs\":null,\
             \"finish_reason\":null}}],\"usage\":null}}\n\n\
             {head}[{{\"index\":0,\"delta\":{{\"content\":\"a\"}},\"logprobs\":null,\"finish_reason\":\"length\"}}],\
             \"usage\":null}}\n\n\
             {head}[],\"usage\":{{\"prompt_tokens\":19,\"completion_tokens\":2,\"total_tokens\":21,\
             \"prompt_tokens_details\":{{\"cached_tokens\":0}}}}}}\n\n\
             data: [DONE]\n\n"
        )
    );
    let without = chat(&server, r#","max_tokens":2,"stream":true"#);
    assert_eq!(without.events().len(), 3, "no usage unless asked for");
}

#[test]
fn tgis_wording_on_request() {
    let server = tgi();
    let reply = chat(&server, r#","max_tokens":9,"stream":true,"stop":"aa""#);
    let head = format!(
        "data: {{\"object\":\"chat.completion.chunk\",\"id\":\"ID\",\"created\":0,{ORIGIN},\"choices\":"
    );
    assert_eq!(
        stable(&reply),
        format!(
            "{head}[{{\"index\":0,\"delta\":{{\"role\":\"assistant\",\"content\":\"a\"}},\"logprobs\":null,\
             \"finish_reason\":null}}],\"usage\":null}}\n\n\
             {head}[{{\"index\":0,\"delta\":{{\"role\":\"assistant\",\"content\":\"a\"}},\"logprobs\":null,\
             \"finish_reason\":\"stop_sequence\"}}],\"usage\":null}}\n\ndata: [DONE]\n\n"
        )
    );
    let reply = post(
        server.address,
        COMPLETIONS,
        r#"{"prompt":"hi","max_tokens":2,"stream":true,"temperature":0}"#,
    );
    assert_eq!(
        stable(&reply),
        format!(
            "data: {{\"object\":\"text_completion\",\"id\":\"ID\",\"created\":0,\"choices\":[{{\"index\":0,\"text\":\"a\",\
             \"logprobs\":null,\"finish_reason\":\"\"}}],{ORIGIN}}}\n\n\
             data: {{\"object\":\"text_completion\",\"id\":\"ID\",\"created\":0,{ORIGIN},\"choices\":[{{\"index\":0,\
             \"text\":\"a\",\"logprobs\":null,\"finish_reason\":\"length\"}}],\"usage\":{{\"prompt_tokens\":3,\
             \"completion_tokens\":2,\"total_tokens\":5}}}}\n\ndata: [DONE]\n\n"
        )
    );
    let reply = chat(&server, r#","top_p":7"#);
    let error = "Input validation error: `top_p` must be > 0.0 and < 1.0";
    assert_eq!(
        reply.body,
        format!("{{\"error\":\"{error}\",\"error_type\":\"validation\"}}")
    );
    let named = "Input validation error: `max_new_tokens` must be strictly positive";
    assert_eq!(chat(&server, r#","max_tokens":0"#).json()["error"], named);
    let reply = chat(&server, r#","top_p":7,"stream":true"#);
    assert_eq!(reply.status, 200);
    let event = format!(
        "data: {{\"error\":{{\"message\":\"{error}\",\"http_status_code\":422}}}}\n\ndata: [DONE]\n\n"
    );
    assert_eq!(reply.body, event);
}

#[test]
fn a_stop_string_is_cut_and_never_shown_in_parts() {
    let server = start();
    for (stop, content) in [(r#""aa""#, ""), (r#"["b","aaa"]"#, "")] {
        let reply = chat(&server, &format!(",\"max_tokens\":9,\"stop\":{stop}")).json();
        assert_eq!(reply["choices"][0]["message"]["content"], content);
        assert_eq!(reply["choices"][0]["finish_reason"], "stop");
        let stream = chat(
            &server,
            &format!(",\"max_tokens\":9,\"stream\":true,\"stop\":{stop}"),
        );
        let events = stream.events();
        assert_eq!(events.len(), 2, "held-back text makes no event: {events:?}");
        let last: Value = serde_json::from_str(events[0]).unwrap();
        assert_eq!(
            last["choices"][0]["delta"],
            json!({"role": "assistant", "content": content})
        );
        assert_eq!(last["choices"][0]["finish_reason"], "stop");
    }
    // What only looked like a stop string is released.
    let stream = chat(&server, r#","max_tokens":2,"stream":true,"stop":"aab""#);
    let text: String = stream
        .events()
        .iter()
        .filter_map(|event| serde_json::from_str::<Value>(event).ok())
        .map(|event| {
            event["choices"][0]["delta"]["content"]
                .as_str()
                .unwrap()
                .to_owned()
        })
        .collect();
    assert_eq!(text, "aa");
}

#[test]
fn the_end_of_sequence_is_stop() {
    let server = Setup {
        says: vec![EOS],
        ..Setup::default()
    }
    .start();
    let reply = chat(&server, "").json();
    assert_eq!(reply["choices"][0]["message"]["content"], "");
    assert_eq!(reply["choices"][0]["finish_reason"], "stop");
    assert_eq!(reply["usage"]["completion_tokens"], 1);
}

#[test]
fn several_choices() {
    let server = start();
    let reply = chat(&server, r#","max_tokens":2,"n":2"#);
    assert_eq!(reply.header("x-prompt-tokens"), Some("19"));
    let reply = reply.json();
    assert_eq!(reply["choices"].as_array().unwrap().len(), 2);
    assert_eq!(reply["choices"][1]["index"], 1);
    assert_eq!(reply["usage"]["prompt_tokens"], 19, "the prompt counts once");
    assert_eq!(reply["usage"]["completion_tokens"], 4);
    let reply = chat(
        &server,
        r#","max_tokens":2,"n":2,"stream":true,"stream_options":{"include_usage":true}"#,
    );
    let events = reply.events();
    assert_eq!(
        events.len(),
        6,
        "two of each choice, the usage and the end: {events:?}"
    );
    assert_eq!(*events.last().unwrap(), "[DONE]");
    let usage: Value = serde_json::from_str(events[4]).unwrap();
    assert_eq!(
        (
            &usage["usage"]["prompt_tokens"],
            &usage["usage"]["completion_tokens"]
        ),
        (&json!(19), &json!(4))
    );
    for index in 0..2 {
        let ends = events[..4]
            .iter()
            .map(|event| serde_json::from_str::<Value>(event).unwrap());
        let ends = ends.filter(|event| event["choices"][0]["index"] == index);
        let reasons: Vec<Value> = ends
            .map(|event| event["choices"][0]["finish_reason"].clone())
            .collect();
        assert_eq!(reasons, [Value::Null, json!("length")]);
    }
}

#[test]
fn log_probabilities() {
    let server = start();
    let token = r#"{"token":"a","logprob":-1.0,"bytes":[97]"#;
    let logprobs = format!(r#"{{"content":[{token},"top_logprobs":[{token}}}]}}]}}"#);
    let reply = chat(&server, r#","max_tokens":1,"logprobs":true,"top_logprobs":1"#).json();
    assert_eq!(reply["choices"][0]["logprobs"].to_string(), logprobs);
    let reply = chat(
        &server,
        r#","max_tokens":1,"logprobs":true,"top_logprobs":1,"stream":true"#,
    );
    assert!(
        reply.events()[0].contains(&format!("\"logprobs\":{logprobs},")),
        "{}",
        reply.body
    );
    assert_eq!(
        chat(&server, r#","max_tokens":1,"top_logprobs":1"#).json()["choices"][0]["logprobs"],
        Value::Null
    );

    let body = r#"{"prompt":"hi","max_tokens":2,"logprobs":0,"temperature":0}"#;
    let lists =
        r#"{"tokens":["a","a"],"token_logprobs":[-1.0,-1.0],"top_logprobs":[{},{}],"text_offset":[0,1]}"#;
    assert_eq!(
        post(server.address, COMPLETIONS, body).json()["choices"][0]["logprobs"].to_string(),
        lists
    );
}

#[test]
fn completions_of_several_prompts() {
    let server = start();
    let reply = post(
        server.address,
        COMPLETIONS,
        r#"{"prompt":["hi","you"],"max_tokens":2,"temperature":0,"echo":true}"#,
    );
    assert_eq!(
        normalised(reply.json()).to_string(),
        format!(
            "{{\"object\":\"text_completion\",\"id\":\"ID\",\"created\":0,{ORIGIN},\"choices\":[{{\"index\":0,\"text\":\
             \"hiaa\",\"logprobs\":null,\"finish_reason\":\"length\"}},{{\"index\":1,\"text\":\"youaa\",\"logprobs\":null,\
             \"finish_reason\":\"length\"}}],\"usage\":{{\"prompt_tokens\":7,\"completion_tokens\":4,\"total_tokens\":11,\
             \"prompt_tokens_details\":{{\"cached_tokens\":0}}}}}}"
        )
    );
    assert_eq!(reply.header("x-compute-time"), None);
    assert_eq!(reply.header("x-compute-characters"), Some("5"));
    assert_eq!(reply.header("x-prompt-tokens"), Some("7"));
    assert_eq!(reply.header("x-generated-tokens"), Some("4"));
    let twice = post(
        server.address,
        COMPLETIONS,
        r#"{"prompt":["hi","you"],"max_tokens":2,"temperature":0,"n":2}"#,
    );
    assert_eq!(twice.header("x-prompt-tokens"), Some("7"), "counted once");
    assert_eq!(twice.header("x-generated-tokens"), Some("8"));
    let ids = post(
        server.address,
        COMPLETIONS,
        r#"{"prompt":[104,105],"max_tokens":1,"temperature":0}"#,
    )
    .json();
    assert_eq!(ids["usage"]["prompt_tokens"], 2, "ids are taken as they are");
    let reply = post(
        server.address,
        COMPLETIONS,
        r#"{"prompt":[104,999],"max_tokens":1}"#,
    );
    assert_eq!(
        reply.json()["error"]["message"],
        "Input validation error: `prompt` token ids must be below 258. Given: 999"
    );

    let body = r#"{"prompt":["hi","you"],"max_tokens":1,"temperature":0,"stream":true,"echo":true}"#;
    let reply = post(server.address, COMPLETIONS, body);
    let mut texts: Vec<String> = Vec::new();
    for event in &reply.events()[..2] {
        let event: Value = serde_json::from_str(event).unwrap();
        texts.push(event["choices"][0]["text"].as_str().unwrap().to_owned());
        assert_eq!(event["choices"][0]["finish_reason"], "length");
    }
    texts.sort();
    assert_eq!(texts, ["hia", "youa"]);
    assert_eq!(reply.events()[2..], ["[DONE]"]);
}

#[test]
fn errors_are_objects_and_have_their_status_also_before_a_stream() {
    let server = start();
    for stream in ["", r#","stream":true"#] {
        let reply = chat(&server, &format!("{stream},\"top_p\":7"));
        assert_eq!(reply.status, 422);
        assert_eq!(
            reply.body,
            "{\"error\":{\"message\":\"Input validation error: `top_p` must be >= 0.0 and <= 1.0\",\"type\":\
             \"invalid_request_error\",\"param\":\"top_p\",\"code\":\"validation\",\"http_status_code\":422},\
             \"error_type\":\"validation\"}"
        );
    }
    let reply = post(
        server.address,
        CHAT,
        r#"{"messages":[{"role":"bad","content":""}]}"#,
    );
    assert_eq!(
        reply.json()["error"]["message"],
        "Template error: roles must alternate"
    );
    let wrong = [
        (
            "7",
            "messages[0].content",
            "integer `7`, expected a string or a sequence of text parts",
        ),
        (
            "{}",
            "messages[0].content",
            "map, expected a string or a sequence of text parts",
        ),
        (
            r#"["x"]"#,
            "messages[0].content[0]",
            "string \"x\", expected struct TextPart",
        ),
    ];
    for (content, place, text) in wrong {
        let body = format!(r#"{{"messages":[{{"role":"user","content":{content}}}]}}"#);
        let error = post(server.address, CHAT, &body).json()["error"].clone();
        let text = format!(
            "Failed to deserialize the JSON body into the target type: {place}: invalid type: {text} at line"
        );
        assert!(error["message"].as_str().unwrap().starts_with(&text), "{error}");
        assert_eq!(error["param"], place);
    }
    let reply = post(server.address, COMPLETIONS, r#"{"prompt":[]}"#);
    assert!(
        reply
            .body
            .contains("Empty array detected. Do not use an empty array for the prompt."),
        "{}",
        reply.body
    );
    server.wait_idle();
}

#[test]
fn errors_name_the_fields_that_the_client_sent() {
    let server = start();
    let long = "x".repeat(300);
    let messages = format!(r#"{{"messages":[{{"role":"user","content":"{long}"}}]}}"#);
    let prompt = format!(r#"{{"prompt":"{long}","max_tokens":7}}"#);
    let chat = |fields: &str| format!(r#"{{"messages":[{{"role":"user","content":"hi"}}]{fields}}}"#);
    let cases = [
        (
            CHAT,
            chat(r#","max_tokens":0"#),
            "max_tokens",
            "`max_tokens` must be strictly positive",
        ),
        (
            CHAT,
            chat(r#","max_completion_tokens":0"#),
            "max_completion_tokens",
            "`max_completion_tokens` must be strictly positive",
        ),
        (
            CHAT,
            chat(r#","max_completion_tokens":190"#),
            "messages",
            "`messages` tokens + `max_completion_tokens` must be <= 200. Given: 19 `messages` tokens and 190 \
             `max_completion_tokens`",
        ),
        (
            CHAT,
            chat(r#","guided_regex":"(""#),
            "guided_regex",
            "grammar is not valid: regex parse error: unclosed group",
        ),
        (
            CHAT,
            chat(r#","response_format":{"type":"json_schema","json_schema":{"schema":7}}"#),
            "response_format",
            "grammar is not valid: a schema must be an object, a boolean or a string that holds one, but is a number",
        ),
        (
            CHAT,
            chat(
                r#","tool_choice":"a","tools":[{"type":"function","function":{"name":"a","parameters":{"type":"x"}}}]"#,
            ),
            "tools",
            "grammar is not valid: Invalid type: x",
        ),
        (
            CHAT,
            chat(r#","max_tokens":1,"min_tokens":2"#),
            "min_tokens",
            "`min_tokens` must be <= `max_tokens`. Given: 2 and 1",
        ),
        (
            CHAT,
            chat(r#","logprobs":true,"top_logprobs":6"#),
            "top_logprobs",
            "`top_logprobs` must be >= 0 and <= 5. Given: 6",
        ),
        (
            CHAT,
            messages,
            "messages",
            "`messages` tokens + `max_tokens` must be <= 200. Given: 317 `messages` tokens and 0 `max_tokens`",
        ),
        (
            COMPLETIONS,
            prompt,
            "prompt",
            "`prompt` tokens + `max_tokens` must be <= 200. Given: 301 `prompt` tokens and 7 `max_tokens`",
        ),
        (
            COMPLETIONS,
            r#"{"prompt":""}"#.to_owned(),
            "prompt",
            "`prompt` cannot be empty",
        ),
        (
            COMPLETIONS,
            r#"{"prompt":"hi","logprobs":6}"#.to_owned(),
            "logprobs",
            "`logprobs` must be >= 0 and <= 5. Given: 6",
        ),
        (
            COMPLETIONS,
            r#"{"prompt":"hi","temperature":-1}"#.to_owned(),
            "temperature",
            "`temperature` must be 0.0, or >= 1e-15 and <= 1e15",
        ),
    ];
    for (path, body, name, text) in cases {
        let reply = post(server.address, path, &body);
        let answer = reply.json();
        assert_eq!(reply.status, 422);
        assert_eq!(
            answer["error"]["message"],
            format!("Input validation error: {text}")
        );
        assert_eq!(answer["error"]["param"], name);
    }
}

#[test]
fn the_answer_names_the_model_that_was_asked_for() {
    let server = start();
    for (asked, named) in [
        ("tgi", "test/model"),
        ("dummy", "dummy"),
        ("test/model", "test/model"),
    ] {
        let reply = chat(&server, &format!(",\"max_tokens\":1,\"model\":\"{asked}\"")).json();
        assert_eq!(reply["model"], named);
    }
    let mut setup = Setup::default();
    setup.config.strict_model = true;
    let server = setup.start();
    let reply = chat(&server, r#","model":"other""#);
    assert_eq!(
        (reply.status, &reply.json()["error"]["code"]),
        (404, &json!("model_not_found"))
    );
    // What clients say that were given no name.
    for unnamed in ["tgi", "dummy"] {
        let reply = chat(&server, &format!(",\"max_tokens\":1,\"model\":\"{unnamed}\""));
        assert_eq!(
            (reply.status, &reply.json()["model"]),
            (200, &json!("test/model"))
        );
    }
}

#[test]
fn a_conversation_is_rendered_by_its_template() {
    let server = start();
    let tokenize = |body: &str| post(server.address, "/chat_tokenize", body).json();
    let user = r#"{"role":"user","content":[{"type":"text","text":"h"},{"type":"text","text":"i"}]}"#;
    let reply = tokenize(&format!(
        "{{\"messages\":[{user}],\"chat_template_kwargs\":{{\"style\":\"terse\"}}}}"
    ));
    assert_eq!(reply["templated_text"], "[user]hi(terse)[assistant]");
    let open = r#"{"role":"assistant","content":"so "}"#;
    let reply = tokenize(&format!("{{\"messages\":[{user},{open}]}}"));
    assert_eq!(
        reply["templated_text"], "[user]hi[assistant]so",
        "the last message is continued"
    );
    let reply = tokenize(r#"{"messages":[{"role":"user","content":"</s>"}]}"#);
    let tokens = reply["tokenize_response"].as_array().unwrap();
    let special = tokens.iter().any(|token| token["id"] == EOS);
    assert!(!special, "a user's text is never a special token: {tokens:?}");
}

#[test]
fn without_a_template_only_chat_is_refused() {
    let other = start();
    let config = ServerConfig {
        hostname: "127.0.0.1".to_owned(),
        port: 0,
        ..ServerConfig::new("test/model")
    };
    let tokenizer = other.engine.tokenizer().clone();
    let server = serve(config, other.engine.clone(), tokenizer, None).unwrap();
    let chat = r#"{"messages":[{"role":"user","content":"hi"}]}"#;
    let reply = post(server.local_addr(), CHAT, chat);
    assert_eq!(reply.status, 422);
    assert_eq!(
        reply.json()["error"]["message"],
        "Template error: template not found"
    );
    let completion = r#"{"prompt":"hi","max_tokens":1}"#;
    assert_eq!(post(server.local_addr(), COMPLETIONS, completion).status, 200);
}

#[test]
fn a_conversation_of_which_the_template_makes_nothing_is_told_as_that() {
    const NEEDS_ONE: &str = "{{ messages[0].role }}";
    const NO_SYSTEM: &str =
        "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}";
    let system = r#"{"messages":[{"role":"system","content":"Be short."}]}"#;
    let empty = "Template error: `messages` is empty, and the chat template needs some: ";
    let nothing =
        "Input validation error: `messages` make an empty prompt: the chat template writes nothing for them";
    let as_tgi = "Input validation error: `inputs` cannot be empty";
    let cases = [
        (NEEDS_ONE, V1Dialect::OpenAi, r#"{"messages":[]}"#, empty),
        (NO_SYSTEM, V1Dialect::OpenAi, r#"{"messages":[]}"#, nothing),
        (NO_SYSTEM, V1Dialect::OpenAi, system, nothing),
        (NO_SYSTEM, V1Dialect::Tgi, system, as_tgi),
    ];
    for (template, dialect, body, text) in cases {
        let mut setup = Setup {
            template,
            ..Setup::default()
        };
        setup.config.v1_dialect = dialect;
        let server = setup.start();
        let reply = post(server.address, CHAT, body);
        assert_eq!(reply.status, 422, "{}", reply.body);
        let error = reply.json()["error"].clone();
        let told = error["message"].as_str().or(error.as_str()).unwrap();
        assert!(told.starts_with(text), "{told}");
        if dialect == V1Dialect::OpenAi {
            assert_eq!(error["param"], "messages");
        }
    }
}
