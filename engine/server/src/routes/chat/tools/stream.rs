//! The events of a choice that may hold calls: text as in any chat stream, and a call's name and arguments as they
//! come.

use std::sync::Arc;

use agentlm_host::{Finished, RequestError, Sink, Token};
use agentlm_text::ToolEvent;
use bytes::{Bytes, BytesMut};

use super::ids::CallIds;
use super::reader::{Reader, Shown};
use super::{Listener, called};
use crate::config::V1Dialect;
use crate::routes::openai::answer::finish_reason;
use crate::routes::openai::logprobs::Form;
use crate::routes::openai::stream::Group;
use crate::wire;

/// What a delta says.
#[derive(Clone, Copy)]
enum Said<'a> {
    Text(&'a str),
    Start { index: usize, name: &'a str },
    Arguments { index: usize, fragment: &'a str },
    Nothing,
}

/// One choice's sink.
pub(in super::super) struct ToolStream {
    group: Arc<Group>,
    /// The prompt counts for usage with its first choice.
    counts_prompt: bool,
    logprobs: Form,
    reader: Reader,
    ids: CallIds,
    /// The bytes before each delta.
    head: Bytes,
    role_told: bool,
    /// Calls begun and calls completed.
    begun: usize,
    completed: usize,
    /// Of one token; kept for its memory.
    events: Vec<ToolEvent>,
}

impl ToolStream {
    /// The sink of choice `index`.
    pub(in super::super) fn new(
        group: &Arc<Group>,
        listener: Listener,
        index: u32,
        counts_prompt: bool,
        logprobs: Form,
    ) -> Self {
        let mut head = BytesMut::new();
        group.write_choice(&mut head, index);
        Self {
            group: group.clone(),
            counts_prompt,
            logprobs,
            reader: listener.reader,
            ids: listener.ids,
            head: head.freeze(),
            role_told: false,
            begun: 0,
            completed: 0,
            events: Vec::new(),
        }
    }

    /// Writes what a token brought. Its log-probability goes with the first event.
    fn write(&mut self, out: &mut BytesMut, events: &[ToolEvent], token: &Token<'_>, end: Option<&Finished>) {
        let mut scored = Some(token);
        for event in events {
            let said = match event {
                ToolEvent::Text(text) | ToolEvent::Broken { raw: text, .. } => Said::Text(text),
                ToolEvent::Start { index, name } => {
                    self.begun += 1;
                    Said::Start { index: *index, name }
                }
                ToolEvent::Arguments { index, fragment } => Said::Arguments {
                    index: *index,
                    fragment,
                },
                ToolEvent::End { .. } => {
                    self.completed += 1;
                    continue;
                }
            };
            self.write_event(out, said, scored.take(), None);
        }
        let nothing = if self.begun > 0 {
            Said::Nothing
        } else {
            Said::Text("")
        };
        if let Some(finished) = end {
            let dialect = self.group.dialect();
            let reason = finish_reason(dialect, finished);
            let reason = if self.completed > 0 {
                called(dialect, reason)
            } else {
                reason
            };
            self.write_event(out, nothing, scored, Some(reason));
        } else if scored.is_some() && self.shows_every_token() {
            self.write_event(out, nothing, scored, None);
        }
    }

    fn write_event(
        &mut self,
        out: &mut BytesMut,
        said: Said<'_>,
        token: Option<&Token<'_>>,
        end: Option<&str>,
    ) {
        let dialect = self.group.dialect();
        let tgi = dialect == V1Dialect::Tgi;
        out.extend_from_slice(&self.head);
        // OpenAI names the role once.
        let first = !std::mem::replace(&mut self.role_told, true);
        if first || tgi {
            out.extend_from_slice(b"\"role\":\"assistant\"");
            if !matches!(said, Said::Nothing) {
                out.extend_from_slice(b",");
            }
        }
        if first && !tgi && matches!(said, Said::Start { .. }) {
            out.extend_from_slice(b"\"content\":null,");
        }
        match said {
            Said::Text(text) => {
                out.extend_from_slice(b"\"content\":");
                wire::string(out, text);
            }
            Said::Start { index, name } => self.write_call(out, index, Some(name), ""),
            Said::Arguments { index, fragment } => self.write_call(out, index, None, fragment),
            Said::Nothing => {}
        }
        out.extend_from_slice(b"},\"logprobs\":");
        match (&mut self.logprobs, token) {
            (Form::Off, _) | (_, None) => out.extend_from_slice(b"null"),
            (form, Some(token)) => form.write(out, dialect, self.group.tokenizer(), token),
        }
        out.extend_from_slice(b",\"finish_reason\":");
        match end {
            Some(reason) => wire::string(out, reason),
            None => out.extend_from_slice(b"null"),
        }
        out.extend_from_slice(b"}],\"usage\":null}\n\n");
    }

    /// A part of a call. TGI names the call in each, OpenAI in the first.
    fn write_call(&self, out: &mut BytesMut, index: usize, name: Option<&str>, fragment: &str) {
        let tgi = self.group.dialect() == V1Dialect::Tgi;
        out.extend_from_slice(b"\"tool_calls\":[{\"index\":");
        wire::integer(out, index);
        if name.is_some() || tgi {
            out.extend_from_slice(b",\"id\":");
            wire::string(out, &self.ids.of(index));
            out.extend_from_slice(b",\"type\":\"function\"");
        }
        out.extend_from_slice(b",\"function\":{");
        if let Some(name) = name {
            out.extend_from_slice(b"\"name\":");
            wire::string(out, name);
            out.extend_from_slice(b",");
        } else if tgi {
            out.extend_from_slice(b"\"name\":null,");
        }
        out.extend_from_slice(b"\"arguments\":");
        wire::string(out, fragment);
        out.extend_from_slice(b"}}]");
    }

    fn shows_every_token(&self) -> bool {
        !matches!(self.logprobs, Form::Off)
    }
}

impl Sink for ToolStream {
    fn token(&mut self, token: &Token<'_>, end: Option<&Finished>) {
        let mut events = std::mem::take(&mut self.events);
        self.reader.token(Shown::from(token), &mut events);
        if let Some(finished) = end {
            self.reader.finish(finished, &mut events);
        }
        let tells = events.iter().any(|event| !matches!(event, ToolEvent::End { .. }));
        if tells || end.is_some() || self.shows_every_token() {
            let group = self.group.clone();
            group.emit(end, self.counts_prompt, |out| {
                self.write(out, &events, token, end)
            });
        } else {
            self.completed += events.len();
        }
        events.clear();
        self.events = events;
    }

    fn fail(&mut self, error: &RequestError) {
        self.group.fail(error);
    }
}
