//! One connection's socket, written from two sides: hyper writes heads, backlogs and ends; between them, while hyper has
//! nothing to say, a stream's frames go out straight from the output thread. That spares each token a wake-up and a poll of
//! its connection, about a third of what streaming costs. It knows chunks of HTTP/1.1, not what is in them.
//!
//! Who may write: after [`Line::waits`] (the body has nothing for hyper) and the flush that follows it, the line is idle
//! and frames may go out; [`Line::takes`] (the body gave hyper something) ends that. Bytes that the socket would not take
//! stay here and leave before anything else.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;

use super::intake::Intake;
use super::stall::Stall;

/// Room before a chunk for its length in hexadecimal digits and the line's end.
const PREFIX: usize = 10;

struct State {
    writer: OwnedWriteHalf,
    stall: Stall,
    /// What the socket did not take.
    rest: BytesMut,
    /// The body has nothing for hyper; what it had may not be written yet.
    waiting: bool,
    /// Nor has hyper anything left to write.
    idle: bool,
}

impl State {
    /// Writes some of `bytes`, unless the client has not read for too long.
    fn poll_write(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.writer).poll_write(context, bytes);
        self.stall.watch(context, written)
    }

    /// Writes what is left of earlier frames.
    fn poll_rest(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.rest.is_empty() {
            let written = Pin::new(&mut self.writer).poll_write(context, &self.rest);
            let written = ready!(self.stall.watch(context, written))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.rest.advance(written);
        }
        Poll::Ready(Ok(()))
    }
}

thread_local! {
    /// A frame in the making: one buffer for all connections, which stays in the caches.
    static FRAME: RefCell<BytesMut> = RefCell::new(BytesMut::new());
}

/// What `write` writes, as a chunk of HTTP/1.1, in `frame`. Nothing is no chunk: an empty one would end the body.
fn chunk(frame: &mut BytesMut, write: impl FnOnce(&mut BytesMut)) -> Option<&[u8]> {
    frame.clear();
    frame.resize(PREFIX, 0);
    write(frame);
    let mut length = frame.len() - PREFIX;
    if length == 0 {
        return None;
    }
    let mut start = PREFIX - 2;
    frame[start..PREFIX].copy_from_slice(b"\r\n");
    while length > 0 {
        start -= 1;
        frame[start] = b"0123456789abcdef"[length % 16];
        length /= 16;
    }
    frame.extend_from_slice(b"\r\n");
    Some(&frame[start..])
}

/// The side of a connection that streams write to.
pub(crate) struct Line {
    state: Mutex<State>,
}

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// The socket has it.
    Whole,
    /// A part is left, and the connection must be polled to write it.
    Partly,
    /// Hyper has something to write first, so the frame must go through it. Nothing was written.
    No,
}

impl Line {
    /// Sends what `write` writes as one chunk, if the line is idle; else `write` comes back.
    pub(super) fn send<W: FnOnce(&mut BytesMut)>(&self, write: W) -> (Sent, Option<W>) {
        let mut state = self.state.lock();
        if !state.idle || !state.rest.is_empty() {
            return (Sent::No, Some(write));
        }
        FRAME.with_borrow_mut(|frame| {
            let Some(chunk) = chunk(frame, write) else {
                return (Sent::Whole, None);
            };
            // A failed socket takes nothing more: hyper finds out by itself, and the body is dropped.
            let written = state.writer.try_write(chunk).unwrap_or(0);
            if written == chunk.len() {
                return (Sent::Whole, None);
            }
            state.rest.extend_from_slice(&chunk[written..]);
            (Sent::Partly, None)
        })
    }

    /// The body has nothing more for hyper at the moment.
    pub(super) fn waits(&self) {
        self.state.lock().waiting = true;
    }

    /// The body gives hyper something to write, or a new one begins.
    pub(super) fn takes(&self) {
        let mut state = self.state.lock();
        state.waiting = false;
        state.idle = false;
    }
}

/// The connection as hyper sees it.
pub(crate) struct Socket {
    intake: Arc<Intake>,
    line: Arc<Line>,
}

impl Socket {
    /// A client that has something to read may take nothing for `patience`; then writing fails.
    pub(crate) fn new(stream: TcpStream, patience: Duration) -> Self {
        let (reader, writer) = stream.into_split();
        let state = State {
            writer,
            stall: Stall::new(patience),
            rest: BytesMut::new(),
            waiting: false,
            idle: false,
        };
        let line = Arc::new(Line {
            state: Mutex::new(state),
        });
        Self {
            intake: Arc::new(Intake::new(reader)),
            line,
        }
    }

