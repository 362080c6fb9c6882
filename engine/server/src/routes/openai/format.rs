//! What a text has to be, in every spelling that clients of TGI, OpenAI and vLLM send. Whether a grammar makes sense is found
//! out by whoever compiles it.

use agentlm_text::Grammar;
use serde_json::Value;

use crate::error::ApiError;

/// Types of the native `grammar`: TGI's, and `grammar` for Lark or GBNF.
const NATIVE: [&str; 5] = ["json", "json_object", "json_schema", "regex", "grammar"];
/// Types of `response_format`: OpenAI's first, then those of TGI.
const OPENAI: [&str; 6] = ["text", "json_object", "json_schema", "json", "regex", "grammar"];
/// What `structured_outputs` may hold.
const STRUCTURED: [&str; 5] = ["json", "regex", "choice", "grammar", "json_object"];

/// What the text of a schema of a wrong type begins with.
const NO_SCHEMA: &str =
    "grammar is not valid: a schema must be an object, a boolean or a string that holds one, but is ";

/// TGI's `grammar`.
///
/// # Errors
/// [`ApiError::Validation`], in TGI's words where it has some.
pub(crate) fn native(value: &Value) -> Result<Grammar, ApiError> {
    let kind = kind(value, "grammar", &NATIVE)?;
    of_kind(kind, value).map_err(as_tgi)
}

/// The error in TGI's words: a schema of a wrong type is to it what it does not support.
pub(crate) fn as_tgi(error: ApiError) -> ApiError {
    match error {
        ApiError::Validation(text) if text.starts_with(NO_SCHEMA) => {
            ApiError::Validation("grammar is not supported".to_owned())
        }
        other => other,
    }
}

/// The fields of a `/v1` request that bind its text, as they came.
#[derive(Debug, Default)]
pub(crate) struct Formats {
    /// OpenAI's, in which TGI's and others' types are taken too.
    pub(crate) response_format: Option<Value>,
    /// vLLM's: a schema.
    pub(crate) guided_json: Option<Value>,
    /// vLLM's: a regular expression.
    pub(crate) guided_regex: Option<Value>,
    /// vLLM's: a list of texts.
    pub(crate) guided_choice: Option<Value>,
    /// vLLM's: a context-free grammar.
    pub(crate) guided_grammar: Option<Value>,
    /// vLLM's newer field for all of these.
    pub(crate) structured_outputs: Option<Value>,
}

impl Formats {
    /// The one grammar that they ask for, if any.
    ///
    /// # Errors
    /// [`ApiError::Validation`], also for two at once.
    pub(crate) fn grammar(self) -> Result<Option<Grammar>, ApiError> {
        let mut found = Vec::new();
        if let Some(format) = present(self.response_format.as_ref()) {
            let kind = kind(format, "response_format", &OPENAI)?;
            if kind != "text" {
                found.push(("response_format", of_kind(kind, format)?));
            }
        }
        if let Some(value) = present(self.guided_json.as_ref()) {
            found.push(("guided_json", schema(value)?));
        }
        if let Some(value) = present(self.guided_regex.as_ref()) {
            found.push(("guided_regex", regex(value)?));
        }
        if let Some(value) = present(self.guided_choice.as_ref()) {
            found.push(("guided_choice", choice(value)?));
        }
        if let Some(value) = present(self.guided_grammar.as_ref()) {
            found.push(("guided_grammar", lark(value)?));
        }
        if let Some(outputs) = present(self.structured_outputs.as_ref()) {
            structured(outputs, &mut found)?;
        }
        if found.len() > 1 {
            let names: Vec<String> = found.iter().map(|(name, _)| format!("`{name}`")).collect();
            let why = format!("{} cannot be used together", names.join(" and "));
            return Err(ApiError::Validation(why));
        }
        Ok(found.pop().map(|(_, grammar)| grammar))
    }
}

