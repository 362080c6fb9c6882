//! Incremental decoding for any decoder: decodes a short window of ids twice and takes the difference.
//!
//! Slower than the token table and it allocates; used where a decoder looks at a token's neighbours.

use crate::tokenizer::Tokenizer;

/// Ids of the prompt that give the first generated token its surroundings.
const PROMPT_TAIL: usize = 5;
/// A run of ids without a whole character longer than this is not a character's beginning: it is shown as it is.
const MAX_PENDING: usize = 16;

/// The ids whose text is being put together.
pub(crate) struct Window {
    ids: Vec<u32>,
    /// `ids[..shown]` are shown already and give the rest its surroundings.
    shown: usize,
    skip_special: bool,
}

impl Window {
    /// A window that continues `prompt`.
    pub(crate) fn new(prompt: &[u32], skip_special: bool) -> Self {
        let ids = prompt[prompt.len().saturating_sub(PROMPT_TAIL)..].to_vec();
        Self {
            shown: ids.len(),
            ids,
            skip_special,
        }
    }

    /// Appends the characters that `id` completes to `out`.
    pub(crate) fn push(&mut self, tokenizer: &Tokenizer, id: u32, out: &mut String) {
        if self.skip_special && tokenizer.is_special(id) {
            return;
        }
        self.ids.push(id);
        self.release(tokenizer, self.ids.len() - self.shown > MAX_PENDING, out);
    }

    /// Appends what is held, unfinished characters as U+FFFD.
    pub(crate) fn finish(&mut self, tokenizer: &Tokenizer, out: &mut String) {
        self.release(tokenizer, true, out);
    }

    fn release(&mut self, tokenizer: &Tokenizer, even_unfinished: bool, out: &mut String) {
        // An id that the library cannot decode shows as nothing: one bad id must not end a request.
        let before = tokenizer
            .decode(&self.ids[..self.shown], self.skip_special)
            .unwrap_or_default();
        let after = tokenizer.decode(&self.ids, self.skip_special).unwrap_or_default();
        let Some(new) = after.get(before.len()..).filter(|new| !new.is_empty()) else {
            return;
        };
        if new.ends_with(char::REPLACEMENT_CHARACTER) && !even_unfinished {
            return;
        }
        out.push_str(new);
        // Only what was just shown stays as surroundings of what comes next.
        self.ids.drain(..self.shown);
        self.shown = self.ids.len();
    }
}
