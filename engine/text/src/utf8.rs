//! Bytes in, whole characters out: holds back an unfinished UTF-8 sequence and shows an ill-formed one as U+FFFD.

use crate::token_table::Replacement;

/// An unfinished UTF-8 sequence between two tokens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Utf8Tail {
    bytes: [u8; 4],
    len: usize,
    /// How many of `bytes` belong to the prompt: never shown as U+FFFD in generated text.
    of_prompt: usize,
    replacement: Replacement,
}

impl Utf8Tail {
    /// Nothing held.
    pub(crate) fn new(replacement: Replacement) -> Self {
        Self {
            bytes: [0; 4],
            len: 0,
            of_prompt: 0,
            replacement,
        }
    }

    /// Whether a sequence is unfinished.
    pub(crate) fn is_pending(&self) -> bool {
        self.len > 0
    }

    /// From here on, what is held belongs to the prompt.
    pub(crate) fn mark_as_prompt(&mut self) {
        self.of_prompt = self.len;
    }

    /// Appends the characters that `input` completes to `out`.
    pub(crate) fn push(&mut self, mut input: &[u8], out: &mut String) {
        while let Some((&byte, rest)) = input.split_first().filter(|_| self.len > 0) {
            self.bytes[self.len] = byte;
            match std::str::from_utf8(&self.bytes[..=self.len]) {
                Ok(character) => {
                    out.push_str(character);
                    (self.len, self.of_prompt) = (0, 0);
                }
                Err(error) if error.error_len().is_none() => self.len += 1,
                // `byte` does not continue the sequence: the sequence is ill-formed, the byte starts afresh.
                Err(_) => {
                    self.finish(out);
                    break;
                }
            }
            input = rest;
        }
        loop {
            match std::str::from_utf8(input) {
                Ok(text) => return out.push_str(text),
                Err(error) => {
                    let (valid, rest) = input.split_at(error.valid_up_to());
                    out.push_str(std::str::from_utf8(valid).unwrap_or_default());
                    let Some(len) = error.error_len() else {
                        // At most three bytes can be an unfinished sequence.
                        self.bytes[..rest.len()].copy_from_slice(rest);
                        (self.len, self.of_prompt) = (rest.len(), 0);
                        return;
                    };
                    self.replace(len, out);
                    input = &rest[len..];
                }
            }
        }
    }

    /// Shows what is held as U+FFFD.
    pub(crate) fn finish(&mut self, out: &mut String) {
        let shown = self.len - self.of_prompt;
        if shown > 0 {
            self.replace(shown, out);
        }
        (self.len, self.of_prompt) = (0, 0);
    }

    fn replace(&self, len: usize, out: &mut String) {
        let times = if self.replacement == Replacement::Byte {
            len
        } else {
            1
        };
        out.extend(std::iter::repeat_n(char::REPLACEMENT_CHARACTER, times));
    }
}
