//! What an answer must look like that has to be a call. Knows JSON Schema as far as its references go.

use agentlm_text::Grammar;
use serde_json::{Map, Value, json};

use super::{Choice, Tools};

impl Tools {
    /// The grammar of an answer: a named tool's arguments, or a list of calls. None while the model may also speak.
    pub(in super::super) fn grammar(&self) -> Option<Grammar> {
        match &self.choice {
            Choice::Auto => None,
            Choice::Required => Some(Grammar::JsonSchema(self.list())),
            Choice::Named(name) => self.functions().find_map(|(known, parameters)| {
                (known == name).then(|| Grammar::JsonSchema(arguments(parameters.clone())))
            }),
        }
    }

    /// Each tool's name and parameters.
    fn functions(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.definitions.iter().filter_map(|tool| {
            let function = tool.get("function")?;
            Some((function.get("name")?.as_str()?, function.get("parameters")?))
        })
    }

    fn list(&self) -> Value {
        let mut definitions = Map::new();
        let mut calls = Vec::new();
        for (name, parameters) in self.functions() {
            let place = format!("#/$defs/{name}");
            let mut parameters = arguments(parameters.clone());
            move_references(&mut parameters, &place);
            definitions.insert(name.to_owned(), parameters);
            calls.push(json!({
                "type": "object",
                "properties": {"name": {"const": name}, "arguments": {"$ref": place}},
                "required": ["name", "arguments"],
                "additionalProperties": false,
            }));
        }
        let mut list =
            json!({"type": "array", "minItems": 1, "items": {"anyOf": calls}, "$defs": definitions});
        if !self.parallel {
            list["maxItems"] = Value::from(1);
        }
        list
    }
}

/// The parameters as a schema of one object. Whoever compiles it closes it to the properties that it lists.
fn arguments(mut parameters: Value) -> Value {
    let Some(schema) = parameters.as_object_mut() else {
        return parameters;
    };
    // They name the whole document, which it no longer is.
    schema.shift_remove("$schema");
    schema.shift_remove("$id");
    let typed = ["type", "$ref", "allOf", "anyOf", "oneOf"];
    if !typed.iter().any(|key| schema.contains_key(*key)) {
        schema.insert("type".to_owned(), Value::from("object"));
    }
    parameters
}

/// Makes the references inside a schema that was a document of its own point to where it lies now.
fn move_references(schema: &mut Value, place: &str) {
    match schema {
        Value::Object(fields) => {
            for (key, value) in fields {
                match value {
                    Value::String(target) if key == "$ref" => {
                        if let Some(path) = target.strip_prefix('#') {
                            *target = format!("{place}{path}");
                        }
                    }
                    value => move_references(value, place),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| move_references(item, place)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tools(choice: Choice, parallel: bool) -> Tools {
        let tree = json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "$ref": "#/$defs/node",
            "$defs": {"node": {"properties": {"next": {"$ref": "#/$defs/node"}, "all": {"$ref": "#"}}}},
        });
        let city = json!({"properties": {"city": {"type": "string"}}, "required": ["city"]});
        let tool = |name: &str, parameters| json!({"function": {"name": name, "parameters": parameters}});
        Tools {
            definitions: vec![tool("weather", city), tool("tree", tree)],
            choice,
            parallel,
            prompt: None,
        }
    }

    #[test]
    fn a_named_tool_asks_for_its_arguments() {
        let named = |name: &str| tools(Choice::Named(name.to_owned()), true).grammar().unwrap();
        let city = json!({
            "properties": {"city": {"type": "string"}}, "required": ["city"], "type": "object",
        });
        assert_eq!(named("weather"), Grammar::JsonSchema(city));
        let tree = json!({
            "$ref": "#/$defs/node",
            "$defs": {"node": {"properties": {"next": {"$ref": "#/$defs/node"}, "all": {"$ref": "#"}}}},
        });
        assert_eq!(named("tree"), Grammar::JsonSchema(tree));
        assert_eq!(tools(Choice::Auto, true).grammar(), None);
    }

    #[test]
    fn a_required_call_is_a_list_of_calls() {
        let call = |name: &str| {
            json!({
                "type": "object",
                "properties": {"name": {"const": name}, "arguments": {"$ref": format!("#/$defs/{name}")}},
                "required": ["name", "arguments"], "additionalProperties": false,
            })
        };
        let mut list = json!({
            "type": "array", "minItems": 1, "items": {"anyOf": [call("weather"), call("tree")]},
            "$defs": {
                "weather": {
                    "properties": {"city": {"type": "string"}}, "required": ["city"], "type": "object",
                },
                "tree": {
                    "$ref": "#/$defs/tree/$defs/node",
                    "$defs": {"node": {"properties": {
                        "next": {"$ref": "#/$defs/tree/$defs/node"}, "all": {"$ref": "#/$defs/tree"},
                    }}},
                },
            },
        });
        assert_eq!(
            tools(Choice::Required, true).grammar(),
            Some(Grammar::JsonSchema(list.clone()))
        );
        list["maxItems"] = json!(1);
        assert_eq!(
            tools(Choice::Required, false).grammar(),
            Some(Grammar::JsonSchema(list))
        );
    }
}
