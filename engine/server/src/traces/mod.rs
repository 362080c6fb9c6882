//! What OpenTelemetry is told of each request: one span from its head to its last byte, and inside it what was waited for.
//! Spans are made once, when the request has ended; without an endpoint none is.

mod export;

use std::time::{Duration, SystemTime};

use axum::http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::metrics::Account;
use crate::request_id::Parent;
use crate::seed::Seeds;
pub(crate) use export::{Exporter, endpoint};

/// OpenTelemetry's numbers of span kinds and of a status.
const INTERNAL: u32 = 1;
const SERVER: u32 = 2;
const STATUS_ERROR: u32 = 2;

/// A request's place in its trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// 32 hexadecimal digits.
    pub(crate) trace: String,
    /// The caller's span, if there is one.
    parent: Option<String>,
}

impl Place {
    /// Under the caller's span, or the first of a trace; none if the caller does not want to see it.
    pub(crate) fn of(parent: Option<&Parent>, seeds: &Seeds) -> Option<Self> {
        match parent {
            Some(parent) if !parent.sampled => None,
            Some(parent) => Some(Self {
                trace: parent.trace.clone(),
                parent: Some(parent.span.clone()),
            }),
            None => Some(Self {
                trace: format!("{:016x}{:016x}", seeds.next(), seeds.next()),
                parent: None,
            }),
        }
    }
}

/// A request that has ended.
pub(crate) struct Ended<'a> {
    pub(crate) place: Place,
    pub(crate) method: &'a Method,
    pub(crate) path: &'a str,
    pub(crate) request_id: &'a str,
    /// None if the client left before there was an answer.
    pub(crate) status: Option<StatusCode>,
    /// From its head to its admission, if it was admitted.
    pub(crate) validation: Option<Duration>,
    /// How the engine answered, if it did.
    pub(crate) account: Option<Account>,
    pub(crate) error: Option<&'a str>,
    pub(crate) at: SystemTime,
    /// From its head to now.
    pub(crate) total: Duration,
}

impl Ended<'_> {
    /// The spans in OTLP's JSON form, the request's own first.
    pub(crate) fn spans(&self, seeds: &Seeds) -> Vec<Value> {
        let began = self.at.checked_sub(self.total).unwrap_or(self.at);
        let id = || format!("{:016x}", seeds.next() | 1);
        let whole = id();
        let mut spans = vec![self.whole(&whole, began)];
        let mut from = began;
        let (queue, inference) = match &self.account {
            Some(account) => (Some(account.timing.queue), Some(account.inference())),
            None => (None, None),
        };
        for (name, took) in [
            ("validation", self.validation),
            ("queue", queue),
            ("inference", inference),
        ] {
            let Some(took) = took else { continue };
            let until = (from + took).min(self.at);
            spans.push(json!({
                "traceId": self.place.trace,
                "spanId": id(),
                "parentSpanId": whole,
                "name": name,
                "kind": INTERNAL,
                "startTimeUnixNano": nanos(from),
                "endTimeUnixNano": nanos(until),
            }));
            from = until;
        }
        spans
    }

    fn whole(&self, id: &str, began: SystemTime) -> Value {
        let text = |key: &str, value: &str| json!({"key": key, "value": {"stringValue": value}});
        // OTLP's JSON writes 64-bit integers as strings.
        let number = |key: &str, value: u32| json!({"key": key, "value": {"intValue": value.to_string()}});
        let mut attributes = vec![
            text("http.request.method", self.method.as_str()),
            text("url.path", self.path),
            text("http.request.id", self.request_id),
        ];
        if let Some(status) = self.status {
            attributes.push(number("http.response.status_code", u32::from(status.as_u16())));
        }
        if let Some(account) = &self.account {
            attributes.push(number("gen_ai.usage.input_tokens", account.prompt_tokens));
            attributes.push(number("gen_ai.usage.output_tokens", account.generated_tokens));
        }
        let mut span = json!({
            "traceId": self.place.trace,
            "spanId": id,
            "name": format!("{} {}", self.method, self.path),
            "kind": SERVER,
            "startTimeUnixNano": nanos(began),
            "endTimeUnixNano": nanos(self.at),
        });
        if let Some(parent) = &self.place.parent {
            span["parentSpanId"] = Value::from(parent.as_str());
        }
        if let Some(error) = self.error {
            attributes.push(text("error.type", error));
            span["status"] = json!({"code": STATUS_ERROR, "message": error});
        }
        span["attributes"] = Value::from(attributes);
        span
    }
}

/// Nanoseconds since 1970; a clock before it is told as 1970.
fn nanos(time: SystemTime) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    since.as_nanos().to_string()
}

#[cfg(test)]
mod tests {
    use agentlm_core::FinishReason;
    use agentlm_host::Timing;

    use super::*;

    fn ended(account: Option<Account>, error: Option<&'static str>) -> Ended<'static> {
        Ended {
            place: Place {
                trace: "t".to_owned(),
                parent: Some("p".to_owned()),
            },
            method: &Method::POST,
            path: "/generate",
            request_id: "r",
            status: Some(StatusCode::OK),
            validation: Some(Duration::from_millis(2)),
            account,
            error,
            at: SystemTime::UNIX_EPOCH + Duration::from_millis(100),
            total: Duration::from_millis(60),
        }
    }

    #[test]
    fn what_was_waited_for_lies_inside_the_whole_one_after_the_other() {
        let account = Account {
            timing: Timing {
                queue: Duration::from_millis(10),
                first_token: Duration::from_millis(20),
                total: Duration::from_millis(50),
            },
            prompt_tokens: 3,
            generated_tokens: 4,
            reason: FinishReason::Length,
        };
        let spans = ended(Some(account), None).spans(&Seeds::new());
        let times: Vec<_> = spans
            .iter()
            .map(|span| {
                let time = |key: &str| span[key].as_str().unwrap().parse::<u64>().unwrap() / 1_000_000;
                (
                    span["name"].as_str().unwrap(),
                    time("startTimeUnixNano"),
                    time("endTimeUnixNano"),
                )
            })
            .collect();
        let expected = [
            ("POST /generate", 40, 100),
            ("validation", 40, 42),
            ("queue", 42, 52),
            ("inference", 52, 92),
        ];
        assert_eq!(times, expected);
        assert_eq!(spans[0]["parentSpanId"], "p");
        for span in &spans[1..] {
            assert_eq!(span["parentSpanId"], spans[0]["spanId"]);
        }
        assert!(spans[0].get("status").is_none());
    }

    #[test]
    fn an_error_is_told_and_what_did_not_happen_is_not() {
        let spans = ended(None, Some("generation")).spans(&Seeds::new());
        assert_eq!(spans.len(), 2);
        assert_eq!(spans[0]["status"], json!({"code": 2, "message": "generation"}));
    }

    #[test]
    fn the_caller_decides_whether_its_trace_is_seen() {
        let seeds = Seeds::new();
        let parent = |sampled| Parent {
            trace: "t".to_owned(),
            span: "s".to_owned(),
            sampled,
        };
        assert_eq!(Place::of(Some(&parent(false)), &seeds), None);
        let place = Place::of(Some(&parent(true)), &seeds).unwrap();
        assert_eq!((place.trace.as_str(), place.parent.as_deref()), ("t", Some("s")));
        let first = Place::of(None, &seeds).unwrap();
        assert_eq!((first.trace.len(), first.parent), (32, None));
    }
}
