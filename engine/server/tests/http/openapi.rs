//! The API's document is the committed one, says what this server takes, and says it of each field: what it allows passes, what it
//! does not is refused, and taking any of its words away would show.

use std::collections::BTreeSet;

use agentlm_core::params::Limits;
use agentlm_server::{ServerConfig, openapi};
use serde_json::{Map, Value, json};

use crate::client::{Reply, get, receive, send};
use crate::fixture::{EOS, Fixture, Setup, start};

const KEY: (&str, &str) = ("authorization", "Bearer secret");
const JSON: (&str, &str) = ("content-type", "application/json");

#[test]
fn the_committed_document_is_what_is_generated() {
    let limits = Limits {
        max_input_tokens: 4095,
        max_total_tokens: 4096,
        max_stop_sequences: 4,
        max_top_n_tokens: 5,
        max_best_of: 2,
    };
    let generated = format!("{:#}\n", openapi(&ServerConfig::new("agentlm"), &limits));
    let committed = include_str!("../../../../docs/openapi.json");
    assert!(
        generated == committed,
        "docs/openapi.json is not what the code says; \
         `cargo run -p agentlm-server --example openapi > docs/openapi.json` makes it anew"
    );
}

#[test]
fn the_document_has_the_servers_own_caps_and_the_page_needs_nothing_else() {
    let mut setup = Setup::default();
    setup.config.max_client_batch_size = 3;
    let server = setup.start();
    let reply = get(server.address, "/api-doc/openapi.json");
    assert_eq!(
        (reply.status, reply.header("content-type")),
        (200, Some("application/json"))
    );
    let document = reply.json();
    let truncate = &document["components"]["schemas"]["GenerateParameters"]["properties"]["truncate"];
    assert_eq!(
        (&truncate["maximum"], &truncate["x-flag"]),
        (&json!(199), &json!("--max-input-tokens"))
    );
    let prompts = &document["components"]["schemas"]["PromptForms"]["anyOf"][2];
    assert_eq!(prompts["maxItems"], 3);
    assert!(!reply.body.contains("x-cap"), "every cap has its value");
    for path in ["/docs", "/docs/"] {
        let page = get(server.address, path);
        assert_eq!(
            (page.status, page.header("content-type")),
            (200, Some("text/html; charset=utf-8"))
        );
        let policy = page.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none';"), "{policy}");
        assert!(
            !page.body.contains("https://"),
            "nothing is fetched from elsewhere"
        );
    }
}

#[test]
fn every_reference_leads_somewhere_and_every_name_is_led_to() {
    let document = get(start().address, "/api-doc/openapi.json").json();
    let mut found = BTreeSet::new();
    references(&document, &mut found);
    for reference in &found {
        let place = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(place).is_some(), "{reference}");
    }
    for kind in ["schemas", "responses", "headers"] {
        for name in document["components"][kind].as_object().unwrap().keys() {
            let reference = format!("#/components/{kind}/{name}");
            assert!(found.contains(&reference), "{reference}");
        }
    }
}

fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            if let Some(Value::String(reference)) = fields.get("$ref") {
                found.insert(reference.clone());
            }
            fields.values().for_each(|value| references(value, found));
        }
        Value::Array(items) => items.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

/// A server and what it says of itself.
struct Described {
    server: Fixture,
    document: Value,
}

/// One field of one request, and a body that is well but for it.
struct Place<'a> {
    path: &'a str,
    /// Where the field's object is in the body.
    within: String,
    name: &'a str,
    body: Value,
}

/// What an answer is to a field's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Taken,
    Refused,
}

use Verdict::{Refused, Taken};

impl Described {
    fn start() -> Self {
        let mut setup = Setup {
            // So that the largest number of tokens fits, which counts as 1024; and no answer is longer than one.
            max_total_tokens: 1100,
            says: vec![EOS],
            ..Setup::default()
        };
        setup.config.api_keys = vec!["secret".to_owned()];
        let server = setup.start();
        let document = get(server.address, "/api-doc/openapi.json").json();
        let described = Self { server, document };
        let adapter = json!({"name": "x", "path": "/somewhere"});
        assert_eq!(described.said("/adapters", &adapter), Taken);
        described
    }

