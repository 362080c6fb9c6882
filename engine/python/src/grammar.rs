//! Reads a grammar from Python: its kind and its text.

use agentlm_text::Grammar;
use pyo3::prelude::*;

use crate::errors;

/// The grammar of a kind: `json_schema` and `choice` are JSON texts, `regex` and `lark` are as they are, `json_object` needs none.
///
/// # Errors
/// `InvalidRequestError` naming the kind, or what is wrong with the JSON.
pub fn read(kind: &str, text: String) -> PyResult<Grammar> {
    let invalid = |why: String| errors::raise("InvalidRequestError", format!("`grammar` {why}"));
    let not_json = |error: serde_json::Error| invalid(format!("of kind {kind:?} must be JSON: {error}"));
    match kind {
        "json_schema" => Ok(Grammar::JsonSchema(
            serde_json::from_str(&text).map_err(not_json)?,
        )),
        "choice" => Ok(Grammar::Choice(serde_json::from_str(&text).map_err(not_json)?)),
        "json_object" => Ok(Grammar::JsonObject),
        "regex" => Ok(Grammar::Regex(text)),
        "lark" => Ok(Grammar::Lark(text)),
        other => Err(invalid(format!(
            "is of kind {other:?}, but must be json_schema, json_object, regex, choice or lark"
        ))),
    }
}
