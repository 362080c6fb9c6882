//! What a client sends, read by hyper and, while hyper does not look, ahead of it: bytes that follow a request, such as the next
//! one, keep hyper from reading until it has answered, and so from seeing that the client has left.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::BytesMut;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::tcp::OwnedReadHalf;

/// Bytes that are read ahead of hyper. A client that sends more is watched no further.
const AHEAD: usize = 64 * 1024;

struct State {
    reader: OwnedReadHalf,
    /// Read, and not asked for yet.
    ahead: BytesMut,
}

/// The side of a connection that is read from.
pub(crate) struct Intake {
    state: Mutex<State>,
    /// A handler is at work, so it matters whether the client is there.
    answering: AtomicBool,
    /// Hyper waits for bytes, and so for their end.
    watched: AtomicBool,
}

impl Intake {
    pub(super) fn new(reader: OwnedReadHalf) -> Self {
        let state = State {
            reader,
            ahead: BytesMut::new(),
        };
        Self {
            state: Mutex::new(state),
            answering: AtomicBool::new(false),
            watched: AtomicBool::new(false),
        }
    }

    /// A handler begins, or has its answer.
    pub(crate) fn set_answering(&self, answering: bool) {
        self.answering.store(answering, Ordering::Relaxed);
    }

    /// Hyper is about to be polled. All this is on its connection's task.
    pub(crate) fn begin_poll(&self) {
        self.watched.store(false, Ordering::Relaxed);
    }

    pub(super) fn poll_read(
        &self,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut state = self.state.lock();
        if !state.ahead.is_empty() {
            let taken = buffer.remaining().min(state.ahead.len());
            buffer.put_slice(&state.ahead.split_to(taken));
            return Poll::Ready(Ok(()));
        }
        let poll = Pin::new(&mut state.reader).poll_read(context, buffer);
        self.watched.store(poll.is_pending(), Ordering::Relaxed);
        poll
    }

    /// Ready if the client has left while a handler is at work and hyper, polled just now, does not look.
    pub(crate) fn poll_gone(&self, context: &mut Context<'_>) -> Poll<()> {
        if !self.answering.load(Ordering::Relaxed) || self.watched.load(Ordering::Relaxed) {
            return Poll::Pending;
        }
        let mut state = self.state.lock();
        while state.ahead.len() < AHEAD {
            let mut space = [0; 4096];
            let mut buffer = ReadBuf::new(&mut space);
            match Pin::new(&mut state.reader).poll_read(context, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    state.ahead.extend_from_slice(buffer.filled());
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::AsyncWriteExt;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    async fn connection() -> (Intake, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        let (reader, writer) = server.into_split();
        // The connection stays open both ways.
        writer.forget();
        (Intake::new(reader), client)
    }

    /// What a look now finds.
    async fn look(intake: &Intake) -> Poll<()> {
        poll_fn(|context| Poll::Ready(intake.poll_gone(context))).await
    }

    async fn read(intake: &Intake, most: usize) -> Vec<u8> {
        let mut space = vec![0; most];
        let mut buffer = ReadBuf::new(&mut space);
        poll_fn(|context| intake.poll_read(context, &mut buffer))
            .await
            .unwrap();
        buffer.filled().to_vec()
    }

    #[tokio::test]
    async fn what_is_read_ahead_comes_first_and_nothing_is_lost() {
        let (intake, mut client) = connection().await;
        client.write_all(b"one").await.unwrap();
        assert_eq!(read(&intake, 100).await, b"one");
        intake.begin_poll();
        intake.set_answering(true);
        client.write_all(b"two three").await.unwrap();
        drop(client);
        poll_fn(|context| intake.poll_gone(context)).await;
        assert_eq!(read(&intake, 4).await, b"two ");
        assert_eq!(read(&intake, 100).await, b"three");
        assert_eq!(read(&intake, 100).await, b"", "the end");
    }

    #[tokio::test]
    async fn nobody_looks_while_hyper_does_or_no_handler_is_at_work() {
        let (intake, client) = connection().await;
        intake.set_answering(true);
        let mut space = [0; 10];
        let mut buffer = ReadBuf::new(&mut space);
        let waits = poll_fn(|context| Poll::Ready(intake.poll_read(context, &mut buffer))).await;
        assert!(waits.is_pending());
        drop(client);
        assert!(look(&intake).await.is_pending(), "hyper will see the end itself");
        intake.begin_poll();
        intake.set_answering(false);
        assert!(look(&intake).await.is_pending(), "there is nothing to abort");
        intake.set_answering(true);
        poll_fn(|context| intake.poll_gone(context)).await;
    }

    #[tokio::test]
    async fn little_is_read_ahead() {
        let (intake, mut client) = connection().await;
        intake.set_answering(true);
        let much = tokio::spawn(async move { client.write_all(&vec![b'x'; 3 * AHEAD]).await });
        let mut ahead = 0;
        while ahead < AHEAD {
            assert!(look(&intake).await.is_pending());
            ahead = intake.state.lock().ahead.len();
            tokio::task::yield_now().await;
        }
        assert!(ahead < AHEAD + 4096, "{ahead}");
        let mut left = 3 * AHEAD;
        while left > 0 {
            left -= read(&intake, 10_000).await.len();
        }
        much.await.unwrap().unwrap();
    }
}
