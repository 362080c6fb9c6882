//! One port's connections, from accept to close. It knows HTTP/1.1 and TLS, not what is said.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderValue, Method, Request, Version, header};
use axum::response::Response;
use bytes::Bytes;
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use hyper::rt::{Read, Write};
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::metrics::Metrics;
use crate::stream::{Entry, Intake, Line, Socket};

/// Pause after an accept that failed for want of a resource.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long a stream's head waits for its first event. Proxies whose HTTP is Go's, such as Caddy and Traefik, now and then cut an
/// answer that begins before they have seen the end of the request that they pass on (golang/go#40747): of streams whose head
/// came at once, Caddy 2.6.2 broke one in thirty.
const HEAD_PATIENCE: Duration = Duration::from_millis(50);

/// What every connection of a port has.
#[derive(Clone)]
pub(crate) struct Door {
    pub(crate) router: Router,
    /// None means plain HTTP.
    pub(crate) tls: Option<TlsAcceptor>,
    pub(crate) metrics: Arc<Metrics>,
    /// For a handshake and for a request's head.
    pub(crate) read_timeout: Duration,
    /// For a client to take something of what it is sent.
    pub(crate) write_timeout: Duration,
}

/// Accepts until there is a grace to close in; ends when every connection has.
pub(crate) async fn accept(
    listener: TcpListener,
    door: Door,
    mut closing: watch::Receiver<Option<Duration>>,
) {
    let mut connections = JoinSet::new();
    let mut http = http1::Builder::new();
    // One flat buffer a write: streamed frames are far smaller than what vectored writes are good for.
    http.timer(TokioTimer::new())
        .header_read_timeout(door.read_timeout)
        .writev(false);
    let (begun, begin) = (Arc::new(AtomicBool::new(false)), watch::channel(()).0);
    let grace = loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(_) => {
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
            Some(_) = connections.join_next() => continue,
            grace = closed(&mut closing) => break grace,
        };
        let closing = Closing {
            begun: begun.clone(),
            begin: begin.subscribe(),
        };
        connections.spawn(attend(stream, door.clone(), http.clone(), closing));
    };
    drop(listener);
    begun.store(true, Ordering::Release);
    begin.send_replace(());
    let last = async { while connections.join_next().await.is_some() {} };
    // Over time, what is left is closed.
    let _ = timeout(grace, last).await;
    connections.shutdown().await;
}

/// The grace, once there is one. A dropped server has none.
async fn closed(closing: &mut watch::Receiver<Option<Duration>>) -> Duration {
    match closing.wait_for(Option::is_some).await {
        Ok(grace) => (*grace).unwrap_or_default(),
        Err(_) => Duration::ZERO,
    }
}

/// Tells a connection that the port closes.
struct Closing {
    begun: Arc<AtomicBool>,
    /// For the wake-up of those that are silent.
    begin: watch::Receiver<()>,
}

/// One connection from its beginning to its end.
async fn attend(stream: TcpStream, door: Door, http: http1::Builder, closing: Closing) {
    let _open = door.metrics.open_connection();
    // Frames are small and each is wanted now. If the option cannot be set they come later, not wrong.
    let _ = stream.set_nodelay(true);
    let socket = Socket::new(stream, door.write_timeout);
    let intake = socket.intake();
    let mut answers = Answers {
        line: Some(socket.line()),
        intake: intake.clone(),
        routes: TowerToHyperService::new(door.router),
    };
    let Some(tls) = door.tls else {
        let connection = http.serve_connection(TokioIo::new(socket), answers);
        return converse(connection, &intake, closing).await;
    };
    // Frames that passed TLS by would be in clear.
    answers.line = None;
    let handshake = timeout(door.read_timeout, tls.accept(socket));
    // In a place of its own: it would make every plain connection larger.
    let encrypted = Box::pin(async move {
        let mut closing = closing;
        let stream = tokio::select! {
            shaken = handshake => match shaken {
                Ok(Ok(stream)) => stream,
                // Too late, or no TLS that the server knows: the client has been told what there is to tell.
                Ok(Err(_)) | Err(_) => return,
            },
            _ = closing.begin.changed() => return,
        };
        let connection = http.serve_connection(TokioIo::new(stream), answers);
        converse(connection, &intake, closing).await;
    });
    encrypted.await;
}

/// Serves one connection to its end. Once closing has begun, the answer in progress is its last.
///
/// A connection is polled at every token of every stream, so the closing is looked at by a flag; the channel only
/// wakes the connections that are silent.
async fn converse<I: Read + Write + Unpin + 'static>(
    connection: http1::Connection<I, Answers>,
    intake: &Intake,
    closing: Closing,
) {
    let Closing { begun, mut begin } = closing;
    let mut connection = pin!(connection);
    let mut begin = pin!(begin.changed());
    let (mut subscribed, mut told) = (false, false);
    poll_fn(|context| {
        if !subscribed {
            subscribed = true;
            // The flag tells; this is for the wake-up.
            let _ = begin.as_mut().poll(context);
        }
        if !told && begun.load(Ordering::Acquire) {
            told = true;
            connection.as_mut().graceful_shutdown();
        }
        intake.begin_poll();
        // A connection's own failure is the client's business: it is gone.
        let ended = connection.as_mut().poll(context).map(drop);
        if ended.is_pending() {
            return intake.poll_gone(context);
        }
        ended
    })
    .await;
}

/// A request's body that tells whether all of it was read.
struct Watched {
    body: Incoming,
    read: Arc<AtomicBool>,
}

impl hyper::body::Body for Watched {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        if matches!(frame, Poll::Ready(None)) || self.body.is_end_stream() {
            self.read.store(true, Ordering::Relaxed);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The stream that an answer carries, if it is one.
fn stream_of(answer: &mut Result<Response, Infallible>) -> Option<Entry> {
    match answer {
        Ok(response) => response.extensions_mut().remove(),
        Err(never) => match *never {},
    }
}

/// The routes, on one connection.
struct Answers {
    /// Where frames may pass hyper by.
    line: Option<Arc<Line>>,
    intake: Arc<Intake>,
    routes: TowerToHyperService<Router>,
}

impl Service<Request<Incoming>> for Answers {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        // A stream writes chunks, which version 1.0 does not know.
        let chunked = request.version() == Version::HTTP_11 && request.method() != Method::HEAD;
        let line = self.line.clone().filter(|_| chunked);
        let intake = self.intake.clone();
        intake.set_answering(true);
        let read = Arc::new(AtomicBool::new(request.body().is_end_stream()));
        let watched = read.clone();
        let answer = self
            .routes
            .call(request.map(|body| Watched { body, read: watched }));
        Box::pin(async move {
            let mut answer = answer.await;
            if let Some(entry) = stream_of(&mut answer) {
                // Late or not: what comes later follows the head.
                let _ = timeout(HEAD_PATIENCE, entry.begun()).await;
                if let Some(line) = line {
                    entry.offer(line);
                }
            }
            intake.set_answering(false);
            if let (Ok(response), false) = (&mut answer, read.load(Ordering::Relaxed)) {
                // Hyper is about to close: the rest of the request may not have come yet, and nobody will read it.
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(header::CONNECTION, close);
            }
            answer
        })
    }
}
