//! The chat request and answer as they are on the wire. Nulls are taken for absence.

use schemars::JsonSchema;
use serde::de::{Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::body::Stop;
use crate::number::{Seed, Single};
use crate::object::Object;
use crate::openapi::shapes;
use crate::routes::openai::answer::Usage;
use crate::routes::openai::format::Formats;
use crate::routes::openai::logprobs::ChatLogprobs;
use crate::routes::openai::names::Sent;
use crate::routes::openai::request::{V1Request, v1_request};
use crate::routes::openai::sampling::Fields;

v1_request! {
    /// OpenAI's fields, and beside them TGI's, vLLM's and those of our own sampler.
    pub(crate) struct ChatRequest {
        pub(crate) messages: Vec<Message>,
        /// Log-probabilities are told.
        #[schemars(extend("default" = false))]
        pub(crate) logprobs: Option<bool>,
        /// Beside `logprobs`: those of so many of the likeliest tokens.
        #[schemars(extend("x-cap" = {"maximum": "max-top-n-tokens"}))]
        pub(crate) top_logprobs: Option<u32>,
        /// Most tokens to generate; up to the context's end if absent.
        #[schemars(extend("minimum" = 1))]
        pub(crate) max_tokens: Option<u32>,
        /// OpenAI's newer name of `max_tokens`; it wins.
        #[schemars(extend("minimum" = 1))]
        pub(crate) max_completion_tokens: Option<u32>,
        /// Each name once.
        #[schemars(with = "Option<Vec<shapes::Tool>>")]
        pub(crate) tools: Option<Value>,
        #[schemars(with = "Option<shapes::ToolChoice>")]
        pub(crate) tool_choice: Option<Value>,
        /// TGI's: how to ask for a call, where the template does not.
        pub(crate) tool_prompt: Option<String>,
        /// Several calls may be made at once.
        #[schemars(extend("default" = true))]
        pub(crate) parallel_tool_calls: Option<bool>,
        /// Of OpenAI's first form of tools, which is refused.
        #[schemars(with = "Option<shapes::NoFunctions>")]
        pub(crate) functions: Option<Value>,
        /// As `functions`.
        #[schemars(with = "Option<shapes::NoFunctionCall>")]
        pub(crate) function_call: Option<Value>,
        /// Further variables of the template.
        pub(crate) chat_template_kwargs: Option<Map<String, Value>>,
        /// Whether the prompt ends with the header of an answer.
        #[schemars(extend("default" = true))]
        pub(crate) add_generation_prompt: Option<bool>,
        /// Whether the prompt ends inside the last message; unless told otherwise it does if that is the assistant's.
        pub(crate) continue_final_message: Option<bool>,
    }
}

impl V1Request for ChatRequest {
    fn streams(&self) -> bool {
        self.stream.unwrap_or(false)
    }

    fn sent(&self) -> Sent {
        let tools = self.tools.as_ref().map(|_| "tools");
        Sent {
            length: match self.max_completion_tokens {
                Some(_) => "`max_completion_tokens`",
                None => Sent::default().length,
            },
            grammar: self.grammar_field().or(tools),
        }
    }
}

/// What a stream carries besides text.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct StreamOptions {
    /// A last chunk tells the usage.
    #[schemars(extend("default" = false))]
    pub(crate) include_usage: Option<bool>,
}

/// One turn of the conversation.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(extend("anyOf" = [
    {"required": ["content"], "properties": {"content": {"not": {"type": "null"}}}},
    {"required": ["tool_calls"], "properties": {"tool_calls": {"not": {"type": "null"}}}},
]))]
pub(crate) struct Message {
    /// `system`, `user`, `assistant`, `tool`, or what else the chat template knows.
    pub(crate) role: String,
    /// May only be absent beside `tool_calls`.
    pub(crate) content: Option<Content>,
    pub(crate) name: Option<String>,
    #[schemars(with = "Option<shapes::PastCalls>")]
    pub(crate) tool_calls: Option<Value>,
    /// Of a turn that answers a call: which one.
    pub(crate) tool_call_id: Option<String>,
    /// What else there is; templates may look at it.
    #[serde(flatten)]
    pub(crate) rest: Map<String, Value>,
}

/// A turn's text, whole or in parts.
#[derive(Debug, JsonSchema)]
#[schemars(untagged)]
pub(crate) enum Content {
    Text(String),
    Parts(Vec<Object<TextPart>>),
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextOrParts;

