//! A prompt that is shown before its answers, and where its tokens begin in it.

use agentlm_text::Tokenizer;

/// What comes before each answer to one prompt; empty unless it was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Echo {
    pub(crate) text: String,
    /// Of the text.
    pub(crate) characters: usize,
    /// The character at which each token begins.
    pub(crate) offsets: Vec<usize>,
}

impl Echo {
    /// A text, and the bytes of it that each of its tokens has. Special tokens around it have none.
    pub(crate) fn of_text(text: String, ranges: &[(usize, usize)]) -> Self {
        let mut starts = text.char_indices().map(|(at, _)| at).peekable();
        let (mut passed, mut offsets) = (0, Vec::with_capacity(ranges.len()));
        for &(start, _) in ranges {
            // The characters that begin before the token does.
            while starts.next_if(|at| *at < start).is_some() {
                passed += 1;
            }
            offsets.push(passed);
        }
        Self {
            characters: passed + starts.count(),
            text,
            offsets,
        }
    }

    /// Ids, and the text that they decode to. A decoder may leave out the space that a text begins with.
    pub(crate) fn of_ids(text: String, ids: &[u32], tokenizer: &Tokenizer) -> Self {
        let characters = text.chars().count();
        let mut sum = 0;
        let mut offsets: Vec<usize> = Vec::with_capacity(ids.len());
        for &id in ids {
            offsets.push(sum);
            sum += tokenizer.token_text(id).chars().count();
        }
        let left_out = sum.saturating_sub(characters);
        for offset in &mut offsets {
            *offset = offset.saturating_sub(left_out);
        }
        Self {
            text,
            characters,
            offsets,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_begin_at_characters() {
        // A special token before it, a character in two tokens, a special token behind it.
        let ranges = [(0, 0), (0, 1), (1, 2), (2, 3), (3, 5), (0, 0)];
        let echo = Echo::of_text("aéb ".to_owned(), &ranges);
        assert_eq!(echo.offsets, [0, 0, 1, 2, 2, 2]);
        assert_eq!(echo.characters, 4);
        assert_eq!(Echo::of_text(String::new(), &[(0, 0)]).offsets, [0]);
    }
}
