//! A stream of server-sent events as an HTTP body. Dropping it, as a lost connection does, aborts its requests.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use bytes::Bytes;
use http_body::Frame;
use tokio::time::{Instant, Sleep, sleep};

use super::pipe::{Outlet, Unread};
use crate::flow::Running;

/// After this long without a byte a comment is sent, so that proxies keep the connection.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
const COMMENT: Bytes = Bytes::from_static(b":\n\n");

/// The body of a streaming answer.
pub(crate) struct EventStream {
    outlet: Outlet,
    /// Not moved at every frame: when it fires, `last` tells whether the stream was silent.
    alarm: Pin<Box<Sleep>>,
    last: Instant,
}

impl EventStream {
    /// `running` lives as long as the body does, or until the client is given up.
    pub(crate) fn new(outlet: Outlet, running: Running) -> Self {
        outlet.hold(running);
        Self {
            outlet,
            alarm: Box::pin(sleep(KEEP_ALIVE)),
            last: Instant::now(),
        }
    }
}

impl http_body::Body for EventStream {
    type Data = Bytes;
    type Error = Unread;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Unread>>> {
        match self.outlet.poll_take(context) {
            Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
            Poll::Ready(Some(Ok(bytes))) => {
                self.last = Instant::now();
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Pending => {}
        }
        while self.alarm.as_mut().poll(context).is_ready() {
            let last = self.outlet.sent().map_or(self.last, |sent| sent.max(self.last));
            let silent_until = last + KEEP_ALIVE;
            let now = Instant::now();
            if silent_until > now {
                self.alarm.as_mut().reset(silent_until);
                continue;
            }
            self.last = now;
            self.alarm.as_mut().reset(now + KEEP_ALIVE);
            self.outlet.interrupts();
            return Poll::Ready(Some(Ok(Frame::data(COMMENT))));
        }
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        self.outlet.is_done()
    }
}

/// The answer that carries a stream, with TGI's headers. The connection finds the stream's entry in its extensions.
pub(crate) fn response(stream: EventStream, compute_type: &str, characters: usize) -> Response {
    let entry = stream.outlet.entry();
    let mut response = Response::new(Body::new(stream));
    response.extensions_mut().insert(entry);
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/event-stream"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    if let Ok(value) = HeaderValue::from_str(compute_type) {
        headers.insert("x-compute-type", value);
    }
    headers.insert("x-compute-characters", HeaderValue::from(characters));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use bytes::BytesMut;
    use http_body::Body as _;
    use tokio::io::AsyncWriteExt;
    use tokio::net::{TcpListener, TcpStream};

    use super::super::line::Sent;
    use super::super::{Socket, pipe};
    use super::*;

    async fn next(stream: &mut EventStream) -> Option<Bytes> {
        let frame = poll_fn(|context| Pin::new(&mut *stream).poll_frame(context)).await;
        frame.map(|frame| frame.unwrap().into_data().unwrap())
    }

    /// Whether a poll finds nothing, as hyper's last one before a flush does.
    async fn is_silent(stream: &mut EventStream) -> bool {
        let poll = poll_fn(|context| Poll::Ready(Pin::new(&mut *stream).poll_frame(context)));
        poll.await.is_pending()
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_broken_by_a_comment_and_only_silence() {
        let (pipe, outlet) = pipe();
        let mut stream = EventStream::new(outlet, Running::default());
        let began = Instant::now();
        tokio::time::advance(Duration::from_secs(10)).await;
        pipe.write(false, |out| out.extend_from_slice(b"data"));
        assert_eq!(next(&mut stream).await.unwrap(), "data");
        assert_eq!(next(&mut stream).await.unwrap(), ":\n\n");
        assert_eq!(
            began.elapsed().as_secs(),
            25,
            "fifteen seconds after the last byte"
        );
        assert_eq!(next(&mut stream).await.unwrap(), ":\n\n");
        assert_eq!(began.elapsed().as_secs(), 40);
        pipe.write(true, |_| {});
        assert_eq!(next(&mut stream).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn frames_wait_until_a_comment_is_written() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        server.writable().await.unwrap();
        let mut socket = Socket::new(server, Duration::from_secs(120));
        let line = socket.line();
        let (_pipe, outlet) = pipe();
        outlet.entry().offer(line.clone());
        let mut stream = EventStream::new(outlet, Running::default());
        let send = || line.send(|out: &mut BytesMut| out.extend_from_slice(b"frame")).0;

        assert!(is_silent(&mut stream).await);
        socket.flush().await.unwrap();
        assert_eq!(send(), Sent::Whole);
        assert_eq!(next(&mut stream).await.unwrap(), ":\n\n");
        assert_eq!(send(), Sent::No, "hyper has the comment");
        assert!(is_silent(&mut stream).await);
        assert_eq!(send(), Sent::No, "hyper has not written it yet");
        socket.flush().await.unwrap();
        assert_eq!(send(), Sent::Whole);
    }
}
