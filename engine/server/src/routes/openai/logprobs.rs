//! Log-probabilities in the two forms of `/v1`: chat's list of tokens, and the parallel lists of completions.

use std::borrow::Cow;

use agentlm_host::{PromptToken, Token, TopToken};
use agentlm_text::Tokenizer;
use bytes::BytesMut;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use crate::config::V1Dialect;
use crate::flow::{Output, TokenRecord};
use crate::routes::completions::echo::Echo;
use crate::wire;

/// Chat's form.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ChatLogprobs {
    content: Vec<ChatToken>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct ChatToken {
    #[serde(flatten)]
    token: ChatTop,
    top_logprobs: Vec<ChatTop>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct ChatTop {
    token: String,
    logprob: f32,
    /// OpenAI's; null while the text of a token is no whole character. TGI has no such key.
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<Option<Vec<u8>>>,
}

impl ChatTop {
    fn new(dialect: V1Dialect, text: String, logprob: f32) -> Self {
        let bytes = (!text.is_empty()).then(|| text.as_bytes().to_vec());
        Self {
            token: text,
            logprob,
            bytes: (dialect == V1Dialect::OpenAi).then_some(bytes),
        }
    }
}

impl ChatToken {
    fn new(
        dialect: V1Dialect,
        tokenizer: &Tokenizer,
        (text, logprob): (&str, f32),
        top: impl Iterator<Item = (u32, f32)>,
    ) -> Self {
        let likely = |(id, logprob)| ChatTop::new(dialect, tokenizer.token_text(id).into_owned(), logprob);
        Self {
            token: ChatTop::new(dialect, text.to_owned(), logprob),
            top_logprobs: top.map(likely).collect(),
        }
    }
}

/// Chat's form of a whole run.
pub(crate) fn chat(dialect: V1Dialect, tokenizer: &Tokenizer, tokens: &[TokenRecord]) -> ChatLogprobs {
    let token = |record: &TokenRecord| {
        ChatToken::new(
            dialect,
            tokenizer,
            (&record.text, record.logprob),
            record.top.iter().copied(),
        )
    };
    ChatLogprobs {
        content: tokens.iter().map(token).collect(),
    }
}

/// The form of completions.
#[derive(Debug, Default, Serialize, JsonSchema)]
pub(crate) struct CompletionLogprobs {
    tokens: Vec<String>,
    /// Null for a prompt's first token, which follows nothing.
    token_logprobs: Vec<Option<f32>>,
    top_logprobs: Vec<Option<TopByText>>,
    /// Where each token begins, in characters.
    text_offset: Vec<usize>,
}

/// Likely tokens, most likely first, as one object by their text. Of ids that share a text the likelier one stays.
#[derive(Debug)]
struct TopByText(Vec<(String, f32)>);

impl JsonSchema for TopByText {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "TopByText".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "object", "additionalProperties": {"type": "number", "format": "float"}})
    }
}

impl FromIterator<(String, f32)> for TopByText {
    fn from_iter<I: IntoIterator<Item = (String, f32)>>(likely: I) -> Self {
        let mut tokens: Vec<(String, f32)> = Vec::new();
        for (text, logprob) in likely {
            if tokens.iter().all(|(known, _)| *known != text) {
                tokens.push((text, logprob));
            }
        }
        Self(tokens)
    }
}

impl Serialize for TopByText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_map(Some(self.0.len()))?;
        for (text, logprob) in &self.0 {
            object.serialize_entry(text, logprob)?;
        }
        object.end()
    }
}

impl CompletionLogprobs {
    fn push(
        &mut self,
        tokenizer: &Tokenizer,
        offset: &mut usize,
        (text, logprob): (&str, f32),
        top: impl Iterator<Item = (u32, f32)>,
    ) {
        self.tokens.push(text.to_owned());
        self.token_logprobs.push(Some(logprob));
        self.top_logprobs.push(Some(by_text(tokenizer, top)));
        self.text_offset.push(*offset);
        *offset += text.chars().count();
    }

