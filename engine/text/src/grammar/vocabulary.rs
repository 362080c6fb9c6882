//! The vocabulary as llguidance sees it: each id's bytes, in a trie.
//!
//! A special token, and whatever ends a sequence, is spelled behind a byte that no text has, so that no text allows it.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use llguidance::toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};
use llguidance::{ParserFactory, panic_utils};

use super::source::MOST_OPTIONAL;
use super::{GrammarError, one_line};
use crate::token_table::Piece;
use crate::tokenizer::Tokenizer;

/// Longer tokens are never allowed: the trie is made for a depth of 1024.
const LONGEST_TOKEN: usize = 1000;
/// The trie's ids have 24 bits, one of them not an id.
const MOST_IDS: usize = (1 << 24) - 2;
/// Lexer states of one text; each takes 1 to 2 KB.
const MOST_LEXER_STATES: usize = 50_000;
/// Ways in which a text may go on at one place. A property that may be left out makes four of them, whatever it is.
const MOST_ITEMS: usize = 4 * MOST_OPTIONAL + 1000;

/// What makes parsers for this vocabulary: ids below `vocab_size`, of which `eos` (not empty, all below) end a text.
pub(super) fn parsers(
    tokenizer: &Tokenizer,
    eos: &[u32],
    vocab_size: usize,
) -> Result<ParserFactory, GrammarError> {
    let (Some(&first), true) = (eos.first(), vocab_size <= MOST_IDS) else {
        let why = format!("grammars need an end-of-sequence id and at most {MOST_IDS} ids, not {vocab_size}");
        return Err(GrammarError::Invalid(why));
    };
    let size = u32::try_from(vocab_size).unwrap_or(u32::MAX);
    let general = tokenizer.table().is_none().then(|| General::new(tokenizer));
    let words: Vec<Vec<u8>> = (0..size)
        .map(|id| word(tokenizer, general.as_ref(), eos, id))
        .collect();
    let build = AssertUnwindSafe(|| {
        let trie = TokTrie::from(&TokRxInfo::new(size, first), &words).with_eos_tokens(eos);
        // Its own tokenisation is greedy; it serves to force tokens, which is not done.
        let environment: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        ParserFactory::new_simple(&environment)
    });
    let mut factory = panic_utils::catch_unwind(build).map_err(|error| {
        let why = one_line(&error.to_string());
        GrammarError::Invalid(format!("the tokenizer cannot be used with grammars: {why}"))
    })?;
    factory.quiet();
    let limits = factory.limits_mut();
    limits.verbose_errors = false;
    limits.max_lexer_states = MOST_LEXER_STATES;
    limits.max_items_in_row = MOST_ITEMS;
    Ok(factory)
}

/// The bytes of an id; none if it can never be allowed.
fn word(tokenizer: &Tokenizer, general: Option<&General>, eos: &[u32], id: u32) -> Vec<u8> {
    let marker = TokTrie::SPECIAL_TOKEN_MARKER;
    let mut bytes = Vec::new();
    if tokenizer.is_special(id) || eos.contains(&id) {
        let Some(name) = tokenizer.id_to_token(id) else {
            return bytes;
        };
        // Lark grammars name them so. Another spelling could be taken for a token's number, `[7]`.
        let named = name.starts_with('<') && name.ends_with('>');
        let spelled = if named { name } else { format!("<{name}>") };
        bytes.push(marker);
        bytes.extend_from_slice(spelled.as_bytes());
    } else if let Some(general) = general {
        bytes.extend_from_slice(general.text(tokenizer, id).as_bytes());
    } else if let Some(table) = tokenizer.table() {
        match table.get(id) {
            Piece::Text(text) => bytes.extend_from_slice(text.as_bytes()),
            // The byte of the marker is in no text.
            Piece::Bytes(part) if part.first() == Some(&marker) => {}
            Piece::Bytes(part) => bytes.extend_from_slice(part),
        }
    }
    if bytes.len() > LONGEST_TOKEN {
        bytes.clear();
    }
    bytes
}

/// What an id adds to a text, where the decoder allows no table: its text behind other ids. Parts of characters are not
/// seen that way, so such ids are never allowed.
struct General {
    before: Vec<u32>,
    text: String,
}

impl General {
    fn new(tokenizer: &Tokenizer) -> Self {
        let before = tokenizer
            .encode("a", false)
            .map(|encoding| encoding.ids)
            .unwrap_or_default();
        let text = tokenizer.decode(&before, false).unwrap_or_default();
        Self { before, text }
    }

    fn text(&self, tokenizer: &Tokenizer, id: u32) -> String {
        let ids: Vec<u32> = self.before.iter().copied().chain([id]).collect();
        tokenizer
            .decode(&ids, false)
            .ok()
            .and_then(|text| text.strip_prefix(&self.text).map(str::to_owned))
            .filter(|text| !text.contains(char::REPLACEMENT_CHARACTER))
            .unwrap_or_default()
    }
}
