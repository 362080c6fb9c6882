//! Schemas of fields that are read by hand. Each stands for a field's type where schemas are made; nobody builds one.

use std::borrow::Cow;

use agentlm_core::params::{LARGEST_LOGIT_BIAS, MAX_LOGIT_BIAS, MAX_STOP_BYTES};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

/// A type of this name and schema.
macro_rules! shape {
    ($(#[$doc:meta])* $name:ident, $schema:expr) => {
        $(#[$doc])*
        pub(crate) enum $name {}

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                $schema
            }
        }
    };
}

shape!(
    /// [`crate::body::Stop`].
    StopSequences,
    json_schema!({
        "description": "One string or a list of them. The text ends with the first that appears in it.",
        "anyOf": [stop(), {"type": "array", "items": stop(), "x-cap": {"maxItems": "max-stop-sequences"}}],
    })
);

/// A character has at least one byte, and the bytes are what is counted.
fn stop() -> Value {
    json!({"type": "string", "minLength": 1, "maxLength": MAX_STOP_BYTES})
}

shape!(
    /// [`crate::routes::openai::sampling::logit_bias`].
    LogitBias,
    json_schema!({
        "description": "What is added to the logits of these token ids: a map of ids to numbers, or a list of such pairs.",
        "anyOf": [
            {
                "type": "object",
                "propertyNames": {"pattern": "^[0-9]{1,10}$"},
                "additionalProperties": bias(),
                "maxProperties": MAX_LOGIT_BIAS,
            },
            {
                "type": "array",
                "items": {
                    "type": "array",
                    "prefixItems": [{"type": "integer", "minimum": 0, "maximum": u32::MAX}, bias()],
                    "minItems": 2,
                    "maxItems": 2,
                },
            },
        ],
    })
);

fn bias() -> Value {
    json!({"type": "number", "minimum": -LARGEST_LOGIT_BIAS, "maximum": LARGEST_LOGIT_BIAS})
}

/// An object of this `type` and these further fields, of which it has to have one.
fn of_type(kinds: &[&str], fields: &[(&str, Value)]) -> Value {
    let several = fields.len() > 1;
    let mut properties = json!({"type": {"enum": kinds}});
    for (name, schema) in fields {
        let schema = schema.clone();
        properties[name] = if several { nullable(schema) } else { schema };
    }
    let one_of = fields
        .iter()
        .map(|(name, _)| json!({"required": [name], "properties": {(*name): {"not": {"type": "null"}}}}))
        .collect::<Vec<_>>();
    let mut whole = json!({"type": "object", "properties": properties, "required": ["type"]});
    match &fields {
        [] => {}
        [(name, _)] => whole["required"] = json!(["type", name]),
        _ => whole["anyOf"] = Value::from(one_of),
    }
    whole
}

/// A JSON Schema, or a string that holds one.
fn schema() -> Value {
    json!({
        "type": ["object", "boolean", "string"],
        "contentMediaType": "application/json",
        "minLength": 1,
        "description": "A JSON Schema, or a string that holds one.",
    })
}

/// The object of an optional schema.
fn any_object() -> Value {
    json!({
        "type": "object",
        "properties": {"type": {"const": "json_object"}, "value": nullable(schema()), "schema": nullable(schema())},
        "required": ["type"],
    })
}

fn nullable(schema: Value) -> Value {
    json!({"anyOf": [schema, {"type": "null"}]})
}

fn text() -> Value {
    json!({"type": "string"})
}

shape!(
    /// The native `grammar`.
    GrammarType,
    json_schema!({
        "description": "What the text has to be: JSON of a schema, any JSON object, or what a regular expression or a context-free \
            grammar (Lark's or GBNF's form) matches.",
        "anyOf": [
            of_type(&["json"], &[("value", schema()), ("schema", schema())]),
            any_object(),
            of_type(&["json_schema"], &[("value", schema()), ("json_schema", schema()), ("schema", schema())]),
            of_type(&["regex"], &[("value", text()), ("pattern", text()), ("regex", text())]),
            of_type(&["grammar"], &[("value", text()), ("grammar", text())]),
        ],
    })
);

