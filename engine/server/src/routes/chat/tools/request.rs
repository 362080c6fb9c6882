//! The tools of a request: `tools`, `tool_choice`, `parallel_tool_calls`, `tool_prompt`.

use std::collections::HashSet;

use serde_json::{Map, Value, json};

use super::{Choice, Tools};
use crate::error::{ApiError, UNKNOWN_TOOL};
use crate::routes::chat::types::ChatRequest;

/// OpenAI's bound.
const MAX_NAME: usize = 64;

impl Tools {
    /// Takes the tools out of a request; `None` when there is nothing to call.
    pub(in super::super) fn read(request: &mut ChatRequest) -> Result<Option<Self>, ApiError> {
        let call = request.function_call.take().filter(|call| !call.is_null());
        let calls = call.is_some_and(|call| call != "auto" && call != "none");
        if calls || given(request.functions.take()).is_some() {
            return refuse(
                "`functions` and `function_call` are not supported: send `tools` and `tool_choice`",
            );
        }
        let mut tools = Self {
            definitions: definitions(request.tools.take())?,
            choice: Choice::Auto,
            parallel: request.parallel_tool_calls.unwrap_or(true),
            prompt: request
                .tool_prompt
                .take()
                .filter(|prompt| !prompt.trim().is_empty()),
        };
        Ok(tools.choose(request.tool_choice.take())?.then_some(tools))
    }

    /// Takes `tool_choice` in. False when nothing may be called.
    fn choose(&mut self, choice: Option<Value>) -> Result<bool, ApiError> {
        let has_tools = !self.definitions.is_empty();
        let choice = choice.unwrap_or(Value::Null);
        let name = match (
            choice.as_str(),
            choice.pointer("/function/name").and_then(Value::as_str),
        ) {
            _ if choice.is_null() => return Ok(has_tools),
            (Some("auto"), _) => return Ok(has_tools),
            (Some("none"), _) => return Ok(false),
            (Some("required"), _) => None,
            (Some(name), _) | (None, Some(name)) => Some(name),
            (None, None) => {
                return refuse(format!(
                    "`tool_choice` must be \"auto\", \"none\", \"required\", a tool's name or \
                     {{\"type\": \"function\", \"function\": {{\"name\": …}}}}. Given: {choice}"
                ));
            }
        };
        let kind = choice.get("type").filter(|kind| !kind.is_null());
        if let Some(kind) = kind.filter(|kind| *kind != "function") {
            return refuse(format!("`tool_choice.type` must be \"function\". Given: {kind}"));
        }
        if !has_tools {
            return refuse("`tool_choice` needs `tools`");
        }
        self.choice = match name {
            None => Choice::Required,
            Some(name) if self.names().any(|known| known == name) => Choice::Named(name.to_owned()),
            Some(name) => return refuse(format!("{UNKNOWN_TOOL}{name} not found")),
        };
        Ok(true)
    }
}

fn refuse<T>(text: impl Into<String>) -> Result<T, ApiError> {
    Err(ApiError::Tool(text.into()))
}

/// A field that says something: not null, `[]` or `{}`.
fn given(field: Option<Value>) -> Option<Value> {
    field.filter(|value| match value {
        Value::Null => false,
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
    })
}

fn definitions(tools: Option<Value>) -> Result<Vec<Value>, ApiError> {
    let tools = match tools {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(tools)) => tools,
        Some(other) => return refuse(format!("`tools` must be a list. Given: {other}")),
    };
    let mut names = HashSet::with_capacity(tools.len());
    let mut definitions = Vec::with_capacity(tools.len());
    for (at, tool) in tools.into_iter().enumerate() {
        let (name, definition) = definition(at, tool)?;
        if names.contains(&name) {
            return refuse(format!(
                "`tools[{at}].function.name` must differ from those before it. Given: {name:?}"
            ));
        }
        names.insert(name);
        definitions.push(definition);
    }
    Ok(definitions)
}

