//! The conversation's messages in the form that templates take.

use serde_json::{Map, Value, json};

use super::types::{Content, Message};
use crate::error::ApiError;
use crate::object::Object;

/// Each message as an object with `role`, a string `content`, and what else templates may look at.
pub(super) fn messages(messages: Vec<Message>) -> Result<Vec<Value>, ApiError> {
    messages
        .into_iter()
        .enumerate()
        .map(|(at, message)| one(at, message))
        .collect()
}

fn refuse<T>(text: String) -> Result<T, ApiError> {
    Err(ApiError::Validation(text))
}

fn one(at: usize, message: Message) -> Result<Value, ApiError> {
    let none = |calls: &Value| calls.is_null() || calls.as_array().is_some_and(Vec::is_empty);
    let calls = message
        .tool_calls
        .filter(|calls| !none(calls))
        .map(|calls| tool_calls(calls, at))
        .transpose()?;
    let content = match message.content {
        Some(content) => text(content, at)?,
        None if calls.is_some() => String::new(),
        None => {
            return refuse(format!(
                "`messages[{at}]` must have `content`: a string or a list of text parts"
            ));
        }
    };
    let mut fields = Map::new();
    fields.insert("role".to_owned(), Value::from(message.role));
    fields.insert("content".to_owned(), Value::from(content));
    for (key, value) in [("name", message.name), ("tool_call_id", message.tool_call_id)] {
        if let Some(value) = value {
            fields.insert(key.to_owned(), Value::from(value));
        }
    }
    if let Some(calls) = calls {
        fields.insert("tool_calls".to_owned(), calls);
    }
    fields.extend(message.rest);
    Ok(Value::from(fields))
}

fn text(content: Content, at: usize) -> Result<String, ApiError> {
    let parts = match content {
        Content::Text(text) => return Ok(text),
        Content::Parts(parts) => parts,
    };
    let mut whole = String::new();
    for Object(part) in parts {
        match (part.kind.as_str(), part.text) {
            ("text", Some(text)) => whole.push_str(&text),
            ("text", None) => {
                return refuse(format!(
                    "`messages[{at}].content`: a part of type `text` must have `text`"
                ));
            }
            (kind, _) => {
                return refuse(format!(
                    "`messages[{at}].content`: a part of type `{kind}` is not supported, only `text` is"
                ));
            }
        }
    }
    Ok(whole)
}

/// The calls that a message tells of, with arguments as JSON values: so templates expect them.
fn tool_calls(calls: Value, at: usize) -> Result<Value, ApiError> {
    let Value::Array(calls) = calls else {
        return refuse(format!(
            "`messages[{at}].tool_calls` must be a list. Given: {calls}"
        ));
    };
    let call = |(which, call): (usize, Value)| {
        let name = call.pointer("/function/name").filter(|name| name.is_string());
        let Some(name) = name else {
            return refuse(format!(
                "`messages[{at}].tool_calls[{which}]` must be an object with `function`: its `name` and `arguments`"
            ));
        };
        // TGI's clients may say `parameters`.
        let arguments = ["/function/arguments", "/function/parameters"]
            .into_iter()
            .find_map(|place| call.pointer(place).filter(|value| !value.is_null()));
        let kind = call.get("type").filter(|kind| !kind.is_null());
        if let Some(kind) = kind.filter(|kind| *kind != "function") {
            return refuse(format!(
                "`messages[{at}].tool_calls[{which}].type` must be \"function\". Given: {kind}"
            ));
        }
        let mut whole = Map::new();
        if let Some(id) = call.get("id").filter(|id| !id.is_null()) {
            if !id.is_string() {
                return refuse(format!(
                    "`messages[{at}].tool_calls[{which}].id` must be a string. Given: {id}"
                ));
            }
            whole.insert("id".to_owned(), id.clone());
        }
        whole.insert("type".to_owned(), Value::from("function"));
        whole.insert(
            "function".to_owned(),
            json!({"name": name, "arguments": arguments.map_or_else(|| json!({}), value)}),
        );
        Ok(Value::from(whole))
    };
    calls.into_iter().enumerate().map(call).collect()
}

/// The object that a string of arguments holds; anything else as it is.
fn value(arguments: &Value) -> Value {
    match arguments.as_str() {
        Some(text) if text.trim().is_empty() => json!({}),
        Some(text) => serde_json::from_str(text)
            .ok()
            .filter(Value::is_object)
            .unwrap_or_else(|| arguments.clone()),
        None => arguments.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Vec<Value>, String> {
        messages(serde_json::from_str(json).unwrap()).map_err(|error| error.to_string())
    }

    #[test]
    fn parts_are_joined_and_images_refused() {
        let parts = r#"[{"role":"user","name":"n","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}],
            "tool_calls":null,"tool_call_id":null,"reasoning":"r"}]"#;
        assert_eq!(
            read(parts).unwrap(),
            [json!({"role": "user", "content": "ab", "name": "n", "reasoning": "r"})]
        );
        let image = r#"[{"role":"user","content":[{"type":"image_url","image_url":{"url":"x"}}]}]"#;
        assert!(read(image).unwrap_err().contains("`image_url` is not supported"));
        assert!(read(r#"[{"role":"user"}]"#).is_err());
        assert!(read(r#"[{"role":"user","tool_calls":[]}]"#).is_err());
    }

    #[test]
    fn calls_and_results_are_kept_for_the_template() {
        let turns = r#"[
            {"role":"assistant","content":null,"tool_calls":[
                {"id":"call_1","type":"function","function":{"name":"a","arguments":"{\"x\": 1}"}},
                {"function":{"name":"b","parameters":{"y":2}}},
                {"id":null,"function":{"name":"c","arguments":""}},
                {"function":{"name":"d","arguments":"not json"}},
                {"function":{"name":"e"}}]},
            {"role":"tool","tool_call_id":"call_1","content":"7"}]"#;
        let call = |name: &str, arguments: Value| json!({"type": "function", "function": {"name": name, "arguments": arguments}});
        let first =
            json!({"id": "call_1", "type": "function", "function": {"name": "a", "arguments": {"x": 1}}});
        let others = [
            call("b", json!({"y": 2})),
            call("c", json!({})),
            call("d", json!("not json")),
            call("e", json!({})),
        ];
        let calls: Vec<Value> = [first].into_iter().chain(others).collect();
        assert_eq!(
            read(turns).unwrap(),
            [
                json!({"role": "assistant", "content": "", "tool_calls": calls}),
                json!({"role": "tool", "content": "7", "tool_call_id": "call_1"}),
            ]
        );
    }

    #[test]
    fn calls_of_no_use_are_named() {
        let cases = [
            (r#""x""#, "`messages[0].tool_calls` must be a list. Given: \"x\""),
            ("{}", "`messages[0].tool_calls` must be a list. Given: {}"),
            (
                r#"[{"function":{"name":"a"}},{"function":{"name":7}}]"#,
                "`messages[0].tool_calls[1]` must be an object with `function`: its `name` and `arguments`",
            ),
            (
                r#"[{"id":7,"function":{"name":"a"}}]"#,
                "`messages[0].tool_calls[0].id` must be a string. Given: 7",
            ),
            (
                r#"[{"type":"custom","function":{"name":"a"}}]"#,
                "`messages[0].tool_calls[0].type` must be \"function\". Given: \"custom\"",
            ),
        ];
        for (calls, text) in cases {
            let error = read(&format!("[{{\"role\":\"assistant\",\"tool_calls\":{calls}}}]")).unwrap_err();
            assert_eq!(error, format!("Input validation error: {text}"));
        }
    }
}