    fn resolved<'a>(&'a self, schema: &'a Value) -> &'a Value {
        match schema["$ref"].as_str().and_then(|name| name.strip_prefix('#')) {
            Some(place) => self.document.pointer(place).unwrap(),
            None => schema,
        }
    }

    /// The alternatives of a schema, one if it has none.
    fn branches<'a>(&'a self, schema: &'a Value) -> Vec<&'a Value> {
        let schema = self.resolved(schema);
        match schema["anyOf"].as_array().or(schema["oneOf"].as_array()) {
            // Of an object they tell which fields it needs.
            Some(branches) if schema["properties"].is_null() => {
                branches.iter().flat_map(|branch| self.branches(branch)).collect()
            }
            _ => vec![schema],
        }
    }

    /// What is said to a body in which the field has this value, or is absent.
    fn verdict(&self, place: &Place<'_>, value: Option<Value>) -> Verdict {
        let mut body = place.body.clone();
        let object = body.pointer_mut(&place.within).unwrap().as_object_mut().unwrap();
        match value {
            Some(value) => object.insert(place.name.to_owned(), value),
            None => object.shift_remove(place.name),
        };
        self.said(place.path, &body)
    }

    fn said(&self, path: &str, body: &Value) -> Verdict {
        let text = body.to_string();
        let headers = [KEY, JSON];
        let reply: Reply = receive(send(self.server.address, "POST", path, &headers, text.as_bytes()));
        let event = reply.status == 200 && reply.body.starts_with("data: {\"error\"");
        match reply.status {
            // A number where a word is expected is no JSON of that type to the parser.
            400 | 422 => Refused,
            _ if event => Refused,
            // The name of an adapter is taken by an earlier question.
            200 | 409 => Taken,
            status => panic!("{path}: {status} to {body}: {}", reply.body),
        }
    }

    /// What the server does otherwise than a field's schema says.
    fn mistakes(&self, place: &Place<'_>, schema: &Value, required: bool) -> Vec<String> {
        let mut mistakes = Vec::new();
        let mut expect = |what: &str, value: Option<Value>, expected: Verdict| {
            if self.verdict(place, value.clone()) != expected {
                let value = value.map_or_else(|| "absent".to_owned(), |value| value.to_string());
                mistakes.push(format!("{what}: {value} is not {expected:?}"));
            }
        };
        expect("required", None, if required { Refused } else { Taken });
        let branches = self.branches(schema);
        let nullable = branches.iter().any(|branch| permits(branch, "null"));
        expect("null", Some(Value::Null), if nullable { Taken } else { Refused });
        for kind in ["integer", "boolean", "string", "array", "object"] {
            let permitted = |kind: &str| branches.iter().any(|branch| permits(branch, kind));
            if !(permitted(kind) || kind == "integer" && permitted("number")) {
                expect("type", Some(of_kind(kind)), Refused);
            }
        }
        for branch in branches {
            for (what, value, expected) in self.borders(place.name, branch) {
                expect(what, Some(value), expected);
            }
        }
        mistakes
    }

