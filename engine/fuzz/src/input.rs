//! A fuzzer's bytes, read as choices and texts. Refuses to know what they are for.

/// Reads from the front; where nothing is left, choices are 0 and texts empty.
#[derive(Debug)]
pub struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    /// Of a fuzzer's bytes.
    #[must_use]
    pub fn new(data: &'a [u8]) -> Self {
        Self { rest: data }
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        let (first, rest) = self.rest.split_first().unwrap_or((&0, &[]));
        self.rest = rest;
        *first
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        usize::from(self.byte()) % end
    }

    /// The text up to the next line break, which is taken too.
    pub fn line(&mut self) -> String {
        let end = self.rest.iter().position(|&byte| byte == b'\n');
        let (line, rest) = match end {
            Some(end) => (&self.rest[..end], &self.rest[end + 1..]),
            None => (self.rest, &[][..]),
        };
        self.rest = rest;
        String::from_utf8_lossy(line).into_owned()
    }

    /// All that is left.
    #[must_use]
    pub fn bytes(self) -> &'a [u8] {
        self.rest
    }

    /// All that is left, as text.
    #[must_use]
    pub fn text(self) -> String {
        String::from_utf8_lossy(self.rest).into_owned()
    }
}
