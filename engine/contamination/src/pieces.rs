//! Training files, read from beginning to end in pieces of bounded size. Refuses to know what is in them.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use crate::ScanError;
use crate::settings::{Form, Source};

/// Bytes of JSON lines that are handed on at a time.
const LINES: usize = 1 << 20;
/// Bytes of the longest line of JSON.
const LONGEST_LINE: usize = 1 << 28;

/// A stretch of a file.
pub(crate) struct Piece {
    pub file: u32,
    /// First byte's place in the file.
    pub offset: u64,
    /// Line of the first byte, from 1.
    pub line: u64,
    pub data: Vec<u8>,
    /// Bytes that belong to this piece; of running text, what follows is the next piece's beginning.
    pub own: usize,
}

/// How text is cut into pieces; each is tokenised by itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cut {
    /// Bytes of a piece.
    pub piece: usize,
    /// Bytes that are read behind it, so that overlaps may run on.
    pub lookahead: usize,
    /// Whether a long text of a JSON line is cut, too, and not only running text.
    pub texts: bool,
}

/// A piece of a text: its first byte, the byte behind what is its own, the byte behind what is read ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    pub start: usize,
    pub own: usize,
    pub end: usize,
}

impl Cut {
    /// A cut for evaluation texts of at most so many bytes: what is read ahead holds the longest of them, with more white space
    /// in it than there ever is. Checkpoints' tokenizers get shorter pieces, of JSON lines' texts as well: many take the square
    /// of the time (Llama-2's 16 s for 2 MB).
    pub fn new(longest_text: usize, is_model: bool) -> Self {
        let lookahead = (4 * longest_text).clamp(1 << 12, 1 << 22);
        let least = if is_model { 1 << 15 } else { 1 << 20 };
        Self {
            piece: least.max(4 * lookahead),
            lookahead,
            texts: is_model,
        }
    }

    /// The windows of a JSON line's text, in order; one that is not long is whole.
    pub fn windows(self, text: &str) -> impl Iterator<Item = Window> + '_ {
        let mut next = Some(0);
        std::iter::from_fn(move || {
            let start = next.take()?;
            let rest = &text.as_bytes()[start..];
            if !self.texts || rest.len() <= self.piece + self.lookahead {
                let end = text.len();
                return Some(Window { start, own: end, end });
            }
            let own = start + end_of_piece(&rest[..self.piece]);
            let end = start + whole_characters(&rest[..self.piece + self.lookahead]);
            next = Some(own);
            Some(Window { start, own, end })
        })
    }
}

/// Calls `each` with every piece in order, until it returns false.
pub(crate) fn read(
    file: u32,
    source: &Source,
    cut: Cut,
    each: &mut dyn FnMut(Piece) -> bool,
) -> Result<bool, ScanError> {
    let failed = |error| ScanError::Read {
        path: source.path.clone(),
        source: error,
    };
    let mut input = File::open(&source.path).map_err(failed)?;
    let (mut offset, mut line) = (0, 1);
    let mut held = Vec::new();
    let mut wanted = match source.form {
        Form::JsonLines => LINES,
        Form::Text => cut.piece + cut.lookahead,
    };
    loop {
        let missing = wanted.saturating_sub(held.len()) as u64;
        let read = (&mut input)
            .take(missing)
            .read_to_end(&mut held)
            .map_err(failed)?;
        let at_end = (read as u64) < missing;
        if held.is_empty() {
            return Ok(true);
        }
        let own = match source.form {
            Form::JsonLines => {
                match memchr::memrchr(b'\n', &held) {
                    _ if at_end => held.len(),
                    Some(newline) => newline + 1,
                    // One line fills the whole piece.
                    None if held.len() >= LONGEST_LINE => {
                        return Err(ScanError::LineTooLong {
                            path: source.path.clone(),
                            line,
                            limit: LONGEST_LINE,
                        });
                    }
                    None => {
                        wanted = (wanted * 2).min(LONGEST_LINE);
                        continue;
                    }
                }
            }
            Form::Text if held.len() <= cut.piece => held.len(),
            Form::Text => end_of_piece(&held[..cut.piece]),
        };
        let (data, rest) = match source.form {
            Form::JsonLines => {
                let rest = held.split_off(own);
                (held, rest)
            }
            Form::Text => {
                let rest = held[own..].to_vec();
                (held, rest)
            }
        };
        let lines = memchr::memchr_iter(b'\n', &data[..own]).count() as u64;
        let piece = Piece {
            file,
            offset,
            line,
            data,
            own,
        };
        if !each(piece) {
            return Ok(false);
        }
        offset += own as u64;
        line += lines;
        held = rest;
        if source.form == Form::JsonLines {
            wanted = LINES.max(held.len() + 1);
        }
    }
}

