//! Tokenizer, chat templates, renderer with loss masks, grammars, and the output stage's text state.
//!
//! Refuses to know requests, threads, HTTP and Python. The only thread that starts here compiles a grammar and ends: it
//! is there for its stack.

mod escape;
mod grammar;
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
mod tools;
mod utf8;
mod window;

pub use grammar::{Grammar, GrammarCompiler, GrammarError, GrammarState};
pub use renderer::{MaskSource, MessageSpan, Prompt, RenderError, Rendered, Renderer};
pub use special_tokens::SpecialTokens;
pub use stream::{Piece, StopHit, StreamOptions, TextStream};
pub use template::{ChatInput, ChatTemplate, TemplateError, TemplateSource};
pub use template_files::is_llama2;
pub use tokenizer::{Encoding, Tokenizer, TokenizerError};
pub use tools::{ToolEvent, ToolFormat, ToolParser, UnknownToolFormat};
