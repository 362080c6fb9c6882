//! What a scan is asked to do.

use std::path::PathBuf;

use crate::ScanError;

/// The test's two numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Tokens that must be equal at an overlap's beginning; an overlap is longer than this. The paper's is 10.
    pub ngram: usize,
    /// Later tokens of an overlap that may differ. The paper's is 4.
    pub skip_budget: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            ngram: 10,
            skip_budget: 4,
        }
    }
}

impl Settings {
    /// Refuses numbers under which the test means nothing.
    pub fn validate(self) -> Result<Self, ScanError> {
        let refuse = |name, value: usize, low, high| ScanError::Setting {
            name,
            value,
            low,
            high,
        };
        if !(2..=1024).contains(&self.ngram) {
            return Err(refuse("ngram", self.ngram, 2, 1024));
        }
        if self.skip_budget > 256 {
            return Err(refuse("skip_budget", self.skip_budget, 0, 256));
        }
        Ok(self)
    }
}

/// How text is cut into tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// Runs of letters and digits, in lower case; each ideograph or kana is a token of its own.
    Words,
    /// Whatever stands between white space, to the letter.
    Whitespace,
}

/// How a training file is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One JSON object a line: a conversation record, or text in named fields.
    JsonLines,
    /// Running text.
    Text,
}

/// A training file.
#[derive(Clone, Debug)]
pub struct Source {
    /// Where it lies.
    pub path: PathBuf,
    /// How it is read.
    pub form: Form,
}