/// Where a piece of running text ends: behind its last line, else its last blank, else its last character.
fn end_of_piece(data: &[u8]) -> usize {
    let at = |place: usize| place + 1;
    memchr::memrchr(b'\n', data)
        .or_else(|| memchr::memrchr(b' ', data))
        .map_or_else(|| whole_characters(data), at)
}

/// Bytes up to the last character that is complete.
pub(crate) fn whole_characters(data: &[u8]) -> usize {
    let mut end = data.len();
    for back in 1..=4.min(data.len()) {
        let byte = data[data.len() - back];
        if byte & 0xC0 != 0x80 {
            let width = match byte {
                0xF0.. => 4,
                0xE0.. => 3,
                0xC0.. => 2,
                _ => 1,
            };
            if width > back {
                end = data.len() - back;
            }
            break;
        }
    }
    end
}

/// The bytes that a piece or a line had when it was scanned.
pub(crate) fn again(path: &Path, form: Form, offset: u64, cut: Cut) -> Result<Vec<u8>, ScanError> {
    let failed = |error| ScanError::Read {
        path: path.to_owned(),
        source: error,
    };
    let mut input = File::open(path).map_err(failed)?;
    input.seek(SeekFrom::Start(offset)).map_err(failed)?;
    let mut data = Vec::new();
    match form {
        Form::Text => {
            let bytes = (cut.piece + cut.lookahead) as u64;
            input.take(bytes).read_to_end(&mut data).map_err(failed)?;
        }
        Form::JsonLines => {
            let mut wanted = 1 << 14;
            loop {
                let before = data.len();
                let read = (&mut input).take(wanted).read_to_end(&mut data).map_err(failed)?;
                if let Some(newline) = memchr::memchr(b'\n', &data[before..]) {
                    data.truncate(before + newline);
                    break;
                }
                if (read as u64) < wanted {
                    break;
                }
                wanted = (wanted * 2).min(LONGEST_LINE as u64);
            }
        }
    }
    Ok(data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_hold_a_text_once_and_read_ahead() {
        let cut = Cut {
            piece: 20,
            lookahead: 8,
            texts: true,
        };
        for text in [
            "",
            "short",
            &"語".repeat(40),
            &"one two ".repeat(9),
            &"x".repeat(100),
            &"é\n".repeat(30),
        ] {
            let windows: Vec<_> = cut.windows(text).collect();
            assert_eq!(
                (windows[0].start, windows[windows.len() - 1].end),
                (0, text.len())
            );
            for pair in windows.windows(2) {
                assert_eq!(pair[0].own, pair[1].start);
                assert!(pair[0].start < pair[0].own && pair[0].own <= pair[0].start + 20);
                assert!(text.is_char_boundary(pair[0].own) && text.is_char_boundary(pair[0].end));
                assert!((25..=28).contains(&(pair[0].end - pair[0].start)));
            }
            assert_eq!(windows.len() == 1, text.len() <= 28);
            let whole = Cut { texts: false, ..cut };
            assert_eq!(whole.windows(text).count(), 1);
        }
    }

    #[test]
    fn a_cut_leaves_characters_whole() {
        for text in ["a", "aé", "a語", "a😀"] {
            let bytes = text.as_bytes();
            assert_eq!(whole_characters(bytes), bytes.len());
            for end in 1..bytes.len() {
                assert_eq!(whole_characters(&bytes[..end]), 1);
            }
        }
        assert_eq!(end_of_piece(b"one\ntwo three"), 4);
        assert_eq!(end_of_piece(b"one two"), 4);
        assert_eq!(end_of_piece("ab\u{e9}".as_bytes()), 4);
    }
}