        impl<'de> Visitor<'de> for TextOrParts {
            type Value = Content;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("a string or a sequence of text parts")
            }

            fn visit_str<E>(self, text: &str) -> Result<Content, E> {
                Ok(Content::Text(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Content, A::Error> {
                let mut parts = Vec::new();
                while let Some(part) = seq.next_element()? {
                    parts.push(part);
                }
                Ok(Content::Parts(parts))
            }
        }

        deserializer.deserialize_any(TextOrParts)
    }
}

/// One part; its kind tells which field counts.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct TextPart {
    #[serde(rename = "type")]
    #[schemars(extend("const" = "text"))]
    pub(crate) kind: String,
    #[schemars(with = "String")]
    pub(crate) text: Option<String>,
}

/// The whole answer.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ChatCompletion {
    #[schemars(extend("const" = "chat.completion"))]
    pub(crate) object: &'static str,
    pub(crate) id: String,
    /// Unix seconds.
    pub(crate) created: u64,
    pub(crate) model: String,
    pub(crate) system_fingerprint: String,
    pub(crate) choices: Vec<ChatChoice>,
    pub(crate) usage: Usage,
}

/// One of the answer's choices.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ChatChoice {
    pub(crate) index: u32,
    pub(crate) message: AssistantMessage,
    pub(crate) logprobs: Option<ChatLogprobs>,
    /// `stop_sequence` in TGI's wording only.
    #[schemars(extend("enum" = ["stop", "length", "tool_calls", "stop_sequence"]))]
    pub(crate) finish_reason: &'static str,
}

/// What the model said.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct AssistantMessage {
    #[schemars(extend("const" = "assistant"))]
    pub(crate) role: &'static str,
    /// Null beside calls; TGI then has no such key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) content: Option<Option<String>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) tool_calls: Vec<ToolCall>,
}

/// A call that the model made.
#[derive(Debug, PartialEq, Serialize, JsonSchema)]
pub(crate) struct ToolCall {
    pub(crate) id: String,
    #[serde(rename = "type")]
    #[schemars(extend("const" = "function"))]
    pub(crate) kind: &'static str,
    pub(crate) function: CalledFunction,
}

/// Which tool, and with what.
#[derive(Debug, PartialEq, Serialize, JsonSchema)]
pub(crate) struct CalledFunction {
    /// TGI's, always null.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<()>")]
    pub(crate) description: Option<Value>,
    pub(crate) name: String,
    /// JSON text.
    pub(crate) arguments: String,
}

/// One event of a stream. The bytes are [`crate::routes::openai::stream`]'s.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "it says what is written by hand")]
pub(crate) struct ChatCompletionChunk {
    #[schemars(extend("const" = "chat.completion.chunk"))]
    object: String,
    id: String,
    /// Unix seconds.
    created: u64,
    model: String,
    system_fingerprint: String,
    /// Empty in the chunk that tells the usage.
    choices: Vec<ChatPart>,
    /// Null before the last chunk, which comes if it was asked for.
    usage: Option<Usage>,
}

/// What an event adds to a choice.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "it says what is written by hand")]
pub(crate) struct ChatPart {
    index: u32,
    delta: ChatDelta,
    logprobs: Option<ChatLogprobs>,
    /// Null before the choice's end; `stop_sequence` in TGI's wording only.
    #[schemars(extend("enum" = ["stop", "length", "tool_calls", "stop_sequence", null]))]
    finish_reason: Option<String>,
}

/// What it adds to the message.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "it says what is written by hand")]
pub(crate) struct ChatDelta {
    /// In a choice's first event; in each of TGI's wording.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", extend("const" = "assistant"))]
    role: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<CallDelta>,
}

/// What it adds to a call.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "it says what is written by hand")]
pub(crate) struct CallDelta {
    index: u32,
    /// In a call's first event; in each of TGI's wording. So is `type`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    id: Option<String>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", extend("const" = "function"))]
    kind: Option<String>,
    function: FunctionDelta,
}

/// What it adds to what is called.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "it says what is written by hand")]
pub(crate) struct FunctionDelta {
    /// In a call's first event; null in the later ones of TGI's wording.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// The next piece of the arguments' JSON text.
    arguments: String,
}
