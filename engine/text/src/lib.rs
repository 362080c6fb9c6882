//! Tokenizer, chat templates, renderer with loss masks, and the output stage's text state.
//!
//! Refuses to know requests, threads, HTTP and Python.

mod escape;
mod literal;
mod model_text;
mod native_form;
mod python_values;
mod renderer;
mod special_tokens;
mod stop;
mod stream;
mod template;
mod template_files;
mod token_table;
mod tokenizer;
mod utf8;
mod window;

pub use renderer::{MaskSource, MessageSpan, Prompt, RenderError, Rendered, Renderer};
pub use special_tokens::SpecialTokens;
pub use stream::{Piece, StopHit, StreamOptions, TextStream};
pub use template::{ChatInput, ChatTemplate, TemplateError, TemplateSource};
pub use template_files::is_llama2;
pub use tokenizer::{Encoding, Tokenizer, TokenizerError};
