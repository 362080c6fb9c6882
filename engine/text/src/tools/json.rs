//! Reads JSON byte by byte and says where keys and values begin and end. Knows the meaning of none of them.

/// Deeper nesting is refused, as by the JSON reader that the text goes to afterwards.
const MAX_DEPTH: usize = 127;

/// What a byte was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    /// Part of something.
    Inside,
    /// A key's opening quote.
    KeyStart,
    /// A key's closing quote.
    KeyEnd,
    /// A value's first byte.
    Start,
    /// The last byte of a string, an object, an array, `true`, `false` or `null`. Only the byte after a number shows
    /// its end, which has no mark.
    End,
}

/// The byte cannot stand where it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Container {
    Object,
    Array,
}

/// How far a number is read.
#[derive(Clone, Copy, Debug)]
enum Number {
    Minus,
    Zero,
    Integer,
    Point,
    Fraction,
    Exponent,
    ExponentSign,
    ExponentDigits,
}

/// What may come next.
#[derive(Clone, Copy, Debug)]
enum State {
    Value,
    ValueOrEnd,
    Key,
    KeyOrEnd,
    Colon,
    AfterValue,
    Text { key: bool },
    Escape { key: bool },
    Hex { key: bool, left: u8 },
    Literal(&'static [u8]),
    Number(Number),
}

/// A reader of one JSON value.
#[derive(Debug)]
pub(super) struct Scanner {
    open: Vec<Container>,
    state: State,
}

impl Scanner {
    pub(super) fn new() -> Self {
        Self {
            open: Vec::new(),
            state: State::Value,
        }
    }

    /// How many objects and arrays are open.
    pub(super) fn depth(&self) -> usize {
        self.open.len()
    }

    /// Whether the object or array that began is complete.
    pub(super) fn is_done(&self) -> bool {
        self.open.is_empty() && matches!(self.state, State::AfterValue)
    }

    /// Takes the next byte.
    pub(super) fn step(&mut self, byte: u8) -> Result<Mark, Malformed> {
        match self.state {
            State::Text { key } => match byte {
                b'"' if key => self.then(State::Colon, Mark::KeyEnd),
                b'"' => self.then(State::AfterValue, Mark::End),
                b'\\' => self.then(State::Escape { key }, Mark::Inside),
                0..=0x1f => Err(Malformed),
                _ => Ok(Mark::Inside),
            },
            State::Escape { key } => match byte {
                b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => {
                    self.then(State::Text { key }, Mark::Inside)
                }
                b'u' => self.then(State::Hex { key, left: 4 }, Mark::Inside),
                _ => Err(Malformed),
            },
            State::Hex { key, left } if byte.is_ascii_hexdigit() => match left {
                1 => self.then(State::Text { key }, Mark::Inside),
                _ => self.then(State::Hex { key, left: left - 1 }, Mark::Inside),
            },
            State::Literal(&[expected]) if byte == expected => self.then(State::AfterValue, Mark::End),
            State::Literal(&[expected, ref rest @ ..]) if byte == expected => {
                self.then(State::Literal(rest), Mark::Inside)
            }
            State::Hex { .. } | State::Literal(_) => Err(Malformed),
            State::Number(number) => match number.next(byte) {
                Some(number) => self.then(State::Number(number), Mark::Inside),
                None if number.may_end() => {
                    self.state = State::AfterValue;
                    self.step(byte)
                }
                None => Err(Malformed),
            },
            _ if matches!(byte, b' ' | b'\t' | b'\n' | b'\r') => Ok(Mark::Inside),
            State::Key | State::KeyOrEnd if byte == b'"' => {
                self.then(State::Text { key: true }, Mark::KeyStart)
            }
            State::Colon if byte == b':' => self.then(State::Value, Mark::Inside),
            State::AfterValue => match (byte, self.open.last()) {
                (b',', Some(Container::Object)) => self.then(State::Key, Mark::Inside),
                (b',', Some(Container::Array)) => self.then(State::Value, Mark::Inside),
                (b'}', Some(Container::Object)) | (b']', Some(Container::Array)) => self.close(),
                _ => Err(Malformed),
            },
            State::KeyOrEnd if byte == b'}' => self.close(),
            State::ValueOrEnd if byte == b']' => self.close(),
            State::Value | State::ValueOrEnd => self.start(byte),
            State::Key | State::KeyOrEnd | State::Colon => Err(Malformed),
        }
    }

