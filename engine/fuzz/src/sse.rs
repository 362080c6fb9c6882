//! What a stream says in all its events is what the answer says that comes whole: texts, reasons, token counts, calls.

use serde_json::{Map, Value, json};

use crate::input::Input;
use crate::json::{assert_answer, events};
use crate::server::{Reply, post};

/// Route and dialect, then choices for a request's fields, then its texts, a line each: prompt, stops.
pub fn check(data: &[u8]) {
    let mut input = Input::new(data);
    let (kind, which) = (input.below(3), input.below(2));
    let choices = [0; 10].map(|_| input.byte());
    let stops: Vec<String> = (0..choices[0] % 4).map(|_| input.line()).collect();
    let prompt = input.text();
    let (whole, stream, body) = match kind {
        0 => ("/generate", "/generate_stream", native(&choices, stops, &prompt)),
        1 => (
            "/v1/completions",
            "/v1/completions",
            completion(&choices, stops, &prompt),
        ),
        _ => (
            "/v1/chat/completions",
            "/v1/chat/completions",
            chat(&choices, stops, &prompt),
        ),
    };
    let with_stream = |on: bool| {
        let mut body = body.clone();
        body["stream"] = json!(on);
        body.to_string()
    };
    let answer = post(which, whole, with_stream(false).as_bytes());
    let streamed = post(which, stream, with_stream(true).as_bytes());
    assert_answer(whole, &answer);
    assert_answer(stream, &streamed);
    compare(kind, which, &answer, &streamed, &body);
}

fn compare(kind: usize, which: usize, answer: &Reply, streamed: &Reply, body: &Value) {
    let told = || format!("{body}\n{}\n{}", answer.body, streamed.body);
    let value: Value = serde_json::from_str(&answer.body).expect("checked before");
    if streamed.status != 200 {
        assert_eq!(
            (streamed.status, &streamed.body),
            (answer.status, &answer.body),
            "{}",
            told()
        );
        return;
    }
    let events = events("", &streamed.body);
    if kind > 0 {
        assert!(streamed.body.ends_with("data: [DONE]\n\n"), "{}", told());
    }
    if let Some(error) = events.iter().find(|event| event.get("error").is_some()) {
        // On native routes and in TGI's dialect refusals come inside the stream.
        assert!(
            answer.status != 200,
            "{error} in a stream whose whole answer came: {}",
            told()
        );
        assert!(kind == 0 || which == 1 || answer.status == 424, "{}", told());
        return;
    }
    assert_eq!(answer.status, 200, "{}", told());
    match kind {
        0 => compare_native(&value, &events, &told),
        1 => compare_choices(&value, &events, which == 1, &told, |choice| {
            choice["text"].as_str()
        }),
        _ => {
            compare_choices(&value, &events, false, &told, |choice| {
                choice.get("delta").unwrap_or(&choice["message"])["content"].as_str()
            });
            compare_calls(&value, &events, which, &told);
        }
    }
}

fn compare_native(whole: &Value, events: &[Value], told: &dyn Fn() -> String) {
    let last = events.last().unwrap_or_else(|| panic!("no event: {}", told()));
    assert_eq!(last["generated_text"], whole["generated_text"], "{}", told());
    for (place, event) in events.iter().enumerate() {
        assert_eq!(event["index"], json!(place + 1), "{}", told());
        assert_eq!(
            event["generated_text"].is_null(),
            place + 1 < events.len(),
            "{}",
            told()
        );
    }
    let details = &whole["details"];
    if !details.is_null() {
        let tokens: Vec<&Value> = events.iter().map(|event| &event["token"]).collect();
        let expected: Vec<&Value> = details["tokens"].as_array().expect("a list").iter().collect();
        assert_eq!(tokens, expected, "{}", told());
        for name in ["finish_reason", "generated_tokens"] {
            assert_eq!(last["details"][name], details[name], "{}", told());
        }
    }
}

