//! The completion request and answer as they are on the wire. Nulls are taken for absence.

use schemars::JsonSchema;
use serde::de::{Deserializer, Error, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::body::Stop;
use crate::number::{Seed, Single};
use crate::object::Object;
use crate::openapi::shapes;
use crate::routes::chat::types::StreamOptions;
use crate::routes::openai::answer::Usage;
use crate::routes::openai::format::Formats;
use crate::routes::openai::logprobs::CompletionLogprobs;
use crate::routes::openai::names::Sent;
use crate::routes::openai::request::{V1Request, v1_request};
use crate::routes::openai::sampling::Fields;

v1_request! {
    /// OpenAI's fields, and beside them vLLM's and those of our own sampler.
    pub(crate) struct CompletionRequest {
        #[schemars(with = "shapes::PromptForms")]
        pub(crate) prompt: Prompts,
        /// Most tokens to generate; up to the context's end if absent. 0 is allowed with `echo`, and shows the prompt alone.
        #[schemars(extend("minimum" = 0))]
        pub(crate) max_tokens: Option<u32>,
        /// Not supported.
        #[schemars(with = "Option<shapes::Nothing>")]
        pub(crate) suffix: Option<IgnoredAny>,
        /// Runs a prompt, of which the `n` likeliest are answered; at least `n`, and no more than that in a stream.
        #[schemars(extend("minimum" = 1, "x-cap" = {"maximum": "max-best-of"}))]
        pub(crate) best_of: Option<u32>,
        /// The text begins with the prompt.
        #[schemars(extend("default" = false))]
        pub(crate) echo: Option<bool>,
        /// Log-probabilities are told, and those of so many of the likeliest tokens.
        #[schemars(extend("x-cap" = {"maximum": "max-top-n-tokens"}))]
        pub(crate) logprobs: Option<u32>,
    }
}

impl V1Request for CompletionRequest {
    fn streams(&self) -> bool {
        self.stream.unwrap_or(false)
    }

    fn sent(&self) -> Sent {
        Sent {
            grammar: self.grammar_field(),
            ..Sent::default()
        }
    }
}

/// One prompt.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum OnePrompt {
    Text(String),
    Ids(Vec<u32>),
}

/// One or more prompts: a text, texts, ids, or lists of ids.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Prompts(pub(crate) Vec<OnePrompt>);

/// What a list of prompts may hold.
enum Item {
    Id(u32),
    Prompt(OnePrompt),
}

impl<'de> Deserialize<'de> for Item {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Items;

        impl<'de> Visitor<'de> for Items {
            type Value = Item;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("a string, a token id or a sequence of token ids")
            }

            fn visit_str<E>(self, value: &str) -> Result<Item, E> {
                Ok(Item::Prompt(OnePrompt::Text(value.to_owned())))
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<Item, E> {
                u32::try_from(value)
                    .map(Item::Id)
                    .map_err(|_| E::custom(format!("{value} is no token id")))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Item, A::Error> {
                let mut ids = Vec::new();
                while let Some(id) = seq.next_element()? {
                    ids.push(id);
                }
                Ok(Item::Prompt(OnePrompt::Ids(ids)))
            }
        }

        deserializer.deserialize_any(Items)
    }
}

impl<'de> Deserialize<'de> for Prompts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct All;

        impl<'de> Visitor<'de> for All {
            type Value = Prompts;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("a string, a sequence of strings, token ids or sequences of token ids")
            }

            fn visit_str<E>(self, value: &str) -> Result<Prompts, E> {
                Ok(Prompts(vec![OnePrompt::Text(value.to_owned())]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Prompts, A::Error> {
                let (mut prompts, mut ids) = (Vec::new(), Vec::new());
                while let Some(item) = seq.next_element()? {
                    match item {
                        Item::Id(id) => ids.push(id),
                        Item::Prompt(prompt) => prompts.push(prompt),
                    }
                }
                match (prompts.is_empty(), ids.is_empty()) {
                    (true, true) => Err(A::Error::custom(
                        "Empty array detected. Do not use an empty array for the prompt.",
                    )),
                    (false, false) => Err(A::Error::custom(
                        "a prompt of token ids cannot stand beside other prompts",
                    )),
                    (false, true) => Ok(Prompts(prompts)),
                    (true, false) => Ok(Prompts(vec![OnePrompt::Ids(ids)])),
                }
            }
        }

        deserializer.deserialize_any(All)
    }
}

/// The whole answer.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Completion {
    #[schemars(extend("const" = "text_completion"))]
    pub(crate) object: &'static str,
    pub(crate) id: String,
    /// Unix seconds.
    pub(crate) created: u64,
    pub(crate) model: String,
    pub(crate) system_fingerprint: String,
    pub(crate) choices: Vec<CompletionChoice>,
    pub(crate) usage: Usage,
}

/// One of the answer's choices.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct CompletionChoice {
    pub(crate) index: u32,
    pub(crate) text: String,
    pub(crate) logprobs: Option<CompletionLogprobs>,
    /// `stop_sequence` in TGI's wording only.
    #[schemars(extend("enum" = ["stop", "length", "stop_sequence"]))]
    pub(crate) finish_reason: &'static str,
}

/// One event of a stream. The bytes are [`crate::routes::openai::stream`]'s.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "it says what is written by hand")]
pub(crate) struct CompletionChunk {
    #[schemars(extend("const" = "text_completion"))]
    object: String,
    id: String,
    /// Unix seconds.
    created: u64,
    model: String,
    system_fingerprint: String,
    /// Empty in the chunk that tells the usage.
    choices: Vec<CompletionPart>,
    /// Null before the last chunk; there if it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
}

/// What an event adds to a choice.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "it says what is written by hand")]
pub(crate) struct CompletionPart {
    index: u32,
    text: String,
    logprobs: Option<CompletionLogprobs>,
    /// Null before the choice's end. TGI's wording is "" then, and `eos_token` and `stop_sequence` are its own.
    #[schemars(extend("enum" = ["stop", "length", "stop_sequence", "eos_token", "", null]))]
    finish_reason: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_come_in_four_forms() {
        let text = |text: &str| OnePrompt::Text(text.to_owned());
        let cases = [
            (r#""a""#, vec![text("a")]),
            (r#"["a","b"]"#, vec![text("a"), text("b")]),
            ("[1,2]", vec![OnePrompt::Ids(vec![1, 2])]),
            (
                "[[1],[2,3]]",
                vec![OnePrompt::Ids(vec![1]), OnePrompt::Ids(vec![2, 3])],
            ),
        ];
        for (json, prompts) in cases {
            assert_eq!(serde_json::from_str::<Prompts>(json).unwrap().0, prompts);
        }
        for (json, text) in [
            (
                "[]",
                "Empty array detected. Do not use an empty array for the prompt.",
            ),
            (
                r#"["a",1]"#,
                "a prompt of token ids cannot stand beside other prompts",
            ),
            ("[-1]", "expected a string, a token id or a sequence of token ids"),
            ("[4294967296]", "4294967296 is no token id"),
            ("7", "expected a string, a sequence of strings"),
        ] {
            let error = serde_json::from_str::<Prompts>(json).unwrap_err().to_string();
            assert!(error.contains(text), "{json}: {error}");
        }
    }
}