/// The members of `structured_outputs` that say something.
fn structured(outputs: &Value, found: &mut Vec<(&'static str, Grammar)>) -> Result<(), ApiError> {
    let Value::Object(fields) = outputs else {
        return Err(ApiError::Validation(format!(
            "`structured_outputs` must be an object, but is {}",
            kind_of(outputs)
        )));
    };
    let before = found.len();
    let field = |name: &str| present(fields.get(name));
    if let Some(value) = field("json") {
        found.push(("structured_outputs.json", schema(value)?));
    }
    if let Some(value) = field("regex") {
        found.push(("structured_outputs.regex", regex(value)?));
    }
    if let Some(value) = field("choice") {
        found.push(("structured_outputs.choice", choice(value)?));
    }
    if let Some(value) = field("grammar") {
        found.push(("structured_outputs.grammar", lark(value)?));
    }
    match field("json_object") {
        None | Some(Value::Bool(false)) => {}
        Some(Value::Bool(true)) => found.push(("structured_outputs.json_object", Grammar::JsonObject)),
        Some(value) => {
            return Err(ApiError::Validation(format!(
                "`structured_outputs.json_object` must be a boolean, but is {}",
                kind_of(value)
            )));
        }
    }
    if found.len() == before {
        return Err(ApiError::Validation(format!(
            "`structured_outputs` must have one of {}",
            STRUCTURED.join(", ")
        )));
    }
    Ok(())
}

/// The `type` of an object that has one of the `allowed`.
fn kind<'a>(value: &'a Value, field: &str, allowed: &[&str]) -> Result<&'a str, ApiError> {
    let allowed_kinds = || allowed.join(", ");
    let Value::Object(fields) = value else {
        return Err(ApiError::Validation(format!(
            "`{field}` must be an object with `type`, one of {}, but is {}",
            allowed_kinds(),
            kind_of(value)
        )));
    };
    match fields.get("type") {
        Some(Value::String(kind)) if allowed.contains(&kind.as_str()) => Ok(kind.as_str()),
        given => {
            let given = given.map_or_else(|| "none".to_owned(), Value::to_string);
            Err(ApiError::Validation(format!(
                "`{field}.type` must be one of {}. Given: {given}",
                allowed_kinds()
            )))
        }
    }
}

/// The grammar of an object whose type is known.
fn of_kind(kind: &str, value: &Value) -> Result<Grammar, ApiError> {
    match kind {
        "json" => one(value, &["value", "schema"], schema),
        "json_object" => {
            let bound = first(value, &["value", "schema"], schema)?;
            Ok(bound.unwrap_or(Grammar::JsonObject))
        }
        "json_schema" => one(value, &["json_schema", "value", "schema"], named_schema),
        "regex" => one(value, &["value", "pattern", "regex"], regex),
        _ => one(value, &["value", "grammar"], lark),
    }
}

/// A schema under `schema`, beside its name; or the schema itself.
fn named_schema(value: &Value) -> Result<Grammar, ApiError> {
    match given(value, &["schema"]) {
        Some(inner) => schema(inner),
        None if value.get("name").is_some() => Err(not_valid("missing field `schema`")),
        None => schema(value),
    }
}

/// A schema, or a string that holds one, as TGI takes it.
fn schema(value: &Value) -> Result<Grammar, ApiError> {
    match value {
        Value::Object(_) | Value::Bool(_) => Ok(Grammar::JsonSchema(value.clone())),
        Value::String(text) => serde_json::from_str(text)
            .map(Grammar::JsonSchema)
            .map_err(|error| not_valid(&error.to_string())),
        Value::Null | Value::Number(_) | Value::Array(_) => {
            Err(ApiError::Validation(format!("{NO_SCHEMA}{}", kind_of(value))))
        }
    }
}

fn regex(value: &Value) -> Result<Grammar, ApiError> {
    text(value, "a regex").map(Grammar::Regex)
}

fn lark(value: &Value) -> Result<Grammar, ApiError> {
    text(value, "a context-free grammar").map(Grammar::Lark)
}