/// Texts, reasons and usage of every choice. Streams of completions in TGI's dialect show special tokens, the whole of the
/// last token and nothing of tokens that end within a character; and each choice has a usage of its own.
fn compare_choices(
    whole: &Value,
    events: &[Value],
    as_tgi: bool,
    told: &dyn Fn() -> String,
    text: impl Fn(&Value) -> Option<&str>,
) {
    let choices = whole["choices"].as_array().expect("a list");
    let mut texts = vec![String::new(); choices.len()];
    let mut reasons = vec![Value::Null; choices.len()];
    let mut usage = (0, 0);
    for event in events {
        for choice in event["choices"].as_array().expect("a list") {
            let index = usize::try_from(choice["index"].as_u64().expect("an index")).expect("small");
            if let Some(text) = text(choice) {
                texts[index].push_str(text);
            }
            if let Some(reason) = choice["finish_reason"]
                .as_str()
                .filter(|reason| !reason.is_empty())
            {
                assert!(reasons[index].is_null(), "it ends twice: {}", told());
                reasons[index] = json!(reason);
            }
        }
        if let Some(given) = event.get("usage").filter(|usage| !usage.is_null()) {
            usage.0 += given["prompt_tokens"].as_u64().expect("a count");
            usage.1 += given["completion_tokens"].as_u64().expect("a count");
        }
    }
    for (index, choice) in choices.iter().enumerate() {
        assert_eq!(choice["index"], json!(index), "{}", told());
        let expected = text(choice).unwrap_or_default();
        if !as_tgi {
            assert_eq!(texts[index], expected, "{}", told());
        } else if !texts[index].contains("<|") {
            let shown = texts[index].as_str();
            let same = expected.trim_end_matches(char::REPLACEMENT_CHARACTER);
            assert!(
                shown.starts_with(same) || expected.starts_with(shown),
                "{}",
                told()
            );
        }
        // TGI names this end by its own name in streams only.
        if !(as_tgi && reasons[index] == "eos_token" && choice["finish_reason"] == "stop") {
            assert_eq!(reasons[index], choice["finish_reason"], "{}", told());
        }
    }
    if usage != (0, 0) && !as_tgi {
        let expected = &whole["usage"];
        assert_eq!(json!(usage.1), expected["completion_tokens"], "{}", told());
        assert_eq!(json!(usage.0), expected["prompt_tokens"], "{}", told());
    }
}

/// Names and arguments of every choice's calls.
fn compare_calls(whole: &Value, events: &[Value], which: usize, told: &dyn Fn() -> String) {
    let choices = whole["choices"].as_array().expect("a list");
    let mut calls: Vec<Vec<(String, String)>> = vec![Vec::new(); choices.len()];
    for event in events {
        for choice in event["choices"].as_array().expect("a list") {
            let index = usize::try_from(choice["index"].as_u64().expect("an index")).expect("small");
            for call in choice["delta"]["tool_calls"].as_array().into_iter().flatten() {
                let place = usize::try_from(call["index"].as_u64().expect("an index")).expect("small");
                if place == calls[index].len() {
                    calls[index].push((String::new(), String::new()));
                }
                let (name, arguments) = &mut calls[index][place];
                if let Some(given) = call["function"]["name"].as_str() {
                    assert!(name.is_empty(), "a call is named once: {}", told());
                    given.clone_into(name);
                }
                arguments.push_str(call["function"]["arguments"].as_str().unwrap_or_default());
            }
        }
    }
    for (choice, calls) in choices.iter().zip(&calls) {
        let expected = choice["message"]["tool_calls"].as_array();
        let expected: Vec<(String, String)> = expected
            .into_iter()
            .flatten()
            .map(|call| {
                let function = &call["function"];
                let text = |name: &str| function[name].as_str().unwrap_or_default().to_owned();
                (text("name"), text("arguments"))
            })
            .collect();
        assert_eq!(*calls, expected, "dialect {which}: {}", told());
    }
}

/// One of some values for a choice, or no field at all.
fn put(body: &mut Map<String, Value>, name: &str, choice: u8, values: &[Value]) {
    let place = usize::from(choice) % (values.len() + 1);
    if let Some(value) = values.get(place) {
        body.insert(name.to_owned(), value.clone());
    }
}