/// One tool's name, and the tool in OpenAI's shape.
fn definition(at: usize, mut tool: Value) -> Result<(String, Value), ApiError> {
    if let Some(kind) = tool
        .get("type")
        .filter(|kind| !kind.is_null() && *kind != "function")
    {
        return refuse(format!("`tools[{at}].type` must be \"function\". Given: {kind}"));
    }
    let Some(Value::Object(mut given)) = tool.get_mut("function").map(Value::take) else {
        return refuse(format!(
            "`tools[{at}]` must be an object with `function`: its `name`, `description` and `parameters`"
        ));
    };
    let is_name = |name: &str| {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(allowed)
    };
    let name = match given.get("name") {
        Some(Value::String(name)) if is_name(name) => name.clone(),
        other => {
            return refuse(format!(
                "`tools[{at}].function.name` must be 1 to {MAX_NAME} letters, digits, `_` and `-`. Given: {}",
                other.unwrap_or(&Value::Null)
            ));
        }
    };
    let mut function = Map::new();
    function.insert("name".to_owned(), Value::from(name.as_str()));
    match given.get("description") {
        None | Some(Value::Null) => {}
        Some(Value::String(description)) => {
            function.insert("description".to_owned(), Value::from(description.as_str()));
        }
        Some(other) => {
            return refuse(format!(
                "`tools[{at}].function.description` must be a string. Given: {other}"
            ));
        }
    }
    // TGI's clients may say `arguments`.
    let parameters = ["parameters", "arguments"]
        .into_iter()
        .filter_map(|key| given.get_mut(key).map(Value::take))
        .find(|value| !value.is_null());
    let parameters = match parameters {
        None => json!({"type": "object", "properties": {}}),
        Some(schema @ Value::Object(_)) => schema,
        Some(other) => {
            return refuse(format!(
                "`tools[{at}].function.parameters` must be a JSON Schema object. Given: {other}"
            ));
        }
    };
    function.insert("parameters".to_owned(), parameters);
    Ok((name, json!({"type": "function", "function": function})))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(fields: &str) -> Result<Option<Tools>, String> {
        let mut request: ChatRequest = serde_json::from_str(&format!("{{\"messages\":[]{fields}}}")).unwrap();
        Tools::read(&mut request).map_err(|error| error.to_string())
    }

    const TOOLS: &str = r#","tools":[{"type":"function","function":{"name":"a","strict":true,"parameters":{"type":"object"}}},
        {"function":{"name":"b-2","description":"does b","arguments":{"x":1}}}]"#;

    #[test]
    fn tools_are_read_in_every_spelling() {
        let tools = read(TOOLS).unwrap().unwrap();
        assert_eq!(
            tools.definitions,
            [
                json!({"type": "function", "function": {"name": "a", "parameters": {"type": "object"}}}),
                json!({"type": "function", "function": {"name": "b-2", "description": "does b", "parameters": {"x": 1}}}),
            ]
        );
        assert_eq!(
            (tools.choice, tools.parallel, tools.prompt),
            (Choice::Auto, true, None)
        );
        let cases = [
            (r#""auto""#, Some(Choice::Auto)),
            ("null", Some(Choice::Auto)),
            (r#""none""#, None),
            (r#""required""#, Some(Choice::Required)),
            (r#""b-2""#, Some(Choice::Named("b-2".to_owned()))),
            (
                r#"{"type":"function","function":{"name":"a"}}"#,
                Some(Choice::Named("a".to_owned())),
            ),
        ];
        for (choice, expected) in cases {
            let tools = read(&format!("{TOOLS},\"tool_choice\":{choice}")).unwrap();
            assert_eq!(tools.map(|tools| tools.choice), expected, "{choice}");
        }
        let fields = format!("{TOOLS},\"parallel_tool_calls\":false,\"tool_prompt\":\"do\"");
        let tools = read(&fields).unwrap().unwrap();
        assert_eq!((tools.parallel, tools.prompt.as_deref()), (false, Some("do")));
    }

    #[test]
    fn nothing_to_call_is_no_tools() {
        for fields in [
            "",
            r#","tools":null,"tool_choice":null,"parallel_tool_calls":null,"functions":null,"function_call":null"#,
            r#","tools":[],"tool_choice":"auto","functions":[],"function_call":"auto""#,
            r#","tool_choice":"none","function_call":"none""#,
        ] {
            assert_eq!(read(fields), Ok(None), "{fields}");
        }
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let tool = |function: &str| format!(",\"tools\":[{{\"type\":\"function\",\"function\":{function}}}]");
        let cases = [
            (
                r#","tools":"a""#.to_owned(),
                "`tools` must be a list. Given: \"a\"",
            ),
            (
                r#","tools":[7]"#.to_owned(),
                "`tools[0]` must be an object with `function`: its `name`, `description` and `parameters`",
            ),
            (
                r#","tools":[{"type":"web_search"}]"#.to_owned(),
                "`tools[0].type` must be \"function\". Given: \"web_search\"",
            ),
            (
                tool("{}"),
                "`tools[0].function.name` must be 1 to 64 letters, digits, `_` and `-`. Given: null",
            ),
            (
                tool(r#"{"name":"a b"}"#),
                "`tools[0].function.name` must be 1 to 64 letters, digits, `_` and `-`. Given: \"a b\"",
            ),
            (
                tool(r#"{"name":"a","description":1}"#),
                "`tools[0].function.description` must be a string. Given: 1",
            ),
            (
                tool(r#"{"name":"a","parameters":[]}"#),
                "`tools[0].function.parameters` must be a JSON Schema object. Given: []",
            ),
            (
                r#","tools":[{"function":{"name":"a"}},{"function":{"name":"a"}}]"#.to_owned(),
                "`tools[1].function.name` must differ from those before it. Given: \"a\"",
            ),
            (
                format!("{TOOLS},\"tool_choice\":\"c\""),
                "Tool with name c not found",
            ),
            (
                format!("{TOOLS},\"tool_choice\":{{\"function\":{{\"name\":\"c\"}}}}"),
                "Tool with name c not found",
            ),
            (
                format!("{TOOLS},\"tool_choice\":7"),
                "`tool_choice` must be \"auto\", \"none\", \"required\", a tool's name or {\"type\": \"function\", \
                 \"function\": {\"name\": …}}. Given: 7",
            ),
            (
                r#","tool_choice":"required""#.to_owned(),
                "`tool_choice` needs `tools`",
            ),
            (
                r#","tools":[],"tool_choice":"a""#.to_owned(),
                "`tool_choice` needs `tools`",
            ),
            (
                r#","functions":[{}]"#.to_owned(),
                "`functions` and `function_call` are not supported: send `tools` and `tool_choice`",
            ),
            (
                r#","function_call":{"name":"a"}"#.to_owned(),
                "`functions` and `function_call` are not supported: send `tools` and `tool_choice`",
            ),
            (
                r#","function_call":[]"#.to_owned(),
                "`functions` and `function_call` are not supported: send `tools` and `tool_choice`",
            ),
        ];
        for (fields, text) in cases {
            assert_eq!(read(&fields), Err(format!("Tool error: {text}")), "{fields}");
        }
    }
}
