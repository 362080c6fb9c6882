//! From an answer's tokens to its text and calls.

use std::collections::VecDeque;

use agentlm_core::FinishReason;
use agentlm_core::params::SamplingParams;
use agentlm_host::{Finished, Token};
use agentlm_text::{Tokenizer, ToolEvent, ToolFormat, ToolParser};

use super::{Choice, Tools};
use crate::app::App;
use crate::flow::TokenRecord;
use crate::routes::openai::sampling::keeps_stop;

/// What of a token tells about calls.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shown<'a> {
    id: u32,
    text: &'a str,
    delta: &'a str,
    special: bool,
}

impl<'a> From<&Token<'a>> for Shown<'a> {
    fn from(token: &Token<'a>) -> Self {
        Self {
            id: token.id,
            text: token.text,
            delta: token.delta,
            special: token.special,
        }
    }
}

impl<'a> From<&'a TokenRecord> for Shown<'a> {
    fn from(token: &'a TokenRecord) -> Self {
        Self {
            id: token.id,
            text: &token.text,
            delta: &token.delta,
            special: token.special,
        }
    }
}

/// Reads one answer.
///
/// Visible text leaves special tokens out and may come later than its tokens, while it may still become a stop string.
/// So each special marker waits until all text before it has come.
pub(super) struct Reader {
    parser: ToolParser,
    /// The form's markers that are special tokens.
    markers: Vec<(u32, &'static str)>,
    /// Whether text is held back for stop strings.
    holds: bool,
    /// Bytes of text in the tokens so far, special ones left out.
    written: usize,
    /// Bytes of visible text so far.
    shown: usize,
    /// Markers on their way, and how much text comes before each.
    waiting: VecDeque<(usize, &'static str)>,
    /// Further calls are dropped.
    max_calls: usize,
}

impl Reader {
    pub(super) fn new(app: &App, tools: &Tools, params: &SamplingParams) -> Self {
        let names = || -> Vec<String> { tools.names().map(str::to_owned).collect() };
        let (parser, format) = match &tools.choice {
            Choice::Named(name) => (ToolParser::of_arguments(name.clone()), ToolFormat::Json),
            Choice::Required => (ToolParser::new(ToolFormat::Json, names()), ToolFormat::Json),
            Choice::Auto => {
                let format = spoken(app);
                (ToolParser::new(format, names()), format)
            }
        };
        let holds = !params.stop.is_empty() && !keeps_stop(app);
        Self::with(parser, format, &app.tokenizer, holds, tools.parallel)
    }

    fn with(
        parser: ToolParser,
        format: ToolFormat,
        tokenizer: &Tokenizer,
        holds: bool,
        parallel: bool,
    ) -> Self {
        let special = |marker: &&'static str| {
            let id = tokenizer.token_to_id(marker)?;
            tokenizer.is_special(id).then_some((id, *marker))
        };
        Self {
            parser,
            markers: format.markers().iter().filter_map(special).collect(),
            holds,
            written: 0,
            shown: 0,
            waiting: VecDeque::new(),
            max_calls: if parallel { usize::MAX } else { 1 },
        }
    }

    /// Takes a token.
    pub(super) fn token(&mut self, token: Shown<'_>, events: &mut Vec<ToolEvent>) {
        let first = events.len();
        if !token.special {
            self.written += token.text.len();
        } else if let Some(&(_, marker)) = self.markers.iter().find(|(id, _)| *id == token.id) {
            self.waiting.push_back((self.written, marker));
        }
        let mut delta = token.delta;
        while let Some(&(place, marker)) = self.waiting.front() {
            let before = if self.holds {
                place.saturating_sub(self.shown)
            } else {
                0
            };
            if before > delta.len() {
                break;
            }
            let (text, rest) = delta.split_at_checked(before).unwrap_or(("", delta));
            self.text(text, events);
            self.parser.special(marker, events);
            self.waiting.pop_front();
            delta = rest;
        }
        self.text(delta, events);
        self.limit(first, events);
    }

    /// Takes the answer's end.
    pub(super) fn finish(&mut self, finished: &Finished, events: &mut Vec<ToolEvent>) {
        let first = events.len();
        for (_, marker) in std::mem::take(&mut self.waiting) {
            self.parser.special(marker, events);
        }
        let cut = finished.reason == FinishReason::Length && finished.stop.is_none();
        self.parser.finish(cut, events);
        self.limit(first, events);
    }

    fn text(&mut self, text: &str, events: &mut Vec<ToolEvent>) {
        if !text.is_empty() {
            self.shown += text.len();
            self.parser.push(text, events);
        }
    }

    /// Drops what belongs to calls that are too many.
    fn limit(&self, first: usize, events: &mut Vec<ToolEvent>) {
        let mut at = 0;
        events.retain_mut(|event| {
            at += 1;
            if at <= first {
                return true;
            }
            match event {
                ToolEvent::Text(_) => true,
                ToolEvent::Broken { index, raw } if *index >= self.max_calls => {
                    *event = ToolEvent::Text(std::mem::take(raw));
                    true
                }
                ToolEvent::Start { index, .. }
                | ToolEvent::Arguments { index, .. }
                | ToolEvent::End { index }
                | ToolEvent::Broken { index, .. } => *index < self.max_calls,
            }
        });
    }
}

/// The form in which the model writes calls unasked: what the operator says, or what its template shows it. A template
/// that knows no tools has them told in words, which ask for the generic form.
fn spoken(app: &App) -> ToolFormat {
    let template = app.renderer.as_ref().map(|renderer| renderer.template());
    let shown = template.filter(|template| template.uses_tools());
    let shown = || shown.map_or(ToolFormat::Json, |template| template.tool_format());
    app.config.tool_call_parser.unwrap_or_else(shown)
}

#[cfg(test)]
mod tests {
    use agentlm_text::SpecialTokens;
    use serde_json::json;