    /// A prompt whose tokens begin at these characters of the text.
    fn push_prompt(&mut self, tokenizer: &Tokenizer, prompt: &[PromptToken], offsets: &[usize]) {
        for (token, offset) in prompt.iter().zip(offsets) {
            let top = token.top.iter().map(|top| (top.id, top.logprob));
            self.tokens.push(tokenizer.token_text(token.id).into_owned());
            self.token_logprobs.push(token.logprob);
            self.top_logprobs
                .push(token.logprob.map(|_| by_text(tokenizer, top)));
            self.text_offset.push(*offset);
        }
    }
}

fn by_text(tokenizer: &Tokenizer, top: impl Iterator<Item = (u32, f32)>) -> TopByText {
    top.map(|(id, logprob)| (tokenizer.token_text(id).into_owned(), logprob))
        .collect()
}

/// The completions' form of a whole run: of its prompt, if that was scored, and of its tokens.
pub(crate) fn completion(tokenizer: &Tokenizer, output: &Output, echo: &Echo) -> CompletionLogprobs {
    let mut lists = CompletionLogprobs::default();
    lists.push_prompt(tokenizer, &output.prompt, &echo.offsets);
    let mut offset = echo.characters;
    for record in &output.tokens {
        let token = (record.text.as_str(), record.logprob);
        lists.push(tokenizer, &mut offset, token, record.top.iter().copied());
    }
    lists
}

/// Which form a stream's events carry.
#[derive(Debug)]
pub(crate) enum Form {
    /// `null`.
    Off,
    /// Chat's.
    Chat,
    /// That of completions.
    Completion(Lists),
}

/// What a completion's events say of log-probabilities.
#[derive(Debug)]
pub(crate) struct Lists {
    /// Goes with the next event.
    next: CompletionLogprobs,
    /// Characters before the next token.
    offset: usize,
    /// Where the prompt's tokens begin.
    prompt_offsets: Vec<usize>,
    /// Whether generated tokens are left out.
    prompt_only: bool,
}

impl Lists {
    /// Of a text that begins with `echo`.
    pub(crate) fn after(echo: &Echo, prompt_only: bool) -> Self {
        Self {
            next: CompletionLogprobs::default(),
            offset: echo.characters,
            prompt_offsets: echo.offsets.clone(),
            prompt_only,
        }
    }
}

impl Form {
    /// Takes a scored prompt, which goes with the next event.
    pub(crate) fn prompt(&mut self, tokenizer: &Tokenizer, prompt: &[PromptToken]) {
        if let Self::Completion(lists) = self {
            lists.next.push_prompt(tokenizer, prompt, &lists.prompt_offsets);
        }
    }

    /// Appends one token's log-probabilities.
    pub(crate) fn write(
        &mut self,
        out: &mut BytesMut,
        dialect: V1Dialect,
        tokenizer: &Tokenizer,
        token: &Token<'_>,
    ) {
        let likely = token.top.iter().map(|&TopToken { id, logprob }| (id, logprob));
        let shown = (token.text, token.logprob);
        let json = match self {
            Self::Off => Ok("null".to_owned()),
            Self::Chat => serde_json::to_string(&ChatLogprobs {
                content: vec![ChatToken::new(dialect, tokenizer, shown, likely)],
            }),
            Self::Completion(lists) => {
                if !lists.prompt_only {
                    lists.next.push(tokenizer, &mut lists.offset, shown, likely);
                }
                serde_json::to_string(&std::mem::take(&mut lists.next))
            }
        };
        match json {
            Ok(json) => out.extend_from_slice(json.as_bytes()),
            // Strings and numbers always serialise; were it not so, the event stays well-formed.
            Err(_) => wire::string(out, ""),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn likely_tokens_keep_their_order_and_precision_and_each_text_is_one_key() {
        let likely = [("b", -0.340_576_17), ("a", -2.0), ("b", -3.0)];
        let top: TopByText = likely
            .map(|(text, logprob)| (text.to_owned(), logprob))
            .into_iter()
            .collect();
        assert_eq!(
            serde_json::to_string(&top).unwrap(),
            r#"{"b":-0.34057617,"a":-2.0}"#
        );
    }
}
