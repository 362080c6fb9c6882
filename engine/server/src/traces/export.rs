//! The thread that sends spans to a collector: OTLP over HTTP, in its JSON form, which every collector takes on port 4318. Whoever
//! has spans hands them over and never waits: what does not reach the collector is lost and counted.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::config::ConfigError;

/// Requests whose spans may wait for the thread.
const WAITING: usize = 2048;
/// Spans that go in one message.
const BATCH: usize = 512;
/// A span waits no longer for others.
const PAUSE: Duration = Duration::from_secs(1);
/// The collector has this long for each of connecting, taking and answering.
const PATIENCE: Duration = Duration::from_secs(5);
/// Where collectors take traces.
const PATH: &str = "/v1/traces";

/// A collector's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// `host:port`.
    authority: String,
    path: String,
}

/// Reads `http://host:port`, with a path if traces are taken elsewhere than at `/v1/traces`.
pub(crate) fn endpoint(given: &str) -> Result<Endpoint, ConfigError> {
    let refuse = || ConfigError::OtlpEndpoint(given.to_owned());
    let rest = given.strip_prefix("http://").ok_or_else(refuse)?;
    let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    let (host, port) = authority.rsplit_once(':').ok_or_else(refuse)?;
    let printable = given.bytes().all(|byte| byte.is_ascii_graphic());
    if host.is_empty() || port.parse::<u16>().is_err() || !printable {
        return Err(refuse());
    }
    Ok(Endpoint {
        authority: authority.to_owned(),
        path: if path.len() > 1 { path } else { PATH }.to_owned(),
    })
}

enum Message {
    Spans(Vec<Value>),
    /// Everything before it is sent.
    Flush(SyncSender<()>),
}

/// The way to the thread, which lives as long as this.
pub(crate) struct Exporter {
    messages: SyncSender<Message>,
    lost: Arc<AtomicU64>,
}

impl Exporter {
    /// Sends to `endpoint` in the name of `service`.
    ///
    /// # Errors
    /// The system gave no thread.
    pub(crate) fn start(endpoint: Endpoint, service: &str, version: &str) -> io::Result<Self> {
        let (sender, messages) = sync_channel(WAITING);
        let lost = Arc::new(AtomicU64::new(0));
        let text = |key: &str, value: &str| json!({"key": key, "value": {"stringValue": value}});
        let sending = Sending {
            endpoint,
            resource: json!({"attributes": [text("service.name", service), text("service.version", version)]}),
            scope: json!({"name": "agentlm", "version": version}),
            lost: lost.clone(),
        };
        std::thread::Builder::new()
            .name("agentlm-traces".into())
            .spawn(move || sending.run(&messages))?;
        Ok(Self {
            messages: sender,
            lost,
        })
    }

    /// Hands over one request's spans.
    pub(crate) fn send(&self, spans: Vec<Value>) {
        let count = spans.len() as u64;
        if self.messages.try_send(Message::Spans(spans)).is_err() {
            self.lost.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// Spans that were lost.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Waits until the spans so far are sent, or for `patience`.
    pub(crate) fn flush(&self, patience: Duration) {
        let (done, sent) = sync_channel(1);
        if self.messages.try_send(Message::Flush(done)).is_ok() {
            // A collector that hangs is left behind.
            let _ = sent.recv_timeout(patience);
        }
    }
}

/// What the thread has.
struct Sending {
    endpoint: Endpoint,
    resource: Value,
    scope: Value,
    lost: Arc<AtomicU64>,
}

impl Sending {
    fn run(&self, messages: &Receiver<Message>) {
        let mut spans = Vec::new();
        let mut oldest = Instant::now();
        loop {
            let next = if spans.is_empty() {
                messages.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                messages.recv_timeout(PAUSE.saturating_sub(oldest.elapsed()))
            };
            match next {
                Ok(Message::Spans(more)) => {
                    if spans.is_empty() {
                        oldest = Instant::now();
                    }
                    spans.extend(more);
                    if spans.len() >= BATCH {
                        self.send(&mut spans);
                    }
                }
                Ok(Message::Flush(done)) => {
                    self.send(&mut spans);
                    // Whoever asked may have gone.
                    let _ = done.try_send(());
                }
                Err(RecvTimeoutError::Timeout) => self.send(&mut spans),
                Err(RecvTimeoutError::Disconnected) => {
                    self.send(&mut spans);
                    return;
                }
            }
        }
    }

    fn send(&self, spans: &mut Vec<Value>) {
        if spans.is_empty() {
            return;
        }
        let count = spans.len() as u64;
        let scoped = json!({"scope": self.scope, "spans": std::mem::take(spans)});
        let message = json!({"resourceSpans": [{"resource": self.resource, "scopeSpans": [scoped]}]});
        if self.post(&message.to_string()).is_err() {
            self.lost.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// One message on a connection of its own: there is one a second at most.
    fn post(&self, body: &str) -> io::Result<()> {
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for address in self.endpoint.authority.to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, PATIENCE) {
                Ok(stream) => return self.speak(stream, body),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn speak(&self, mut stream: TcpStream, body: &str) -> io::Result<()> {
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let Endpoint { authority, path } = &self.endpoint;
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: {authority}\r\ncontent-type: application/json\r\nconnection: close\r\n\
             content-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(&[head.as_bytes(), body.as_bytes()].concat())?;
        let mut status = [0; 12];
        stream.read_exact(&mut status)?;
        match &status {
            [b'H', b'T', b'T', b'P', b'/', b'1', b'.', _, b' ', b'2', _, _] => Ok(()),
            _ => Err(io::Error::other("the collector refused the spans")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn an_endpoint_is_a_plain_address() {
        let read = |given: &str| endpoint(given).map(|endpoint| (endpoint.authority, endpoint.path));
        let taken = |authority: &str, path: &str| Ok((authority.to_owned(), path.to_owned()));
        assert_eq!(
            read("http://localhost:4318"),
            taken("localhost:4318", "/v1/traces")
        );
        assert_eq!(read("http://[::1]:4318/"), taken("[::1]:4318", "/v1/traces"));
        assert_eq!(read("http://a:1/otlp/v1/traces"), taken("a:1", "/otlp/v1/traces"));
        for given in [
            "https://a:4318",
            "a:4318",
            "http://a",
            "http://:1",
            "http://a:x",
            "http://a:1/ b",
            "",
        ] {
            assert_eq!(read(given), Err(ConfigError::OtlpEndpoint(given.to_owned())));
        }
    }

    #[test]
    fn what_no_collector_takes_is_counted() {
        // A port that was free a moment ago.
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let endpoint = endpoint(&format!("http://127.0.0.1:{port}")).unwrap();
        let exporter = Exporter::start(endpoint, "s", "1").unwrap();
        exporter.send(vec![json!({}), json!({})]);
        exporter.flush(Duration::from_secs(30));
        assert_eq!(exporter.lost(), 2);
    }
}
