//! A checkpoint's tokenizer: text to ids and back, special tokens, end-of-sequence ids.
//!
//! Knows no request and no template. Padding and truncation that a `tokenizer.json` asks for are turned off: neither
//! belongs to serving or tuning. One value is shared by all threads; nothing here starts a thread.

use std::borrow::Cow;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde_json::Value as Json;
use thiserror::Error;
use tokenizers::{AddedToken, PostProcessorWrapper, Tokenizer as Library};

use crate::literal::LiteralEncoder;
use crate::special_tokens::SpecialTokens;
use crate::token_table::{Piece, TokenTable};

/// Files that hold a tokenizer in another form than `tokenizer.json`.
const OTHER_FORMS: [&str; 4] = [
    "tokenizer.model",
    "spiece.model",
    "vocab.json",
    "tokenizer.tiktoken",
];

/// Why a tokenizer could not be loaded or used.
#[derive(Debug, Error)]
pub enum TokenizerError {
    /// The folder has no tokenizer in any form.
    #[error(
        "{dir} has no tokenizer.json (nor a tokenizer.model): give the folder of a complete Hugging Face checkpoint, \
         or copy the tokenizer files of the model it was made from into it"
    )]
    Missing {
        /// The folder.
        dir: PathBuf,
    },
    /// The folder has a tokenizer, but not as `tokenizer.json`.
    #[error(
        "{dir} has {file} but no tokenizer.json: convert it once, e.g. with transformers: \
         AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
    )]
    NeedsConversion {
        /// The folder.
        dir: PathBuf,
        /// The file that is there.
        file: &'static str,
    },
    /// A file could not be read.
    #[error("cannot read {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is not what its name says.
    #[error("{path} cannot be understood: {reason}; fetch the file again or repair it")]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The library refused a text.
    #[error("the text cannot be tokenised: {0}")]
    Encode(String),
    /// The library refused ids.
    #[error("the ids cannot be decoded: {0}")]
    Decode(String),
    /// A vocabulary whose model itself turns special-token text into special tokens.
    #[error(
        "the text holds {token:?}, which this tokenizer's model always reads as a special token; remove it from the text"
    )]
    UnavoidableSpecial {
        /// The special token's text.
        token: String,
    },
}

/// A tokenised text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoding {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Each token's range of bytes in the text; `(0, 0)` for special tokens that were added to it.
    pub offsets: Vec<(usize, usize)>,
}

/// A tokenizer with what serving and tuning need around it.
pub struct Tokenizer {
    library: Library,
    table: Option<TokenTable>,
    /// Built at the first text that holds special-token text to be read as plain text.
    literal: OnceLock<LiteralEncoder>,
    special: SpecialTokens,
    /// By id.
    is_special: Vec<bool>,
    eos_ids: Vec<u32>,
    vocab_size: usize,
}

impl Tokenizer {
    /// Loads `tokenizer.json` and its companions from a checkpoint's folder.
    ///
    /// # Errors
    /// [`TokenizerError::Missing`], [`TokenizerError::NeedsConversion`], [`TokenizerError::Io`],
    /// [`TokenizerError::Parse`].
    pub fn from_dir(dir: impl AsRef<Path>) -> Result<Self, TokenizerError> {
        let dir = dir.as_ref();
        let file = dir.join("tokenizer.json");
        if file.is_file() {
            return Self::from_file(file);
        }
        match OTHER_FORMS.into_iter().find(|form| dir.join(form).is_file()) {
            Some(file) => Err(TokenizerError::NeedsConversion {
                dir: dir.to_owned(),
                file,
            }),
            None => Err(TokenizerError::Missing { dir: dir.to_owned() }),
        }
    }

    /// Loads a `tokenizer.json`; the companions are looked for beside it.
    ///
    /// # Errors
    /// [`TokenizerError::Io`] and [`TokenizerError::Parse`].
    pub fn from_file(file: impl AsRef<Path>) -> Result<Self, TokenizerError> {
        let file = file.as_ref();
        let bytes = std::fs::read(file).map_err(|source| TokenizerError::Io {
            path: file.to_owned(),
            source,
        })?;
        let special = SpecialTokens::from_dir(file.parent().unwrap_or_else(|| Path::new(".")))?;
        Self::from_json(&bytes, special).map_err(|reason| TokenizerError::Parse {
            path: file.to_owned(),
            reason: reason.to_string(),
        })
    }