    /// Values on both sides of each border of a plain schema.
    fn borders(&self, name: &str, schema: &Value) -> Vec<(&'static str, Value, Verdict)> {
        let mut borders = Vec::new();
        if ["type", "enum", "const"]
            .iter()
            .all(|keyword| schema[keyword].is_null())
        {
            return borders;
        }
        if permits(schema, "integer") {
            let least = schema["minimum"].as_i64().map_or(json!(-1e30), Value::from);
            borders.push(("minimum", least.clone(), Taken));
            let below = match least.as_i64().and_then(|least| least.checked_sub(1)) {
                Some(below) => json!(below),
                None => json!(-(2f64.powi(64))),
            };
            borders.push(("minimum", below, Refused));
            let most = schema["maximum"].as_u64().map_or(json!(1e30), Value::from);
            // How many tokens have to come depends on the prompt, too.
            if !name.starts_with("min_") || schema["maximum"].is_null() {
                borders.push(("maximum", most.clone(), Taken));
            }
            let above = match most.as_u64().and_then(|most| most.checked_add(1)) {
                Some(above) => json!(above),
                None => json!(2f64.powi(64)),
            };
            borders.push(("maximum", above, Refused));
        } else if permits(schema, "number") {
            for (inclusive, exclusive, sign, beyond) in [
                ("minimum", "exclusiveMinimum", -1.0, -1e39),
                ("maximum", "exclusiveMaximum", 1.0, 1e39),
            ] {
                let step = |border: f64| (border.abs() * 1e-3).max(1e-3);
                if let Some(value) = schema[inclusive].as_f64() {
                    borders.push((inclusive, json!(value), Taken));
                    borders.push((inclusive, json!(value + sign * step(value)), Refused));
                } else if let Some(value) = schema[exclusive].as_f64() {
                    borders.push((exclusive, json!(value - sign * step(value)), Taken));
                    borders.push((exclusive, json!(value), Refused));
                } else {
                    borders.push((inclusive, json!(beyond), Taken));
                }
            }
        }
        if !schema["pattern"].is_null() {
            assert_eq!(schema["pattern"], "^[a-zA-Z0-9_-]{1,64}$");
            borders.extend(["", "a b", "\u{e9}"].map(|text| ("pattern", json!(text), Refused)));
            borders.push(("pattern", json!("x".repeat(65)), Refused));
            borders.push(("pattern", json!("A-z_9".repeat(12)), Taken));
        } else if permits(schema, "string") && schema["enum"].is_null() && schema["const"].is_null() {
            let least = schema["minLength"].as_u64().unwrap_or(0);
            borders.extend((least == 1).then(|| ("minLength", json!(""), Refused)));
            let shortest = match name {
                "guided_grammar" => "start: \"x\"".to_owned(),
                _ if !schema["contentMediaType"].is_null() => "{}".to_owned(),
                _ => "x".repeat(to_usize(least)),
            };
            borders.push(("minLength", json!(shortest), Taken));
            borders.extend((least == 0).then(|| ("minLength", json!(""), Taken)));
            if let Some(most) = schema["maxLength"].as_u64().map(to_usize) {
                borders.push(("maxLength", json!("x".repeat(most)), Taken));
                borders.push(("maxLength", json!("x".repeat(most + 1)), Refused));
            }
        }
        if permits(schema, "array") {
            let many =
                |count: usize| -> Value { (0..count).map(|at| self.item(&schema["items"], at)).collect() };
            let least = to_usize(schema["minItems"].as_u64().unwrap_or(0));
            borders.push(("minItems", many(least), Taken));
            borders.extend(
                least
                    .checked_sub(1)
                    .map(|fewer| ("minItems", many(fewer), Refused)),
            );
            if let Some(most) = schema["maxItems"].as_u64().map(to_usize) {
                borders.push(("maxItems", many(most), Taken));
                borders.push(("maxItems", many(most + 1), Refused));
            } else {
                // More than any cap, but where each item makes the prompt longer.
                let count = if ["messages", "tools", "tool_calls"].contains(&name) {
                    9
                } else {
                    150
                };
                borders.push(("maxItems", many(count), Taken));
            }
        }
        for value in schema["enum"].as_array().into_iter().flatten() {
            borders.push(("enum", value.clone(), Taken));
        }
        if !schema["enum"].is_null() || !schema["const"].is_null() {
            borders.push(("enum", json!("something else"), Refused));
        }
        borders
    }

    /// An item of a list.
    fn item(&self, schema: &Value, at: usize) -> Value {
        let schema = self.branches(schema)[0];
        match schema["type"].as_str() {
            Some("string") => json!(format!("x{at}")),
            Some("integer") => json!(at % 100),
            Some("array") => match schema["prefixItems"].as_array() {
                Some(_) => json!([at, 1.5]),
                None => json!([self.item(&schema["items"], at)]),
            },
            _ if schema["properties"].get("inputs").is_some() => json!({"inputs": "hi"}),
            _ if schema["properties"].get("text").is_some() => json!({"type": "text", "text": "x"}),
            _ if schema["properties"].get("role").is_some() => json!({"role": "user", "content": "hi"}),
            _ if schema["properties"].get("function").is_some() => {
                json!({"function": {"name": format!("f{at}")}})
            }
            _ => json!({}),
        }
    }
}

