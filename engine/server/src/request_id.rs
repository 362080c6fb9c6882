//! A request's name: what the client gave it, or a new one. It knows headers only.

use axum::http::{HeaderMap, HeaderName, HeaderValue};

use crate::seed::Seeds;

/// Carries the name, both ways.
pub(crate) const HEADER: HeaderName = HeaderName::from_static("x-request-id");
/// A longer name is not taken over.
const LONGEST: usize = 128;

/// The client's name for the request if it is up to 128 visible ASCII characters, else a new one.
pub(crate) fn taken_or_made(headers: &HeaderMap, seeds: &Seeds) -> HeaderValue {
    if let Some(given) = headers.get(HEADER)
        && (1..=LONGEST).contains(&given.len())
        && given.as_bytes().iter().all(u8::is_ascii_graphic)
    {
        return given.clone();
    }
    let made = format!("{:016x}{:016x}", seeds.next(), seeds.next());
    // Hexadecimal digits always make a header.
    HeaderValue::from_str(&made).unwrap_or(HeaderValue::from_static("-"))
}

/// The caller's place in a trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parent {
    /// 32 hexadecimal digits.
    pub(crate) trace: String,
    /// 16 hexadecimal digits.
    pub(crate) span: String,
    /// Whether the trace is recorded.
    pub(crate) sampled: bool,
}

/// What a W3C `traceparent` header says, if there is a sound one.
pub(crate) fn parent(headers: &HeaderMap) -> Option<Parent> {
    let text = headers.get("traceparent")?.to_str().ok()?;
    let mut parts = text.split('-');
    let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let sound = |part: &str, length: usize| {
        part.len() == length && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let zero = |part: &str| part.bytes().all(|byte| byte == b'0');
    // Later versions may have more parts; the first has four, and `ff` is none.
    let known = sound(version, 2) && version != "ff" && (version != "00" || parts.next().is_none());
    let whole =
        known && sound(trace, 32) && sound(parent, 16) && sound(flags, 2) && !zero(trace) && !zero(parent);
    whole.then(|| Parent {
        trace: trace.to_owned(),
        span: parent.to_owned(),
        sampled: u8::from_str_radix(flags, 16).is_ok_and(|flags| flags & 1 == 1),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sane_name_is_taken_over_and_others_are_replaced() {
        let seeds = Seeds::new();
        let longest = "x".repeat(128);
        for given in ["a", "7d2f-44/_=+", &longest] {
            let headers = HeaderMap::from_iter([(HEADER, given.parse().unwrap())]);
            assert_eq!(taken_or_made(&headers, &seeds), given);
        }
        let long = "x".repeat(129);
        let mut made = Vec::new();
        for given in [
            None,
            Some(""),
            Some("two words"),
            Some("caf\u{e9}"),
            Some(long.as_str()),
        ] {
            let given = given.map(|text| (HEADER, HeaderValue::from_bytes(text.as_bytes()).unwrap()));
            made.push(taken_or_made(&HeaderMap::from_iter(given), &seeds));
        }
        for (i, name) in made.iter().enumerate() {
            assert!(name.len() == 32 && !made[..i].contains(name), "{made:?}");
        }
    }

    #[test]
    fn only_a_sound_traceparent_has_a_trace_id() {
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        let good = format!("00-{trace}-00f067aa0ba902b7-01");
        let cases = [
            (good.clone(), Some(trace)),
            (format!("01-{trace}-00f067aa0ba902b7-01-more"), Some(trace)),
            (format!("{good}-more"), None),
            (good.replace("00-", "ff-"), None),
            (good.to_uppercase(), None),
            (good.replace(trace, &"0".repeat(32)), None),
            (good.replace("00f067aa0ba902b7", "0000000000000000"), None),
            (good.replace("-01", ""), None),
            (good.replace("-01", "-1"), None),
            (String::new(), None),
        ];
        for (given, expected) in cases {
            let name = HeaderName::from_static("traceparent");
            let headers = HeaderMap::from_iter([(name, given.parse().unwrap())]);
            let found = parent(&headers);
            assert_eq!(
                found.as_ref().map(|parent| parent.trace.as_str()),
                expected,
                "{given}"
            );
        }
        assert_eq!(parent(&HeaderMap::new()), None);
        for (flags, sampled) in [("00", false), ("01", true), ("03", true), ("02", false)] {
            let name = HeaderName::from_static("traceparent");
            let given = good.replace("-01", &format!("-{flags}"));
            let headers = HeaderMap::from_iter([(name, given.parse().unwrap())]);
            assert_eq!(parent(&headers).unwrap().sampled, sampled, "{given}");
        }
    }
}
