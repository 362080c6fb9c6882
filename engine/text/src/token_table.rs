//! Each token's bytes, precomputed, for decoders whose work on a token does not depend on its neighbours.
//!
//! Covers the byte-level decoder, the SentencePiece chain (replace, byte fallback, fuse, strip of the first space)
//! and Metaspace. Where a decoder does something to the first token of a text only, the table holds what it does to
//! every later one: generated text continues a prompt. Any other decoder is declined, and so is a table that
//! disagrees with the library's own decoding of samples.

use serde_json::Value;
use tokenizers::{Model, Tokenizer as Library};

/// How invalid bytes are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Replacement {
    /// One U+FFFD for a maximal ill-formed part, as the byte-level decoder does.
    Part,
    /// One U+FFFD for each byte, as byte fallback does.
    Byte,
}

/// What one id decodes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Piece<'a> {
    /// Whole characters.
    Text(&'a str),
    /// Bytes that are not UTF-8 on their own.
    Bytes(&'a [u8]),
}

#[derive(Clone, Copy)]
struct Entry {
    start: u32,
    /// The top bit says "in `bytes`".
    len: u32,
}

const IN_BYTES: u32 = 1 << 31;

/// All tokens' bytes, indexed by id. Ids that the vocabulary lacks are empty.
pub(crate) struct TokenTable {
    entries: Vec<Entry>,
    text: String,
    bytes: Vec<u8>,
    replacement: Replacement,
}

/// A decoder's work on one token, where that is all it does.
enum Rule {
    ByteLevel,
    Pieces {
        replace: Vec<(String, String)>,
        byte_fallback: bool,
    },
}

impl TokenTable {
    /// The table of a tokenizer with `size` ids, or `None` when its decoder needs the general way.
    pub(crate) fn build(library: &Library, size: usize) -> Option<Self> {
        let decoder = serde_json::to_value(library.get_decoder()?).ok()?;
        let rule = Rule::of(&decoder)?;
        let bytes_of_char = matches!(rule, Rule::ByteLevel).then(byte_level_alphabet);
        let mut table = Self {
            entries: Vec::with_capacity(size),
            text: String::new(),
            bytes: Vec::new(),
            replacement: if bytes_of_char.is_some() {
                Replacement::Part
            } else {
                Replacement::Byte
            },
        };
        for id in 0..u32::try_from(size).ok()? {
            let bytes = match (token(library, id), &rule) {
                (None, _) => Vec::new(),
                (Some(token), Rule::ByteLevel) => byte_level(&token, bytes_of_char.as_deref().unwrap_or(&[])),
                (
                    Some(token),
                    Rule::Pieces {
                        replace,
                        byte_fallback,
                    },
                ) => {
                    let token = replace
                        .iter()
                        .fold(token, |token, (from, to)| token.replace(from, to));
                    match fallback_byte(&token).filter(|_| *byte_fallback) {
                        Some(byte) => vec![byte],
                        None => token.into_bytes(),
                    }
                }
            };
            table.add(&bytes)?;
        }
        table.agrees_with(library).then_some(table)
    }

    /// What `id` decodes to; empty for an unknown id.
    pub(crate) fn get(&self, id: u32) -> Piece<'_> {
        let Some(entry) = self.entries.get(id as usize) else {
            return Piece::Text("");
        };
        let start = entry.start as usize;
        if entry.len & IN_BYTES == 0 {
            Piece::Text(self.text.get(start..start + entry.len as usize).unwrap_or(""))
        } else {
            let len = (entry.len & !IN_BYTES) as usize;
            Piece::Bytes(self.bytes.get(start..start + len).unwrap_or(&[]))
        }
    }

    /// How invalid bytes are shown.
    pub(crate) fn replacement(&self) -> Replacement {
        self.replacement
    }

    fn add(&mut self, bytes: &[u8]) -> Option<()> {
        let len = u32::try_from(bytes.len())
            .ok()
            .filter(|len| len & IN_BYTES == 0)?;
        let entry = if let Ok(text) = std::str::from_utf8(bytes) {
            let start = u32::try_from(self.text.len()).ok()?;
            self.text.push_str(text);
            Entry { start, len }
        } else {
            let start = u32::try_from(self.bytes.len()).ok()?;
            self.bytes.extend_from_slice(bytes);
            Entry {
                start,
                len: len | IN_BYTES,
            }
        };
        self.entries.push(entry);
        Some(())
    }

    /// Compares runs of tokens from all over the vocabulary with the library's decoding. Each run starts with an
    /// anchor, so that what a decoder does to a text's first token falls on the anchor.
    fn agrees_with(&self, library: &Library) -> bool {
        const RUN: usize = 8;
        const RUNS: usize = 64;
        let whole: Vec<u32> = (0..self.entries.len())
            .filter_map(|id| u32::try_from(id).ok())
            .filter(|&id| matches!(self.get(id), Piece::Text(text) if !text.is_empty()))
            .collect();
        // A space would be what a strip rule takes off; an empty anchor would leave the rule to the next token.
        let plain = |id: &u32| matches!(self.get(*id), Piece::Text(text) if !text.contains(' '));
        let Some(anchor) = whole.iter().copied().find(plain) else {
            return false;
        };
        let stride = (whole.len() / (RUN * RUNS)).max(1);
        let samples: Vec<u32> = whole
            .iter()
            .copied()
            .step_by(stride)
            .chain(whole.iter().copied().filter(|&id| is_added(library, id)))
            .collect();
        let mut ids = Vec::with_capacity(RUN + 1);
        samples.chunks(RUN).all(|run| {
            ids.clear();
            ids.push(anchor);
            ids.extend_from_slice(run);
            let expected: String = ids
                .iter()
                .map(|&id| match self.get(id) {
                    Piece::Text(text) => text,
                    Piece::Bytes(_) => "",
                })
                .collect();
            library.decode(&ids, false).is_ok_and(|text| text == expected)
        }) && self.bytes_agree(library, anchor)
    }

    /// The same for tokens that are parts of characters: a multi-byte character put together from them.
    fn bytes_agree(&self, library: &Library, anchor: u32) -> bool {
        let single = |byte: u8| {
            (0..self.entries.len())
                .filter_map(|id| u32::try_from(id).ok())
                .find(|&id| matches!(self.get(id), Piece::Bytes(bytes) if bytes == [byte]))
        };
        let Some(ids) = "é€😀".bytes().map(single).collect::<Option<Vec<u32>>>() else {
            return true;
        };
        let Piece::Text(anchor_text) = self.get(anchor) else {
            return false;
        };
        let ids: Vec<u32> = std::iter::once(anchor).chain(ids).collect();
        library
            .decode(&ids, false)
            .is_ok_and(|text| text == format!("{anchor_text}é€😀"))
    }
}

