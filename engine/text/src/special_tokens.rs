//! The special tokens a checkpoint names beside its tokenizer: bos, eos and the others, and every id that ends a sequence.
//!
//! Reads `tokenizer_config.json`, `special_tokens_map.json`, `generation_config.json` and `config.json` where they
//! are present. Knows no vocabulary: names stay strings here.

use std::path::Path;

use serde_json::{Map, Value};

use crate::tokenizer::TokenizerError;

/// Keys under which a checkpoint names one special token each.
const NAMED: [&str; 7] = [
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
];

/// Special tokens by the names that the checkpoint's files give them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SpecialTokens {
    /// `bos_token`, `eos_token` and so on to their text, in the order of the files.
    pub named: Vec<(String, String)>,
    /// `additional_special_tokens` (or `extra_special_tokens`).
    pub additional: Vec<String>,
    /// Ids that end a sequence, from `generation_config.json`, else from `config.json`.
    pub eos_ids: Vec<u32>,
    /// `model_type` of `config.json`.
    pub model_type: Option<String>,
}

impl SpecialTokens {
    /// Reads the files of a checkpoint's folder; a missing file is no error, a broken one is.
    ///
    /// # Errors
    /// [`TokenizerError::Io`] and [`TokenizerError::Parse`].
    pub fn from_dir(dir: &Path) -> Result<Self, TokenizerError> {
        let mut tokens = Self::default();
        for file in ["tokenizer_config.json", "special_tokens_map.json"] {
            if let Some(config) = read_object(&dir.join(file))? {
                tokens.add_names(&config);
            }
        }
        let config = read_object(&dir.join("config.json"))?;
        let generation = read_object(&dir.join("generation_config.json"))?;
        tokens.eos_ids = generation
            .as_ref()
            .map(|config| ids(config.get("eos_token_id")))
            .unwrap_or_default();
        if let Some(config) = config {
            if tokens.eos_ids.is_empty() {
                tokens.eos_ids = ids(config.get("eos_token_id"));
            }
            tokens.model_type = config
                .get("model_type")
                .and_then(Value::as_str)
                .map(str::to_owned);
        }
        Ok(tokens)
    }

    /// The text of one named token, e.g. `bos_token`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.named
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, text)| text.as_str())
    }

    /// Every special token's text, named and additional.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        self.named
            .iter()
            .map(|(_, text)| text.as_str())
            .chain(self.additional.iter().map(String::as_str))
    }

    /// Takes the names of one file; names that an earlier file gave stay.
    fn add_names(&mut self, config: &Map<String, Value>) {
        for name in NAMED {
            if self.get(name).is_none()
                && let Some(text) = config.get(name).and_then(token_text)
            {
                self.named.push((name.to_owned(), text));
            }
        }
        for key in ["additional_special_tokens", "extra_special_tokens"] {
            let Some(Value::Array(list)) = config.get(key) else {
                continue;
            };
            for text in list.iter().filter_map(token_text) {
                if !self.additional.contains(&text) {
                    self.additional.push(text);
                }
            }
        }
    }
}

/// A token is written as a string or as an object with `content`.
fn token_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Object(object) => object.get("content").and_then(Value::as_str).map(str::to_owned),
        _ => None,
    }
    .filter(|text| !text.is_empty())
}

/// One id or a list of ids.
fn ids(value: Option<&Value>) -> Vec<u32> {
    let one = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    match value {
        Some(Value::Array(list)) => list.iter().filter_map(one).collect(),
        Some(value) => one(value).into_iter().collect(),
        None => Vec::new(),
    }
}

/// Reads a JSON object; `None` when the file is absent.
pub(crate) fn read_object(path: &Path) -> Result<Option<Map<String, Value>>, TokenizerError> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            return Err(TokenizerError::Io {
                path: path.to_owned(),
                source,
            });
        }
    };
    match serde_json::from_str(&text) {
        Ok(Value::Object(object)) => Ok(Some(object)),
        Ok(_) => Err(TokenizerError::Parse {
            path: path.to_owned(),
            reason: "the file holds no JSON object".to_owned(),
        }),
        Err(error) => Err(TokenizerError::Parse {
            path: path.to_owned(),
            reason: error.to_string(),
        }),
    }
}
