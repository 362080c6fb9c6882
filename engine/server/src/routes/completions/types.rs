//! The completion request and answer as they are on the wire. Nulls are taken for absence.

use serde::de::{Deserializer, Error, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::body::Stop;
use crate::routes::chat::types::StreamOptions;
use crate::routes::openai::answer::Usage;
use crate::routes::openai::logprobs::CompletionLogprobs;

/// OpenAI's fields, and beside them vLLM's and those of our own sampler.
#[derive(Debug, Deserialize)]
pub(crate) struct CompletionRequest {
    pub(crate) prompt: Prompts,
    pub(crate) model: Option<String>,
    pub(crate) max_tokens: Option<u32>,
    pub(crate) min_tokens: Option<u32>,
    pub(crate) ignore_eos: Option<bool>,
    pub(crate) temperature: Option<f32>,
    pub(crate) top_p: Option<f32>,
    pub(crate) top_k: Option<i32>,
    pub(crate) min_p: Option<f32>,
    pub(crate) typical_p: Option<f32>,
    pub(crate) stream: Option<bool>,
    pub(crate) stream_options: Option<StreamOptions>,
    pub(crate) seed: Option<u64>,
    pub(crate) suffix: Option<IgnoredAny>,
    pub(crate) repetition_penalty: Option<f32>,
    pub(crate) frequency_penalty: Option<f32>,
    pub(crate) presence_penalty: Option<f32>,
    pub(crate) logit_bias: Option<Value>,
    pub(crate) stop: Option<Stop>,
    pub(crate) n: Option<u32>,
    pub(crate) best_of: Option<u32>,
    pub(crate) echo: Option<bool>,
    pub(crate) logprobs: Option<u32>,
    pub(crate) response_format: Option<Value>,
    pub(crate) guided_json: Option<Value>,
    pub(crate) guided_regex: Option<Value>,
    pub(crate) guided_choice: Option<Value>,
    pub(crate) guided_grammar: Option<Value>,
    pub(crate) structured_outputs: Option<Value>,
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
#[derive(Debug, Serialize)]
pub(crate) struct Completion {
    pub(crate) object: &'static str,
    pub(crate) id: String,
    pub(crate) created: u64,
    pub(crate) model: String,
    pub(crate) system_fingerprint: String,
    pub(crate) choices: Vec<CompletionChoice>,
    pub(crate) usage: Usage,
}

/// One of the answer's choices.
#[derive(Debug, Serialize)]
pub(crate) struct CompletionChoice {
    pub(crate) index: u32,
    pub(crate) text: String,
    pub(crate) logprobs: Option<CompletionLogprobs>,
    pub(crate) finish_reason: &'static str,
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
