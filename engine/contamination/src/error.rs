//! Why a scan could not be made.

use std::path::PathBuf;

use thiserror::Error;

/// Why a scan could not be made.
#[derive(Debug, Error)]
pub enum ScanError {
    /// A number is outside its range.
    #[error("{name} is {value}; it must lie between {low} and {high}")]
    Setting {
        /// Which.
        name: &'static str,
        /// What was given.
        value: usize,
        /// Least.
        low: usize,
        /// Most.
        high: usize,
    },
    /// A share is none.
    #[error("the share above which tokens are ignored is {share}; it must lie between 0 and 1")]
    Share {
        /// What was given.
        share: f64,
    },
    /// Not every sample has its set.
    #[error("{sets} sets were given for {samples} samples; each sample has one")]
    Sets {
        /// How many sets.
        sets: usize,
        /// How many samples.
        samples: usize,
    },
    /// A file could not be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Bytes that are not UTF-8.
    #[error("{path}:{line} is not UTF-8 text; convert the file first")]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// The line, from 1; for running text the first line of the piece.
        line: u64,
    },
    /// A line that is not JSON.
    #[error("{path}:{line} is not a JSON object: {reason}")]
    Json {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// What the parser said.
        reason: String,
    },
    /// A JSON line in which there is no text to compare.
    #[error(
        "{path}:{line} has neither `messages` nor {wanted} (its keys: {keys}); name the field that holds its text"
    )]
    NoText {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// Fields that were looked for.
        wanted: String,
        /// Fields that are there.
        keys: String,
    },
    /// A line longer than any record should be.
    #[error("{path}:{line} is longer than {limit} bytes: is the file JSON lines?")]
    LineTooLong {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// The most bytes.
        limit: usize,
    },
    /// The evaluation set has too many tokens for its index.
    #[error("the evaluation set has more than {limit} tokens; split it")]
    TooManyTokens {
        /// The most tokens.
        limit: u32,
    },
    /// A tokenizer refused a text.
    #[error("the tokenizer refuses a text: {0}")]
    Tokens(String),
    /// A file that was scanned is no longer what it was.
    #[error("{path} changed while it was scanned; scan it again")]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// The caller asked to stop.
    #[error("the scan was stopped")]
    Stopped,
    /// A worker thread ended without a result.
    #[error("a worker thread failed; this is a defect of agentlm")]
    Worker,
}