impl Rule {
    /// The rule of a serialised decoder, or `None` when it is none of the known ones.
    fn of(decoder: &Value) -> Option<Self> {
        let kind = |value: &Value| value.get("type").and_then(Value::as_str).map(str::to_owned);
        let chain: Vec<&Value> = match kind(decoder)?.as_str() {
            "Sequence" => decoder.get("decoders")?.as_array()?.iter().collect(),
            _ => vec![decoder],
        };
        let (mut replace, mut byte_fallback, mut fused) = (Vec::new(), false, false);
        for step in &chain {
            match kind(step)?.as_str() {
                "ByteLevel" if chain.len() == 1 => return Some(Self::ByteLevel),
                "Replace" if !fused && !byte_fallback => {
                    let from = step.get("pattern")?.get("String")?.as_str()?;
                    replace.push((from.to_owned(), step.get("content")?.as_str()?.to_owned()));
                }
                "Metaspace" if !fused && !byte_fallback => {
                    replace.push((step.get("replacement")?.as_str()?.to_owned(), " ".to_owned()));
                }
                "ByteFallback" if !fused => byte_fallback = true,
                "Fuse" => fused = true,
                // After Fuse there is one string, so Strip is about its ends; the start belongs to the prompt.
                "Strip" if fused && step.get("stop")?.as_u64()? == 0 => {}
                _ => return None,
            }
        }
        Some(Self::Pieces {
            replace,
            byte_fallback,
        })
    }
}

/// A token's string as decoding sees it: for added tokens possibly the normalised form.
fn token(library: &Library, id: u32) -> Option<String> {
    library
        .get_added_vocabulary()
        .simple_id_to_token(id)
        .or_else(|| library.get_model().id_to_token(id))
}

fn is_added(library: &Library, id: u32) -> bool {
    library
        .get_added_vocabulary()
        .get_added_tokens_decoder()
        .contains_key(&id)
}

/// `<0x41>` is the byte 0x41.
fn fallback_byte(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2)
        .then(|| u8::from_str_radix(digits, 16).ok())
        .flatten()
}

/// The byte that each character of the byte-level alphabet stands for, sorted by character. GPT-2's rule: printable
/// Latin-1 bytes stand for themselves, the others are shifted to U+0100 and up in order.
fn byte_level_alphabet() -> Vec<(char, u8)> {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut shifted = 0;
    let mut alphabet: Vec<(char, u8)> = (0..=u8::MAX)
        .map(|byte| {
            if printable(byte) {
                (char::from(byte), byte)
            } else {
                shifted += 1;
                (char::from_u32(0xFF + shifted).unwrap_or('\0'), byte)
            }
        })
        .collect();
    alphabet.sort_unstable();
    alphabet
}

/// A token with any character outside the alphabet stands for its own UTF-8 bytes.
fn byte_level(token: &str, alphabet: &[(char, u8)]) -> Vec<u8> {
    token
        .chars()
        .map(|c| {
            alphabet
                .binary_search_by_key(&c, |entry| entry.0)
                .ok()
                .map(|at| alphabet[at].1)
        })
        .collect::<Option<Vec<u8>>>()
        .unwrap_or_else(|| token.as_bytes().to_vec())
}