fn to_usize(value: u64) -> usize {
    usize::try_from(value).unwrap()
}

/// Whether a plain schema lets values of this type pass at all.
fn permits(schema: &Value, kind: &str) -> bool {
    let alternatives = |keyword: &str| match &schema[keyword] {
        Value::Array(values) => values.clone(),
        Value::Null if keyword == "enum" && schema["const"].is_string() => vec![schema["const"].clone()],
        Value::Null => Vec::new(),
        one => vec![one.clone()],
    };
    let values = alternatives("enum");
    if !values.is_empty() {
        return values.iter().any(|value| kind_of(value) == kind);
    }
    let types = alternatives("type");
    types.is_empty() || types.iter().any(|permitted| permitted == kind)
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn of_kind(kind: &str) -> Value {
    match kind {
        "integer" => json!(7),
        "boolean" => json!(true),
        "string" => json!("text"),
        "array" => json!([[[]]]),
        _ => json!({"wrong": 1}),
    }
}

/// What else a field's largest or only value needs.
fn beside(path: &str, name: &str) -> Map<String, Value> {
    let assistant = json!([{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]);
    let fields = match (path, name) {
        ("/v1/completions", "max_tokens") => json!({"echo": true}),
        (_, "best_of") if !path.starts_with("/v1") => json!({"do_sample": true}),
        (_, "continue_final_message") => json!({"messages": assistant}),
        (_, "tool_choice") => json!({"tools": [{"function": {"name": "text"}}, {"function": {"name": "x"}}]}),
        _ => json!({}),
    };
    fields.as_object().unwrap().clone()
}

/// The fields of all requests, with their schemas and whether they are required.
fn fields(described: &Described, visit: &mut impl FnMut(&Place<'_>, &Value, bool)) {
    for (path, methods) in described.document["paths"].as_object().unwrap() {
        let media = &methods["post"]["requestBody"]["content"]["application/json"];
        // The cloud's path leads to the other three.
        if media.is_null() || path == "/invocations" {
            continue;
        }
        let mut body = media["example"].clone();
        assert_eq!(described.said(path, &body), Taken, "the example of {path}");
        for name in ["max_tokens", "parameters"] {
            body.as_object_mut().unwrap().shift_remove(name);
        }
        let schema = described.resolved(&media["schema"]);
        walk(path, "", &body, schema, visit);
        let parameters = &schema["properties"]["parameters"];
        if !parameters.is_null() {
            body["parameters"] = json!({});
            walk(
                path,
                "/parameters",
                &body,
                described.branches(parameters)[0],
                visit,
            );
        }
        if !schema["properties"]["stream_options"].is_null() {
            body["stream_options"] = json!({});
            let options = described.branches(&schema["properties"]["stream_options"])[0];
            walk(path, "/stream_options", &body, options, visit);
        }
    }
}

/// The same of the objects within: turns, their parts and calls, tools, the instances of a cloud.
fn fields_within(described: &Described, visit: &mut impl FnMut(&Place<'_>, &Value, bool)) {
    let schemas = &described.document["components"]["schemas"];
    let call = json!({"function": {"name": "get_time"}});
    let turns = json!([
        {"role": "user", "content": [{"type": "text", "text": "hi"}]},
        {"role": "assistant", "content": "ho", "tool_calls": [call]},
        {"role": "user", "content": "so?"},
    ]);
    let tools = json!([{"type": "function", "function": {"name": "get_time"}}]);
    let choice = json!({"type": "function", "function": {"name": "get_time"}});
    let chat = json!({"messages": turns, "tools": tools, "tool_choice": choice, "max_tokens": 1});
    let past = &schemas["PastCalls"]["items"];
    let forced = &schemas["ToolChoice"]["anyOf"][1];
    let function = |schema: &Value| schema["properties"]["function"].clone();
    let places = [
        ("/messages/1", schemas["Message"].clone()),
        ("/messages/0/content/0", schemas["TextPart"].clone()),
        ("/messages/1/tool_calls/0", past.clone()),
        ("/messages/1/tool_calls/0/function", function(past)),
        ("/tools/0", schemas["Tool"].clone()),
        ("/tools/0/function", function(&schemas["Tool"])),
        ("/tool_choice", forced.clone()),
        ("/tool_choice/function", function(forced)),
    ];
    for path in ["/v1/chat/completions", "/chat_tokenize"] {
        for (within, schema) in &places {
            assert_eq!(described.said(path, &chat), Taken, "{path}");
            walk(path, within, &chat, schema, &mut |place, field, required| {
                // Which tool it is, is no question of its type.
                let named = place.name == "name" && place.within.starts_with("/tool");
                if !named || field["pattern"].is_string() && place.within == "/tools/0/function" {
                    let mut alone = place.body.clone();
                    if place.within == "/tools/0/function" {
                        alone.as_object_mut().unwrap().shift_remove("tool_choice");
                    }
                    visit(
                        &Place {
                            body: alone,
                            within: place.within.clone(),
                            ..*place
                        },
                        field,
                        required,
                    );
                }
            });
        }
    }
    let native = json!({"instances": [{"inputs": "hi", "parameters": {}}]});
    let conversation = json!({"instances": [{"messages": [{"role": "user", "content": "hi"}]}]});
    for (within, body, schema) in [
        ("/instances/0", &native, "GenerateRequest"),
        ("/instances/0/parameters", &native, "GenerateParameters"),
        ("/instances/0", &conversation, "ChatRequest"),
    ] {
        walk(
            "/vertex",
            within,
            body,
            &schemas[schema],
            &mut |place, field, required| {
                // One run is made, however many were asked for.
                if place.name != "best_of" {
                    visit(place, field, required);
                }
            },
        );
    }
}

fn walk(
    path: &str,
    within: &str,
    body: &Value,
    schema: &Value,
    visit: &mut impl FnMut(&Place<'_>, &Value, bool),
) {
    let required = schema["required"].as_array().cloned().unwrap_or_default();
    for (name, field) in schema["properties"].as_object().unwrap() {
        let mut body = body.clone();
        let object = body.pointer_mut(within).unwrap().as_object_mut().unwrap();
        object.extend(beside(path, name));
        let place = Place {
            path,
            within: within.to_owned(),
            name,
            body,
        };
        visit(&place, field, required.iter().any(|required| required == name));
    }
}

#[test]
fn every_field_is_taken_and_refused_as_the_document_says() {
    let described = Described::start();
    let (mut all, mut count) = (Vec::new(), 0);
    let mut look = |place: &Place<'_>, schema: &Value, required: bool| {
        count += 1;
        let mistakes = described.mistakes(place, schema, required);
        all.extend(
            mistakes
                .into_iter()
                .map(|mistake| format!("{} {}/{}: {mistake}", place.path, place.within, place.name)),
        );
    };
    fields(&described, &mut look);
    fields_within(&described, &mut look);
    assert!(all.is_empty(), "{all:#?}");
    assert!(count > 230, "{count} fields");
}

#[test]
fn a_word_less_would_be_noticed() {
    const WORDS: [&str; 8] = [
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "minLength",
        "maxLength",
        "minItems",
        "maxItems",
    ];
    let described = Described::start();
    let mut count = 0;
    let mut look = |place: &Place<'_>, schema: &Value, required: bool| {
        let mut changed = vec![(schema.clone(), !required, "required".to_owned())];
        for branch in described.branches(schema) {
            for word in WORDS.iter().filter(|word| !branch[**word].is_null()) {
                let mut without = branch.clone();
                without.as_object_mut().unwrap().shift_remove(*word);
                changed.push((without, required, format!("{word} of {branch}")));
            }
        }
        for (schema, required, what) in changed {
            count += 1;
            let mistakes = described.mistakes(place, &schema, required);
            assert!(!mistakes.is_empty(), "{} {}: {what}", place.path, place.name);
        }
    };
    fields(&described, &mut look);
    fields_within(&described, &mut look);
    assert!(count > 400, "{count} changes");
}
