//! One request's sampled ids become text: never half a character, stop strings found anywhere, and text that may
//! still become a stop string held back.
//!
//! Knows no request, no length limit and no end-of-sequence rule: the caller says when the stream ends. The common
//! path allocates nothing but the growth of the buffers.

use std::sync::Arc;

use crate::stop::StopMatcher;
use crate::token_table::Piece as Bytes;
use crate::tokenizer::Tokenizer;
use crate::utf8::Utf8Tail;
use crate::window::Window;

/// Prompt ids that can hold the beginning of a character which the first generated token completes.
const PROMPT_TAIL: usize = 4;

/// How a stream ends by its text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamOptions {
    /// Strings that end the text wherever they appear. The text of a special token also ends it when that token is
    /// sampled, although visible text leaves special tokens out.
    pub stop: Vec<String>,
    /// The text ends after the stop string rather than before it; then nothing is held back for stops.
    pub keep_stop: bool,
}

/// What one token adds. The buffers are reused from token to token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Piece {
    /// The token's text, special tokens included; empty while a character is unfinished, which then comes whole with
    /// the token that finishes it.
    pub token_text: String,
    /// Visible text that is released now.
    pub delta: String,
}

/// A stop string ended the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StopHit {
    /// Its place in [`StreamOptions::stop`].
    pub index: usize,
}

/// The two ways from ids to characters; `full` with special tokens, `visible` without.
enum Decoding {
    Table {
        full: Utf8Tail,
        unfinished: String,
        visible: Utf8Tail,
    },
    Window {
        full: Window,
        visible: Window,
    },
}

/// The text of one request's output.
pub struct TextStream {
    tokenizer: Arc<Tokenizer>,
    decoding: Decoding,
    stops: StopMatcher,
    /// Special tokens whose text is a stop string, and which one.
    special_stops: Vec<(u32, usize)>,
    keep_stop: bool,
    text: String,
    /// `text[..released]` has been handed out.
    released: usize,
    ended: bool,
}

impl TextStream {
    /// A stream that continues `prompt`, of which the last few ids are looked at: the first generated token keeps the
    /// space that it begins with, and may complete a character that the prompt began.
    #[must_use]
    pub fn new(tokenizer: Arc<Tokenizer>, prompt: &[u32], options: StreamOptions) -> Self {
        let decoding = match tokenizer.table() {
            // Without a prompt the decoder's rules for a text's first token apply; only the general way has them.
            Some(table) if !prompt.is_empty() => {
                let mut full = Utf8Tail::new(table.replacement());
                let mut unfinished = String::new();
                for &id in &prompt[prompt.len().saturating_sub(PROMPT_TAIL)..] {
                    match table.get(id) {
                        Bytes::Text(text) => full.push(text.as_bytes(), &mut unfinished),
                        Bytes::Bytes(bytes) => full.push(bytes, &mut unfinished),
                    }
                }
                unfinished.clear();
                full.mark_as_prompt();
                Decoding::Table {
                    full,
                    unfinished,
                    visible: full,
                }
            }
            _ => Decoding::Window {
                full: Window::new(prompt, false),
                visible: Window::new(prompt, true),
            },
        };
        let special = |stop: &String| tokenizer.token_to_id(stop).filter(|&id| tokenizer.is_special(id));
        let special_stops = options
            .stop
            .iter()
            .enumerate()
            .filter_map(|(index, stop)| special(stop).map(|id| (id, index)))
            .collect();
        Self {
            decoding,
            stops: StopMatcher::new(&options.stop),
            special_stops,
            keep_stop: options.keep_stop,
            tokenizer,
            text: String::new(),
            released: 0,
            ended: false,
        }
    }

    /// Takes the next sampled id and overwrites `piece` with what it adds. A stop hit ends the stream: later ids add
    /// nothing.
    pub fn push(&mut self, id: u32, piece: &mut Piece) -> Option<StopHit> {
        piece.token_text.clear();
        piece.delta.clear();
        if self.ended {
            return None;
        }
        let from = self.text.len();
        let special = self.tokenizer.is_special(id);
        match &mut self.decoding {
            Decoding::Table {
                full,
                unfinished,
                visible,
            } => {
                let token = self
                    .tokenizer
                    .table()
                    .map_or(Bytes::Text(""), |table| table.get(id));
                match token {
                    Bytes::Text(text) if !full.is_pending() && unfinished.is_empty() => {
                        piece.token_text.push_str(text);
                    }
                    Bytes::Text(text) => full.push(text.as_bytes(), unfinished),
                    Bytes::Bytes(bytes) => full.push(bytes, unfinished),
                }
                if !full.is_pending() && !unfinished.is_empty() {
                    piece.token_text.push_str(unfinished);
                    unfinished.clear();
                }
                if !special {
                    match token {
                        Bytes::Text(text) if !visible.is_pending() => self.text.push_str(text),
                        Bytes::Text(text) => visible.push(text.as_bytes(), &mut self.text),
                        Bytes::Bytes(bytes) => visible.push(bytes, &mut self.text),
                    }
                }
            }
            Decoding::Window { full, visible } => {
                full.push(&self.tokenizer, id, &mut piece.token_text);
                visible.push(&self.tokenizer, id, &mut self.text);
            }
        }
        if special && let Some(&(_, index)) = self.special_stops.iter().find(|(stop, _)| *stop == id) {
            self.finish(&mut piece.delta);
            return Some(StopHit { index });
        }
        let found = self.stops.feed(&self.text.as_bytes()[from..]);
        if let Some(found) = found {
            let end = from + found.end;
            self.text
                .truncate(if self.keep_stop { end } else { end - found.len });
            self.ended = true;
            self.release(self.text.len(), &mut piece.delta);
            return Some(StopHit { index: found.index });
        }
        let held = if self.keep_stop { 0 } else { self.stops.held() };
        self.release(self.text.len() - held, &mut piece.delta);
        None
    }

    /// Ends the stream for a reason that is not in its text (length, end of sequence): overwrites `delta` with what was
    /// held back, an unfinished character as U+FFFD. Does nothing after a stop hit.
    pub fn finish(&mut self, delta: &mut String) {
        delta.clear();
        if self.ended {
            return;
        }
        match &mut self.decoding {
            Decoding::Table { visible, .. } => visible.finish(&mut self.text),
            Decoding::Window { visible, .. } => visible.finish(&self.tokenizer, &mut self.text),
        }
        self.ended = true;
        self.release(self.text.len(), delta);
    }

    /// All text released so far: the concatenated deltas. Without special tokens, and cut at the stop string.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text[..self.released]
    }

    /// Hands out text up to the byte `end`.
    fn release(&mut self, end: usize, delta: &mut String) {
        // What may become a stop string grows by at most the new bytes, so it never reaches into released text.
        debug_assert!(end >= self.released);
        delta.push_str(&self.text[self.released..end]);
        self.released = end;
    }
}

impl std::fmt::Debug for TextStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TextStream")
            .field("text", &self.text())
            .field("held", &(self.text.len() - self.released))
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}
