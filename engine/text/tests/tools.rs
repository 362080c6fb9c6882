//! Tool calls in answers: each family's own form, cut at every place, and text that is none of it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use agentlm_text::{ToolEvent, ToolFormat, ToolParser};
use proptest::prelude::*;

use ToolFormat::{Hermes, Json, Llama3, Mistral};

/// Calls as name and arguments.
type Calls<'a> = &'a [(&'a str, &'a str)];

/// Names of the tools that the tests offer.
const NAMES: [&str; 2] = ["a", "b"];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Part<'a> {
    Text(&'a str),
    Special(&'a str),
}

fn parser(format: ToolFormat) -> ToolParser {
    ToolParser::new(format, NAMES.map(str::to_owned).into())
}

/// All events of an answer; neighbours of one kind are one.
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

/// The text of an answer, and its calls: name, arguments, whether it is complete.
fn answer(events: &[ToolEvent]) -> (String, Vec<(String, String, bool)>) {
    let (mut text, mut calls) = (String::new(), Vec::new());
    for event in events {
        match event {
            ToolEvent::Text(more) => text.push_str(more),
            ToolEvent::Start { index, name } => {
                assert_eq!(*index, calls.len(), "calls are counted");
                calls.push(Some((name.clone(), String::new(), false)));
            }
            ToolEvent::Arguments { index, fragment } => {
                assert!(!fragment.is_empty());
                calls[*index].as_mut().unwrap().1.push_str(fragment);
            }
            ToolEvent::End { index } => calls[*index].as_mut().unwrap().2 = true,
            ToolEvent::Broken { index, raw } => {
                calls[*index] = None;
                text.push_str(raw);
            }
        }
    }
    (text, calls.into_iter().flatten().collect())
}

/// The answer as it comes when the form's markers are special tokens.
fn with_specials(format: ToolFormat, text: &str) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some((at, marker)) = format
        .markers()
        .iter()
        .filter_map(|marker| rest.find(marker).map(|at| (at, *marker)))
        .min()
    {
        parts.push(Part::Text(&rest[..at]));
        parts.push(Part::Special(marker));
        rest = &rest[at + marker.len()..];
    }
    parts.push(Part::Text(rest));
    parts
}

/// Cuts the texts of an answer into single characters.
fn in_characters<'a>(parts: &[Part<'a>]) -> Vec<Part<'a>> {
    let mut pieces = Vec::new();
    for part in parts {
        match part {
            Part::Special(_) => pieces.push(*part),
            Part::Text(text) => {
                let ends = text.char_indices().map(|(at, c)| (at, at + c.len_utf8()));
                pieces.extend(ends.map(|(start, end)| Part::Text(&text[start..end])));
            }
        }
    }
    pieces
}

/// Checks an answer whole, cut at every place, and with the markers as special tokens.
fn check(format: ToolFormat, whole: &str, text: &str, calls: &[(&str, &str)]) {
    let expected = events(parser(format), &[Part::Text(whole)], false);
    let calls: Vec<_> = calls
        .iter()
        .map(|(name, arguments)| ((*name).to_owned(), (*arguments).to_owned(), true))
        .collect();
    assert_eq!(answer(&expected), (text.to_owned(), calls), "{format:?}: {whole}");
    for at in (1..whole.len()).filter(|&at| whole.is_char_boundary(at)) {
        let (start, end) = whole.split_at(at);
        let found = events(parser(format), &[Part::Text(start), Part::Text(end)], false);
        assert_eq!(found, expected, "{format:?}: {start:?} {end:?}");
    }
    let characters = in_characters(&[Part::Text(whole)]);
    assert_eq!(events(parser(format), &characters, false), expected, "{whole}");
    if !format.markers().iter().any(|marker| text.contains(marker)) {
        let parts = with_specials(format, whole);
        assert_eq!(events(parser(format), &parts, false), expected, "{parts:?}");
        let parts = in_characters(&parts);
        assert_eq!(events(parser(format), &parts, false), expected, "{parts:?}");
    }
}

