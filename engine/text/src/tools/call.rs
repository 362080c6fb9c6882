//! One call's object, read as it comes: its name is found and its arguments are passed on as they are written.
//!
//! Knows the keys of a call, and nothing of what stands around it.

use serde_json::{Map, Value as Json};

use super::ToolEvent;
use super::json::{Malformed, Mark, Scanner};

/// How far a call is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// More of it must come.
    More,
    /// It is complete.
    Done,
    /// It is no call.
    Broken,
}

/// What the value at hand is to the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Name,
    /// The name, or an object with name and arguments.
    Function,
    Arguments,
    Other,
}

#[derive(Debug)]
enum Arguments {
    /// Not there yet.
    Absent,
    /// An object, which is passed on as it stands; `end` is known once it is complete.
    Object { end: Option<usize> },
    /// A string or null that is not read to its end.
    Unread,
    /// The text that a string held.
    Read(String),
}

/// A call on its way.
#[derive(Debug)]
pub(super) struct Call {
    /// What opened the call, and the object itself.
    raw: String,
    /// `raw[..at]` is read.
    at: usize,
    scanner: Scanner,
    /// No marker said that a call comes: it must have arguments and one of the known names, and no other keys before it
    /// has both.
    bare: bool,
    /// How deep the call's own keys lie.
    level: usize,
    field: Field,
    /// Where the key, the name or the string of arguments at hand begins.
    begun: usize,
    name: Option<String>,
    arguments: Arguments,
    announced: bool,
    /// `raw[..sent]` needs no passing on any more.
    sent: usize,
}

impl Call {
    /// A call whose object holds name and arguments; `opening` was read before it.
    pub(super) fn object(opening: String, bare: bool) -> Self {
        Self {
            at: opening.len(),
            sent: opening.len(),
            raw: opening,
            scanner: Scanner::new(),
            bare,
            level: 1,
            field: Field::Other,
            begun: 0,
            name: None,
            arguments: Arguments::Absent,
            announced: false,
        }
    }

    /// A call of `name` whose object is its arguments.
    pub(super) fn arguments(opening: String, name: String) -> Self {
        Self {
            // No key of it is the call's own.
            level: usize::MAX,
            name: Some(name),
            arguments: Arguments::Object { end: None },
            ..Self::object(opening, false)
        }
    }

    /// Whether its start was told.
    pub(super) fn is_announced(&self) -> bool {
        self.announced
    }

    /// Takes more text. What comes after the call's end stays unread.
    pub(super) fn push(
        &mut self,
        text: &str,
        index: usize,
        names: &[String],
        events: &mut Vec<ToolEvent>,
    ) -> Progress {
        self.raw.push_str(text);
        if self.level == usize::MAX {
            self.announce(index, events);
        }
        let mut progress = Progress::More;
        while progress == Progress::More
            && let Some(&byte) = self.raw.as_bytes().get(self.at)
        {
            if self.byte(byte, index, names, events).is_err() {
                progress = Progress::Broken;
                break;
            }
            self.at += 1;
            if self.scanner.is_done() {
                progress = self.complete(index, events);
            }
        }
        self.send(index, events);
        if progress == Progress::Done {
            events.push(ToolEvent::End { index });
        }
        progress
    }

    /// The text that was read, and what stands after it.
    pub(super) fn into_parts(mut self) -> (String, String) {
        let rest = self.raw.split_off(self.at);
        (self.raw, rest)
    }

    fn byte(
        &mut self,
        byte: u8,
        index: usize,
        names: &[String],
        events: &mut Vec<ToolEvent>,
    ) -> Result<(), Malformed> {
        let mark = self.scanner.step(byte)?;
        let depth = self.scanner.depth();
        match mark {
            Mark::KeyStart if depth == self.level => self.begun = self.at,
            Mark::KeyEnd if depth == self.level => self.field = self.key()?,
            // An object or array is open already when its first byte is read.
            Mark::Start
                if depth.checked_sub(usize::from(matches!(byte, b'{' | b'['))) == Some(self.level) =>
            {
                self.value_starts(byte, index, events)?;
            }
            Mark::End if depth == self.level => self.value_ends(index, names, events)?,
            // The object under `function` ended.
            Mark::End if depth == 1 && self.level == 2 => {
                self.level = 1;
                self.field = Field::Other;
            }
            _ => {}
        }
        Ok(())
    }

