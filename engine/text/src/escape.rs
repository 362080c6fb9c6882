//! Takes special-token text out of messages before they are rendered, and puts it back afterwards as ordinary text.
//!
//! What a client writes must never become a special token. Each stretch of special-token text in a message is replaced
//! by a placeholder of private-use characters, which a template carries along like any other text; in the rendered
//! text the placeholders are turned back, and their places are known to be literal. Characters that the markers of this
//! crate are made of are treated the same way, so that a marker is never mistaken.

use std::ops::Range;

use serde_json::{Map, Value as Json};

use crate::template::ChatInput;

/// A placeholder is `OPEN`, one character that counts the fragments, `CLOSE`.
const OPEN: char = '\u{FFFFD}';
const CLOSE: char = '\u{FFFFC}';
/// Encloses an assistant message's content while its place in the rendered text is looked for.
pub(crate) const CONTENT_START: char = '\u{FFFFB}';
/// See [`CONTENT_START`].
pub(crate) const CONTENT_END: char = '\u{FFFFA}';
/// All marker characters, those of `template.rs` included.
const RESERVED: std::ops::RangeInclusive<char> = '\u{FFFF8}'..='\u{FFFFD}';
const FIRST_COUNT: u32 = 0xF_0000;

/// Whether a placeholder may be made of the character: what writes text in another notation leaves it as it is.
pub(crate) fn is_placeholder(c: char) -> bool {
    ('\u{F0000}'..='\u{FFFFD}').contains(&c)
}

/// The counting characters end well before the reserved ones.
const MAX_FRAGMENTS: usize = 0xFF00;

/// Finds special-token text.
#[derive(Debug)]
pub(crate) struct SpecialText {
    /// Texts by first byte, longest first.
    by_first: Vec<Vec<String>>,
}

/// The parts of a chat that a client writes, without special-token text.
pub(crate) struct Escaped {
    pub(crate) messages: Vec<Json>,
    tools: Option<Vec<Json>>,
    documents: Option<Vec<Json>>,
    extra: Option<Map<String, Json>>,
    fragments: Vec<String>,
}

/// A rendered text with the fragments back in it.
pub(crate) struct Restored {
    pub(crate) text: String,
    /// Byte ranges of the fragments, in order.
    pub(crate) literals: Vec<Range<usize>>,
    /// After which byte of the escaped text positions are shifted by how much.
    shifts: Vec<(usize, isize)>,
}

impl SpecialText {
    pub(crate) fn new(texts: impl IntoIterator<Item = String>) -> Self {
        let mut by_first = vec![Vec::new(); 256];
        for text in texts {
            if let Some(&first) = text.as_bytes().first() {
                by_first[usize::from(first)].push(text);
            }
        }
        for texts in &mut by_first {
            texts.sort_by_key(|text| std::cmp::Reverse(text.len()));
        }
        Self { by_first }
    }