#[test]
fn hermes_and_qwen() {
    let cases: [(&str, &str, Calls); 11] = [
        (
            "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Paris\", \"n\": [1, -2.5e3, null]}}\n</tool_call>",
            "",
            &[("get_weather", "{\"city\": \"Paris\", \"n\": [1, -2.5e3, null]}")],
        ),
        (
            "Let me look.\n\n<tool_call>\n{\"name\": \"a\", \"arguments\": {}}\n</tool_call>\n<tool_call>\n\
             {\"name\": \"b\", \"arguments\": {\"q\": \"}<tool\\\"{é漢🦀\"}}\n</tool_call>\nDone.\n",
            "Let me look.\nDone.\n",
            &[("a", "{}"), ("b", "{\"q\": \"}<tool\\\"{é漢🦀\"}")],
        ),
        (
            "<tool_call>{\"arguments\": {\"x\": [1, {\"name\": null}]}, \"name\": \"a\"}</tool_call>",
            "",
            &[("a", "{\"x\": [1, {\"name\": null}]}")],
        ),
        ("<tool_call>{\"name\": \"a\"}</tool_call>", "", &[("a", "{}")]),
        (
            "<tool_call>{\"name\": \"a\", \"arguments\": \"{\\\"x\\\": 1}\", \"more\": [true]}</tool_call>",
            "",
            &[("a", "{\"x\": 1}")],
        ),
        (
            "<tool_call>{\"name\": \"a\", \"arguments\": null}</tool_call><tool_call>{\"name\": \"b\", \"arguments\": \"\"}",
            "",
            &[("a", "{}"), ("b", "{}")],
        ),
        (
            " a <tool_cal> 2 < 3 </tool_call> <tool_",
            " a <tool_cal> 2 < 3 </tool_call> <tool_",
            &[],
        ),
        (
            "<tool_call>\n{'name': 'a'}\n</tool_call>\n",
            "<tool_call>\n{'name': 'a'}\n</tool_call>\n",
            &[],
        ),
        (
            "x <tool_call>{\"name\": \"a\", \"arguments\": {\"x\": oops}}</tool_call> y",
            "x <tool_call>{\"name\": \"a\", \"arguments\": {\"x\": oops}}</tool_call> y",
            &[],
        ),
        (
            "<tool_call>{\"name\": }</tool_call>\n<tool_call>{\"name\": \"a\", \"arguments\": {}}</tool_call>",
            "<tool_call>{\"name\": }</tool_call>",
            &[("a", "{}")],
        ),
        (
            "<tool_call>{\"name\": \"a\", \"arguments\": [1]}</tool_call><tool_call><tool_call>{\"name\": \"\"}",
            "<tool_call>{\"name\": \"a\", \"arguments\": [1]}</tool_call><tool_call><tool_call>{\"name\": \"\"}",
            &[],
        ),
    ];
    for (whole, text, calls) in cases {
        check(Hermes, whole, text, calls);
    }
}

#[test]
fn llama3() {
    let cases: [(&str, &str, Calls); 10] = [
        (
            "{\"name\": \"a\", \"parameters\": {\"city\": \"Paris\"}}",
            "",
            &[("a", "{\"city\": \"Paris\"}")],
        ),
        (
            "<|python_tag|>{\"name\": \"a\", \"parameters\": {}}; {\"name\": \"other\", \"parameters\": {\"x\": 1}}",
            "",
            &[("a", "{}"), ("other", "{\"x\": 1}")],
        ),
        (
            "\n\n{\"type\": \"function\", \"name\": \"a\", \"parameters\": {\"x\": \"1\"}}\n{\"name\": \"b\", \"parameters\": {}}",
            "",
            &[("a", "{\"x\": \"1\"}"), ("b", "{}")],
        ),
        (
            "\n{\"name\": \"Bob\", \"age\": 3}",
            "\n{\"name\": \"Bob\", \"age\": 3}",
            &[],
        ),
        (
            "{\"name\": \"c\", \"parameters\": {}}",
            "{\"name\": \"c\", \"parameters\": {}}",
            &[],
        ),
        ("{\"name\": \"a\"}", "{\"name\": \"a\"}", &[]),
        (
            "<|python_tag|>search.call(query=\"x\") <|pyth",
            "<|python_tag|>search.call(query=\"x\") <|pyth",
            &[],
        ),
        (
            "I say {\"name\": \"a\", \"parameters\": {}}",
            "I say {\"name\": \"a\", \"parameters\": {}}",
            &[],
        ),
        (
            "{\"name\": \"a\", \"parameters\": {}} ; done ",
            " ; done ",
            &[("a", "{}")],
        ),
        (
            "Sure. <|python_tag|> {\"name\": \"a\", \"parameters\": {}}",
            "Sure.",
            &[("a", "{}")],
        ),
    ];
    for (whole, text, calls) in cases {
        check(Llama3, whole, text, calls);
    }
}

