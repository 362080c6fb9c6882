//! Closes a schema's objects to the properties that it lists, as the other servers do: JSON Schema itself allows any others beside
//! them, and a model would go on inventing some. Knows where schemas lie in a schema, not what they mean.

use serde_json::{Map, Value};

/// What says itself which other properties an object may have, or makes an object of several schemas.
const SPEAKS: [&str; 7] = [
    "additionalProperties",
    "unevaluatedProperties",
    "patternProperties",
    "$ref",
    "allOf",
    "anyOf",
    "oneOf",
];
/// Hold one schema each.
const ONE: [&str; 2] = ["items", "additionalProperties"];
/// Hold a list of schemas.
const LISTS: [&str; 3] = ["anyOf", "oneOf", "prefixItems"];
/// Hold schemas by name.
const NAMED: [&str; 4] = ["properties", "patternProperties", "$defs", "definitions"];

/// Closes every object that lists its properties and says nothing of others. The parts of an `allOf` stay open: each knows only
/// some of the properties of one object.
pub(super) fn close(schema: &mut Value) {
    each_object(schema, &mut |fields| {
        if fields.contains_key("properties") && !SPEAKS.iter().any(|key| fields.contains_key(*key)) {
            fields.insert("additionalProperties".to_owned(), Value::from(false));
        }
    });
}

/// Visits a schema and those in it that stand for themselves, the inner ones first.
pub(super) fn each_object(schema: &mut Value, visit: &mut impl FnMut(&mut Map<String, Value>)) {
    let Some(fields) = schema.as_object_mut() else {
        return;
    };
    for (key, value) in fields.iter_mut() {
        let key = key.as_str();
        match value {
            value if ONE.contains(&key) => each_object(value, visit),
            Value::Array(schemas) if LISTS.contains(&key) => {
                schemas.iter_mut().for_each(|schema| each_object(schema, visit));
            }
            Value::Object(schemas) if NAMED.contains(&key) => {
                schemas.values_mut().for_each(|schema| each_object(schema, visit));
            }
            _ => {}
        }
    }
    visit(fields);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn objects_are_closed_where_nothing_else_is_said() {
        let cases = [
            (json!(true), json!(true)),
            (json!({"type": "object"}), json!({"type": "object"})),
            (
                json!({"properties": {"properties": {"properties": {}}}}),
                json!({
                    "properties": {"properties": {"properties": {}, "additionalProperties": false}},
                    "additionalProperties": false
                }),
            ),
            (
                json!({"properties": {}, "additionalProperties": {"properties": {}}}),
                json!({"properties": {}, "additionalProperties": {"properties": {}, "additionalProperties": false}}),
            ),
            (
                json!({"properties": {}, "patternProperties": {}}),
                json!({"properties": {}, "patternProperties": {}}),
            ),
            (
                json!({"anyOf": [{"properties": {}}], "$defs": {"a": {"properties": {}}}}),
                json!({
                    "anyOf": [{"properties": {}, "additionalProperties": false}],
                    "$defs": {"a": {"properties": {}, "additionalProperties": false}}
                }),
            ),
            (
                json!({"allOf": [{"properties": {}}]}),
                json!({"allOf": [{"properties": {}}]}),
            ),
        ];
        for (mut schema, closed) in cases {
            close(&mut schema);
            assert_eq!(schema, closed);
        }
    }
}