    /// The stretches of `text` that must be escaped, in order.
    fn find(&self, text: &str) -> Vec<Range<usize>> {
        let bytes = text.as_bytes();
        let first_reserved = RESERVED.start().len_utf8();
        let mut found = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            let candidates = &self.by_first[usize::from(bytes[at])];
            let special = candidates
                .iter()
                .find(|special| bytes[at..].starts_with(special.as_bytes()));
            let len = match special {
                Some(special) => special.len(),
                // All reserved characters share the first three of their four bytes.
                None if bytes[at..].starts_with(&[0xF3, 0xBF, 0xBF])
                    && text
                        .get(at..)
                        .and_then(|rest| rest.chars().next())
                        .is_some_and(|c| RESERVED.contains(&c)) =>
                {
                    first_reserved
                }
                None => 0,
            };
            if len > 0 {
                found.push(at..at + len);
            }
            at += len.max(1);
        }
        found
    }

    /// Escapes every string that a client wrote. `None` when there are more different fragments than placeholders.
    pub(crate) fn escape(&self, input: &ChatInput<'_>) -> Option<Escaped> {
        let mut fragments = Vec::new();
        let mut list = |list: &[Json]| {
            list.iter()
                .map(|value| self.value(value, &mut fragments))
                .collect()
        };
        let messages = list(input.messages);
        let tools = input.tools.map(&mut list);
        let documents = input.documents.map(&mut list);
        let extra = input.extra.map(|extra| {
            extra
                .iter()
                .map(|(key, value)| (key.clone(), self.value(value, &mut fragments)))
                .collect()
        });
        (fragments.len() <= MAX_FRAGMENTS).then_some(Escaped {
            messages,
            tools,
            documents,
            extra,
            fragments,
        })
    }

    fn value(&self, value: &Json, fragments: &mut Vec<String>) -> Json {
        match value {
            Json::String(text) => Json::String(self.text(text, &self.find(text), fragments)),
            Json::Array(list) => match self.parts(list, fragments) {
                Some(parts) => Json::Array(parts),
                None => Json::Array(list.iter().map(|value| self.value(value, fragments)).collect()),
            },
            Json::Object(map) => {
                let entries = map.iter().map(|(key, value)| {
                    (
                        self.text(key, &self.find(key), fragments),
                        self.value(value, fragments),
                    )
                });
                Json::Object(entries.collect())
            }
            other => other.clone(),
        }
    }

    /// Text parts of one message: templates join them, so special-token text may also arise across their borders.
    fn parts(&self, list: &[Json], fragments: &mut Vec<String>) -> Option<Vec<Json>> {
        let texts: Vec<&str> = list
            .iter()
            .map(|part| part.get("text").and_then(Json::as_str))
            .collect::<Option<_>>()?;
        let found = self.find(&texts.concat());
        let mut start = 0;
        let mut parts = Vec::with_capacity(list.len());
        for (part, text) in list.iter().zip(texts) {
            let end = start + text.len();
            // Ranges are in order, so each part looks at its own only.
            let first = found.partition_point(|range| range.end <= start);
            let inside: Vec<Range<usize>> = found[first..]
                .iter()
                .take_while(|range| range.start < end)
                .map(|range| range.start.max(start) - start..range.end.min(end) - start)
                .collect();
            let mut part = self.value(part, fragments);
            if let Some(field) = part.get_mut("text") {
                *field = Json::String(self.text(text, &inside, fragments));
            }
            parts.push(part);
            start = end;
        }
        Some(parts)
    }

    fn text(&self, text: &str, ranges: &[Range<usize>], fragments: &mut Vec<String>) -> String {
        let mut out = String::with_capacity(text.len());
        let mut copied = 0;
        for range in ranges {
            let fragment = &text[range.clone()];
            let count = fragments
                .iter()
                .position(|known| known == fragment)
                .unwrap_or_else(|| {
                    fragments.push(fragment.to_owned());
                    fragments.len() - 1
                });
            out.push_str(&text[copied..range.start]);
            out.push(OPEN);
            // More than there are characters for is refused in `escape`.
            out.extend(
                u32::try_from(count)
                    .ok()
                    .and_then(|count| char::from_u32(FIRST_COUNT + count)),
            );
            out.push(CLOSE);
            copied = range.end;
        }
        out.push_str(&text[copied..]);
        out
    }
}

impl Escaped {
    /// The input with the escaped parts in place of the client's.
    pub(crate) fn input<'a>(&'a self, original: &ChatInput<'a>) -> ChatInput<'a> {
        ChatInput {
            messages: &self.messages,
            tools: self.tools.as_deref(),
            documents: self.documents.as_deref(),
            extra: self.extra.as_ref(),
            ..*original
        }
    }

