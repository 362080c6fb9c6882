//! Any bytes as the body of any route: answered or refused in the route's form, never the server's fault.

use serde_json::Value;

use crate::input::Input;
use crate::server::{Reply, post};

/// Routes that take a body.
pub(crate) const ROUTES: [&str; 9] = [
    "/generate",
    "/generate_stream",
    "/",
    "/v1/chat/completions",
    "/v1/completions",
    "/tokenize",
    "/chat_tokenize",
    "/invocations",
    "/vertex",
];
/// What a client can bring about: bad values, too long, no such model, a grammar that cannot go on.
const STATUSES: [u16; 7] = [200, 400, 404, 413, 422, 424, 429];

/// Route, dialect, the body.
pub fn check(data: &[u8]) {
    let mut input = Input::new(data);
    let (route, which) = (ROUTES[input.below(ROUTES.len())], input.below(2));
    let body = input.bytes();
    let reply = post(which, route, body);
    assert_answer(route, &reply);
}

/// The form of an answer, whatever it says.
pub(crate) fn assert_answer(route: &str, reply: &Reply) {
    let Reply {
        status,
        content_type,
        body,
    } = reply;
    assert!(STATUSES.contains(status), "{route}: {status} {body}");
    if content_type.starts_with("text/event-stream") {
        assert_eq!(*status, 200);
        events(route, body);
        return;
    }
    assert!(
        content_type.starts_with("application/json"),
        "{route}: {content_type:?}: {body}"
    );
    let value: Value = serde_json::from_str(body).unwrap_or_else(|error| panic!("{route}: {error}: {body}"));
    if *status != 200 {
        assert!(
            !value["error"].is_null(),
            "{route}: an error without a text: {body}"
        );
        assert!(
            value["error_type"].is_string() || *status == 404,
            "{route}: {body}"
        );
    } else {
        assert!(
            value.get("error").is_none(),
            "{route}: an error that succeeds: {body}"
        );
    }
}

/// The events of a stream, `[DONE]` left out: it is at the end of OpenAI's streams and nowhere else.
pub(crate) fn events(route: &str, body: &str) -> Vec<Value> {
    let Some(frames) = body.strip_suffix("\n\n") else {
        assert!(
            body.is_empty(),
            "{route}: the last event is not complete: {body:?}"
        );
        return Vec::new();
    };
    let mut events = Vec::new();
    let frames: Vec<&str> = frames.split("\n\n").collect();
    for (place, frame) in frames.iter().enumerate() {
        let data = frame
            .strip_prefix("data: ")
            .unwrap_or_else(|| panic!("{route}: no event: {frame:?}"));
        assert!(
            !data.contains(['\n', '\r']),
            "{route}: an event of several lines: {frame:?}"
        );
        if data == "[DONE]" {
            assert_eq!(place + 1, frames.len(), "{route}: events after the end");
        } else {
            events
                .push(serde_json::from_str(data).unwrap_or_else(|error| panic!("{route}: {error}: {data}")));
        }
    }
    events
}
