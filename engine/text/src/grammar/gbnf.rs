//! GBNF (`root ::= "a" [b-c]*`), which clients of other servers write, in Lark's syntax. Knows its syntax and no meaning.

use std::collections::HashMap;
use std::iter::Peekable;
use std::str::Chars;

use super::GrammarError;

/// Characters of the grammar that a message quotes.
const LONGEST_QUOTE: usize = 40;

/// Whether a grammar has GBNF's sign of definition outside its comments.
pub(super) fn is_gbnf(text: &str) -> bool {
    text.lines().any(|line| {
        line.split(['#', '"', '/'])
            .next()
            .unwrap_or_default()
            .contains("::=")
    })
}

/// The same grammar in Lark's syntax. Rules are numbered, since Lark's names are of fewer letters; `root` is `start`.
///
/// # Errors
/// [`GrammarError::Invalid`] naming what cannot be read, or a rule that is missing or defined twice.
pub(super) fn to_lark(text: &str) -> Result<String, GrammarError> {
    let pieces = read(text)?;
    let begins = |at: usize| pieces.get(at + 1) == Some(&Piece::Define);
    let mut names = HashMap::new();
    for (at, piece) in pieces.iter().enumerate() {
        if let Piece::Name(name) = piece
            && begins(at)
            && names.insert(name.as_str(), names.len()).is_some()
        {
            return Err(GrammarError::Invalid(format!(
                "rule `{}` is defined twice",
                beginning(name)
            )));
        }
    }
    if !names.contains_key("root") {
        return Err(GrammarError::Invalid("there is no rule `root`".to_owned()));
    }
    let mut lark = String::new();
    for (at, piece) in pieces.iter().enumerate() {
        match piece {
            Piece::Name(name) => {
                let Some(number) = names.get(name.as_str()) else {
                    return Err(GrammarError::Invalid(format!(
                        "there is no rule `{}`",
                        beginning(name)
                    )));
                };
                lark.push_str(if begins(at) { "\n" } else { " " });
                if name == "root" {
                    lark.push_str("start");
                } else {
                    lark.push_str(&format!("rule_{number}"));
                }
            }
            Piece::Define if at > 0 && matches!(pieces[at - 1], Piece::Name(_)) => lark.push(':'),
            Piece::Define => {
                return Err(GrammarError::Invalid(
                    "`::=` must follow a rule's name".to_owned(),
                ));
            }
            Piece::Lark(part) => {
                lark.push(' ');
                lark.push_str(part);
            }
        }
    }
    lark.push('\n');
    Ok(lark)
}

/// A part of the grammar.
#[derive(Debug, PartialEq)]
enum Piece {
    /// A rule's name.
    Name(String),
    /// `::=`.
    Define,
    /// Anything else, as Lark writes it.
    Lark(String),
}

fn read(text: &str) -> Result<Vec<Piece>, GrammarError> {
    let mut pieces = Vec::new();
    let mut rest = text.chars().peekable();
    while let Some(first) = rest.next() {
        let piece = match first {
            _ if first.is_whitespace() => continue,
            '#' => {
                while rest.next_if(|&c| c != '\n').is_some() {}
                continue;
            }
            '"' => Piece::Lark(string(&mut rest)?),
            '[' => Piece::Lark(class(&mut rest)?),
            '{' => Piece::Lark(bounds(&mut rest)?),
            '.' => Piece::Lark("/(?s:.)/".to_owned()),
            '(' | ')' | '|' | '*' | '+' | '?' => Piece::Lark(first.to_string()),
            ':' if rest.next_if_eq(&':').is_some() && rest.next_if_eq(&'=').is_some() => Piece::Define,
            _ if first.is_ascii_alphabetic() || first == '_' => {
                let mut name = String::from(first);
                while let Some(next) = rest.next_if(|&c| c.is_ascii_alphanumeric() || "_-".contains(c)) {
                    name.push(next);
                }
                Piece::Name(name)
            }
            _ => return Err(GrammarError::Invalid(format!("{first:?} has no meaning in GBNF"))),
        };
        pieces.push(piece);
    }
    Ok(pieces)
}