    /// What tells that the client has left.
    pub(crate) fn intake(&self) -> Arc<Intake> {
        self.intake.clone()
    }

    /// What streams on this connection may write to.
    pub(crate) fn line(&self) -> Arc<Line> {
        self.line.clone()
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.intake.poll_read(context, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut state = self.line.state.lock();
        ready!(state.poll_rest(context))?;
        state.poll_write(context, bytes)
    }

    /// Hyper calls it when all that it had was written.
    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.line.state.lock();
        ready!(state.poll_rest(context))?;
        state.idle = state.waiting;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.line.state.lock();
        ready!(state.poll_rest(context))?;
        Pin::new(&mut state.writer).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpSocket;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(120);

    /// Two ends of a connection whose kernel keeps little.
    async fn connection() -> (Socket, TcpStream) {
        let listener = TcpSocket::new_v4().unwrap();
        listener.set_send_buffer_size(4096).unwrap();
        listener.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = listener.listen(1).unwrap();
        let client = TcpSocket::new_v4().unwrap();
        client.set_recv_buffer_size(4096).unwrap();
        let client = client.connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        server.writable().await.unwrap();
        (Socket::new(server, PATIENCE), client)
    }

    fn send(line: &Line, bytes: &[u8]) -> Sent {
        line.send(|out: &mut BytesMut| out.extend_from_slice(bytes)).0
    }

    #[tokio::test]
    async fn frames_go_out_only_after_a_flush_with_nothing_left_to_write() {
        let (mut socket, mut client) = connection().await;
        let line = socket.line();
        assert_eq!(send(&line, b"early"), Sent::No);
        socket.flush().await.unwrap();
        assert_eq!(send(&line, b"no stream"), Sent::No);
        line.waits();
        assert_eq!(send(&line, b"not flushed"), Sent::No);
        socket.flush().await.unwrap();
        assert_eq!(send(&line, b"0123456789abcdef"), Sent::Whole);
        // Not the empty chunk, which would end the body.
        assert_eq!(send(&line, b""), Sent::Whole);
        line.takes();
        assert_eq!(send(&line, b"hyper writes"), Sent::No);
        socket.flush().await.unwrap();
        assert_eq!(send(&line, b"hyper writes"), Sent::No);
        drop((socket, line));
        let mut read = String::new();
        client.read_to_string(&mut read).await.unwrap();
        assert_eq!(read, "10\r\n0123456789abcdef\r\n");
    }

    #[tokio::test]
    async fn what_the_socket_does_not_take_leaves_before_anything_else() {
        for last in ["write", "flush", "shutdown"] {
            let (mut socket, mut client) = connection().await;
            let line = socket.line();
            line.waits();
            socket.flush().await.unwrap();
            let mut expected = Vec::new();
            let mut sent = Sent::Whole;
            for frame in 0u8.. {
                let bytes = [b'a' + frame % 26; 9000];
                sent = send(&line, &bytes);
                if sent == Sent::No {
                    break;
                }
                expected.extend_from_slice(b"2328\r\n");
                expected.extend_from_slice(&bytes);
                expected.extend_from_slice(b"\r\n");
                if sent == Sent::Partly {
                    assert_eq!(send(&line, b"too early"), Sent::No);
                    break;
                }
            }
            assert_eq!(sent, Sent::Partly, "the socket took everything");
            let reading = tokio::spawn(async move {
                let mut read = Vec::new();
                client.read_to_end(&mut read).await.unwrap();
                read
            });
            match last {
                "write" => {
                    socket.write_all(b"end").await.unwrap();
                    expected.extend_from_slice(b"end");
                }
                "flush" => {
                    socket.flush().await.unwrap();
                    assert_eq!(send(&line, b"next"), Sent::Whole);
                    expected.extend_from_slice(b"4\r\nnext\r\n");
                }
                _ => {}
            }
            socket.shutdown().await.unwrap();
            assert!(reading.await.unwrap() == expected, "{last}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_read_is_given_up() {
        for by in ["hyper", "a stream"] {
            let (mut socket, client) = connection().await;
            let line = socket.line();
            line.waits();
            socket.flush().await.unwrap();
            let began = tokio::time::Instant::now();
            let written = if by == "hyper" {
                socket.write_all(&vec![b'x'; 1 << 24]).await
            } else {
                while send(&line, &[b'x'; 9000]) == Sent::Whole {}
                socket.flush().await
            };
            assert_eq!(written.unwrap_err().kind(), io::ErrorKind::TimedOut, "{by}");
            assert!(began.elapsed() >= PATIENCE, "{by}");
            drop(client);
        }
    }
}
