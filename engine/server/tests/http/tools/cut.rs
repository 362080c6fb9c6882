//! Calls that `max_tokens` cuts: whole and streamed alike, and no scraps.

use agentlm_text::ToolFormat;
use serde_json::json;

use super::{HERMES, call, chat, choice, server, setup, spoken, streamed};
use crate::fixture::Fixture;

#[test]
fn a_call_cut_by_the_length_keeps_what_it_has() {
    let says = "<tool_call>{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Par";
    let server = server(HERMES, says);
    let fields = format!(",\"max_tokens\":{}", says.len());
    let (found, _) = choice(&chat(&server, &fields));
    assert_eq!(
        found["message"],
        json!({"role": "assistant", "content": null, "tool_calls": [call("get_weather", "{\"city\": \"Par")]})
    );
    assert_eq!(found["finish_reason"], "length");
    let stream = streamed(&chat(&server, &format!("{fields},\"stream\":true")));
    assert_eq!(
        stream.calls,
        [("get_weather".to_owned(), "{\"city\": \"Par".to_owned())]
    );
    assert_eq!(stream.finish_reason, "length");
}

/// Every family's form of two calls, cut by `max_tokens` at every third place: the stream says what the whole answer says, the calls are
/// those whose names had come, with what their arguments were so far, and beside calls there is no scrap of another one as text.
#[test]
fn calls_cut_by_the_length_are_the_same_whole_and_streamed() {
    // Each token is a byte: characters of several come in pieces.
    let first = r#"{"name": "get_weather", "arguments": {"city": "Par\"ís 漢🦀"}}"#;
    let second = r#"{"name": "get_time", "arguments": {"zone": "CET"}}"#;
    let full = [
        ("get_weather", r#"{"city": "Par\"ís 漢🦀"}"#),
        ("get_time", r#"{"zone": "CET"}"#),
    ];
    let families = [
        (
            ToolFormat::Hermes,
            format!("<tool_call>\n{first}\n</tool_call>\n<tool_call>\n{second}\n</tool_call>"),
        ),
        (ToolFormat::Llama3, format!("{first}; {second}")),
        (ToolFormat::Mistral, format!("[TOOL_CALLS][{first}, {second}]")),
        (
            ToolFormat::Mistral,
            format!(
                "[TOOL_CALLS]get_weather[ARGS]{}[TOOL_CALLS]get_time[ARGS]{}",
                full[0].1, full[1].1
            ),
        ),
        (ToolFormat::Json, format!("[{first}, {second}]")),
    ];
    for (format, says) in families {
        let mut setup = setup(HERMES, &says);
        setup.config.tool_call_parser = Some(format);
        let server = setup.start();
        let whole = streamed(&chat(&server, r#","stream":true"#));
        assert_eq!(
            whole.calls,
            full.map(|(name, arguments)| (name.to_owned(), arguments.to_owned()))
        );
        let mut most = 0;
        for max_tokens in (1..spoken(&says).len()).step_by(3) {
            let calls = cut_at(&server, &format!(",\"max_tokens\":{max_tokens}"));
            for ((name, arguments), (full_name, full_arguments)) in calls.iter().zip(full) {
                assert_eq!(name, full_name);
                // Of a character that was cut a sign is left.
                let arguments = arguments.trim_end_matches('\u{fffd}');
                assert!(full_arguments.starts_with(arguments), "{calls:?}");
            }
            assert!(
                calls.len() < 2 || calls[0].1 == full[0].1,
                "only the last is cut: {calls:?}"
            );
            assert!(calls.len() >= most, "{max_tokens} tokens: {calls:?}");
            most = calls.len();
        }
        assert_eq!(most, 2);
    }
    let server = server(HERMES, "");
    for forced in [r#""required""#, r#""get_weather""#] {
        for max_tokens in 1..14 {
            let fields = format!(",\"tool_choice\":{forced},\"max_tokens\":{max_tokens}");
            cut_at(&server, &fields);
        }
    }
}

/// The calls of an answer that the length has cut, whole and streamed alike.
fn cut_at(server: &Fixture, fields: &str) -> Vec<(String, String)> {
    let (found, _) = choice(&chat(server, fields));
    let stream = streamed(&chat(server, &format!("{fields},\"stream\":true")));
    let message = &found["message"];
    let calls: Vec<(String, String)> = message["tool_calls"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|call| {
            let told = |key: &str| call["function"][key].as_str().unwrap().to_owned();
            (told("name"), told("arguments"))
        })
        .collect();
    assert_eq!(calls, stream.calls, "{fields}: {found} {stream:?}");
    let content = message["content"].as_str().unwrap_or_default();
    assert_eq!(content, stream.content, "{fields}: {found} {stream:?}");
    assert!(calls.is_empty() || content.is_empty(), "{fields}: {found}");
    assert_eq!(found["finish_reason"], "length", "{fields}: {found}");
    assert_eq!(stream.finish_reason, "length", "{fields}");
    calls
}
