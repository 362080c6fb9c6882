//! Text to tokens. Refuses to know what is compared.
//!
//! A training word that the evaluation set does not have gets `UNKNOWN`, which equals nothing: the training text's own
//! vocabulary is never stored.

use rustc_hash::FxHashMap;

use crate::ScanError;
use crate::settings::TokenKind;

/// A training word that is not in the evaluation set.
pub(crate) const UNKNOWN: u32 = u32::MAX;
/// Stands between the evaluation set's texts.
pub(crate) const BORDER: u32 = u32::MAX - 1;

/// A token and the bytes of the text that it stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// Equal tokens have equal ids.
    pub id: u32,
    /// First byte.
    pub start: u32,
    /// Byte behind the last.
    pub end: u32,
}

/// A checkpoint's tokenizer, as far as a scan needs it.
pub trait Encode: Send + Sync {
    /// Appends the text's tokens. Ids must be below 2^32 - 2; special tokens are not added.
    fn encode(&self, text: &str, tokens: &mut Vec<Token>) -> Result<(), String>;
}

/// How this scan cuts text.
pub(crate) enum Tokens {
    Words(Vocabulary),
    Model(Box<dyn Encode>),
}

impl Tokens {
    /// Appends an evaluation text's tokens; new words get new ids.
    pub fn learn(&mut self, text: &str, out: &mut Vec<Token>) -> Result<(), ScanError> {
        match self {
            Self::Words(vocabulary) => {
                vocabulary.learn(text, out);
                Ok(())
            }
            Self::Model(model) => model.encode(text, out).map_err(ScanError::Tokens),
        }
    }

    /// Appends a training text's tokens.
    pub fn split(&self, text: &str, scratch: &mut Vec<u8>, out: &mut Vec<Token>) -> Result<(), ScanError> {
        match self {
            Self::Words(vocabulary) => {
                vocabulary.split(text, scratch, out);
                Ok(())
            }
            Self::Model(model) => model.encode(text, out).map_err(ScanError::Tokens),
        }
    }
}

/// The evaluation set's words.
pub(crate) struct Vocabulary {
    kind: TokenKind,
    ids: FxHashMap<Box<[u8]>, u32>,
}

impl Vocabulary {
    pub fn new(kind: TokenKind) -> Self {
        Self {
            kind,
            ids: FxHashMap::default(),
        }
    }

    fn learn(&mut self, text: &str, out: &mut Vec<Token>) {
        let ids = &mut self.ids;
        cut(self.kind, text, &mut Vec::new(), |word, start, end| {
            let next = ids.len() as u32;
            let id = match ids.get(word) {
                Some(&id) => id,
                None => *ids.entry(word.into()).or_insert(next),
            };
            out.push(token(id, start, end));
        });
    }

    fn split(&self, text: &str, scratch: &mut Vec<u8>, out: &mut Vec<Token>) {
        cut(self.kind, text, scratch, |word, start, end| {
            out.push(token(self.ids.get(word).copied().unwrap_or(UNKNOWN), start, end));
        });
    }
}

fn token(id: u32, start: usize, end: usize) -> Token {
    Token {
        id,
        start: start as u32,
        end: end as u32,
    }
}

/// Calls `each(the word as it is compared, first byte, byte behind the last)`.
fn cut(kind: TokenKind, text: &str, scratch: &mut Vec<u8>, each: impl FnMut(&[u8], usize, usize)) {
    match kind {
        TokenKind::Words => cut_words(text, scratch, each),
        TokenKind::Whitespace => cut_whitespace(text, each),
    }
}

fn cut_whitespace(text: &str, mut each: impl FnMut(&[u8], usize, usize)) {
    let bytes = text.as_bytes();
    let mut start = None;
    for (at, char) in text.char_indices() {
        if char.is_whitespace() {
            if let Some(start) = start.take() {
                each(&bytes[start..at], start, at);
            }
        } else if start.is_none() {
            start = Some(at);
        }
    }
    if let Some(start) = start {
        each(&bytes[start..], start, bytes.len());
    }
}

/// Lower case of ASCII letters and digits, 0 of any other byte.
const ASCII_WORD: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 128 {
        if (byte as u8).is_ascii_alphanumeric() {
            table[byte] = (byte as u8).to_ascii_lowercase();
        }
        byte += 1;
    }
    table
};

fn cut_words(text: &str, word: &mut Vec<u8>, mut each: impl FnMut(&[u8], usize, usize)) {
    let bytes = text.as_bytes();
    let mut start = 0;
    let mut at = 0;
    word.clear();
    while at < bytes.len() {
        let byte = bytes[at];
        let lower = ASCII_WORD[byte as usize];
        if lower != 0 {
            if word.is_empty() {
                start = at;
            }
            word.push(lower);
            at += 1;
            continue;
        }
        let (char, width) = if byte < 0x80 {
            (byte as char, 1)
        } else {
            match text[at..].chars().next() {
                Some(char) => (char, char.len_utf8()),
                None => break,
            }
        };
        let alone = stands_alone(char);
        if !alone && char.is_alphanumeric() {
            if word.is_empty() {
                start = at;
            }
            for lower in char.to_lowercase() {
                word.extend_from_slice(lower.encode_utf8(&mut [0; 4]).as_bytes());
            }
        } else {
            if !word.is_empty() {
                each(word, start, at);
                word.clear();
            }
            if alone {
                each(&bytes[at..at + width], at, at + width);
            }
        }
        at += width;
    }
    if !word.is_empty() {
        each(word, start, bytes.len());
    }
}

/// Scripts written without spaces: Han, kana. (Unicode blocks; Hangul has spaces.)
fn stands_alone(char: char) -> bool {
    matches!(char,
        '\u{3040}'..='\u{30FF}' | '\u{31F0}'..='\u{31FF}' | '\u{3400}'..='\u{4DBF}' | '\u{4E00}'..='\u{9FFF}'
        | '\u{F900}'..='\u{FAFF}' | '\u{20000}'..='\u{3FFFF}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(kind: TokenKind, text: &str) -> Vec<String> {
        let mut found = Vec::new();
        cut(kind, text, &mut Vec::new(), |word, start, end| {
            assert!(text.is_char_boundary(start) && text.is_char_boundary(end) && start < end);
            found.push(String::from_utf8(word.to_vec()).unwrap());
        });
        found
    }

    #[test]
    fn words_are_lower_case_runs_of_letters_and_digits() {
        assert_eq!(
            words(TokenKind::Words, "Ann's 3 cats,\n\"ÉTÉ\"!"),
            ["ann", "s", "3", "cats", "été"]
        );
        assert_eq!(words(TokenKind::Words, "日本ab 語"), ["日", "本", "ab", "語"]);
        assert!(words(TokenKind::Words, " ...\t").is_empty());
    }

    #[test]
    fn white_space_alone_cuts_the_other_kind() {
        assert_eq!(
            words(TokenKind::Whitespace, " Ann's  3\u{a0}cats,"),
            ["Ann's", "3", "cats,"]
        );
    }

    #[test]
    fn a_training_word_that_the_set_lacks_equals_nothing() {
        let mut vocabulary = Vocabulary::new(TokenKind::Words);
        let (mut known, mut split) = (Vec::new(), Vec::new());
        vocabulary.learn("one two one", &mut known);
        vocabulary.split("Two three", &mut Vec::new(), &mut split);
        assert_eq!(known.iter().map(|token| token.id).collect::<Vec<_>>(), [0, 1, 0]);
        assert_eq!(
            split.iter().map(|token| token.id).collect::<Vec<_>>(),
            [1, UNKNOWN]
        );
    }
}
