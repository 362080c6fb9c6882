//! Tool calls in a model's answer: the forms that model families write them in, found while the text comes.
//!
//! A parser is fed visible text in pieces, cut anywhere, and the markers that are special tokens; it gives out text and
//! calls. Text that only looked like a call is given out as text. Knows no HTTP, no schemas and no prompt.

mod call;
mod json;
mod parser;

use std::str::FromStr;

use thiserror::Error;

pub use self::parser::ToolParser;

/// How a model family writes tool calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToolFormat {
    /// `<tool_call>{"name": …, "arguments": {…}}</tool_call>`: Hermes, Qwen-2.5, Qwen-3.
    Hermes,
    /// `{"name": …, "parameters": {…}}` as the answer, after `<|python_tag|>` or not, several with `;` between:
    /// Llama-3.
    Llama3,
    /// `[TOOL_CALLS][{"name": …, "arguments": {…}}, …]`, and the newer `[TOOL_CALLS]name[ARGS]{…}`: Mistral.
    Mistral,
    /// An answer that is nothing but an object or a list of objects with `name` (or `function`) and `arguments` (or
    /// `parameters`), in a ```` ```json ```` fence or not.
    Json,
}

/// No form has this name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("`tool_call_parser` must be \"auto\", \"hermes\", \"llama3\", \"mistral\" or \"json\", but is {0:?}")]
pub struct UnknownToolFormat(String);

/// What a parser found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToolEvent {
    /// Text of the answer.
    Text(String),
    /// A call begins. Calls are counted from 0.
    Start {
        /// Which call.
        index: usize,
        /// The tool's name.
        name: String,
    },
    /// More of a call's arguments: the JSON text as the model writes it.
    Arguments {
        /// Which call.
        index: usize,
        /// The text.
        fragment: String,
    },
    /// A call is complete. One that has no end was cut off.
    End {
        /// Which call.
        index: usize,
    },
    /// A call that began turned out to be none. Its number is not used again.
    Broken {
        /// Which call.
        index: usize,
        /// All its text: of the answer, as it is no call.
        raw: String,
    },
}

impl ToolFormat {
    /// The form of a name that settings use; none for "auto": it follows from the chat template.
    ///
    /// # Errors
    /// [`UnknownToolFormat`].
    pub fn from_setting(name: &str) -> Result<Option<Self>, UnknownToolFormat> {
        match name {
            "auto" => Ok(None),
            name => name.parse().map(Some),
        }
    }

    /// The form that a chat template asks the model for.
    #[must_use]
    pub fn of_template(template: &str) -> Self {
        let has = |text| template.contains(text);
        if has("[TOOL_CALLS]") {
            Self::Mistral
        } else if has("<tool_call>") && !has("<function=") && !has("<arg_key>") {
            // The others write the call itself in a markup of their own.
            Self::Hermes
        } else if has("<|python_tag|>") || (has("<|start_header_id|>") && has("\"parameters\"")) {
            Self::Llama3
        } else {
            Self::Json
        }
    }

    /// Texts that stand around calls. A tokenizer may have any of them as a special token, which visible text leaves
    /// out: then [`ToolParser::special`] must be told.
    #[must_use]
    pub fn markers(self) -> &'static [&'static str] {
        match self {
            Self::Hermes => &[parser::TOOL_CALL, parser::TOOL_CALL_END],
            Self::Llama3 => &[parser::PYTHON_TAG],
            Self::Mistral => &[parser::TOOL_CALLS, parser::ARGS, parser::CALL_ID],
            Self::Json => &[],
        }
    }
}

impl FromStr for ToolFormat {
    type Err = UnknownToolFormat;

    fn from_str(name: &str) -> Result<Self, UnknownToolFormat> {
        match name {
            "hermes" => Ok(Self::Hermes),
            "llama3" => Ok(Self::Llama3),
            "mistral" => Ok(Self::Mistral),
            "json" => Ok(Self::Json),
            _ => Err(UnknownToolFormat(name.to_owned())),
        }
    }
}