    fn key(&self) -> Result<Field, Malformed> {
        match self.string()?.as_str() {
            "name" => Ok(Field::Name),
            "function" if self.level == 1 => Ok(Field::Function),
            "arguments" | "parameters" => Ok(Field::Arguments),
            "type" | "id" => Ok(Field::Other),
            _ if self.bare && !self.announced => Err(Malformed),
            _ => Ok(Field::Other),
        }
    }

    fn value_starts(&mut self, byte: u8, index: usize, events: &mut Vec<ToolEvent>) -> Result<(), Malformed> {
        match (self.field, byte) {
            (Field::Other, _) => {}
            (Field::Name | Field::Function, b'"') if self.name.is_none() => {
                self.field = Field::Name;
                self.begun = self.at;
            }
            (Field::Function, b'{') => {
                self.level = 2;
                self.field = Field::Other;
            }
            (Field::Arguments, b'{') if matches!(self.arguments, Arguments::Absent) => {
                self.arguments = Arguments::Object { end: None };
                self.sent = self.at;
                self.announce(index, events);
            }
            (Field::Arguments, b'"' | b'n') if matches!(self.arguments, Arguments::Absent) => {
                self.arguments = Arguments::Unread;
                self.begun = self.at;
            }
            _ => return Err(Malformed),
        }
        Ok(())
    }

    fn value_ends(
        &mut self,
        index: usize,
        names: &[String],
        events: &mut Vec<ToolEvent>,
    ) -> Result<(), Malformed> {
        match self.field {
            Field::Name => {
                let name = self.string()?;
                if name.is_empty() || (self.bare && !names.contains(&name)) {
                    return Err(Malformed);
                }
                self.name = Some(name);
                self.announce(index, events);
            }
            Field::Arguments => {
                self.arguments = match self.arguments {
                    Arguments::Unread => Arguments::Read(self.read_arguments()?),
                    _ => Arguments::Object {
                        end: Some(self.at + 1),
                    },
                };
                self.announce(index, events);
            }
            Field::Function | Field::Other => {}
        }
        self.field = Field::Other;
        Ok(())
    }

    /// The string that ends here.
    fn string(&self) -> Result<String, Malformed> {
        let text = self.raw.get(self.begun..=self.at).ok_or(Malformed)?;
        serde_json::from_str(text).map_err(|_| Malformed)
    }

    /// The object that a string of arguments holds; null and an empty string stand for none.
    fn read_arguments(&self) -> Result<String, Malformed> {
        if self.raw.get(self.begun..=self.at) == Some("null") {
            return Ok("{}".to_owned());
        }
        let text = self.string()?;
        let text = text.trim();
        if text.is_empty() {
            return Ok("{}".to_owned());
        }
        serde_json::from_str::<Map<String, Json>>(text).map_err(|_| Malformed)?;
        Ok(text.to_owned())
    }

    /// Tells the call's start as soon as it has a name and arguments.
    fn announce(&mut self, index: usize, events: &mut Vec<ToolEvent>) {
        if self.announced || matches!(self.arguments, Arguments::Absent | Arguments::Unread) {
            return;
        }
        let Some(name) = self.name.clone() else { return };
        self.announced = true;
        events.push(ToolEvent::Start { index, name });
        if let Arguments::Read(text) = &self.arguments {
            let fragment = text.clone();
            events.push(ToolEvent::Arguments { index, fragment });
        }
    }

    /// Passes on what was read of an object of arguments.
    fn send(&mut self, index: usize, events: &mut Vec<ToolEvent>) {
        let Arguments::Object { end } = self.arguments else {
            return;
        };
        let end = end.unwrap_or(self.at);
        if self.announced && self.sent < end {
            let fragment = self.raw[self.sent..end].to_owned();
            self.sent = end;
            events.push(ToolEvent::Arguments { index, fragment });
        }
    }

    fn complete(&mut self, index: usize, events: &mut Vec<ToolEvent>) -> Progress {
        if !self.bare && matches!(self.arguments, Arguments::Absent) {
            self.arguments = Arguments::Read("{}".to_owned());
            self.announce(index, events);
        }
        if self.announced {
            Progress::Done
        } else {
            Progress::Broken
        }
    }
}