fn native(choices: &[u8; 10], stops: Vec<String>, prompt: &str) -> Value {
    let mut parameters = Map::new();
    parameters.insert("stop".to_owned(), json!(stops));
    parameters.insert("details".to_owned(), json!(true));
    put(
        &mut parameters,
        "max_new_tokens",
        choices[1],
        &[json!(1), json!(20), json!(60), json!(3)],
    );
    put(&mut parameters, "top_n_tokens", choices[2], &[json!(2), json!(5)]);
    put(
        &mut parameters,
        "return_full_text",
        choices[3],
        &[json!(true), json!(null)],
    );
    put(&mut parameters, "seed", choices[4], &[json!(1), json!(u64::MAX)]);
    put(
        &mut parameters,
        "temperature",
        choices[5],
        &[json!(0.5), json!(1.0)],
    );
    put(&mut parameters, "grammar", choices[6], &grammars());
    put(&mut parameters, "truncate", choices[7], &[json!(3), json!(199)]);
    put(&mut parameters, "ignore_eos", choices[8], &[json!(true)]);
    json!({"inputs": prompt, "parameters": parameters})
}

fn completion(choices: &[u8; 10], stops: Vec<String>, prompt: &str) -> Value {
    let mut body = Map::new();
    let prompts: Vec<&str> = prompt.split('|').collect();
    let prompt = if choices[9] & 1 == 0 {
        json!(prompt)
    } else {
        json!(prompts)
    };
    body.insert("prompt".to_owned(), prompt);
    body.insert("stop".to_owned(), json!(stops));
    put(
        &mut body,
        "max_tokens",
        choices[1],
        &[json!(1), json!(20), json!(60), json!(3)],
    );
    put(&mut body, "n", choices[2], &[json!(2), json!(1)]);
    put(&mut body, "echo", choices[3], &[json!(true)]);
    put(&mut body, "logprobs", choices[4], &[json!(0), json!(3)]);
    put(&mut body, "temperature", choices[5], &[json!(0), json!(1.0)]);
    put(&mut body, "response_format", choices[6], &formats());
    put(
        &mut body,
        "stream_options",
        choices[7],
        &[json!({"include_usage": true})],
    );
    put(&mut body, "ignore_eos", choices[8], &[json!(true)]);
    Value::Object(body)
}

fn chat(choices: &[u8; 10], stops: Vec<String>, prompt: &str) -> Value {
    let mut body = Map::new();
    body.insert(
        "messages".to_owned(),
        json!([{"role": "user", "content": prompt}]),
    );
    body.insert("stop".to_owned(), json!(stops));
    put(
        &mut body,
        "max_tokens",
        choices[1],
        &[json!(1), json!(20), json!(60), json!(3)],
    );
    put(&mut body, "n", choices[2], &[json!(2), json!(1)]);
    put(
        &mut body,
        "tools",
        choices[3],
        &[json!([tool("a")]), json!([tool("a"), tool("b")])],
    );
    put(
        &mut body,
        "tool_choice",
        choices[4],
        &[
            json!("auto"),
            json!("none"),
            json!("required"),
            json!({"type": "function", "function": {"name": "a"}}),
        ],
    );
    put(&mut body, "temperature", choices[5], &[json!(0), json!(1.0)]);
    put(&mut body, "response_format", choices[6], &formats());
    put(
        &mut body,
        "stream_options",
        choices[7],
        &[json!({"include_usage": true})],
    );
    put(&mut body, "top_logprobs", choices[8], &[json!(2)]);
    put(&mut body, "logprobs", choices[8], &[json!(true)]);
    put(&mut body, "parallel_tool_calls", choices[9], &[json!(false)]);
    Value::Object(body)
}

fn tool(name: &str) -> Value {
    let parameters = json!({"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]});
    json!({"type": "function", "function": {"name": name, "parameters": parameters}})
}

fn schema() -> Value {
    json!({"type": "object", "properties": {"é": {"type": "string", "maxLength": 3}, "b": {"type": "boolean"}}})
}

fn grammars() -> [Value; 3] {
    [
        json!({"type": "json", "value": schema()}),
        json!({"type": "regex", "value": "(é|[a-z]{2,4} )*!"}),
        json!({"type": "json_object", "value": schema()}),
    ]
}

fn formats() -> [Value; 3] {
    [
        json!({"type": "json_schema", "json_schema": {"name": "x", "schema": schema()}}),
        json!({"type": "json_object"}),
        json!({"type": "text"}),
    ]
}