    /// Puts the fragments back into a rendered text. `None` when a template tore a placeholder apart.
    pub(crate) fn restore(&self, text: String) -> Option<Restored> {
        if self.fragments.is_empty() {
            return Some(Restored {
                text,
                literals: Vec::new(),
                shifts: Vec::new(),
            });
        }
        let mut restored = Restored {
            text: String::with_capacity(text.len()),
            literals: Vec::new(),
            shifts: Vec::new(),
        };
        let mut rest = text.as_str();
        while let Some(at) = rest.find(OPEN) {
            restored.text.push_str(&rest[..at]);
            let mut placeholder = rest[at + OPEN.len_utf8()..].chars();
            let count = u32::from(placeholder.next()?).checked_sub(FIRST_COUNT)?;
            let fragment = self.fragments.get(usize::try_from(count).ok()?)?;
            if placeholder.next()? != CLOSE {
                return None;
            }
            rest = placeholder.as_str();
            let start = restored.text.len();
            restored.text.push_str(fragment);
            restored.literals.push(start..restored.text.len());
            let read = text.len() - rest.len();
            restored.shifts.push((
                read,
                isize::try_from(restored.text.len()).ok()? - isize::try_from(read).ok()?,
            ));
        }
        if rest.contains(CLOSE) {
            return None;
        }
        restored.text.push_str(rest);
        Some(restored)
    }
}

impl Restored {
    /// Where a position of the escaped text (outside placeholders) is now.
    pub(crate) fn position(&self, escaped: usize) -> usize {
        let before = self.shifts.partition_point(|shift| shift.0 <= escaped);
        let shift = before.checked_sub(1).map_or(0, |last| self.shifts[last].1);
        escaped.saturating_add_signed(shift)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn special() -> SpecialText {
        SpecialText::new(["</s>", "<|im_end|>", "<|im_end|>x"].map(str::to_owned))
    }

    #[test]
    fn fragments_leave_and_come_back() {
        let messages = [json!({"role": "user", "content": "a</s>b<|im_end|>xc\u{FFFFD}d</s>"})];
        let input = ChatInput {
            messages: &messages,
            ..ChatInput::default()
        };
        let escaped = special().escape(&input).unwrap();
        let content = escaped.messages[0]["content"].as_str().unwrap().to_owned();
        assert!(!content.contains("</s>") && !content.contains("im_end"));
        let at_d = content.find('d').unwrap();
        let restored = escaped.restore(content).unwrap();
        assert_eq!(restored.text, "a</s>b<|im_end|>xc\u{FFFFD}d</s>");
        let literals: Vec<&str> = restored
            .literals
            .iter()
            .map(|range| &restored.text[range.clone()])
            .collect();
        assert_eq!(literals, ["</s>", "<|im_end|>x", "\u{FFFFD}", "</s>"]);
        assert_eq!(&restored.text[restored.position(at_d)..], "d</s>");
    }

    #[test]
    fn special_text_across_parts_is_found() {
        let messages =
            [json!({"content": [{"type": "text", "text": "a<|im_"}, {"type": "text", "text": "end|>b"}]})];
        let input = ChatInput {
            messages: &messages,
            ..ChatInput::default()
        };
        let escaped = special().escape(&input).unwrap();
        let parts = |index: usize| {
            escaped.messages[0]["content"][index]["text"]
                .as_str()
                .unwrap()
                .to_owned()
        };
        let restored = escaped.restore(parts(0) + &parts(1)).unwrap();
        assert_eq!(
            (restored.text.as_str(), restored.literals),
            ("a<|im_end|>b", vec![1..6, 6..11])
        );
    }

    #[test]
    fn a_torn_placeholder_is_noticed() {
        let messages = [json!({"content": "</s>"})];
        let input = ChatInput {
            messages: &messages,
            ..ChatInput::default()
        };
        let escaped = special().escape(&input).unwrap();
        let content = escaped.messages[0]["content"].as_str().unwrap();
        let torn: String = content.chars().skip(1).collect();
        assert!(escaped.restore(torn).is_none());
        assert!(escaped.restore(content.chars().take(2).collect()).is_none());
    }
}
