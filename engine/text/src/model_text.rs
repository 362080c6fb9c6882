//! Which stretches of a rendered conversation the model itself writes, in the order of trust that `renderer.rs` states.
//!
//! Works on the escaped text; knows no ids. Calls of tools are what the model writes, as much as contents are.

use std::ops::Range;

use serde_json::{Value as Json, json};

use crate::escape::{CONTENT_END, CONTENT_START};
use crate::renderer::{MaskSource, Renderer};
use crate::template::{ChatInput, GENERATION_END, GENERATION_START};

/// Byte ranges by message.
pub(crate) type Spans = Vec<(usize, Range<usize>)>;

impl Renderer {
    /// What the model writes of `text`, the rendering of `input`; or, for each way that was tried, why not.
    pub(crate) fn written_by_model(
        &self,
        input: &ChatInput<'_>,
        text: &str,
    ) -> Result<(Spans, MaskSource), Vec<String>> {
        let mut reasons = Vec::new();
        for find in [Self::native_spans, Self::tagged_spans, Self::marked_spans] {
            let found = find(self, input, text).and_then(|found| {
                self.calls_are_inside(input, text, &found.0)?;
                Ok(found)
            });
            match found {
                Ok(found) => return Ok(found),
                Err(reason) => reasons.push(reason),
            }
        }
        Err(reasons)
    }

    /// (a) A known form that writes the same text.
    fn native_spans(&self, input: &ChatInput<'_>, text: &str) -> Result<(Spans, MaskSource), String> {
        let form = self
            .form
            .as_ref()
            .ok_or("the template is none of Llama-2, Llama-3, ChatML and Mistral")?;
        let composed = form
            .compose(input)
            .filter(|composed| composed.text == text)
            .ok_or_else(|| format!("the template is {}'s, but not for this conversation", form.name()))?;
        Ok((composed.spans, MaskSource::Native(form.name())))
    }

    /// (b) What the template's generation tags enclose.
    fn tagged_spans(&self, input: &ChatInput<'_>, text: &str) -> Result<(Spans, MaskSource), String> {
        if !self.template.has_generation_tags() {
            return Err("it has no generation tags".to_owned());
        }
        let marked = self
            .template
            .render_marked(input, true)
            .map_err(|error| error.to_string())?;
        let (plain, ranges) = take_markers(&marked, GENERATION_START, GENERATION_END)
            .filter(|(plain, _)| plain == text)
            .ok_or("its generation tags change the text or enclose one another")?;
        let messages = assistant_messages(input);
        if ranges.len() != messages.len() {
            return Err(format!(
                "its generation tags enclose {} texts for {} assistant messages",
                ranges.len(),
                messages.len()
            ));
        }
        let spans = messages
            .into_iter()
            .zip(ranges)
            .map(|(message, range)| Ok((message, self.to_turn_end(&plain, range, message)?)))
            .collect::<Result<_, String>>()?;
        Ok((spans, MaskSource::GenerationTags))
    }

    /// (c) Where markers around the assistant's contents come out, and what stands where a message with calls would have said
    /// something else.
    fn marked_spans(&self, input: &ChatInput<'_>, text: &str) -> Result<(Spans, MaskSource), String> {
        let assistant = assistant_messages(input);
        let (calling, speaking): (Vec<usize>, Vec<usize>) = assistant
            .into_iter()
            .partition(|&index| !calls(&input.messages[index]).is_empty());
        let mut messages = input.messages.to_vec();
        for &index in &speaking {
            let content = messages[index]
                .get("content")
                .and_then(Json::as_str)
                .filter(|text| !text.trim().is_empty());
            let Some(content) = content.map(str::to_owned) else {
                return Err(format!("message {index} has no text content to mark"));
            };
            let core = content.trim();
            let start = content.len() - content.trim_start().len();
            let (before, after) = (&content[..start], &content[start + core.len()..]);
            messages[index]["content"] = json!(format!("{before}{CONTENT_START}{core}{CONTENT_END}{after}"));
        }
        let marked = self.with_marks(input, &messages)?;
        let (plain, ranges) = take_markers(&marked, CONTENT_START, CONTENT_END)
            .filter(|(plain, ranges)| plain == text && ranges.len() == speaking.len())
            .ok_or("it changes or drops assistant contents")?;
        let mut spans = speaking
            .into_iter()
            .zip(ranges)
            .map(|(message, range)| {
                let content = input.messages[message]
                    .get("content")
                    .and_then(Json::as_str)
                    .unwrap_or_default();
                let spaces = &content[..content.len() - content.trim_start().len()];
                let mut start = range.start;
                for before in [spaces, self.lead.as_str()] {
                    if plain[..start].ends_with(before) {
                        start -= before.len();
                    }
                }
                Ok((message, self.to_turn_end(&plain, start..range.end, message)?))
            })
            .collect::<Result<Spans, String>>()?;
        for message in calling {
            let range = self.calling_range(input, text, message)?;
            spans.push((message, self.to_turn_end(text, range, message)?));
        }
        spans.sort_by_key(|(message, _)| *message);
        Ok((spans, MaskSource::ContentMarkers))
    }