    fn start(&mut self, byte: u8) -> Result<Mark, Malformed> {
        let state = match byte {
            b'{' => self.open(Container::Object, State::KeyOrEnd)?,
            b'[' => self.open(Container::Array, State::ValueOrEnd)?,
            b'"' => State::Text { key: false },
            b't' => State::Literal(b"rue"),
            b'f' => State::Literal(b"alse"),
            b'n' => State::Literal(b"ull"),
            b'-' => State::Number(Number::Minus),
            b'0' => State::Number(Number::Zero),
            b'1'..=b'9' => State::Number(Number::Integer),
            _ => return Err(Malformed),
        };
        self.then(state, Mark::Start)
    }

    fn open(&mut self, container: Container, state: State) -> Result<State, Malformed> {
        if self.open.len() == MAX_DEPTH {
            return Err(Malformed);
        }
        self.open.push(container);
        Ok(state)
    }

    fn close(&mut self) -> Result<Mark, Malformed> {
        self.open.pop();
        self.then(State::AfterValue, Mark::End)
    }

    fn then(&mut self, state: State, mark: Mark) -> Result<Mark, Malformed> {
        self.state = state;
        Ok(mark)
    }
}

impl Number {
    /// The number with one byte more, if it goes on.
    fn next(self, byte: u8) -> Option<Self> {
        match (self, byte) {
            (Self::Minus, b'0') => Some(Self::Zero),
            (Self::Minus, b'1'..=b'9') | (Self::Integer, b'0'..=b'9') => Some(Self::Integer),
            (Self::Zero | Self::Integer, b'.') => Some(Self::Point),
            (Self::Point | Self::Fraction, b'0'..=b'9') => Some(Self::Fraction),
            (Self::Zero | Self::Integer | Self::Fraction, b'e' | b'E') => Some(Self::Exponent),
            (Self::Exponent, b'+' | b'-') => Some(Self::ExponentSign),
            (Self::Exponent | Self::ExponentSign | Self::ExponentDigits, b'0'..=b'9') => {
                Some(Self::ExponentDigits)
            }
            _ => None,
        }
    }

    fn may_end(self) -> bool {
        matches!(
            self,
            Self::Zero | Self::Integer | Self::Fraction | Self::ExponentDigits
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str =
        r#"{"a": [1, -0.5e+3, true, null, {"b\"\u00e9": "x\\y\n"}], "c": {}, "d" : [ ], "é": "漢"}"#;

    /// Whether the whole text is one object.
    fn accepts(text: &[u8]) -> bool {
        let mut scanner = Scanner::new();
        text.iter().all(|&byte| scanner.step(byte).is_ok()) && scanner.is_done()
    }

    #[test]
    fn what_is_accepted_is_json_and_the_other_way_round() {
        assert!(accepts(DOCUMENT.as_bytes()));
        let mut broken = 0;
        for at in 1..DOCUMENT.len() {
            if !DOCUMENT.is_char_boundary(at) || !DOCUMENT.is_char_boundary(at + 1) {
                continue;
            }
            for byte in *br#"{}[]":,0-.eE+tu\ n"# {
                let mut text = DOCUMENT.as_bytes().to_vec();
                text[at] = byte;
                let is_json = serde_json::from_slice::<serde_json::Value>(&text).is_ok();
                assert_eq!(accepts(&text), is_json, "{}", String::from_utf8_lossy(&text));
                broken += usize::from(!is_json);
            }
        }
        assert!(broken > 100, "the table has both kinds: {broken}");
        assert!(!accepts(&DOCUMENT.as_bytes()[..DOCUMENT.len() - 1]));
        assert!(!accepts(b"{\"a\": \"line\nbreak\"}"));
        let deep = |n: usize| [vec![b'['; n], vec![b']'; n]].concat();
        assert!(accepts(&deep(MAX_DEPTH)) && !accepts(&deep(MAX_DEPTH + 1)));
        assert!(serde_json::from_slice::<serde_json::Value>(&deep(MAX_DEPTH)).is_ok());
    }

    #[test]
    fn keys_and_values_are_marked() {
        let text = r#"{"k": [7, "s"], "t": true}"#;
        let mut scanner = Scanner::new();
        let marks: String = text
            .bytes()
            .map(|byte| match scanner.step(byte).unwrap() {
                Mark::Inside => '.',
                Mark::KeyStart => '<',
                Mark::KeyEnd => '>',
                Mark::Start => '(',
                Mark::End => ')',
            })
            .collect();
        assert_eq!(marks, "(<.>..((..(.))..<.>..(..))");
    }
}
