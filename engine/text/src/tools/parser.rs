//! The way through an answer: text, openings, calls, what stands between them. [`Call`] reads the calls themselves.

use super::call::{Call, Progress};
use super::{ToolEvent, ToolFormat};

/// Hermes: a call begins.
pub(super) const TOOL_CALL: &str = "<tool_call>";
/// Hermes: it ends.
pub(super) const TOOL_CALL_END: &str = "</tool_call>";
/// Llama-3: calls follow.
pub(super) const PYTHON_TAG: &str = "<|python_tag|>";
/// Mistral: calls follow, or in the newer form one call.
pub(super) const TOOL_CALLS: &str = "[TOOL_CALLS]";
/// Mistral: the arguments follow.
pub(super) const ARGS: &str = "[ARGS]";
/// Mistral: the call's id follows.
pub(super) const CALL_ID: &str = "[CALL_ID]";
/// Encloses the generic form, perhaps.
const FENCE: &str = "```";

/// A longer word is no tool's name.
const MAX_NAME: usize = 256;

/// Where in the answer the parser is. The strings are what was read of something that may yet be no call.
#[derive(Debug)]
enum State {
    /// Nothing but white space so far: calls without a marker begin here.
    Fresh,
    Text,
    /// Behind a fence's opening: its word, and white space.
    Fence(String),
    /// Behind a marker.
    Open(String),
    /// Mistral: in the name behind the marker.
    Name {
        raw: String,
        name: String,
    },
    /// Behind a name, before the object of arguments; with `id`, in the call's id before it.
    Arguments {
        raw: String,
        name: String,
        id: bool,
    },
    /// A call's object must follow: in a list or behind a separator.
    Next(String),
    Call(Box<Call>),
    /// Behind a call's object.
    After,
}

/// What may follow at the unread text's start.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ahead {
    Yes,
    /// The text ends too early to tell.
    Maybe,
    No,
}

/// Finds the calls of one answer. Whatever way the text is cut, the texts and calls are the same.
///
/// White space before, between and after calls belongs to neither.
#[derive(Debug)]
pub struct ToolParser {
    format: ToolFormat,
    /// Names that a call without a marker may have.
    names: Vec<String>,
    state: State,
    /// Text that is not read yet.
    pending: String,
    /// White space that is text only if text follows.
    space: String,
    /// What it was before the call at hand: text, should that prove to be none.
    before: String,
    /// Calls that began and are over.
    calls: usize,
    /// Nothing but white space has come since a call.
    after_call: bool,
    /// No marker said that calls come.
    bare: bool,
    /// Inside a list of calls.
    list: bool,
    /// Inside a fence.
    fence: bool,
}

impl ToolParser {
    /// A parser of calls in a family's form. Calls that no marker announces must be of one of `names`.
    #[must_use]
    pub fn new(format: ToolFormat, names: Vec<String>) -> Self {
        Self {
            format,
            names,
            state: State::Fresh,
            pending: String::new(),
            space: String::new(),
            before: String::new(),
            calls: 0,
            after_call: false,
            bare: false,
            list: false,
            fence: false,
        }
    }

    /// A parser of answers that are the arguments of one call of `name`.
    #[must_use]
    pub fn of_arguments(name: String) -> Self {
        Self {
            state: State::Arguments {
                raw: String::new(),
                name,
                id: false,
            },
            ..Self::new(ToolFormat::Json, Vec::new())
        }
    }

    /// Takes more visible text.
    pub fn push(&mut self, text: &str, events: &mut Vec<ToolEvent>) {
        self.pending.push_str(text);
        while self.step(events) {}
    }

