//! The texts of a JSON line. Refuses to know what they are compared with.

use std::borrow::Cow;
use std::fmt;

use serde_json::{Map, Value};

/// Where text is looked for when nobody named a field and the line is no conversation.
pub(crate) const DEFAULT_FIELDS: [&str; 2] = ["text", "content"];

/// Which text of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PartName<'a> {
    /// Content of a message.
    Message { at: usize, role: &'a str },
    /// Arguments of a tool call of a message.
    Call { at: usize, call: usize },
    /// A named field.
    Field(&'a str),
}

impl fmt::Display for PartName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Message { at, role } => write!(f, "message {at} ({role})"),
            Self::Call { at, call } => write!(f, "message {at}, tool call {call}"),
            Self::Field(name) => write!(f, "field {name}"),
        }
    }
}

/// One text of a line.
pub(crate) struct Part<'a> {
    pub name: PartName<'a>,
    pub text: Cow<'a, str>,
}

/// The texts of a line, in order: those of the named fields, else of its messages, else of the default fields. None if the
/// line has none of them.
pub(crate) fn parts<'a>(line: &'a Map<String, Value>, fields: &'a [String]) -> Option<Vec<Part<'a>>> {
    let mut found = Vec::new();
    if !fields.is_empty() {
        let mut any = false;
        for field in fields {
            any |= named(line, field, &mut found);
        }
        return any.then_some(found);
    }
    if let Some(Value::Array(messages)) = line.get("messages").or_else(|| line.get("conversations")) {
        for (at, message) in messages.iter().enumerate() {
            of_message(message, at, &mut found);
        }
        return Some(found);
    }
    let mut any = false;
    for field in DEFAULT_FIELDS {
        any |= named(line, field, &mut found);
    }
    any.then_some(found)
}

fn of_message<'a>(message: &'a Value, at: usize, found: &mut Vec<Part<'a>>) {
    let text = |names: [&str; 2]| names.iter().find_map(|name| message.get(name));
    let role = text(["role", "from"]).and_then(Value::as_str).unwrap_or("?");
    if let Some(content) = text(["content", "value"]) {
        let name = PartName::Message { at, role };
        match content {
            Value::String(text) => found.push(Part {
                name,
                text: text.into(),
            }),
            other => strings(other, &name, found),
        }
    }
    let calls = message.get("tool_calls").and_then(Value::as_array);
    for (call, value) in calls.into_iter().flatten().enumerate() {
        if let Some(arguments) = value.pointer("/function/arguments") {
            let text = match arguments {
                Value::String(text) => Cow::from(text),
                other => Cow::from(other.to_string()),
            };
            let name = PartName::Call { at, call };
            found.push(Part { name, text });
        }
    }
}

/// Every string below a field whose path is written with dots; whether there is such a field.
fn named<'a>(line: &'a Map<String, Value>, path: &'a str, found: &mut Vec<Part<'a>>) -> bool {
    let mut keys = path.split('.');
    let first = keys.next().and_then(|key| line.get(key));
    let Some(value) = keys.fold(first, |value, key| value.and_then(|value| value.get(key))) else {
        return false;
    };
    strings(value, &PartName::Field(path), found);
    true
}

fn strings<'a>(value: &'a Value, name: &PartName<'a>, found: &mut Vec<Part<'a>>) {
    match value {
        Value::String(text) => found.push(Part {
            name: name.clone(),
            text: text.into(),
        }),
        Value::Array(values) => values.iter().for_each(|value| strings(value, name, found)),
        Value::Object(values) => values.values().for_each(|value| strings(value, name, found)),
        _ => {}
    }
}