    use super::*;

    /// Single letters, and `[TOOL_CALLS]` as id 0.
    fn tokenizer() -> Tokenizer {
        let json = json!({
            "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "pre_tokenizer": null,
            "added_tokens": [{"id": 0, "content": "[TOOL_CALLS]", "single_word": false, "lstrip": false,
                              "rstrip": false, "normalized": false, "special": true}],
            "post_processor": null, "decoder": null,
            "model": {"type": "WordLevel", "vocab": {"[TOOL_CALLS]": 0, "x": 1}, "unk_token": "x"}
        });
        Tokenizer::from_json(json.to_string().as_bytes(), SpecialTokens::default()).unwrap()
    }

    fn reader(holds: bool, parallel: bool) -> Reader {
        let parser = ToolParser::new(ToolFormat::Mistral, Vec::new());
        Reader::with(parser, ToolFormat::Mistral, &tokenizer(), holds, parallel)
    }

    /// The events of tokens: text and what is visible of it by then; an empty text is the marker.
    fn read(mut reader: Reader, tokens: &[(&str, &str)]) -> Vec<ToolEvent> {
        let mut events = Vec::new();
        for &(text, delta) in tokens {
            let token = Shown {
                id: u32::from(!text.is_empty()),
                text,
                delta,
                special: text.is_empty(),
            };
            reader.token(token, &mut events);
        }
        let finished = Finished {
            reason: FinishReason::EosToken,
            generated_tokens: 0,
            prompt_tokens: 0,
            cached_tokens: 0,
            text: String::new(),
            stop: None,
            timing: agentlm_host::Timing::default(),
        };
        reader.finish(&finished, &mut events);
        events
    }

    fn call(index: usize, arguments: &str) -> Vec<ToolEvent> {
        vec![
            ToolEvent::Start {
                index,
                name: "f".to_owned(),
            },
            ToolEvent::Arguments {
                index,
                fragment: arguments.to_owned(),
            },
            ToolEvent::End { index },
        ]
    }

    #[test]
    fn a_marker_waits_for_the_text_before_it() {
        let text = |text: &str| ToolEvent::Text(text.to_owned());
        // "yz" might have become a stop string, so that it comes with what follows the marker.
        let held = [
            ("xyz", "x"),
            ("", ""),
            ("f{}", "yzf{}"),
            ("", ""),
            ("no", ""),
            ("w", "now"),
        ];
        let expected = [vec![text("x"), text("yz")], call(0, "{}"), vec![text("now")]].concat();
        assert_eq!(read(reader(true, true), &held), expected);
        // What is held back to the end comes before a marker too.
        let tail = [("xyz", "x"), ("", "yz")];
        assert_eq!(read(reader(true, true), &tail), [text("x"), text("yz")]);
        let at_once = [("xyz", "xyz"), ("", ""), ("f{}", "f{}")];
        let expected = [vec![text("xyz")], call(0, "{}")].concat();
        assert_eq!(read(reader(false, true), &at_once), expected);
    }

    #[test]
    fn one_call_at_most_where_no_more_are_wanted() {
        let tokens = [
            ("", ""),
            ("f{}", "f{}"),
            ("", ""),
            ("f{\"x\":1}", "f{\"x\":1}"),
            ("", ""),
            ("f{x}", "f{x}"),
        ];
        let first = read(reader(false, true), &tokens);
        assert_eq!(first[..6], [call(0, "{}"), call(1, "{\"x\":1}")].concat()[..]);
        let raw = ToolEvent::Text("f{".to_owned());
        let rest = ToolEvent::Text("x}".to_owned());
        let expected = [call(0, "{}"), vec![raw, rest]].concat();
        assert_eq!(read(reader(false, false), &tokens), expected);
    }
}