    /// Takes one of the form's markers that came as a special token, after all text before it.
    pub fn special(&mut self, marker: &str, events: &mut Vec<ToolEvent>) {
        if let State::Name { raw, name } | State::Arguments { raw, name, id: true } = &mut self.state
            && (marker == ARGS || marker == CALL_ID)
        {
            self.state = State::Arguments {
                raw: std::mem::take(raw),
                name: std::mem::take(name),
                id: marker == CALL_ID,
            };
        } else if marker == TOOL_CALL_END && matches!(self.state, State::After) {
            self.space.clear();
            self.state = State::Text;
        } else if self.opening() == Some(marker) {
            self.give_back(false, events);
            self.bare = false;
            self.state = State::Open(String::new());
        }
    }

    /// Takes the answer's end. With `cut` it was cut off: a call whose name is known stays one, with what its arguments are so far;
    /// behind other calls, what a further one begins with is left out, as it is neither a call nor text. Alone it is text.
    pub fn finish(&mut self, cut: bool, events: &mut Vec<ToolEvent>) {
        self.give_back(cut, events);
        if !self.after_call && !self.space.is_empty() {
            events.push(ToolEvent::Text(std::mem::take(&mut self.space)));
        }
        self.space.clear();
    }

    /// The marker behind which calls stand.
    fn opening(&self) -> Option<&'static str> {
        match self.format {
            ToolFormat::Hermes => Some(TOOL_CALL),
            ToolFormat::Llama3 => Some(PYTHON_TAG),
            ToolFormat::Mistral => Some(TOOL_CALLS),
            ToolFormat::Json => None,
        }
    }

    /// Reads on; false when more text must come first.
    fn step(&mut self, events: &mut Vec<ToolEvent>) -> bool {
        match std::mem::replace(&mut self.state, State::Text) {
            State::Fresh => self.fresh(),
            State::Text => self.text(events),
            State::Fence(raw) => self.fence(raw, events),
            State::Open(raw) => self.open(raw, events),
            State::Name { raw, name } => self.name(raw, name, events),
            State::Arguments { raw, name, id } => self.arguments(raw, name, id, events),
            State::Next(raw) => self.next(raw, events),
            State::Call(call) => self.call(call, events),
            State::After => self.after(),
        }
    }

    fn fresh(&mut self) -> bool {
        self.skip_space();
        let generic = self.format == ToolFormat::Json;
        match self.pending.bytes().next() {
            None => return self.wait(State::Fresh),
            Some(b'{') if generic || self.format == ToolFormat::Llama3 => {
                self.bare = true;
                self.state = State::Next(String::new());
            }
            Some(b'[') if generic => {
                (self.bare, self.list) = (true, true);
                self.state = State::Next(self.take(1));
            }
            Some(b'`') if generic => match self.ahead(FENCE) {
                Ahead::Yes => {
                    (self.bare, self.fence) = (true, true);
                    self.state = State::Fence(self.take(FENCE.len()));
                }
                Ahead::Maybe => return self.wait(State::Fresh),
                Ahead::No => {}
            },
            Some(_) => {}
        }
        true
    }

    fn text(&mut self, events: &mut Vec<ToolEvent>) -> bool {
        let Some(marker) = self.opening() else {
            let text = std::mem::take(&mut self.pending);
            self.tell(&text, events);
            return false;
        };
        if let Some(at) = self.pending.find(marker) {
            let text = self.take(at);
            self.tell(&text, events);
            self.bare = false;
            self.state = State::Open(self.take(marker.len()));
            return true;
        }
        let begun = (1..marker.len())
            .rev()
            .find(|&len| self.pending.ends_with(&marker[..len]))
            .unwrap_or(0);
        let text = self.take(self.pending.len() - begun);
        self.tell(&text, events);
        false
    }

    fn fence(&mut self, mut raw: String, events: &mut Vec<ToolEvent>) -> bool {
        while let Some(next) = self.pending.chars().next() {
            if next == '{' {
                self.state = State::Next(raw);
                return true;
            }
            raw.push_str(&self.take(next.len_utf8()));
            if next == '[' {
                self.list = true;
                self.state = State::Next(raw);
                return true;
            }
            if !"json".starts_with(raw[FENCE.len()..].trim_end()) {
                return self.no_call(&raw, events);
            }
        }
        self.wait(State::Fence(raw))
    }

    fn open(&mut self, mut raw: String, events: &mut Vec<ToolEvent>) -> bool {
        self.skip_into(&mut raw);
        let mistral = self.format == ToolFormat::Mistral;
        self.state = match self.pending.bytes().next() {
            None => return self.wait(State::Open(raw)),
            Some(b'{') => State::Next(raw),
            Some(b'[') if mistral => {
                self.list = true;
                raw.push_str(&self.take(1));
                State::Next(raw)
            }
            Some(byte) if mistral && is_name(byte) => State::Name {
                raw,
                name: String::new(),
            },
            Some(_) => return self.no_call(&raw, events),
        };
        true
    }

    fn name(&mut self, mut raw: String, mut name: String, events: &mut Vec<ToolEvent>) -> bool {
        let more = self.take_word();
        raw.push_str(&more);
        name.push_str(&more);
        if name.len() > MAX_NAME {
            return self.no_call(&raw, events);
        }
        let mut unsure = self.pending.is_empty();
        for marker in [ARGS, CALL_ID] {
            match self.ahead(marker) {
                Ahead::Yes => {
                    raw.push_str(&self.take(marker.len()));
                    let id = marker == CALL_ID;
                    self.state = State::Arguments { raw, name, id };
                    return true;
                }
                Ahead::Maybe => unsure = true,
                Ahead::No => {}
            }
        }
        if unsure {
            return self.wait(State::Name { raw, name });
        }
        if !self.pending.starts_with('{') {
            return self.no_call(&raw, events);
        }
        self.state = State::Arguments { raw, name, id: false };
        true
    }

    fn arguments(&mut self, mut raw: String, name: String, id: bool, events: &mut Vec<ToolEvent>) -> bool {
        if id {
            raw.push_str(&self.take_word());
            match self.ahead(ARGS) {
                Ahead::Yes => raw.push_str(&self.take(ARGS.len())),
                Ahead::Maybe => return self.wait(State::Arguments { raw, name, id }),
                Ahead::No => return self.no_call(&raw, events),
            }
        }
        self.skip_into(&mut raw);
        match self.pending.bytes().next() {
            None => self.wait(State::Arguments { raw, name, id: false }),
            Some(b'{') => {
                self.state = State::Call(Box::new(Call::arguments(raw, name)));
                true
            }
            Some(_) => self.no_call(&raw, events),
        }
    }

    fn next(&mut self, mut raw: String, events: &mut Vec<ToolEvent>) -> bool {
        self.skip_into(&mut raw);
        match self.pending.bytes().next() {
            None => self.wait(State::Next(raw)),
            Some(b'{') => {
                self.state = State::Call(Box::new(Call::object(raw, self.bare)));
                true
            }
            Some(_) => self.no_call(&raw, events),
        }
    }

    fn call(&mut self, mut call: Box<Call>, events: &mut Vec<ToolEvent>) -> bool {
        let text = std::mem::take(&mut self.pending);
        let progress = call.push(&text, self.calls, &self.names, events);
        let announced = call.is_announced();
        if announced {
            self.before.push_str(&std::mem::take(&mut self.space));
            self.after_call = true;
        }
        if progress == Progress::More {
            return self.wait(State::Call(call));
        }
        let (raw, rest) = call.into_parts();
        self.pending = rest;
        if progress == Progress::Done {
            self.before.clear();
            self.calls += 1;
            self.state = State::After;
            return true;
        }
        if announced {
            self.broken(&raw, events);
            self.no_call("", events)
        } else {
            self.no_call(&raw, events)
        }
    }

    fn after(&mut self) -> bool {
        self.skip_space();
        let Some(next) = self.pending.bytes().next() else {
            return self.wait(State::After);
        };
        let hermes = self.format == ToolFormat::Hermes;
        let llama3 = self.format == ToolFormat::Llama3;
        match next {
            b',' if self.list => self.state = State::Next(self.take(1)),
            b']' if self.list => {
                self.take(1);
                self.space.clear();
                self.list = false;
                self.state = State::After;
            }
            // A list that does not go on is over.
            _ if self.list => (self.list, self.fence) = (false, false),
            b';' if llama3 => self.state = State::Next(self.take(1)),
            b'{' if llama3 && self.bare => self.state = State::Next(String::new()),
            b'`' if self.fence => return self.swallow(FENCE),
            b'<' if hermes => return self.swallow(TOOL_CALL_END),
            _ => {}
        }
        true
    }

    /// Leaves out what closes a call.
    fn swallow(&mut self, closing: &str) -> bool {
        match self.ahead(closing) {
            Ahead::Yes => {
                self.take(closing.len());
                self.space.clear();
            }
            Ahead::Maybe => return self.wait(State::After),
            Ahead::No => {}
        }
        self.fence = false;
        true
    }

    fn wait(&mut self, state: State) -> bool {
        self.state = state;
        false
    }

    /// What was read is text.
    fn no_call(&mut self, raw: &str, events: &mut Vec<ToolEvent>) -> bool {
        self.tell(raw, events);
        (self.list, self.fence) = (false, false);
        self.state = State::Text;
        true
    }

    fn broken(&mut self, raw: &str, events: &mut Vec<ToolEvent>) {
        let mut whole = std::mem::take(&mut self.before);
        whole.push_str(raw);
        events.push(ToolEvent::Broken {
            index: self.calls,
            raw: whole,
        });
        self.calls += 1;
        self.after_call = false;
    }

    /// Ends whatever is unfinished: as text, or where the answer was `cut` as a call that has begun.
    fn give_back(&mut self, cut: bool, events: &mut Vec<ToolEvent>) {
        let raw = match std::mem::replace(&mut self.state, State::Text) {
            State::Call(call) if !call.is_announced() => call.into_parts().0,
            State::Call(_) if cut => {
                self.calls += 1;
                String::new()
            }
            State::Call(call) => {
                self.broken(&call.into_parts().0, events);
                String::new()
            }
            State::Fence(raw) | State::Open(raw) | State::Next(raw) => raw,
            State::Name { raw, .. } | State::Arguments { raw, .. } => raw,
            State::Fresh | State::Text | State::After => String::new(),
        };
        let text = std::mem::take(&mut self.pending);
        if cut && self.after_call {
            (self.list, self.fence) = (false, false);
            return;
        }
        self.no_call(&raw, events);
        self.tell(&text, events);
    }

    /// Gives out text, but for the white space at its end.
    fn tell(&mut self, text: &str, events: &mut Vec<ToolEvent>) {
        let (shown, space) = text.split_at(text.trim_end().len());
        if !shown.is_empty() {
            let mut whole = std::mem::take(&mut self.space);
            whole.push_str(shown);
            self.after_call = false;
            events.push(ToolEvent::Text(whole));
        }
        self.space.push_str(space);
    }

    /// The first `len` bytes of the unread text.
    fn take(&mut self, len: usize) -> String {
        self.pending.drain(..len).collect()
    }

    /// The characters of a name at the unread text's start.
    fn take_word(&mut self) -> String {
        let len = self.pending.bytes().take_while(|&byte| is_name(byte)).count();
        self.take(len)
    }

    fn take_blank(&mut self) -> String {
        let len = self.pending.len() - self.pending.trim_start().len();
        self.take(len)
    }

    fn skip_space(&mut self) {
        let blank = self.take_blank();
        self.space.push_str(&blank);
    }

    fn skip_into(&mut self, raw: &mut String) {
        let blank = self.take_blank();
        raw.push_str(&blank);
    }

    /// Whether the unread text starts with `text`.
    fn ahead(&self, text: &str) -> Ahead {
        if self.pending.starts_with(text) {
            Ahead::Yes
        } else if text.starts_with(self.pending.as_str()) {
            Ahead::Maybe
        } else {
            Ahead::No
        }
    }
}

fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.')
}
