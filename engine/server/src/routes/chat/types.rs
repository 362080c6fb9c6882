//! The chat request and answer as they are on the wire. Nulls are taken for absence.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::body::Stop;
use crate::routes::openai::answer::Usage;
use crate::routes::openai::logprobs::ChatLogprobs;

/// OpenAI's fields, and beside them TGI's, vLLM's and those of our own sampler.
#[derive(Debug, Deserialize)]
pub(crate) struct ChatRequest {
    pub(crate) messages: Vec<Message>,
    pub(crate) model: Option<String>,
    pub(crate) frequency_penalty: Option<f32>,
    pub(crate) presence_penalty: Option<f32>,
    pub(crate) repetition_penalty: Option<f32>,
    pub(crate) logit_bias: Option<Value>,
    pub(crate) logprobs: Option<bool>,
    pub(crate) top_logprobs: Option<u32>,
    pub(crate) max_tokens: Option<u32>,
    /// OpenAI's newer name; it wins.
    pub(crate) max_completion_tokens: Option<u32>,
    pub(crate) min_tokens: Option<u32>,
    pub(crate) ignore_eos: Option<bool>,
    pub(crate) n: Option<u32>,
    pub(crate) stop: Option<Stop>,
    pub(crate) stream: Option<bool>,
    pub(crate) stream_options: Option<StreamOptions>,
    pub(crate) seed: Option<u64>,
    pub(crate) temperature: Option<f32>,
    pub(crate) top_p: Option<f32>,
    pub(crate) top_k: Option<i32>,
    pub(crate) min_p: Option<f32>,
    pub(crate) typical_p: Option<f32>,
    pub(crate) tools: Option<Value>,
    pub(crate) tool_choice: Option<Value>,
    /// TGI's: how to ask for a call, where the template does not.
    pub(crate) tool_prompt: Option<String>,
    pub(crate) parallel_tool_calls: Option<bool>,
    /// Of OpenAI's first form of tools, which is refused.
    pub(crate) functions: Option<Value>,
    /// As `functions`.
    pub(crate) function_call: Option<Value>,
    pub(crate) response_format: Option<Value>,
    pub(crate) guided_json: Option<Value>,
    pub(crate) guided_regex: Option<Value>,
    pub(crate) guided_choice: Option<Value>,
    pub(crate) guided_grammar: Option<Value>,
    pub(crate) structured_outputs: Option<Value>,
    /// Further variables of the template.
    pub(crate) chat_template_kwargs: Option<Map<String, Value>>,
    /// Whether the prompt ends with the header of an answer.
    pub(crate) add_generation_prompt: Option<bool>,
    /// Whether the prompt ends inside the last message; unless told otherwise it does if that is the assistant's.
    pub(crate) continue_final_message: Option<bool>,
}

/// What a stream carries besides text.
#[derive(Debug, Deserialize)]
pub(crate) struct StreamOptions {
    pub(crate) include_usage: Option<bool>,
}

/// One turn of the conversation.
#[derive(Debug, Deserialize)]
pub(crate) struct Message {
    pub(crate) role: String,
    pub(crate) content: Option<Content>,
    pub(crate) name: Option<String>,
    pub(crate) tool_calls: Option<Value>,
    pub(crate) tool_call_id: Option<String>,
    /// What else there is; templates may look at it.
    #[serde(flatten)]
    pub(crate) rest: Map<String, Value>,
}

/// A turn's text, whole or in parts.
#[derive(Debug, Deserialize)]
#[serde(
    untagged,
    expecting = "data did not match any variant of untagged enum MessageBody"
)]
pub(crate) enum Content {
    Text(String),
    Parts(Vec<Part>),
}

/// One part; its kind tells which field counts.
#[derive(Debug, Deserialize)]
pub(crate) struct Part {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) text: Option<String>,
}

/// The whole answer.
#[derive(Debug, Serialize)]
pub(crate) struct ChatCompletion {
    pub(crate) object: &'static str,
    pub(crate) id: String,
    pub(crate) created: u64,
    pub(crate) model: String,
    pub(crate) system_fingerprint: String,
    pub(crate) choices: Vec<ChatChoice>,
    pub(crate) usage: Usage,
}

/// One of the answer's choices.
#[derive(Debug, Serialize)]
pub(crate) struct ChatChoice {
    pub(crate) index: u32,
    pub(crate) message: AssistantMessage,
    pub(crate) logprobs: Option<ChatLogprobs>,
    pub(crate) finish_reason: &'static str,
}

/// What the model said.
#[derive(Debug, Serialize)]
pub(crate) struct AssistantMessage {
    pub(crate) role: &'static str,
    /// Null beside calls; TGI then has no such key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) content: Option<Option<String>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) tool_calls: Vec<ToolCall>,
}

/// A call that the model made.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct ToolCall {
    pub(crate) id: String,
    #[serde(rename = "type")]
    pub(crate) kind: &'static str,
    pub(crate) function: CalledFunction,
}

/// Which tool, and with what.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct CalledFunction {
    /// TGI's, always null.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) description: Option<Value>,
    pub(crate) name: String,
    /// JSON text.
    pub(crate) arguments: String,
}
