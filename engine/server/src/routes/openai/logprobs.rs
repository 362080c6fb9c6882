//! Log-probabilities in the two forms of `/v1`: chat's list of tokens, and the parallel lists of completions.

use agentlm_host::{Token, TopToken};
use agentlm_text::Tokenizer;
use bytes::BytesMut;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use crate::config::V1Dialect;
use crate::flow::TokenRecord;
use crate::wire;

/// Chat's form.
#[derive(Debug, Serialize)]
pub(crate) struct ChatLogprobs {
    content: Vec<ChatToken>,
}

#[derive(Debug, Serialize)]
struct ChatToken {
    #[serde(flatten)]
    token: ChatTop,
    top_logprobs: Vec<ChatTop>,
}

#[derive(Debug, Serialize)]
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
#[derive(Debug, Default, Serialize)]
pub(crate) struct CompletionLogprobs {
    tokens: Vec<String>,
    token_logprobs: Vec<f32>,
    top_logprobs: Vec<TopByText>,
    /// Where each token begins, in characters.
    text_offset: Vec<usize>,
}

/// Likely tokens, most likely first, as one object by their text. Of ids that share a text the likelier one stays.
#[derive(Debug)]
struct TopByText(Vec<(String, f32)>);

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
        self.token_logprobs.push(logprob);
        let likely = |(id, logprob): (u32, f32)| (tokenizer.token_text(id).into_owned(), logprob);
        self.top_logprobs.push(top.map(likely).collect());
        self.text_offset.push(*offset);
        *offset += text.chars().count();
    }
}

/// The completions' form of a whole run whose text begins `offset` characters in.
pub(crate) fn completion(tokenizer: &Tokenizer, tokens: &[TokenRecord], offset: usize) -> CompletionLogprobs {
    let mut lists = CompletionLogprobs::default();
    let mut offset = offset;
    for record in tokens {
        let token = (record.text.as_str(), record.logprob);
        lists.push(tokenizer, &mut offset, token, record.top.iter().copied());
    }
    lists
}

/// Which form a stream's events carry.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Form {
    /// `null`.
    Off,
    /// Chat's.
    Chat,
    /// The completions', with the characters before the next token.
    Completion {
        /// Characters so far.
        offset: usize,
    },
}

impl Form {
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
            Self::Completion { offset } => {
                let mut lists = CompletionLogprobs::default();
                lists.push(tokenizer, offset, shown, likely);
                serde_json::to_string(&lists)
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