shape!(
    /// `response_format`.
    ResponseFormat,
    json_schema!({
        "description": "What the text has to be, in OpenAI's spelling or in TGI's.",
        "anyOf": [
            of_type(&["text"], &[]),
            any_object(),
            of_type(&["json_schema"], &[("json_schema", schema()), ("value", schema()), ("schema", schema())]),
            of_type(&["json"], &[("value", schema()), ("schema", schema())]),
            of_type(&["regex"], &[("value", text()), ("pattern", text()), ("regex", text())]),
            of_type(&["grammar"], &[("value", text()), ("grammar", text())]),
        ],
    })
);

shape!(
    /// `guided_json`.
    GuidedJson,
    json_schema!({"anyOf": [schema()]})
);

shape!(
    /// `structured_outputs`.
    StructuredOutputs,
    json_schema!({
        "type": "object",
        "description": "vLLM's newer form of the `guided_…` fields; exactly one of these.",
        "properties": {
            "json": nullable(schema()),
            "regex": nullable(text()),
            "choice": nullable(json!({"type": "array", "items": {"type": "string"}, "minItems": 1})),
            "grammar": nullable(text()),
            "json_object": {"type": ["boolean", "null"]},
        },
        "minProperties": 1,
    })
);

shape!(
    /// One of `tools`.
    Tool,
    json_schema!({
        "type": "object",
        "properties": {
            "type": {"enum": ["function", null]},
            "function": {
                "type": "object",
                "properties": {
                    "name": {"type": "string", "pattern": "^[a-zA-Z0-9_-]{1,64}$"},
                    "description": {"type": ["string", "null"]},
                    "parameters": {"type": ["object", "null"], "description": "A JSON Schema; absent: no arguments."},
                },
                "required": ["name"],
            },
        },
        "required": ["function"],
    })
);

shape!(
    /// `tool_choice`.
    ToolChoice,
    json_schema!({
        "description": "`auto` (call or answer), `none` (answer), `required` (call something), or the tool that is to be called.",
        "anyOf": [
            {"type": "string", "minLength": 1, "examples": ["auto", "none", "required"]},
            {
                "type": "object",
                "properties": {
                    "type": {"enum": ["function", null]},
                    "function": {"type": "object", "properties": {"name": text()}, "required": ["name"]},
                },
                "required": ["function"],
            },
        ],
    })
);

shape!(
    /// `functions`, in which nothing may be.
    NoFunctions,
    json_schema!({"anyOf": [{"type": "array", "maxItems": 0}, {"type": "object", "maxProperties": 0}]})
);

shape!(
    /// `function_call`, which may only say what goes without saying.
    NoFunctionCall,
    json_schema!({"enum": ["auto", "none"]})
);

shape!(
    /// `tool_calls` of a message.
    PastCalls,
    json_schema!({
        "type": "array",
        "description": "The calls that this turn made.",
        "items": {
            "type": "object",
            "properties": {
                "id": {"type": ["string", "null"]},
                "type": {"enum": ["function", null]},
                "function": {
                    "type": "object",
                    "properties": {
                        "name": text(),
                        "arguments": {"description": "The arguments as JSON text, or as an object."},
                    },
                    "required": ["name"],
                },
            },
            "required": ["function"],
        },
    })
);

shape!(
    /// [`crate::routes::completions::types::Prompts`].
    PromptForms,
    json_schema!({
        "description": "A text, texts, the token ids of one prompt, or lists of these.",
        "anyOf": [
            {"type": "string", "minLength": 1},
            token_ids(),
            {
                "type": "array",
                "items": {"anyOf": [{"type": "string", "minLength": 1}, token_ids()]},
                "minItems": 1,
                "x-cap": {"maxItems": "max-client-batch-size"},
            },
        ],
    })
);

fn token_ids() -> Value {
    json!({
        "type": "array",
        "items": {"type": "integer", "minimum": 0, "maximum": u32::MAX},
        "minItems": 1,
        "description": "Each id has to be in the vocabulary.",
    })
}

shape!(
    /// `suffix`, which is not supported.
    Nothing,
    json_schema!({"type": "null"})
);