#[test]
fn mistral() {
    let cases: [(&str, &str, Calls); 9] = [
        (
            "[TOOL_CALLS] [{\"name\": \"a\", \"arguments\": {\"x\": 1}}, {\"name\": \"get.b\", \"arguments\": {}, \"id\": \"abcdefghi\"}]",
            "",
            &[("a", "{\"x\": 1}"), ("get.b", "{}")],
        ),
        (
            "[TOOL_CALLS]a[ARGS]{\"x\": 1}[TOOL_CALLS]b_2[ARGS] {}",
            "",
            &[("a", "{\"x\": 1}"), ("b_2", "{}")],
        ),
        (
            "[TOOL_CALLS]a[CALL_ID]abcdefghi[ARGS]{\"x\": \"[é\"}",
            "",
            &[("a", "{\"x\": \"[é\"}")],
        ),
        ("[TOOL_CALLS]a{\"x\": 1}", "", &[("a", "{\"x\": 1}")]),
        (
            "[TOOL_CALLS] is a marker [TOOL",
            "[TOOL_CALLS] is a marker [TOOL",
            &[],
        ),
        ("[TOOL_CALLS][]", "[TOOL_CALLS][]", &[]),
        ("[TOOL_CALLS]a[ARGS]x", "[TOOL_CALLS]a[ARGS]x", &[]),
        (
            "Well: [TOOL_CALLS][{\"name\": \"a\", \"arguments\": {}} ] there",
            "Well: there",
            &[("a", "{}")],
        ),
        (
            "[TOOL_CALLS][{\"name\": \"a\", \"arguments\": {}} , oops]",
            " , oops]",
            &[("a", "{}")],
        ),
    ];
    for (whole, text, calls) in cases {
        check(Mistral, whole, text, calls);
    }
}

#[test]
fn the_generic_form() {
    let fenced = "```json\n[{\"name\": \"a\", \"arguments\": {\"x\": 1}}, {\"function\": \"b\", \"parameters\": {}}]\n```\n";
    let cases: [(&str, &str, Calls); 9] = [
        (
            "{\"name\": \"a\", \"arguments\": {\"x\": 1}}",
            "",
            &[("a", "{\"x\": 1}")],
        ),
        (fenced, "", &[("a", "{\"x\": 1}"), ("b", "{}")]),
        (
            " [{\"type\": \"function\", \"function\": {\"name\": \"a\", \"arguments\": \"{\\\"x\\\": 1}\"}} ]",
            "",
            &[("a", "{\"x\": 1}")],
        ),
        (
            "```\n{\"parameters\": {\"name\": \"b\"}, \"name\": \"a\"}\n```\nThat.",
            "\nThat.",
            &[("a", "{\"name\": \"b\"}")],
        ),
        (
            "{\"name\": \"a\", \"arguments\": {}} is how",
            " is how",
            &[("a", "{}")],
        ),
        (
            "{\"answer\": {\"name\": \"a\", \"arguments\": {}}}",
            "{\"answer\": {\"name\": \"a\", \"arguments\": {}}}",
            &[],
        ),
        ("```python\nprint({})\n```", "```python\nprint({})\n```", &[]),
        (" [1, 2] ", " [1, 2] ", &[]),
        ("`a` ``", "`a` ``", &[]),
    ];
    for (whole, text, calls) in cases {
        check(Json, whole, text, calls);
    }
}

