//! Tools over HTTP: calls of each kind, whole and streamed, in both dialects, and how they reach the template.

mod cut;

use agentlm_server::V1Dialect;
use agentlm_text::ToolFormat;
use serde_json::{Value, json};

use crate::client::{Reply, post};
use crate::fixture::{EOS, Fixture, Setup};

const CHAT: &str = "/v1/chat/completions";

/// Hermes' form by its look; everything the template is given can be read in the prompt.
const HERMES: &str = "{% if tools %}<tool_call>{{ tools | tojson }}{% endif %}{% for message in messages %}\
    [{{ message.role }}]{{ message.content }}{% if message.tool_calls %}{{ message.tool_calls | tojson }}{% endif %}\
    {% if message.tool_call_id %}#{{ message.tool_call_id }}{% endif %}{% endfor %}\
    {% if add_generation_prompt %}[assistant]{% endif %}";
/// The same for Mistral's.
const MISTRAL: &str = "[TOOL_CALLS]{% if tools %}{{ tools | tojson }}{% endif %}{% for message in messages %}\
    [{{ message.role }}]{{ message.content }}{% if message.tool_call_id %}#{{ message.tool_call_id }}{% endif %}\
    {% endfor %}";

const MARKERS: [&str; 2] = ["[TOOL_CALLS]", "[ARGS]"];

const TOOLS: &str = r#","tools":[
    {"type":"function","function":{"name":"get_time"}},
    {"type":"function","function":{"name":"get_weather","description":"d","parameters":{"type":"object",
     "properties":{"city":{"enum":["Paris"]}},"required":["city"],"additionalProperties":false}}}]"#;

const TWO_CALLS: &str = "Let me see.\n<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Pa\\\"ris\"}}\n\
    </tool_call>\n<tool_call>\n{\"name\": \"get_time\", \"arguments\": {}}\n</tool_call>";

/// The ids of a text, with the markers in it as special tokens.
fn spoken(text: &str) -> Vec<u32> {
    let mut ids = Vec::new();
    let mut rest = text.as_bytes();
    while let Some(&byte) = rest.first() {
        let marker = (EOS + 1..)
            .zip(MARKERS)
            .find(|(_, marker)| rest.starts_with(marker.as_bytes()));
        let (id, len) = match marker {
            Some((id, marker)) => (id, marker.len()),
            None => (u32::from(byte), 1),
        };
        ids.push(id);
        rest = &rest[len..];
    }
    ids
}

fn setup(template: &'static str, says: &str) -> Setup {
    Setup {
        script: Some(spoken(says)),
        markers: &MARKERS,
        template,
        max_total_tokens: 2000,
        ..Setup::default()
    }
}

fn server(template: &'static str, says: &str) -> Fixture {
    setup(template, says).start()
}

fn chat(server: &Fixture, fields: &str) -> Reply {
    let body = format!(
        "{{\"messages\":[{{\"role\":\"user\",\"content\":\"hi\"}}],\"temperature\":0{TOOLS}{fields}}}"
    );
    post(server.address, CHAT, &body)
}

/// The one choice of a whole answer, its calls without their names.
fn choice(reply: &Reply) -> (Value, Vec<String>) {
    assert_eq!(reply.status, 200, "{}", reply.body);
    let mut choice = reply.json()["choices"][0].take();
    let mut ids = Vec::new();
    let calls = choice.pointer_mut("/message/tool_calls");
    if let Some(calls) = calls.and_then(Value::as_array_mut) {
        ids.extend(calls.iter_mut().map(|call| {
            let id = call["id"].take();
            id.as_str().expect("a call has a name").to_owned()
        }));
    }
    (choice, ids)
}

fn call(name: &str, arguments: &str) -> Value {
    json!({"id": null, "type": "function", "function": {"name": name, "arguments": arguments}})
}

/// A stream put together as OpenAI's clients do it.
#[derive(Debug, Default, PartialEq)]
struct Streamed {
    content: String,
    /// Name and arguments.
    calls: Vec<(String, String)>,
    ids: Vec<String>,
    finish_reason: String,
    roles: usize,
}

fn chunks(reply: &Reply) -> Vec<Value> {
    assert_eq!(reply.status, 200, "{}", reply.body);
    let events = reply.events();
    let (last, chunks) = events.split_last().expect("a stream has an end");
    assert_eq!(*last, "[DONE]");
    chunks
        .iter()
        .map(|chunk| serde_json::from_str(chunk).expect("a chunk is JSON"))
        .collect()
}

