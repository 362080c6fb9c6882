//! How far one text has come under its grammar.

use std::sync::Arc;

use llguidance::Matcher;

use super::{GrammarError, one_line};

/// Follows one text through its grammar, token by token. Two states of one grammar share nothing that changes.
pub struct GrammarState {
    matcher: Matcher,
    eos: Arc<[u32]>,
    words: usize,
}

impl GrammarState {
    pub(super) fn new(matcher: Matcher, eos: Arc<[u32]>, words: usize) -> Self {
        Self { matcher, eos, words }
    }

    /// Writes which ids the next token may have: bit `id % 32` of word `id / 32`, of as many words as the vocabulary's ids
    /// need. Where the text may end, every end-of-sequence id is allowed; after its end nothing else is.
    ///
    /// # Errors
    /// [`GrammarError::MaskLength`]; [`GrammarError::DeadEnd`] and [`GrammarError::Invalid`] (too much work for one token)
    /// when the text cannot go on.
    pub fn fill_mask(&mut self, mask: &mut [u32]) -> Result<(), GrammarError> {
        if mask.len() != self.words {
            return Err(GrammarError::MaskLength {
                words: self.words,
                given: mask.len(),
            });
        }
        let allowed = self
            .matcher
            .compute_mask_or_eos()
            .map_err(|error| GrammarError::said(&error.to_string()))?;
        // The library's set has room for one id more, which is never in it.
        for (word, &bits) in mask.iter_mut().zip(allowed.as_slice()) {
            *word = bits;
        }
        if self.eos.iter().any(|&id| mask[word(id)] & bit(id) != 0) {
            for &id in &*self.eos {
                mask[word(id)] |= bit(id);
            }
        }
        Ok(())
    }

    /// Takes the text's next token. After the end, end-of-sequence ids are taken and nothing else.
    ///
    /// # Errors
    /// [`GrammarError::Token`] for one that the mask does not allow; a state that refused one is of no use any more.
    pub fn advance(&mut self, token: u32) -> Result<(), GrammarError> {
        let has_ended = self.matcher.is_stopped() && self.matcher.stop_reason().is_ok();
        let refusal = if !has_ended {
            self.matcher
                .consume_token(token)
                .err()
                .map(|error| error.to_string())
        } else if self.eos.contains(&token) {
            None
        } else {
            Some("the text has ended".to_owned())
        };
        match refusal {
            None => Ok(()),
            Some(why) => Err(GrammarError::Token {
                token,
                why: one_line(&why),
            }),
        }
    }
}

fn word(id: u32) -> usize {
    (id / 32) as usize
}

fn bit(id: u32) -> u32 {
    1 << (id % 32)
}

impl std::fmt::Debug for GrammarState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GrammarState")
            .field("stopped", &self.matcher.is_stopped())
            .finish_non_exhaustive()
    }
}
