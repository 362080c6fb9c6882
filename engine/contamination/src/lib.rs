//! agentlm-contamination finds the tokens of an evaluation set that stand in training text.
//!
//! The test is Llama-2's, which AgentTuning used: an *overlap* is a stretch of an evaluation sample that stands in the training
//! text too. Its first `ngram` tokens are equal, it is longer than `ngram`, at most `skip_budget` of its later tokens
//! differ, and its last one does not. A token is contaminated if it lies in an overlap; a skipped token lies in its overlap.
//!
//! The evaluation set is indexed, the training text is streamed over it: memory grows with the former only. Every match is
//! compared token for token, so that a hash that collides costs time and never a false positive. Knows no Python, no
//! checkpoint and no report.

mod coverage;
mod error;
mod index;
mod matcher;
mod parts;
mod pieces;
mod scan;
mod settings;
mod words;

pub use coverage::{Excerpt, Overlap, Place, SampleReport};
pub use error::ScanError;
pub use scan::{Progress, Scan};
pub use settings::{Form, Settings, Source, TokenKind};
pub use words::{Encode, Token};