fn choice(value: &Value) -> Result<Grammar, ApiError> {
    let Value::Array(items) = value else {
        let why = format!("a choice must be a list of strings, but is {}", kind_of(value));
        return Err(not_valid(&why));
    };
    let texts = items.iter().map(|item| text(item, "each choice"));
    texts.collect::<Result<_, _>>().map(Grammar::Choice)
}

fn text(value: &Value, what: &str) -> Result<String, ApiError> {
    match value {
        Value::String(text) => Ok(text.clone()),
        _ => Err(not_valid(&format!(
            "{what} must be a string, but is {}",
            kind_of(value)
        ))),
    }
}

/// The first of the `keys` that the object has.
fn given<'a>(value: &'a Value, keys: &[&str]) -> Option<&'a Value> {
    keys.iter().find_map(|key| present(value.get(key)))
}

/// The first of the `keys` that says something, read; the others that do have to be readable, too.
fn first(
    value: &Value,
    keys: &[&str],
    read: impl Fn(&Value) -> Result<Grammar, ApiError>,
) -> Result<Option<Grammar>, ApiError> {
    let mut found = None;
    for said in keys.iter().filter_map(|key| present(value.get(key))) {
        let grammar = read(said)?;
        found.get_or_insert(grammar);
    }
    Ok(found)
}

/// As [`first`], where one has to be there.
fn one(
    value: &Value,
    keys: &[&str],
    read: impl Fn(&Value) -> Result<Grammar, ApiError>,
) -> Result<Grammar, ApiError> {
    first(value, keys, read)?.ok_or_else(|| {
        let names: Vec<String> = keys.iter().map(|key| format!("`{key}`")).collect();
        not_valid(&format!("missing field {}", names.join(" or ")))
    })
}

/// Null is taken for absence.
fn present(value: Option<&Value>) -> Option<&Value> {
    value.filter(|value| !value.is_null())
}

