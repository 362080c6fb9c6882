//! One line of the log, as text or as JSON. It knows no thread and no file.

use std::fmt::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::http::{HeaderValue, Method, StatusCode};
use bytes::BytesMut;

use crate::config::LogLevel;
use crate::metrics::Account;
use crate::wire;

/// What is told of a request that has ended.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) at: SystemTime,
    pub(super) level: LogLevel,
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) status: Option<StatusCode>,
    pub(super) id: HeaderValue,
    pub(super) trace_id: Option<String>,
    pub(super) account: Option<Account>,
    pub(super) error: Option<&'static str>,
    pub(super) total: Duration,
    pub(super) body: Option<String>,
}

/// A field's value.
enum Value<'a> {
    Text(&'a str),
    Integer(u32),
    Milliseconds(Duration),
}

impl Line {
    /// Appends the line, its end included. Writing into memory cannot fail, so the results are not looked at.
    pub(super) fn write(&self, json: bool, out: &mut BytesMut) {
        let at = timestamp(self.at);
        let level = self.level.name();
        if json {
            let _ = write!(
                out,
                "{{\"timestamp\":\"{at}\",\"level\":\"{level}\",\"message\":\"request\""
            );
        } else {
            let _ = write!(out, "{at} {level} request");
        }
        for (name, value) in self.fields() {
            if json {
                let _ = write!(out, ",\"{name}\":");
            } else {
                let _ = write!(out, " {name}=");
            }
            match value {
                Value::Text(text) if json => wire::string(out, text),
                Value::Text(text) => plain(out, text),
                Value::Integer(value) => wire::integer(out, value),
                Value::Milliseconds(time) => {
                    let _ = write!(out, "{:.3}", time.as_secs_f64() * 1000.0);
                }
            }
        }
        out.extend_from_slice(if json { b"}\n" } else { b"\n" });
    }

    /// Those that are known, in order.
    fn fields(&self) -> impl Iterator<Item = (&'static str, Value<'_>)> {
        let account = self.account.as_ref();
        let fields = [
            ("method", Some(Value::Text(self.method.as_str()))),
            ("path", Some(Value::Text(&self.path))),
            (
                "status",
                self.status
                    .map(|status| Value::Integer(u32::from(status.as_u16()))),
            ),
            ("id", self.id.to_str().ok().map(Value::Text)),
            ("trace_id", self.trace_id.as_deref().map(Value::Text)),
            (
                "prompt_tokens",
                account.map(|account| Value::Integer(account.prompt_tokens)),
            ),
            (
                "generated_tokens",
                account.map(|account| Value::Integer(account.generated_tokens)),
            ),
            (
                "finish_reason",
                account.map(|account| Value::Text(account.reason.name())),
            ),
            (
                "queue_ms",
                account.map(|account| Value::Milliseconds(account.timing.queue)),
            ),
            (
                "inference_ms",
                account.map(|account| Value::Milliseconds(account.inference())),
            ),
            ("total_ms", Some(Value::Milliseconds(self.total))),
            ("error", self.error.map(Value::Text)),
            ("body", self.body.as_deref().map(Value::Text)),
        ];
        fields
            .into_iter()
            .filter_map(|(name, value)| value.map(|value| (name, value)))
    }
}

/// Text that is one visible word as it is, else in quotes and escaped: a client's bytes can neither end the line nor move a
/// terminal's cursor.
fn plain(out: &mut BytesMut, text: &str) {
    let word = |byte: u8| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\';
    let _ = if !text.is_empty() && text.bytes().all(word) {
        out.write_str(text)
    } else {
        write!(out, "{text:?}")
    };
}

/// A time as RFC 3339 has it, in UTC and milliseconds. A clock before 1970 is told as 1970.
fn timestamp(at: SystemTime) -> String {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (seconds, milliseconds) = (since.as_secs(), since.subsec_millis());
    let (year, month, day) = civil(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milliseconds:03}Z")
}

/// Year, month and day of the Gregorian calendar, from days since 1970-01-01. Howard Hinnant's `civil_from_days`: years begin in
/// March, so that the leap day is the last.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
pub(super) mod tests {
    use agentlm_core::FinishReason;
    use agentlm_host::Timing;

    use super::*;

    /// A line of an answered request.
    pub(in super::super) fn answered() -> Line {
        Line {
            at: UNIX_EPOCH + Duration::from_millis(1_767_866_645_042),
            level: LogLevel::Info,
            method: Method::POST,
            path: "/generate".to_owned(),
            status: Some(StatusCode::OK),
            id: HeaderValue::from_static("abc"),
            trace_id: None,
            account: Some(Account {
                timing: Timing {
                    queue: Duration::from_micros(250),
                    first_token: Duration::from_millis(2),
                    total: Duration::from_millis(5),
                },
                prompt_tokens: 3,
                generated_tokens: 7,
                reason: FinishReason::EosToken,
            }),
            error: None,
            total: Duration::from_millis(6),
            body: None,
        }
    }

    fn written(line: &Line, json: bool) -> String {
        let mut out = BytesMut::new();
        line.write(json, &mut out);
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn a_line_is_text_or_json() {
        let line = answered();
        assert_eq!(
            written(&line, false),
            "2026-01-08T10:04:05.042Z INFO request method=POST path=/generate status=200 id=abc prompt_tokens=3 \
             generated_tokens=7 finish_reason=eos_token queue_ms=0.250 inference_ms=4.750 total_ms=6.000\n"
        );
        assert_eq!(
            written(&line, true),
            "{\"timestamp\":\"2026-01-08T10:04:05.042Z\",\"level\":\"INFO\",\"message\":\"request\",\"method\":\"POST\",\
             \"path\":\"/generate\",\"status\":200,\"id\":\"abc\",\"prompt_tokens\":3,\"generated_tokens\":7,\
             \"finish_reason\":\"eos_token\",\"queue_ms\":0.250,\"inference_ms\":4.750,\"total_ms\":6.000}\n"
        );
    }

    #[test]
    fn what_a_client_wrote_stays_within_its_field() {
        let line = Line {
            path: "/a\"b\u{9b}1m".to_owned(),
            status: None,
            trace_id: Some("f00".to_owned()),
            account: None,
            error: Some("dropped"),
            body: Some("{\"inputs\":\"two\nlines\"}".to_owned()),
            ..answered()
        };
        let text = written(&line, false);
        assert!(
            text.ends_with(
                "path=\"/a\\\"b\\u{9b}1m\" id=abc trace_id=f00 total_ms=6.000 error=dropped \
                 body=\"{\\\"inputs\\\":\\\"two\\nlines\\\"}\"\n"
            ),
            "{text}"
        );
        assert_eq!(text.lines().count(), 1);
        let json: serde_json::Value = serde_json::from_str(&written(&line, true)).unwrap();
        assert_eq!(json["path"], "/a\"b\u{9b}1m");
        assert_eq!(json["body"], "{\"inputs\":\"two\nlines\"}");
        assert_eq!(json.get("status"), None);
    }

    #[test]
    fn days_are_those_of_the_calendar() {
        for (days, date) in [
            (0, (1970, 1, 1)),
            (58, (1970, 2, 28)),
            (59, (1970, 3, 1)),
            (11_016, (2000, 2, 29)),
            (11_017, (2000, 3, 1)),
            (20_454, (2026, 1, 1)),
            (47_541, (2100, 3, 1)),
        ] {
            assert_eq!(civil(days), date, "{days}");
        }
    }
}