fn streamed(reply: &Reply) -> Streamed {
    let mut whole = Streamed::default();
    for chunk in chunks(reply) {
        let choice = &chunk["choices"][0];
        let delta = &choice["delta"];
        whole.roles += usize::from(delta["role"] == "assistant");
        whole
            .content
            .push_str(delta["content"].as_str().unwrap_or_default());
        for part in delta["tool_calls"].as_array().into_iter().flatten() {
            let index = usize::try_from(part["index"].as_u64().expect("a part names its call")).unwrap();
            if let Some(name) = part["function"]["name"].as_str() {
                assert_eq!(index, whole.calls.len(), "calls come in order, named once");
                whole.calls.push((name.to_owned(), String::new()));
            }
            whole.ids.extend(part["id"].as_str().map(str::to_owned));
            let arguments = part["function"]["arguments"]
                .as_str()
                .expect("each part has arguments");
            whole.calls[index].1.push_str(arguments);
        }
        if let Some(reason) = choice["finish_reason"].as_str() {
            assert_eq!(whole.finish_reason, "", "it ends once");
            reason.clone_into(&mut whole.finish_reason);
        }
    }
    whole
}

#[test]
fn calls_are_told_apart_from_text() {
    let server = server(HERMES, TWO_CALLS);
    let (found, ids) = choice(&chat(&server, ""));
    assert_eq!(
        found,
        json!({
            "index": 0,
            "message": {
                "role": "assistant",
                "content": "Let me see.",
                "tool_calls": [call("get_weather", "{\"city\": \"Pa\\\"ris\"}"), call("get_time", "{}")],
            },
            "logprobs": null,
            "finish_reason": "tool_calls",
        })
    );
    assert!(ids.iter().all(|id| id.starts_with("call_")), "{ids:?}");
    assert_ne!(ids[0], ids[1]);

    let stream = streamed(&chat(&server, r#","stream":true"#));
    assert_eq!(stream.ids.len(), 2, "each call is named once");
    let expected = Streamed {
        content: "Let me see.".to_owned(),
        calls: vec![
            ("get_weather".to_owned(), "{\"city\": \"Pa\\\"ris\"}".to_owned()),
            ("get_time".to_owned(), "{}".to_owned()),
        ],
        ids: stream.ids.clone(),
        finish_reason: "tool_calls".to_owned(),
        roles: 1,
    };
    assert_eq!(stream, expected);
}

#[test]
fn one_call_only_where_clients_ask_for_it() {
    let server = server(HERMES, TWO_CALLS);
    let (found, ids) = choice(&chat(&server, r#","parallel_tool_calls":false"#));
    assert_eq!(ids.len(), 1);
    assert_eq!(
        found["message"]["tool_calls"][0]["function"]["name"],
        "get_weather"
    );
    let stream = streamed(&chat(&server, r#","parallel_tool_calls":false,"stream":true"#));
    assert_eq!(
        (stream.calls.len(), stream.finish_reason.as_str()),
        (1, "tool_calls")
    );
}

#[test]
fn a_call_streams_in_openais_deltas() {
    let server = server(
        HERMES,
        "<tool_call>{\"name\": \"get_time\", \"arguments\": {}}</tool_call>",
    );
    let reply = chat(
        &server,
        r#","stream":true,"stream_options":{"include_usage":true}"#,
    );
    let chunks = chunks(&reply);
    let id = &chunks[0]["choices"][0]["delta"]["tool_calls"][0]["id"];
    let deltas: Vec<String> = chunks.iter().map(|chunk| chunk["choices"].to_string()).collect();
    let chunk = |delta: &str, reason: &str| {
        format!("[{{\"index\":0,\"delta\":{delta},\"logprobs\":null,\"finish_reason\":{reason}}}]")
    };
    let part = |arguments: &str| {
        let delta =
            format!("{{\"tool_calls\":[{{\"index\":0,\"function\":{{\"arguments\":\"{arguments}\"}}}}]}}");
        chunk(&delta, "null")
    };
    assert_eq!(
        deltas,
        [
            chunk(
                &format!(
                    "{{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{{\"index\":0,\"id\":{id},\"type\":\
                     \"function\",\"function\":{{\"name\":\"get_time\",\"arguments\":\"\"}}}}]}}"
                ),
                "null"
            ),
            part("{"),
            part("}"),
            chunk("{}", "\"tool_calls\""),
            "[]".to_owned(),
        ]
    );
    assert_eq!(chunks[4]["usage"]["completion_tokens"], 61);
    assert!(chunks[..4].iter().all(|chunk| chunk["usage"].is_null()));
}

#[test]
fn text_stays_text() {
    for says in [
        "Hello <tool",
        " <tool_call>\n{\"name\": \"get_time\", oops}\n</tool_call> ",
        "{\"name\": \"get_time\", \"arguments\": {}}",
        "",
    ] {
        let server = server(HERMES, says);
        let (found, _) = choice(&chat(&server, ""));
        assert_eq!(found["message"], json!({"role": "assistant", "content": says}));
        assert_eq!(found["finish_reason"], "stop");
        let expected = Streamed {
            content: says.to_owned(),
            finish_reason: "stop".to_owned(),
            roles: 1,
            ..Streamed::default()
        };
        assert_eq!(streamed(&chat(&server, r#","stream":true"#)), expected);
    }
}

#[test]
fn a_call_that_breaks_is_given_back_as_text() {
    let says = "<tool_call>{\"name\": \"get_time\", \"arguments\": {\"x\": oops}}</tool_call>";
    let server = server(HERMES, says);
    let (found, _) = choice(&chat(&server, ""));
    assert_eq!(found["message"], json!({"role": "assistant", "content": says}));
    assert_eq!(found["finish_reason"], "stop");
    let stream = streamed(&chat(&server, r#","stream":true"#));
    assert_eq!(
        (stream.content.as_str(), stream.finish_reason.as_str()),
        (says, "stop")
    );
}

#[test]
fn special_markers_are_seen_although_text_leaves_them_out() {
    let says = "Well\n[TOOL_CALLS]get_weather[ARGS]{\"city\": \"Rome\"}[TOOL_CALLS]get_time[ARGS]{}";
    let server = server(MISTRAL, says);
    // With the stop string the line's end is held back until after the marker.
    for stop in ["", r#","stop":["\n\n"]"#] {
        let (found, ids) = choice(&chat(&server, stop));
        let calls = [
            call("get_weather", "{\"city\": \"Rome\"}"),
            call("get_time", "{}"),
        ];
        assert_eq!(
            found["message"],
            json!({"role": "assistant", "content": "Well", "tool_calls": calls})
        );
        let short = |id: &String| id.len() == 9 && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
        assert!(ids.iter().all(short), "{ids:?}");
        let stream = streamed(&chat(&server, &format!("{stop},\"stream\":true")));
        assert_eq!((stream.content.as_str(), stream.calls.len()), ("Well", 2));
    }
    let (found, _) = choice(&chat(&server, r#","tool_choice":"none""#));
    let text = "Well\nget_weather{\"city\": \"Rome\"}get_time{}";
    assert_eq!(found["message"], json!({"role": "assistant", "content": text}));
}

#[test]
fn a_call_is_forced_by_a_grammar() {
    let paris = json!({"city": "Paris"});
    // The script is only for answers without a grammar.
    for template in [HERMES, "{{ messages[0].content }}"] {
        let server = server(template, "no");
        for named in [
            r#"{"type":"function","function":{"name":"get_weather"}}"#,
            r#""get_weather""#,
        ] {
            let fields = format!(",\"tool_choice\":{named},\"max_tokens\":200");
            let (found, _) = choice(&chat(&server, &fields));
            let message = &found["message"];
            assert_eq!(
                (&message["content"], &found["finish_reason"]),
                (&Value::Null, &json!("tool_calls"))
            );
            let function = &message["tool_calls"][0]["function"];
            assert_eq!(function["name"], "get_weather");
            let arguments = function["arguments"].as_str().unwrap();
            assert_eq!(serde_json::from_str::<Value>(arguments).unwrap(), paris);
            let stream = streamed(&chat(&server, &format!("{fields},\"stream\":true")));
            assert_eq!(stream.calls, [("get_weather".to_owned(), arguments.to_owned())]);
            assert_eq!(
                (stream.content.as_str(), stream.finish_reason.as_str()),
                ("", "tool_calls")
            );
        }
        let required = r#","tool_choice":"required","parallel_tool_calls":false,"max_tokens":200"#;
        let (found, ids) = choice(&chat(&server, required));
        assert_eq!(
            (ids.len(), &found["finish_reason"]),
            (1, &json!("tool_calls")),
            "{found}"
        );
        let function = &found["message"]["tool_calls"][0]["function"];
        let arguments: Value = serde_json::from_str(function["arguments"].as_str().unwrap()).unwrap();
        let calls = [("get_time", json!({})), ("get_weather", paris.clone())];
        assert!(
            calls
                .iter()
                .any(|(name, expected)| function["name"] == *name && arguments == *expected),
            "{function}"
        );
    }
    let mut setup = setup(HERMES, "no");
    setup.config.disable_grammar_support = true;
    let server = setup.start();
    let reply = chat(&server, r#","tool_choice":"required""#);
    assert_eq!(reply.status, 422);
    assert!(reply.body.contains("grammar is not supported"), "{}", reply.body);
}

#[test]
fn tgis_wording_on_request() {
    let mut setup = setup(
        HERMES,
        "<tool_call>{\"name\": \"get_time\", \"arguments\": {}}</tool_call>",
    );
    setup.config.v1_dialect = V1Dialect::Tgi;
    let server = setup.start();
    assert_eq!(
        chat(&server, "").json()["choices"].to_string(),
        "[{\"index\":0,\"message\":{\"role\":\"assistant\",\"tool_calls\":[{\"id\":\"0\",\"type\":\"function\",\
         \"function\":{\"description\":null,\"name\":\"get_time\",\"arguments\":\"{}\"}}]},\"logprobs\":null,\
         \"finish_reason\":\"stop\"}]"
    );
    let deltas: Vec<String> = chunks(&chat(&server, r#","stream":true"#))
        .iter()
        .map(|chunk| chunk["choices"][0]["delta"].to_string())
        .collect();
    let part = |name: &str, arguments: &str| {
        format!(
            "{{\"role\":\"assistant\",\"tool_calls\":[{{\"index\":0,\"id\":\"0\",\"type\":\"function\",\"function\":\
             {{\"name\":{name},\"arguments\":\"{arguments}\"}}}}]}}"
        )
    };
    assert_eq!(
        deltas,
        [
            part("\"get_time\"", ""),
            part("null", "{"),
            part("null", "}"),
            "{\"role\":\"assistant\"}".to_owned(),
        ]
    );
}

#[test]
fn every_choice_has_its_own_calls() {
    let server = server(HERMES, TWO_CALLS);
    let reply = chat(&server, r#","n":2"#).json();
    let choices = reply["choices"].as_array().unwrap();
    let calls = choices
        .iter()
        .map(|choice| choice["message"]["tool_calls"].as_array().unwrap());
    let ids: Vec<&Value> = calls.flatten().map(|call| &call["id"]).collect();
    assert_eq!(ids.len(), 4);
    for (at, id) in ids.iter().enumerate() {
        assert!(!ids[..at].contains(id), "{ids:?}");
    }
}

#[test]
fn every_tokens_log_probability_is_told_once() {
    let server = server(HERMES, TWO_CALLS);
    let fields = r#","logprobs":true,"stream":true,"stream_options":{"include_usage":true}"#;
    let chunks = chunks(&chat(&server, fields));
    let scored: usize = chunks
        .iter()
        .filter_map(|chunk| chunk["choices"][0]["logprobs"]["content"].as_array())
        .map(Vec::len)
        .sum();
    let usage = &chunks.last().unwrap()["usage"];
    assert_eq!(usage["completion_tokens"], TWO_CALLS.len() + 1);
    assert_eq!(scored, TWO_CALLS.len() + 1);
    let (found, _) = choice(&chat(&server, r#","logprobs":true"#));
    assert_eq!(
        found["logprobs"]["content"].as_array().map(Vec::len),
        Some(TWO_CALLS.len() + 1)
    );
}

#[test]
fn the_operator_may_name_the_form() {
    let mut setup = setup(
        HERMES,
        "```json\n{\"name\": \"get_time\", \"arguments\": {}}\n```",
    );
    setup.config.tool_call_parser = Some(ToolFormat::Json);
    let (found, _) = choice(&chat(&setup.start(), ""));
    assert_eq!(found["message"]["tool_calls"], json!([call("get_time", "{}")]));
}

/// The prompt of a conversation.
fn prompt(server: &Fixture, fields: &str) -> String {
    let reply = post(server.address, "/chat_tokenize", &format!("{{{fields}}}"));
    assert_eq!(reply.status, 200, "{}", reply.body);
    reply.json()["templated_text"].as_str().unwrap().to_owned()
}

/// A question, a call with its result, and what the user says then.
const LOOP: &str = r#""messages":[{"role":"user","content":"hi"},
    {"role":"assistant","content":null,"tool_calls":[
        {"id":"call_1","type":"function","function":{"name":"get_time","arguments":"{\"zone\":\"CET\"}"}}]},
    {"role":"tool","tool_call_id":"call_1","content":"noon"},
    {"role":"user","content":"so?"}]"#;

#[test]
fn tools_calls_and_results_reach_the_template() {
    let server = server(HERMES, "");
    let text = prompt(&server, &format!("{LOOP}{TOOLS}"));
    let (tools, turns) = text
        .strip_prefix("<tool_call>")
        .unwrap()
        .split_once("[user]")
        .unwrap();
    assert_eq!(
        serde_json::from_str::<Value>(tools).unwrap(),
        json!([
            {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object", "properties": {}}}},
            {"type": "function", "function": {"name": "get_weather", "description": "d", "parameters": {
                "type": "object", "properties": {"city": {"enum": ["Paris"]}}, "required": ["city"],
                "additionalProperties": false}}},
        ])
    );
    let (calls, results) = turns
        .strip_prefix("hi[assistant]")
        .unwrap()
        .split_once("[tool]")
        .unwrap();
    assert_eq!(
        serde_json::from_str::<Value>(calls).unwrap(),
        json!([{"id": "call_1", "type": "function", "function": {"name": "get_time", "arguments": {"zone": "CET"}}}])
    );
    assert_eq!(results, "noon#call_1[user]so?[assistant]");
    let none = prompt(&server, &format!("{LOOP}{TOOLS},\"tool_choice\":\"none\""));
    assert!(
        none.starts_with("[user]hi[assistant]"),
        "what may not be called is not shown: {none}"
    );
}

#[test]
fn a_template_without_tools_gets_them_in_words() {
    let says = "[{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Paris\"}}]";
    let server = Setup {
        script: Some(spoken(says)),
        max_total_tokens: 2000,
        ..Setup::default()
    }
    .start();
    let text = prompt(&server, &format!("{LOOP}{TOOLS}"));
    let (told, turns) = text
        .strip_prefix("[user]You can call these functions:\n{\"name\":\"get_time\",")
        .unwrap()
        .split_once("\n\nhi[assistant]")
        .unwrap();
    assert!(
        told.contains("\n{\"name\":\"get_weather\",\"description\":\"d\",") && told.contains("JSON list")
    );
    assert_eq!(
        turns,
        "[{\"name\":\"get_time\",\"arguments\":{\"zone\":\"CET\"}}][user]Result of get_time:\nnoon\n\nso?[assistant]"
    );
    let (found, _) = choice(&chat(&server, ""));
    assert_eq!(
        found["message"]["tool_calls"],
        json!([call("get_weather", "{\"city\": \"Paris\"}")])
    );
    assert_eq!(found["message"]["content"], Value::Null);
}

#[test]
fn what_cannot_be_done_is_a_real_422() {
    let server = server(HERMES, "");
    let cases = [
        (r#","tool_choice":"other""#, "Tool with name other not found"),
        (
            r#","response_format":{"type":"json_object"}"#,
            "Grammar and tools are mutually exclusive",
        ),
        (
            r#","functions":[{"name":"a"}]"#,
            "`functions` and `function_call` are not supported: send `tools` and `tool_choice`",
        ),
    ];
    for (fields, text) in cases {
        for stream in ["", r#","stream":true"#] {
            let reply = chat(&server, &format!("{fields}{stream}"));
            assert_eq!(reply.status, 422);
            let answer = reply.json();
            assert_eq!(answer["error"]["message"], format!("Tool error: {text}"));
            assert_eq!(answer["error_type"], "tool_error");
        }
    }
    server.wait_idle();
}
