//! A server's own caps and the ranges of machine integers, put into a document in place of their names.

use agentlm_core::params::Limits;
use serde_json::{Map, Value, json};

use crate::config::ServerConfig;

/// In a schema: a keyword and the flag that sets its value.
const CAP: &str = "x-cap";

/// Puts values in place of caps, says which flag sets each, bounds integers by what their type holds, and takes nulls away that
/// are no more than absence.
pub(super) fn resolve(document: &mut Value, config: &ServerConfig, limits: &Limits) {
    let value = |flag: &str| {
        Some(match flag {
            "max-stop-sequences" => limits.max_stop_sequences as usize,
            "max-best-of" => limits.max_best_of.max(1) as usize,
            "max-top-n-tokens" => limits.max_top_n_tokens as usize,
            "max-total-tokens" => limits.max_total_tokens as usize,
            "max-input-tokens" => limits.max_input_tokens as usize,
            "max-client-batch-size" => config.max_client_batch_size,
            "max-concurrent-requests" => config.max_concurrent_requests,
            _ => return None,
        })
    };
    walk(document, &value);
}

fn walk(value: &mut Value, cap: &impl Fn(&str) -> Option<usize>) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| walk(item, cap)),
        Value::Object(fields) => {
            fields.values_mut().for_each(|field| walk(field, cap));
            for (keyword, flag) in caps(fields) {
                if let Some(value) = cap(&flag) {
                    fields.shift_remove(CAP);
                    fields.insert(keyword, Value::from(value));
                    fields.insert("x-flag".to_owned(), Value::from(format!("--{flag}")));
                }
            }
            bound(fields);
            if fields.get("default").is_some_and(Value::is_null) {
                fields.shift_remove("default");
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// The caps that a schema names.
fn caps(schema: &Map<String, Value>) -> Vec<(String, String)> {
    let named = schema.get(CAP).and_then(Value::as_object);
    let named = named.into_iter().flatten();
    named
        .filter_map(|(keyword, flag)| Some((keyword.clone(), flag.as_str()?.to_owned())))
        .collect()
}

/// The range of the type that a schema's `format` names, where the schema is no narrower itself.
fn bound(schema: &mut Map<String, Value>) {
    let (least, most) = match schema.get("format").and_then(Value::as_str) {
        Some("uint32") => (json!(0), json!(u32::MAX)),
        Some("uint64") => (json!(0), json!(u64::MAX)),
        Some("int32") => (json!(i32::MIN), json!(i32::MAX)),
        _ => return,
    };
    for (inclusive, exclusive, limit) in [
        ("minimum", "exclusiveMinimum", least),
        ("maximum", "exclusiveMaximum", most),
    ] {
        if !schema.contains_key(inclusive) && !schema.contains_key(exclusive) {
            schema.insert(inclusive.to_owned(), limit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caps_come_from_flags_and_types() {
        let mut document = json!({
            "a": {"format": "uint32", "minimum": 1, "x-cap": {"maximum": "max-best-of"}, "default": null},
            "b": [{"format": "float", "exclusiveMinimum": 0}, {"format": "uint64"}],
        });
        let limits = Limits {
            max_input_tokens: 7,
            max_total_tokens: 8,
            max_stop_sequences: 4,
            max_top_n_tokens: 5,
            max_best_of: 3,
        };
        resolve(&mut document, &ServerConfig::new("m"), &limits);
        let expected = json!({
            "a": {"format": "uint32", "minimum": 1, "maximum": 3, "x-flag": "--max-best-of"},
            "b": [
                {"format": "float", "exclusiveMinimum": 0},
                {"format": "uint64", "minimum": 0, "maximum": u64::MAX},
            ],
        });
        assert_eq!(document, expected);
    }
}
