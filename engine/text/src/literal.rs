//! Tokenises text in parts of which special-token text is ordinary text.
//!
//! The library can read all special tokens or none. So a copy of it gets stand-ins of private-use characters in place
//! of the special tokens' text; the special tokens outside the literal parts are written as their stand-ins, the copy
//! tokenises that in one go (so normalisers and pre-tokenizers see what they always see), and ids and offsets are
//! mapped back.

use std::collections::HashMap;
use std::ops::Range;

use tokenizers::{AddedVocabulary, Tokenizer as Library};

use crate::tokenizer::{Encoding, TokenizerError};

/// Encloses a stand-in; between two of these stands one character that counts the special tokens.
const FENCE: char = '\u{10FFFD}';
/// The first of the counting characters (private-use plane 16).
const FIRST: u32 = 0x0010_0000;

/// The copy with stand-ins.
pub(crate) struct LiteralEncoder {
    library: Library,
    /// Special token → stand-in.
    stand_ins: HashMap<u32, String>,
    /// The copy's id of an added token → the original id.
    original: HashMap<u32, u32>,
}

type LibraryError = Box<dyn std::error::Error + Send + Sync>;

impl LiteralEncoder {
    pub(crate) fn new(library: &Library) -> Result<Self, LibraryError> {
        let mut added: Vec<_> = library.get_added_tokens_decoder().into_iter().collect();
        added.sort_unstable_by_key(|(id, _)| *id);
        let mut copy = library.clone();
        copy.with_added_vocabulary(AddedVocabulary::new());
        let mut encoder = Self {
            library: copy,
            stand_ins: HashMap::new(),
            original: HashMap::new(),
        };
        for (count, (id, token)) in (FIRST..).zip(added) {
            let mut stand_in = token.clone();
            if token.special {
                let counter = char::from_u32(count).ok_or("too many special tokens")?;
                stand_in.content = format!("{FENCE}{counter}{FENCE}");
                encoder.stand_ins.insert(id, stand_in.content.clone());
            }
            let content = stand_in.content.clone();
            encoder.library.add_tokens([stand_in])?;
            let copied = encoder
                .library
                .token_to_id(&content)
                .ok_or("an added token was not added")?;
            encoder.original.insert(copied, id);
        }
        Ok(encoder)
    }

    /// Tokenises `text`; special tokens count only outside the byte ranges `literals` (in order, disjoint).
    pub(crate) fn encode(
        &self,
        library: &Library,
        text: &str,
        literals: &[Range<usize>],
    ) -> Result<Encoding, TokenizerError> {
        let refused = |error: LibraryError| TokenizerError::Encode(error.to_string());
        let mut marked = String::with_capacity(text.len() + 64);
        // Where each copied or replaced stretch begins: in the marked text and in the original.
        let mut stretches: Vec<(usize, usize)> = Vec::new();
        let mut written: Vec<usize> = Vec::new();
        let mut at = 0;
        let end = text.len()..text.len();
        for literal in literals.iter().chain(std::iter::once(&end)) {
            let part = text.get(at..literal.start).ok_or_else(|| bad_range(literal))?;
            let encoding = library.encode(part, false).map_err(refused)?;
            let mut copied = 0;
            for (id, &(start, end)) in encoding.get_ids().iter().zip(encoding.get_offsets()) {
                let Some(stand_in) = self.stand_ins.get(id) else {
                    continue;
                };
                let Some(content) = library.id_to_token(*id) else {
                    continue;
                };
                // A token that strips spaces around it spans them too; an unknown token's text may not be there.
                let Some(found) = part.get(start..end).and_then(|span| span.find(&content)) else {
                    continue;
                };
                let start = start + found;
                stretches.push((marked.len(), at + copied));
                marked.push_str(&part[copied..start]);
                stretches.push((marked.len(), at + start));
                written.push(marked.len());
                marked.push_str(stand_in);
                copied = start + content.len();
            }
            stretches.push((marked.len(), at + copied));
            marked.push_str(&part[copied..]);
            let inside = text.get(literal.clone()).ok_or_else(|| bad_range(literal))?;
            stretches.push((marked.len(), literal.start));
            marked.push_str(inside);
            at = literal.end;
        }
        let encoding = self.library.encode(marked.as_str(), false).map_err(refused)?;
        let back = |position: usize| {
            let index = stretches
                .partition_point(|stretch| stretch.0 <= position)
                .saturating_sub(1);
            let (from, to) = stretches[index];
            let limit = stretches.get(index + 1).map_or(text.len(), |next| next.1);
            (to + (position - from)).min(limit)
        };
        let mut result = Encoding::default();
        for (&id, &(start, end)) in encoding.get_ids().iter().zip(encoding.get_offsets()) {
            if let Some(&original) = self.original.get(&id) {
                if self.stand_ins.contains_key(&original)
                    && written
                        .get(written.partition_point(|&place| place < start))
                        .is_none_or(|&place| place >= end)
                {
                    return Err(TokenizerError::Encode(format!(
                        "the text holds the private-use characters that stand for special tokens here \
                         (U+{:X}, one more, U+{:X}); remove them",
                        u32::from(FENCE),
                        u32::from(FENCE)
                    )));
                }
                result.ids.push(original);
            } else {
                result.ids.push(id);
            }
            result.offsets.push((back(start), back(end)));
        }
        Ok(result)
    }
}

fn bad_range(range: &Range<usize>) -> TokenizerError {
    TokenizerError::Encode(format!(
        "the literal range {}..{} does not fall on characters of the text, or the ranges are out of order",
        range.start, range.end
    ))
}
