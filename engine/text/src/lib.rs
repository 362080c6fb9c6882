//! Tokenizer, chat templates, renderer with loss masks, and the output stage's text state.
//!
//! Refuses to know requests, threads, HTTP and Python.

mod literal;
mod special_tokens;
mod stop;
mod stream;
mod token_table;
mod tokenizer;
mod utf8;
mod window;

pub use special_tokens::SpecialTokens;
pub use stream::{Piece, StopHit, StreamOptions, TextStream};
pub use tokenizer::{Encoding, Tokenizer, TokenizerError};
