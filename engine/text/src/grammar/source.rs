//! What llguidance is given for a grammar, and the key under which the compiled one is kept.

use std::collections::HashSet;

use llguidance::JsonCompileOptions;
use llguidance::api::TopLevelGrammar;
use llguidance::derivre::RegexBuilder;
use serde_json::{Map, Value, json};

use super::closed::{close, each_object};
use super::{Grammar, GrammarError, gbnf};

/// Longest schema, regular expression or list of choices, in bytes.
const LONGEST_TEXT: usize = 256 << 10;
/// Longest context-free grammar: the library descends deeper into these.
const LONGEST_LARK: usize = 64 << 10;

/// Most properties of an object that may be left out and follow each other: each of a text's steps looks at all of them.
pub(super) const MOST_OPTIONAL: usize = 1000;

/// The grammar's text behind its kind: equal for equal grammars only.
///
/// # Errors
/// [`GrammarError::TooLong`].
pub(super) fn key(grammar: &Grammar) -> Result<String, GrammarError> {
    let (kind, text, max) = match grammar {
        Grammar::JsonSchema(schema) => ("json", schema.to_string(), LONGEST_TEXT),
        Grammar::JsonObject => ("object", String::new(), LONGEST_TEXT),
        Grammar::Regex(regex) => ("regex", regex.clone(), LONGEST_TEXT),
        Grammar::Choice(texts) => ("choice", json!(texts).to_string(), LONGEST_TEXT),
        Grammar::Lark(lark) => ("lark", lark.clone(), LONGEST_LARK),
    };
    if text.len() > max {
        return Err(GrammarError::TooLong {
            bytes: text.len(),
            max,
        });
    }
    Ok(format!("{kind} {text}"))
}

/// The grammar in the library's own form.
///
/// # Errors
/// What is seen to be wrong with it before it is compiled.
pub(super) fn top_level(grammar: &Grammar) -> Result<TopLevelGrammar, GrammarError> {
    match grammar {
        Grammar::JsonSchema(schema) => json_schema(schema),
        Grammar::JsonObject => json_schema(&json!({"type": "object"})),
        Grammar::Regex(regex) => {
            // Said about the expression itself, without the place in the grammar that is made of it.
            RegexBuilder::new()
                .mk_regex(regex)
                .map_err(|error| GrammarError::said(&error.to_string()))?;
            // `//` would begin a comment.
            Ok(if regex.is_empty() {
                choice(&[String::new()])
            } else {
                TopLevelGrammar::from_regex(regex)
            })
        }
        Grammar::Choice(texts) if texts.is_empty() => Err(GrammarError::NoChoice),
        Grammar::Choice(texts) => Ok(choice(texts)),
        Grammar::Lark(text) if gbnf::is_gbnf(text) => Ok(TopLevelGrammar::from_lark(gbnf::to_lark(text)?)),
        Grammar::Lark(text) => Ok(TopLevelGrammar::from_lark(text.clone())),
    }
}

fn json_schema(schema: &Value) -> Result<TopLevelGrammar, GrammarError> {
    let mut schema = match schema {
        Value::Object(_) => schema.clone(),
        Value::Bool(true) => json!({}),
        Value::Bool(false) => return Err(GrammarError::AllowsNothing),
        Value::Null => return Err(GrammarError::NotASchema("null")),
        Value::Number(_) => return Err(GrammarError::NotASchema("a number")),
        Value::String(_) => return Err(GrammarError::NotASchema("a string")),
        Value::Array(_) => return Err(GrammarError::NotASchema("an array")),
    };
    let options = JsonCompileOptions {
        // One space at most: with more, a model may go on with spaces for ever.
        whitespace_pattern: Some(" ".to_owned()),
        // Options that overlap are not told apart.
        coerce_one_of: true,
        ..JsonCompileOptions::default()
    };
    let mut longest = 0;
    each_object(&mut schema, &mut |fields| longest = longest.max(optional(fields)));
    if longest > MOST_OPTIONAL {
        return Err(GrammarError::TooManyOptional {
            given: longest,
            max: MOST_OPTIONAL,
        });
    }
    close(&mut schema);
    options.apply_to(&mut schema);
    Ok(TopLevelGrammar::from_json_schema(schema))
}

/// The longest row of an object's properties that may be left out.
fn optional(fields: &Map<String, Value>) -> usize {
    let Some(Value::Object(properties)) = fields.get("properties") else {
        return 0;
    };
    let names = fields.get("required").and_then(Value::as_array);
    let required: HashSet<&str> = names.into_iter().flatten().filter_map(Value::as_str).collect();
    let (mut longest, mut row) = (0, 0);
    for name in properties.keys() {
        row = if required.contains(name.as_str()) {
            0
        } else {
            row + 1
        };
        longest = longest.max(row);
    }
    longest
}

/// One terminal for all texts, so that one may begin with another. The empty text is no terminal.
fn choice(texts: &[String]) -> TopLevelGrammar {
    let literals: Vec<String> = texts
        .iter()
        .filter(|text| !text.is_empty())
        .map(|text| literal(text))
        .collect();
    let lark = if literals.is_empty() {
        "start: \"\"\n".to_owned()
    } else {
        let empty = if literals.len() < texts.len() {
            " | \"\""
        } else {
            ""
        };
        format!("start: CHOICE{empty}\nCHOICE: {}\n", literals.join(" | "))
    };
    TopLevelGrammar::from_lark(lark)
}

/// Lark's literals are JSON's, but for the DEL character, which has to be escaped.
fn literal(text: &str) -> String {
    Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_tell_kinds_and_orders_apart_but_not_spacing() {
        let schema = |text: &str| key(&Grammar::JsonSchema(serde_json::from_str(text).unwrap())).unwrap();
        assert_eq!(schema(r#"{ "a": 1,  "b":2 }"#), schema(r#"{"a":1,"b":2}"#));
        assert_ne!(schema(r#"{"a":1,"b":2}"#), schema(r#"{"b":2,"a":1}"#));
        let kinds = [
            Grammar::Regex("a".to_owned()),
            Grammar::Lark("a".to_owned()),
            Grammar::Choice(vec!["a".to_owned()]),
            Grammar::Choice(vec!["a".to_owned(), String::new()]),
            Grammar::JsonSchema(Value::from("a")),
            Grammar::JsonObject,
        ];
        for (i, one) in kinds.iter().enumerate() {
            for other in &kinds[..i] {
                assert_ne!(key(one).unwrap(), key(other).unwrap());
            }
        }
    }

    #[test]
    fn texts_have_a_longest() {
        let cases = [
            (Grammar::Regex("a".repeat(LONGEST_TEXT)), true),
            (Grammar::Regex("a".repeat(LONGEST_TEXT + 1)), false),
            (Grammar::Lark("a".repeat(LONGEST_LARK)), true),
            (Grammar::Lark("a".repeat(LONGEST_LARK + 1)), false),
            (Grammar::Choice(vec!["a".repeat(LONGEST_TEXT)]), false),
        ];
        for (grammar, fits) in cases {
            assert_eq!(key(&grammar).is_ok(), fits);
        }
        let error = key(&Grammar::Lark("a".repeat(LONGEST_LARK + 1))).unwrap_err();
        assert_eq!(
            error.to_string(),
            "it has 65537 bytes, but may have at most 65536"
        );
    }

    #[test]
    fn literals_are_escaped() {
        assert_eq!(literal("a\"\\\n\u{7f}é/"), r#""a\"\\\n\u007fé/""#);
    }
}