#[test]
fn the_whole_answer_is_one_calls_arguments() {
    let parts = in_characters(&[Part::Text(" {\"x\": [1]}\n")]);
    let parser = || ToolParser::of_arguments("a".to_owned());
    let call = |arguments: &str, complete| vec![("a".to_owned(), arguments.to_owned(), complete)];
    let whole = answer(&events(parser(), &parts, false));
    assert_eq!(whole, (String::new(), call("{\"x\": [1]}", true)));
    let cut = answer(&events(parser(), &parts[..5], true));
    assert_eq!(cut, (String::new(), call("{\"x\"", false)));
    let text = answer(&events(parser(), &[Part::Text("no")], false));
    assert_eq!(text, ("no".to_owned(), vec![]));
}

#[test]
fn a_call_that_is_cut_off_keeps_what_it_has() {
    let started = "<tool_call>\n{\"name\": \"a\", \"arguments\": {\"x\": \"un";
    let found = |text, cut| answer(&events(parser(Hermes), &[Part::Text(text)], cut));
    let call = ("a".to_owned(), "{\"x\": \"un".to_owned(), false);
    assert_eq!(found(started, true), (String::new(), vec![call]));
    assert_eq!(found(started, false), (started.to_owned(), vec![]));
    let unnamed = "<tool_call>\n{\"name\": \"a";
    assert_eq!(found(unnamed, true), (unnamed.to_owned(), vec![]));
}

#[test]
fn two_calls_cut_anywhere_are_those_that_were_named_and_no_text() {
    let cases = [
        (
            Hermes,
            "<tool_call>\n{\"name\": \"a\", \"arguments\": {\"x\": 1}}\n</tool_call>\n<tool_call>\n\
             {\"name\": \"b\", \"arguments\": {\"y\": \"é\"}}\n</tool_call>",
        ),
        (
            Llama3,
            "<|python_tag|>{\"name\": \"a\", \"parameters\": {\"x\": 1}}; {\"name\": \"b\", \"parameters\": {\"y\": \"é\"}}",
        ),
        (
            Llama3,
            "{\"name\": \"a\", \"parameters\": {\"x\": 1}}\n{\"name\": \"b\", \"parameters\": {\"y\": \"é\"}}",
        ),
        (
            Mistral,
            "[TOOL_CALLS] [{\"name\": \"a\", \"arguments\": {\"x\": 1}}, {\"name\": \"b\", \"arguments\": {\"y\": \"é\"}}]",
        ),
        (
            Mistral,
            "[TOOL_CALLS]a[CALL_ID]abcdefghi[ARGS]{\"x\": 1}[TOOL_CALLS]b[CALL_ID]abcdefghj[ARGS]{\"y\": \"é\"}",
        ),
        (
            Json,
            "```json\n[{\"name\": \"a\", \"arguments\": {\"x\": 1}}, {\"name\": \"b\", \"arguments\": {\"y\": \"é\"}}]\n```",
        ),
    ];
    let full = [("a", "{\"x\": 1}"), ("b", "{\"y\": \"é\"}")];
    for (format, whole) in cases {
        let mut seen = [0; 3];
        for at in (0..=whole.len()).filter(|&at| whole.is_char_boundary(at)) {
            let cut = &whole[..at];
            for parts in [vec![Part::Text(cut)], with_specials(format, cut)] {
                let found = events(parser(format), &parts, true);
                assert_eq!(
                    events(parser(format), &in_characters(&parts), true),
                    found,
                    "{cut:?}"
                );
                let (text, calls) = answer(&found);
                seen[calls.len()] += 1;
                if calls.is_empty() {
                    assert!(parts.len() > 1 || text == cut, "{cut:?}: {text:?}");
                } else {
                    assert_eq!(text, "", "{cut:?}");
                }
                for (place, (call, (name, arguments))) in calls.iter().zip(full).enumerate() {
                    let begun = call.0 == name && arguments.starts_with(&call.1);
                    let whole = call.1 == arguments || (place + 1 == calls.len() && !call.2);
                    assert!(begun && whole, "{cut:?}: {calls:?}");
                }
            }
        }
        assert!(seen.iter().all(|&count| count > 2), "{format:?}: {seen:?}");
    }
}