    /// What a message with calls became: the text that differs when a mark stands in place of all that the message says.
    fn calling_range(
        &self,
        input: &ChatInput<'_>,
        text: &str,
        message: usize,
    ) -> Result<Range<usize>, String> {
        let mut messages = input.messages.to_vec();
        if let Some(fields) = messages[message].as_object_mut() {
            fields.shift_remove("tool_calls");
            fields.insert(
                "content".to_owned(),
                json!(format!("{CONTENT_START}{CONTENT_END}")),
            );
        }
        let marked = self.with_marks(input, &messages)?;
        let around = marked
            .split_once(CONTENT_START)
            .and_then(|(before, rest)| Some((before, rest.strip_prefix(CONTENT_END)?)));
        let (before, after) = around.ok_or_else(|| format!("it drops what message {message} says"))?;
        let before = before.strip_suffix(self.lead.as_str()).unwrap_or(before);
        // White space between what is said and the turn's end may be the content's own.
        let after = after.trim_start();
        let end = text.len() - after.len().min(text.len());
        if before.len() <= end && text.starts_with(before) && text.ends_with(after) {
            Ok(before.len()..end)
        } else {
            Err(format!(
                "its text around the calls of message {message} depends on them"
            ))
        }
    }

    /// That every call comes out in its message's span: a template that knows no calls drops them without a word.
    fn calls_are_inside(&self, input: &ChatInput<'_>, text: &str, spans: &Spans) -> Result<(), String> {
        if !spans
            .iter()
            .any(|(index, _)| !calls(&input.messages[*index]).is_empty())
        {
            return Ok(());
        }
        let mut messages = input.messages.to_vec();
        for (index, _) in spans {
            let called = messages[*index]
                .get_mut("tool_calls")
                .and_then(Json::as_array_mut);
            for call in called.into_iter().flatten() {
                if let Some(Json::String(name)) = call.pointer_mut("/function/name") {
                    name.push(CONTENT_END);
                }
            }
        }
        let marked = self.with_marks(input, &messages)?;
        let mut pieces: Vec<&str> = marked.split(CONTENT_END).collect();
        if pieces.concat() != text {
            return Err("it changes the names of calls".to_owned());
        }
        pieces.pop();
        let places: Vec<usize> = pieces
            .iter()
            .scan(0, |at, piece| {
                *at += piece.len();
                Some(*at)
            })
            .collect();
        for (index, range) in spans {
            let inside = places
                .iter()
                .filter(|&&place| range.start < place && place < range.end);
            if inside.count() < calls(&input.messages[*index]).len() {
                return Err(format!("it leaves out calls of message {index}"));
            }
        }
        Ok(())
    }

    fn with_marks(&self, input: &ChatInput<'_>, messages: &[Json]) -> Result<String, String> {
        self.template
            .render(&ChatInput { messages, ..*input })
            .map_err(|error| format!("with marked contents the template fails: {error}"))
    }

    /// Makes a span end with the turn end: cuts what follows one inside it, or takes in the one that follows.
    fn to_turn_end(&self, text: &str, span: Range<usize>, message: usize) -> Result<Range<usize>, String> {
        let written = text[span.clone()].trim_end();
        if self.turn_ends.iter().any(|end| written.ends_with(end.as_str())) {
            return Ok(span.start..span.start + written.len());
        }
        let rest = text[span.end..].trim_start();
        match self.turn_ends.iter().find(|end| rest.starts_with(end.as_str())) {
            Some(end) => Ok(span.start..text.len() - rest.len() + end.len()),
            None => Err(format!("it writes no end-of-turn token after message {message}")),
        }
    }
}

/// Places of the assistant's messages.
fn assistant_messages(input: &ChatInput<'_>) -> Vec<usize> {
    let is_assistant = |message: &Json| message.get("role").and_then(Json::as_str) == Some("assistant");
    input
        .messages
        .iter()
        .enumerate()
        .filter(|(_, message)| is_assistant(message))
        .map(|(index, _)| index)
        .collect()
}

/// The calls that a message makes.
fn calls(message: &Json) -> &[Json] {
    message
        .get("tool_calls")
        .and_then(Json::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default()
}

/// The text without its markers, and what they enclosed. `None` unless they come in pairs, one after the other.
fn take_markers(marked: &str, open: char, close: char) -> Option<(String, Vec<Range<usize>>)> {
    let mut plain = String::with_capacity(marked.len());
    let mut ranges = Vec::new();
    let mut start = None;
    for c in marked.chars() {
        if c == open {
            if start.replace(plain.len()).is_some() {
                return None;
            }
        } else if c == close {
            ranges.push(start.take()?..plain.len());
        } else {
            plain.push(c);
        }
    }
    start.is_none().then_some((plain, ranges))
}