fn not_valid(why: &str) -> ApiError {
    ApiError::Validation(format!("grammar is not valid: {why}"))
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The grammar or the error's text of a request with these fields.
    fn asked(request: Value) -> Result<Option<Grammar>, String> {
        let Value::Object(mut fields) = request else {
            panic!("a request is an object");
        };
        let mut take = |name: &str| fields.remove(name);
        let formats = Formats {
            response_format: take("response_format"),
            guided_json: take("guided_json"),
            guided_regex: take("guided_regex"),
            guided_choice: take("guided_choice"),
            guided_grammar: take("guided_grammar"),
            structured_outputs: take("structured_outputs"),
        };
        assert!(fields.is_empty(), "{fields:?}");
        formats.grammar().map_err(plain)
    }

    fn plain(error: ApiError) -> String {
        assert_eq!(error.status().as_u16(), 422);
        error.to_string().replacen("Input validation error: ", "", 1)
    }

    fn schema() -> Value {
        json!({"type": "object", "properties": {"b": {"type": "string"}, "a": {"type": "integer"}}})
    }

    fn schema_text() -> String {
        schema().to_string()
    }

    fn bound() -> Grammar {
        Grammar::JsonSchema(schema())
    }

    fn digits() -> Grammar {
        Grammar::Regex("[0-9]+".to_owned())
    }

    fn rules() -> Grammar {
        Grammar::Lark("start: \"x\"".to_owned())
    }

    #[test]
    fn native_spellings() {
        let cases = [
            (json!({"type": "json", "value": schema()}), bound()),
            (json!({"type": "json", "value": schema_text()}), bound()),
            (
                json!({"type": "json", "value": true}),
                Grammar::JsonSchema(json!(true)),
            ),
            (json!({"type": "json_object", "value": schema()}), bound()),
            (json!({"type": "json_object", "value": schema_text()}), bound()),
            (json!({"type": "json_object"}), Grammar::JsonObject),
            (json!({"type": "json_object", "value": null}), Grammar::JsonObject),
            (
                json!({"type": "json_schema", "value": {"schema": schema()}}),
                bound(),
            ),
            (
                json!({"type": "json_schema", "value": {"name": "n", "schema": schema(), "strict": true}}),
                bound(),
            ),
            (json!({"type": "json_schema", "value": schema()}), bound()),
            (json!({"type": "regex", "value": "[0-9]+", "more": 1}), digits()),
            (
                json!({"type": "json", "value": schema(), "schema": null}),
                bound(),
            ),
            (
                json!({"type": "json", "value": null, "schema": schema()}),
                bound(),
            ),
            (
                json!({"type": "regex", "value": "[0-9]+", "regex": "a"}),
                digits(),
            ),
            (json!({"type": "grammar", "value": "start: \"x\""}), rules()),
        ];
        for (value, grammar) in cases {
            assert_eq!(native(&value).map_err(plain), Ok(grammar), "{value}");
        }
    }

    #[test]
    fn native_refusals() {
        let kinds = "json, json_object, json_schema, regex, grammar";
        let cases = [
            (
                json!("json"),
                format!("`grammar` must be an object with `type`, one of {kinds}, but is a string"),
            ),
            (
                json!({}),
                format!("`grammar.type` must be one of {kinds}. Given: none"),
            ),
            (
                json!({"type": "xml", "value": "x"}),
                format!("`grammar.type` must be one of {kinds}. Given: \"xml\""),
            ),
            (
                json!({"type": "text"}),
                format!("`grammar.type` must be one of {kinds}. Given: \"text\""),
            ),
            (
                json!({"type": 7}),
                format!("`grammar.type` must be one of {kinds}. Given: 7"),
            ),
            (
                json!({"type": "json"}),
                "grammar is not valid: missing field `value` or `schema`".to_owned(),
            ),
            (
                json!({"type": "json", "value": 7}),
                "grammar is not supported".to_owned(),
            ),
            (
                json!({"type": "json", "value": {}, "schema": 7}),
                "grammar is not supported".to_owned(),
            ),
            (
                json!({"type": "json", "value": []}),
                "grammar is not supported".to_owned(),
            ),
            (
                json!({"type": "json", "value": "{"}),
                "grammar is not valid: EOF while parsing an object at line 1 column 1".to_owned(),
            ),
            (
                json!({"type": "json_schema", "value": {"name": "n"}}),
                "grammar is not valid: missing field `schema`".to_owned(),
            ),
            (
                json!({"type": "regex", "value": {}}),
                "grammar is not valid: a regex must be a string, but is an object".to_owned(),
            ),
            (
                json!({"type": "regex", "value": null}),
                "grammar is not valid: missing field `value` or `pattern` or `regex`".to_owned(),
            ),
        ];
        for (value, text) in cases {
            assert_eq!(native(&value).map_err(plain), Err(text), "{value}");
        }
    }

    #[test]
    fn spellings_of_v1() {
        let choice = Grammar::Choice(vec!["yes".to_owned(), String::new()]);
        let format = |value: Value| json!({"response_format": value});
        let cases = [
            (json!({}), None),
            (
                json!({"response_format": null, "guided_json": null, "structured_outputs": null}),
                None,
            ),
            (format(json!({"type": "text"})), None),
            (format(json!({"type": "json_object"})), Some(Grammar::JsonObject)),
            (
                format(json!({"type": "json_object", "value": schema()})),
                Some(bound()),
            ),
            (
                format(json!({"type": "json_object", "schema": schema()})),
                Some(bound()),
            ),
            (
                format(json!({"type": "json_schema",
                              "json_schema": {"name": "n", "schema": schema(), "strict": true}})),
                Some(bound()),
            ),
            (
                format(json!({"type": "json_schema", "value": {"name": "n", "schema": schema()}})),
                Some(bound()),
            ),
            (
                format(json!({"type": "json_schema", "value": schema()})),
                Some(bound()),
            ),
            (
                format(json!({"type": "json_schema", "schema": schema_text()})),
                Some(bound()),
            ),
            (
                format(json!({"type": "json", "value": schema_text()})),
                Some(bound()),
            ),
            (
                format(json!({"type": "regex", "value": "[0-9]+"})),
                Some(digits()),
            ),
            (
                format(json!({"type": "regex", "pattern": "[0-9]+"})),
                Some(digits()),
            ),
            (
                format(json!({"type": "regex", "regex": "[0-9]+"})),
                Some(digits()),
            ),
            (
                format(json!({"type": "grammar", "grammar": "start: \"x\""})),
                Some(rules()),
            ),
            (json!({"guided_json": schema()}), Some(bound())),
            (json!({"guided_json": schema_text()}), Some(bound())),
            (json!({"guided_regex": "[0-9]+"}), Some(digits())),
            (json!({"guided_choice": ["yes", ""]}), Some(choice.clone())),
            (json!({"guided_grammar": "start: \"x\""}), Some(rules())),
            (
                json!({"structured_outputs": {"json": schema(), "regex": null}}),
                Some(bound()),
            ),
            (json!({"structured_outputs": {"regex": "[0-9]+"}}), Some(digits())),
            (
                json!({"structured_outputs": {"choice": ["yes", ""]}}),
                Some(choice),
            ),
            (
                json!({"structured_outputs": {"grammar": "start: \"x\""}}),
                Some(rules()),
            ),
            (
                json!({"structured_outputs": {"json_object": true}}),
                Some(Grammar::JsonObject),
            ),
            (
                json!({"structured_outputs": {"json_object": false, "regex": "[0-9]+"}}),
                Some(digits()),
            ),
            (
                json!({"response_format": {"type": "text"}, "guided_regex": "[0-9]+"}),
                Some(digits()),
            ),
        ];
        for (request, grammar) in cases {
            assert_eq!(asked(request.clone()), Ok(grammar), "{request}");
        }
    }

    #[test]
    fn refusals_of_v1() {
        let kinds = "text, json_object, json_schema, json, regex, grammar";
        let cases = [
            (
                json!({"response_format": {"type": "xml"}}),
                format!("`response_format.type` must be one of {kinds}. Given: \"xml\""),
            ),
            (
                json!({"response_format": "json_object"}),
                format!("`response_format` must be an object with `type`, one of {kinds}, but is a string"),
            ),
            (
                json!({"response_format": {"type": "json_schema"}}),
                "grammar is not valid: missing field `json_schema` or `value` or `schema`".to_owned(),
            ),
            (
                json!({"response_format": {"type": "json_schema", "json_schema": {"name": "n"}}}),
                "grammar is not valid: missing field `schema`".to_owned(),
            ),
            (json!({"guided_json": 7}), format!("{NO_SCHEMA}a number")),
            (
                json!({"response_format": {"type": "json_schema", "json_schema": {"schema": []}}}),
                format!("{NO_SCHEMA}a list"),
            ),
            (
                json!({"guided_choice": "yes"}),
                "grammar is not valid: a choice must be a list of strings, but is a string".to_owned(),
            ),
            (
                json!({"guided_choice": ["yes", 7]}),
                "grammar is not valid: each choice must be a string, but is a number".to_owned(),
            ),
            (
                json!({"structured_outputs": []}),
                "`structured_outputs` must be an object, but is a list".to_owned(),
            ),
            (
                json!({"structured_outputs": {"json_object": false, "structural_tag": "x"}}),
                "`structured_outputs` must have one of json, regex, choice, grammar, json_object".to_owned(),
            ),
            (
                json!({"structured_outputs": {"json_object": 1}}),
                "`structured_outputs.json_object` must be a boolean, but is a number".to_owned(),
            ),
            (
                json!({"guided_json": schema(), "response_format": {"type": "json_object"}}),
                "`response_format` and `guided_json` cannot be used together".to_owned(),
            ),
            (
                json!({"structured_outputs": {"json": schema(), "regex": "a"}, "guided_choice": ["a"]}),
                "`guided_choice` and `structured_outputs.json` and `structured_outputs.regex` cannot be used together"
                    .to_owned(),
            ),
        ];
        for (request, text) in cases {
            assert_eq!(asked(request.clone()), Err(text), "{request}");
        }
    }
}
