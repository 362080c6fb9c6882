//! Grammars: what a generated text has to follow, compiled once, and the ids that each next token may have.
//!
//! The work is llguidance's; its types end in this room. Knows no request, no sampler and no spelling of a client's.

mod cache;
mod closed;
mod compiler;
mod gbnf;
mod source;
mod state;
mod vocabulary;

use serde_json::Value;
use thiserror::Error;

pub use self::compiler::GrammarCompiler;
pub use self::state::GrammarState;

/// What the whole of a text has to be.
#[derive(Clone, Debug, PartialEq)]
pub enum Grammar {
    /// JSON that fits a schema (an object or a boolean), properties in the schema's order, compact or with single spaces
    /// between its parts. Objects that list their properties have no others, unless the schema says so.
    JsonSchema(Value),
    /// Any JSON object, spaced likewise.
    JsonObject,
    /// A match of a regular expression, from the text's start to its end.
    Regex(String),
    /// One of some texts.
    Choice(Vec<String>),
    /// A context-free grammar in Lark's syntax, beginning with `start`; or in GBNF (`::=`), beginning with `root`.
    Lark(String),
}

/// Why a grammar cannot be used, or a text cannot go on. One line each.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum GrammarError {
    /// The grammar's text is longer than what is compiled.
    #[error("it has {bytes} bytes, but may have at most {max}")]
    TooLong {
        /// Its length.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// An object of a schema may be written in too many ways.
    #[error(
        "an object has {given} optional properties in a row, but may have at most {max}: name some in `required`, or divide it"
    )]
    TooManyOptional {
        /// How many.
        given: usize,
        /// The limit.
        max: usize,
    },
    /// A schema is of a kind of JSON that no schema is.
    #[error("a schema must be an object or a boolean, but is {0}")]
    NotASchema(&'static str),
    /// The schema `false`.
    #[error("the schema `false` allows nothing")]
    AllowsNothing,
    /// No text to choose.
    #[error("there must be at least one text to choose")]
    NoChoice,
    /// What is wrong with it, in the parser's words.
    #[error("{0}")]
    Invalid(String),
    /// The compiler has no end-of-sequence id, or only ids beyond the vocabulary.
    #[error("the model has no end-of-sequence token, which has to end a text under a grammar")]
    NoEnd,
    /// The grammar allows bytes here that no token has.
    #[error("no token of the vocabulary can continue the text")]
    DeadEnd,
    /// A token that the mask did not allow, or whose taking would be too much work.
    #[error("token {token} cannot follow: {why}")]
    Token {
        /// Its id.
        token: u32,
        /// Why not.
        why: String,
    },
    /// The mask is not one of this vocabulary.
    #[error("a mask has {words} words, but the one given has {given}")]
    MaskLength {
        /// What it must have.
        words: usize,
        /// What it has.
        given: usize,
    },
}

impl GrammarError {
    /// From the library's words, of which there may be a page.
    fn said(text: &str) -> Self {
        match one_line(text) {
            line if line == NO_EXTENSION => Self::DeadEnd,
            line => Self::Invalid(line),
        }
    }
}

/// The library's name for a state from which no token leads on.
const NO_EXTENSION: &str = "NoExtensionBias";
/// A message quotes the grammar at most so far.
const LONGEST_LINE: usize = 400;

/// The first line, and what a regular expression's parser says below its drawing.
fn one_line(text: &str) -> String {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or("no reason was given");
    let mut line = match lines.find_map(|line| line.strip_prefix("error: ")) {
        Some(why) => format!("{first} {why}"),
        None => first.to_owned(),
    };
    if let Some((end, _)) = line.char_indices().nth(LONGEST_LINE) {
        line.truncate(end);
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_one_line() {
        let drawing = "regex parse error:\n    (a\n    ^\nerror: unclosed group\n";
        let cases = [
            (drawing, "regex parse error: unclosed group"),
            (
                "at 2(7): unknown name\n   1 | start: B\n",
                "at 2(7): unknown name",
            ),
            ("\n  schema too large  ", "schema too large"),
            ("", "no reason was given"),
        ];
        for (text, line) in cases {
            assert_eq!(GrammarError::said(text), GrammarError::Invalid(line.to_owned()));
        }
        assert_eq!(
            GrammarError::said("NoExtensionBias\n<non-verbose/>"),
            GrammarError::DeadEnd
        );
        let long = one_line(&"é".repeat(1000));
        assert_eq!(long.chars().count(), LONGEST_LINE + 1);
    }
}