#[test]
fn special_markers_are_not_shown_when_no_call_follows() {
    let cases = [
        (
            Hermes,
            vec![Part::Special("<tool_call>"), Part::Text("\nno")],
            "\nno",
        ),
        (
            Mistral,
            vec![
                Part::Text("x "),
                Part::Special("[TOOL_CALLS]"),
                Part::Text("a"),
                Part::Special("[ARGS]"),
            ],
            "xa",
        ),
        (
            Llama3,
            vec![Part::Special("<|python_tag|>"), Part::Text("print(1)")],
            "print(1)",
        ),
        // A call that another one interrupts is none.
        (
            Hermes,
            vec![
                Part::Special("<tool_call>"),
                Part::Text("{\"na"),
                Part::Special("<tool_call>"),
                Part::Special("</tool_call>"),
            ],
            "{\"na",
        ),
    ];
    for (format, parts, text) in cases {
        let found = answer(&events(parser(format), &parts, false));
        assert!(found.1.is_empty(), "{parts:?}");
        assert_eq!(found.0.replace(' ', ""), text, "{parts:?}");
    }
}

#[test]
fn a_templates_text_tells_the_form() {
    let cases = [
        ("{{ '[TOOL_CALLS] [' }}", Mistral),
        ("{{ '\\n<tool_call>\\n{\"name\": \"' }}", Hermes),
        ("{{ '<tool_call>\\n<function=' + name + '>' }}", Json),
        ("{{ '<|python_tag|>' }}", Llama3),
        ("{{ '<|start_header_id|>' }}{{ '\"parameters\": ' }}", Llama3),
        ("{{ '<|start_header_id|>' }}", Json),
        ("[INST] {{ messages }} [/INST]", Json),
    ];
    for (template, format) in cases {
        assert_eq!(ToolFormat::of_template(template), format, "{template}");
    }
    assert_eq!(ToolFormat::from_setting("auto"), Ok(None));
    for (name, format) in [
        ("hermes", Hermes),
        ("llama3", Llama3),
        ("mistral", Mistral),
        ("json", Json),
    ] {
        assert_eq!(ToolFormat::from_setting(name), Ok(Some(format)));
    }
    assert_eq!(
        ToolFormat::from_setting("qwen").unwrap_err().to_string(),
        "`tool_call_parser` must be \"auto\", \"hermes\", \"llama3\", \"mistral\" or \"json\", but is \"qwen\""
    );
}

const FRAGMENTS: [&str; 28] = [
    "<tool_call>",
    "</tool_call>",
    "<|python_tag|>",
    "[TOOL_CALLS]",
    "[ARGS]",
    "[CALL_ID]",
    "{\"name\": \"a\", \"arguments\": {\"x\": 1}}",
    "{\"name\": \"b\", ",
    "\"parameters\": {",
    "\"arguments\": ",
    "{\"function\": ",
    "{\"x\": 1}",
    "{",
    "}",
    "[",
    "]",
    ",",
    ";",
    ":",
    "\"",
    "\\",
    " ",
    "\n",
    "```",
    "```json\n",
    "a",
    "é",
    "<",
];

proptest! {
    #[test]
    fn cuts_change_nothing_and_without_calls_everything_is_text(
        format in prop::sample::select(vec![Hermes, Llama3, Mistral, Json]),
        fragments in prop::collection::vec(prop::sample::select(FRAGMENTS.to_vec()), 0..14),
        cuts in prop::collection::vec(any::<bool>(), 400),
        cut in any::<bool>(),
    ) {
        let whole = fragments.concat();
        let mut pieces = Vec::new();
        let mut start = 0;
        for (at, _) in whole.char_indices().skip(1) {
            if cuts[at % cuts.len()] {
                pieces.push(Part::Text(&whole[start..at]));
                start = at;
            }
        }
        pieces.push(Part::Text(&whole[start..]));
        let expected = events(parser(format), &[Part::Text(&whole)], cut);
        prop_assert_eq!(&events(parser(format), &pieces, cut), &expected);
        let (text, calls) = answer(&expected);
        if calls.is_empty() {
            prop_assert_eq!(text, whole);
        }
    }
}