    /// Builds a tokenizer from the bytes of a `tokenizer.json` and the names of its special tokens.
    ///
    /// # Errors
    /// What the library finds wrong with the bytes.
    pub fn from_json(
        json: &[u8],
        special: SpecialTokens,
    ) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let mut library = Library::from_bytes(json)?;
        library.with_truncation(None)?;
        library.with_padding(None);
        if let Some(processor) = library.get_post_processor() {
            // Ids do not change, but a token of white space keeps its place in the text.
            let mut json = serde_json::to_value(processor)?;
            if keep_offsets(&mut json) {
                library.with_post_processor(Some(serde_json::from_value::<PostProcessorWrapper>(json)?));
            }
        }
        // A token that the configuration calls special is special, also where tokenizer.json forgot to say so.
        for text in special.texts() {
            if library.token_to_id(text).is_some() && !library.get_added_vocabulary().is_special_token(text) {
                library.add_special_tokens([AddedToken::from(text, true)])?;
            }
        }
        let added = library.get_added_tokens_decoder();
        let highest = added.keys().max().map_or(0, |&id| id as usize + 1);
        let vocab_size = library.get_vocab_size(true).max(highest);
        let mut is_special = vec![false; vocab_size];
        for (&id, token) in added.iter().filter(|(_, token)| token.special) {
            is_special[id as usize] = library.get_added_vocabulary().is_special_token(&token.content);
        }
        let mut eos_ids = special.eos_ids.clone();
        eos_ids.extend(
            special
                .get("eos_token")
                .and_then(|text| library.token_to_id(text)),
        );
        let mut seen = Vec::new();
        eos_ids.retain(|id| !seen.contains(id) && (seen.push(*id), true).1);
        let table = TokenTable::build(&library, vocab_size);
        Ok(Self {
            library,
            table,
            literal: OnceLock::new(),
            special,
            is_special,
            eos_ids,
            vocab_size,
        })
    }

    /// Tokenises `text`; special-token text in it becomes special tokens. With `add_special_tokens`, those that the
    /// tokenizer puts around a text (mostly bos) are added.
    ///
    /// # Errors
    /// [`TokenizerError::Encode`].
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Encoding, TokenizerError> {
        let encoding = self
            .library
            .encode(text, add_special_tokens)
            .map_err(|error| TokenizerError::Encode(error.to_string()))?;
        Ok(Encoding {
            ids: encoding.get_ids().to_vec(),
            offsets: encoding.get_offsets().to_vec(),
        })
    }

    /// Tokenises `text` with special-token text in it read as ordinary text. Adds no special tokens.
    ///
    /// # Errors
    /// [`TokenizerError::Encode`] and [`TokenizerError::UnavoidableSpecial`].
    pub fn encode_plain(&self, text: &str) -> Result<Encoding, TokenizerError> {
        self.encode_with_literals(text, std::slice::from_ref(&(0..text.len())))
    }

    /// Tokenises `text` with special-token text inside the byte ranges `literals` (in order, disjoint) read as ordinary
    /// text. Equal to [`Tokenizer::encode`] without added special tokens whenever no special-token text touches a
    /// literal range.
    ///
    /// # Errors
    /// [`TokenizerError::Encode`] and [`TokenizerError::UnavoidableSpecial`].
    pub fn encode_with_literals(
        &self,
        text: &str,
        literals: &[Range<usize>],
    ) -> Result<Encoding, TokenizerError> {
        let encoding = self.encode(text, false)?;
        if self.literal_special(text, &encoding, literals).is_none() {
            return Ok(encoding);
        }
        let encoder = match self.literal.get() {
            Some(encoder) => encoder,
            None => {
                let encoder = LiteralEncoder::new(&self.library)
                    .map_err(|error| TokenizerError::Encode(error.to_string()))?;
                self.literal.get_or_init(|| encoder)
            }
        };
        let encoding = encoder.encode(&self.library, text, literals)?;
        match self.literal_special(text, &encoding, literals) {
            None => Ok(encoding),
            Some(id) => Err(TokenizerError::UnavoidableSpecial {
                token: self.id_to_token(id).unwrap_or_else(|| id.to_string()),
            }),
        }
    }

    /// A special token that touches a literal range. The unknown token is one only where its text stands there.
    fn literal_special(&self, text: &str, encoding: &Encoding, literals: &[Range<usize>]) -> Option<u32> {
        let unknown = self
            .special
            .get("unk_token")
            .and_then(|token| self.token_to_id(token));
        encoding
            .ids
            .iter()
            .zip(&encoding.offsets)
            .find_map(|(&id, &(start, end))| {
                let inside = || {
                    let first = literals.partition_point(|range| range.end <= start);
                    literals.get(first).is_some_and(|range| range.start < end)
                };
                let written = || {
                    Some(id) != unknown
                        || self.id_to_token(id).is_some_and(|token| {
                            text.get(start..end).is_some_and(|part| part.contains(&token))
                        })
                };
                (self.is_special(id) && inside() && written()).then_some(id)
            })
    }

    /// Decodes a whole sequence, as the library does. With `skip_special`, special tokens are left out.
    ///
    /// # Errors
    /// [`TokenizerError::Decode`].
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, TokenizerError> {
        self.library
            .decode(ids, skip_special)
            .map_err(|error| TokenizerError::Decode(error.to_string()))
    }

    /// The text of one token on its own, with the space that it begins with; bytes that are no whole character are
    /// U+FFFD, an unknown id is empty.
    #[must_use]
    pub fn token_text(&self, id: u32) -> Cow<'_, str> {
        match self.table.as_ref().map(|table| table.get(id)) {
            Some(Piece::Text(text)) => Cow::Borrowed(text),
            Some(Piece::Bytes(bytes)) => String::from_utf8_lossy(bytes),
            None => Cow::Owned(self.decode(&[id], false).unwrap_or_default()),
        }
    }

    /// The vocabulary's string of an id, e.g. `▁the`.
    #[must_use]
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        self.library.id_to_token(id)
    }

    /// The id of a vocabulary string.
    #[must_use]
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.library.token_to_id(token)
    }

    /// Whether visible text leaves this id out.
    #[must_use]
    pub fn is_special(&self, id: u32) -> bool {
        self.is_special.get(id as usize).copied().unwrap_or(false)
    }

    /// One more than the highest id, added tokens included.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Ids that end a sequence: those of `generation_config.json` (else `config.json`) and the tokenizer's own.
    #[must_use]
    pub fn eos_token_ids(&self) -> &[u32] {
        &self.eos_ids
    }

    /// Text of the begin-of-sequence token.
    #[must_use]
    pub fn bos_token(&self) -> Option<&str> {
        self.special.get("bos_token")
    }

    /// Text of the end-of-sequence token.
    #[must_use]
    pub fn eos_token(&self) -> Option<&str> {
        self.special.get("eos_token")
    }

    /// All special tokens that the checkpoint names.
    #[must_use]
    pub fn special_tokens(&self) -> &SpecialTokens {
        &self.special
    }

    /// The text of every special token of the vocabulary.
    pub(crate) fn special_texts(&self) -> Vec<String> {
        let added = self.library.get_added_tokens_decoder();
        added
            .into_iter()
            .filter(|(id, _)| self.is_special(*id))
            .map(|(_, token)| token.content)
            .collect()
    }

    /// The precomputed bytes, where the decoder allows them.
    pub(crate) fn table(&self) -> Option<&TokenTable> {
        self.table.as_ref()
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocab_size", &self.vocab_size)
            .field("eos_ids", &self.eos_ids)
            .field("table", &self.table.is_some())
            .finish_non_exhaustive()
    }
}

/// Turns `trim_offsets` off wherever it is on. Returns whether it was.
fn keep_offsets(json: &mut Json) -> bool {
    match json {
        Json::Object(fields) => {
            let trims = fields.get("trim_offsets") == Some(&Json::Bool(true));
            if trims {
                fields.insert("trim_offsets".to_owned(), Json::Bool(false));
            }
            fields
                .values_mut()
                .fold(trims, |found, field| keep_offsets(field) | found)
        }
        Json::Array(items) => items
            .iter_mut()
            .fold(false, |found, item| keep_offsets(item) | found),
        _ => false,
    }
}
