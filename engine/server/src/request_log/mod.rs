//! What the log says of each request: gathered while it is served, written once when it has ended. It looks at no token.

mod line;
mod writer;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use parking_lot::Mutex;

use crate::app::App;
use crate::config::LogLevel;
use crate::metrics::Account;
use crate::request_id;
use crate::traces::{Ended, Place};
use line::Line;
pub(crate) use writer::Log;

/// Of a longer body the beginning is logged, where bodies are.
const BODY_SHOWN: usize = 64 * 1024;

/// Names the request, passes its record on in its extensions, and tells the client the name.
pub(crate) async fn observe(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let record = Arc::new(Record::new(&app, &request));
    request.extensions_mut().insert(record.clone());
    let mut response = next.run(request).await;
    record.told.lock().status = Some(response.status());
    response
        .headers_mut()
        .insert(request_id::HEADER, record.id.clone());
    response
}

/// One request's line in the making. Whoever knows something of the request holds it; the last to drop it has the line written.
pub(crate) struct Record {
    log: Arc<Log>,
    arrived: Instant,
    method: Method,
    path: String,
    id: HeaderValue,
    trace_id: Option<String>,
    /// Where its spans go, if they go anywhere.
    spans: Option<(Place, Arc<App>)>,
    told: Mutex<Told>,
}

/// What is known only in the end.
#[derive(Default)]
struct Told {
    /// None if the client left before there was an answer.
    status: Option<StatusCode>,
    account: Option<Account>,
    /// From its head to its admission.
    validation: Option<Duration>,
    /// What went wrong: an `error_type`, or `dropped`.
    error: Option<&'static str>,
    body: Option<String>,
}

impl Record {
    fn new(app: &Arc<App>, request: &Request) -> Self {
        let parent = request_id::parent(request.headers());
        // Looks at the server come every few seconds and say nothing.
        let traced = app.spans.is_some() && !request.method().is_safe();
        let place = traced.then(|| Place::of(parent.as_ref(), &app.seeds)).flatten();
        let trace_id = match &place {
            Some(place) => Some(place.trace.clone()),
            None => parent.map(|parent| parent.trace),
        };
        Self {
            log: app.log.clone(),
            arrived: Instant::now(),
            method: request.method().clone(),
            path: request.uri().path().to_owned(),
            id: request_id::taken_or_made(request.headers(), &app.seeds),
            trace_id,
            spans: place.map(|place| (place, app.clone())),
            told: Mutex::default(),
        }
    }

    /// The request's body; forgotten unless prompts are logged.
    pub(crate) fn asked(&self, body: &[u8]) {
        if self.log.shows_prompts() {
            let shown = &body[..body.len().min(BODY_SHOWN)];
            let cut = if shown.len() < body.len() { "…" } else { "" };
            self.told.lock().body = Some(String::from_utf8_lossy(shown).into_owned() + cut);
        }
    }

    /// The request is valid, which took so long to find out.
    pub(crate) fn admitted(&self, validation: Duration) {
        if self.spans.is_some() {
            self.told.lock().validation = Some(validation);
        }
    }

    /// The request got its answer.
    pub(crate) fn succeeded(&self, account: &Account) {
        self.told.lock().account = Some(*account);
    }

    /// The request got none, for this reason.
    pub(crate) fn failed(&self, error: &'static str) {
        self.told.lock().error = Some(error);
    }
}

impl Record {
    fn tell_spans(&mut self, told: &Told) {
        let Some((place, app)) = self.spans.take() else {
            return;
        };
        let Some(exporter) = &app.spans else { return };
        let ended = Ended {
            place,
            method: &self.method,
            path: &self.path,
            request_id: self.id.to_str().unwrap_or_default(),
            status: told.status,
            validation: told.validation,
            account: told.account,
            error: told.error,
            at: SystemTime::now(),
            total: self.arrived.elapsed(),
        };
        exporter.send(ended.spans(&app.seeds));
    }
}

/// How grave a request's end is.
fn level(method: &Method, told: &Told) -> LogLevel {
    let (status, error) = (told.status.unwrap_or_default(), told.error.unwrap_or_default());
    let broken = status.is_server_error() || status == StatusCode::FAILED_DEPENDENCY;
    match error {
        "generation" | "incomplete_generation" | "internal" => LogLevel::Error,
        _ if broken => LogLevel::Error,
        "dropped" => LogLevel::Info,
        "" if status.is_client_error() => LogLevel::Warn,
        // Health checks and scrapes come every few seconds.
        "" if method.is_safe() => LogLevel::Debug,
        "" => LogLevel::Info,
        _ => LogLevel::Warn,
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let mut told = std::mem::take(self.told.get_mut());
        if told.status.is_none() {
            told.error.get_or_insert("dropped");
        }
        self.tell_spans(&told);
        let level = level(&self.method, &told);
        if !self.log.wants(level) {
            return;
        }
        self.log.write(Line {
            at: SystemTime::now(),
            level,
            method: self.method.clone(),
            path: std::mem::take(&mut self.path),
            status: told.status,
            id: self.id.clone(),
            trace_id: self.trace_id.take(),
            account: told.account,
            error: told.error,
            total: self.arrived.elapsed(),
            body: told.body,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_graver_than_refusals_and_looks_are_the_least() {
        let told = |status: u16, error| Told {
            status: StatusCode::from_u16(status).ok(),
            error,
            ..Told::default()
        };
        let cases = [
            (Method::POST, told(200, None), LogLevel::Info),
            (Method::POST, told(0, Some("dropped")), LogLevel::Info),
            (Method::POST, told(200, Some("dropped")), LogLevel::Info),
            (Method::POST, told(422, Some("validation")), LogLevel::Warn),
            (Method::POST, told(200, Some("overloaded")), LogLevel::Warn),
            (Method::POST, told(401, None), LogLevel::Warn),
            (Method::GET, told(404, None), LogLevel::Warn),
            (Method::GET, told(200, None), LogLevel::Debug),
            (Method::OPTIONS, told(200, None), LogLevel::Debug),
            (Method::POST, told(424, Some("generation")), LogLevel::Error),
            (Method::POST, told(200, Some("generation")), LogLevel::Error),
            (Method::GET, told(503, None), LogLevel::Error),
        ];
        for (method, told, expected) in cases {
            let (status, error) = (told.status, told.error);
            assert_eq!(level(&method, &told), expected, "{method} {status:?} {error:?}");
        }
    }
}