/// Up to the closing quote. Both syntaxes have the same escapes.
fn string(rest: &mut Peekable<Chars<'_>>) -> Result<String, GrammarError> {
    let mut string = String::from('"');
    while let Some(next) = rest.next() {
        string.push(next);
        match next {
            '"' => return Ok(string),
            '\\' => string.extend(rest.next()),
            _ => {}
        }
    }
    Err(GrammarError::Invalid(format!(
        "{} has no closing quote",
        beginning(&string)
    )))
}

/// A class of characters as a regular expression, where more characters have a meaning.
fn class(rest: &mut Peekable<Chars<'_>>) -> Result<String, GrammarError> {
    let mut class = String::from("/[");
    while let Some(next) = rest.next() {
        match next {
            ']' => {
                class.push_str("]/");
                return Ok(class);
            }
            '\\' => {
                class.push('\\');
                class.extend(rest.next());
            }
            '[' | '/' | '&' | '~' => {
                class.push('\\');
                class.push(next);
            }
            '\n' => class.push_str("\\n"),
            _ => class.push(next),
        }
    }
    Err(GrammarError::Invalid("a class has no closing bracket".to_owned()))
}

/// How often something is repeated: `{2}`, `{2,}`, `{,3}` or `{2,3}`, which Lark reads too.
fn bounds(rest: &mut Peekable<Chars<'_>>) -> Result<String, GrammarError> {
    let mut bounds = String::from('{');
    while let Some(next) = rest.next_if(|&c| c.is_ascii_digit() || c == ',' || c == ' ') {
        if next != ' ' {
            bounds.push(next);
        }
    }
    if rest.next_if_eq(&'}').is_none() {
        return Err(GrammarError::Invalid(format!(
            "{} has no closing brace",
            beginning(&bounds)
        )));
    }
    bounds.push('}');
    Ok(bounds)
}

/// What a message quotes of a piece: a client may have written pages without a closing quote.
fn beginning(piece: &str) -> String {
    let line = piece.split('\n').next().unwrap_or_default();
    let mut start: String = line.chars().take(LONGEST_QUOTE).collect();
    if start.len() < piece.len() {
        start.push('…');
    }
    start
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_become_lark_s() {
        let sql = "# a query\nroot ::= select-it tail?  # the whole\nselect-it ::= \"SELECT \" column\n  \
                   | \"\\\"#\"\ncolumn ::= [a-z_/]{1,3} | ([^\"\\\\[] \"x\")*\nTail ::= .\ntail ::= Tail+";
        assert!(is_gbnf(sql));
        let lark = to_lark(sql).unwrap();
        let lines: Vec<String> = lark
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        assert_eq!(
            lines,
            [
                "",
                "start: rule_1 rule_4 ?",
                "rule_1: \"SELECT \" rule_2 | \"\\\"#\"",
                "rule_2: /[a-z_\\/]/ {1,3} | ( /[^\"\\\\\\[]/ \"x\" ) *",
                "rule_3: /(?s:.)/",
                "rule_4: rule_3 +",
            ]
        );
    }

    #[test]
    fn lark_is_not_taken_for_it() {
        assert!(!is_gbnf("start: \"::=\" A // ::=\nA: /::=/ # ::=\n"));
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let cases = [
            ("a ::= \"x\"", "there is no rule `root`"),
            ("root ::= b", "there is no rule `b`"),
            ("root ::= \"x\"\nroot ::= \"y\"", "rule `root` is defined twice"),
            ("root ::= \"x", "\"x has no closing quote"),
            ("root ::= \"x\ny ::= z", "\"x… has no closing quote"),
            ("root ::= [x", "a class has no closing bracket"),
            ("root ::= \"x\"{2", "{2 has no closing brace"),
            ("root ::= \"x\" ::= \"y\"", "`::=` must follow a rule's name"),
            ("root ::= <x>", "'<' has no meaning in GBNF"),
            ("root : x", "':' has no meaning in GBNF"),
        ];
        for (text, why) in cases {
            assert_eq!(to_lark(text).unwrap_err().to_string(), why, "{text}");
        }
        let long = to_lark(&format!("root ::= {}", "b".repeat(1000)))
            .unwrap_err()
            .to_string();
        assert_eq!(long, format!("there is no rule `{}…`", "b".repeat(LONGEST_QUOTE)));
    }
}
