//! Answers with tool calls: however the text is cut, the texts and calls are the same, and no text is lost.

use agentlm_text::{ToolEvent, ToolFormat, ToolParser};

use crate::draw::Draw;
use crate::input::Input;

const FORMATS: [ToolFormat; 4] = [
    ToolFormat::Hermes,
    ToolFormat::Llama3,
    ToolFormat::Mistral,
    ToolFormat::Json,
];

/// A piece of an answer.
#[derive(Clone, Copy, Debug)]
enum Part<'a> {
    Text(&'a str),
    Special(&'static str),
}

/// Form, how it ends and where it is cut, the answer's text.
pub fn check(data: &[u8]) {
    let mut input = Input::new(data);
    let format = FORMATS[input.below(4)];
    let flags = input.byte();
    let mut draw = Draw::new(input.byte());
    let (cut, of_arguments, specials) = (flags & 1 == 1, flags & 6 == 6, flags & 8 == 8);
    let text = input.text();
    let parser = || {
        if of_arguments {
            ToolParser::of_arguments("a".to_owned())
        } else {
            ToolParser::new(format, vec!["a".to_owned(), "b".to_owned()])
        }
    };
    let whole = if specials {
        with_specials(format, &text)
    } else {
        vec![Part::Text(&text)]
    };
    let expected = events(parser(), &whole, cut);
    let (shown, calls) = answer(&expected);
    let characters = pieces(&whole, |_| true);
    assert_eq!(
        events(parser(), &characters, cut),
        expected,
        "one character at a time: {text:?}"
    );
    let some = pieces(&whole, |_| draw.below(5) == 0);
    assert_eq!(events(parser(), &some, cut), expected, "cut as {some:?}");
    if calls == 0 && !specials {
        assert_eq!(shown, text, "an answer without calls is all text");
    }
}

/// All events; neighbours of one kind are one.
fn events(mut parser: ToolParser, parts: &[Part<'_>], cut: bool) -> Vec<ToolEvent> {
    let mut events = Vec::new();
    for part in parts {
        match part {
            Part::Text(text) => parser.push(text, &mut events),
            Part::Special(marker) => parser.special(marker, &mut events),
        }
    }
    parser.finish(cut, &mut events);
    let mut joined: Vec<ToolEvent> = Vec::new();
    for event in events {
        match (joined.last_mut(), event) {
            (Some(ToolEvent::Text(text)), ToolEvent::Text(more)) => text.push_str(&more),
            (
                Some(ToolEvent::Arguments { index, fragment }),
                ToolEvent::Arguments {
                    index: same,
                    fragment: more,
                },
            ) if *index == same => fragment.push_str(&more),
            (_, event) => joined.push(event),
        }
    }
    joined
}

/// The answer's text, and how many calls there are. Calls are counted, and nothing follows a call's end.
fn answer(events: &[ToolEvent]) -> (String, usize) {
    #[derive(PartialEq)]
    enum Call {
        Open,
        Ended,
        Broken,
    }
    let (mut text, mut calls) = (String::new(), Vec::new());
    for event in events {
        match event {
            ToolEvent::Text(more) => text.push_str(more),
            ToolEvent::Start { index, .. } => {
                assert_eq!(*index, calls.len(), "calls are counted");
                calls.push(Call::Open);
            }
            ToolEvent::Arguments { index, fragment } => {
                assert!(!fragment.is_empty());
                assert!(calls[*index] == Call::Open, "arguments of a call that is over");
            }
            ToolEvent::End { index } => {
                assert!(calls[*index] == Call::Open, "a call ends once");
                calls[*index] = Call::Ended;
            }
            ToolEvent::Broken { index, raw } => {
                assert!(calls[*index] == Call::Open, "a call that is over does not break");
                calls[*index] = Call::Broken;
                text.push_str(raw);
            }
        }
    }
    let broken = calls.iter().filter(|call| **call == Call::Broken).count();
    (text, calls.len() - broken)
}

/// The answer as it comes when the form's markers are special tokens.
fn with_specials(format: ToolFormat, text: &str) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    let mut rest = text;
    let next = |rest: &str| {
        let places = format
            .markers()
            .iter()
            .filter_map(|marker| rest.find(marker).map(|at| (at, *marker)));
        places.min()
    };
    while let Some((at, marker)) = next(rest) {
        parts.push(Part::Text(&rest[..at]));
        parts.push(Part::Special(marker));
        rest = &rest[at + marker.len()..];
    }
    parts.push(Part::Text(rest));
    parts
}

/// The texts cut before the characters that `cut` says.
fn pieces<'a>(parts: &[Part<'a>], mut cut: impl FnMut(usize) -> bool) -> Vec<Part<'a>> {
    let mut pieces = Vec::new();
    for part in parts {
        let Part::Text(text) = part else {
            pieces.push(*part);
            continue;
        };
        let mut start = 0;
        for (at, _) in text.char_indices().skip(1) {
            if cut(at) {
                pieces.push(Part::Text(&text[start..at]));
                start = at;
            }
        }
        pieces.push(Part::Text(&text[start..]));
    }
    pieces
}
