//! One stream's bytes on their way: a frame goes out at once where the line is free; else it waits here, and the connection
//! takes everything there is.
//!
//! Frames that pile up while a connection writes leave together in the next write. The output thread never waits for a client:
//! one that lets too much pile up loses its stream, and its requests are aborted.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use thiserror::Error;
use tokio::time::Instant;

use super::line::{Line, Sent};
use crate::flow::Running;

/// Room for a few frames; taken again once the connection has sent what it took.
const CAPACITY: usize = 2048;
/// More than this is not kept for a client that does not read. A token's frame has some hundred bytes.
const LIMIT: usize = 4 << 20;

/// The client let too much pile up, so the stream has no proper end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the client did not read its stream")]
pub(crate) struct Unread;

#[derive(Default)]
struct State {
    unsent: BytesMut,
    waiting: Option<Waker>,
    closed: bool,
    /// It was closed because too much piled up.
    unread: bool,
    /// What writes; dropping it aborts.
    running: Option<Running>,
    /// The connection, where frames may pass hyper by.
    line: Option<Arc<Line>>,
    /// When a frame last did.
    sent: Option<Instant>,
}

/// The writing end, shared by a request's sinks.
#[derive(Clone)]
pub(crate) struct Pipe {
    state: Arc<Mutex<State>>,
}

/// The reading end.
pub(crate) struct Outlet {
    state: Arc<Mutex<State>>,
}

/// A new stream's two ends.
pub(crate) fn pipe() -> (Pipe, Outlet) {
    let state = Arc::new(Mutex::new(State {
        unsent: BytesMut::with_capacity(CAPACITY),
        ..State::default()
    }));
    (Pipe { state: state.clone() }, Outlet { state })
}

impl Pipe {
    /// Appends what `write` writes. With `last`, nothing more will come. After the end it does nothing.
    pub(crate) fn write(&self, last: bool, write: impl FnOnce(&mut BytesMut)) {
        let mut state = self.state.lock();
        if state.closed {
            return;
        }
        let write = match &state.line {
            // The last frame leaves with the end of the body, in one write.
            Some(line) if !last && state.unsent.is_empty() => match line.send(write) {
                (Sent::Whole, _) => {
                    state.sent = Some(Instant::now());
                    return;
                }
                (_, write) => write,
            },
            _ => Some(write),
        };
        if let Some(write) = write {
            write(&mut state.unsent);
        }
        let mut given_up = None;
        if last {
            state.closed = true;
            state.line = None;
            // Whoever reads the rest slowly takes nobody's place.
            given_up = state.running.take();
        } else if state.unsent.len() > LIMIT {
            given_up = state.give_up();
        }
        let waiting = state.waiting.take();
        drop(state);
        drop(given_up);
        if let Some(waker) = waiting {
            waker.wake();
        }
    }
}

impl State {
    /// Ends the stream as it is. What it returns is to be dropped without the lock.
    fn give_up(&mut self) -> Option<Running> {
        self.unsent = BytesMut::new();
        self.closed = true;
        self.unread = true;
        self.line = None;
        self.running.take()
    }
}

impl Outlet {
    /// Keeps what writes the stream until it ends or nobody reads it any more.
    pub(super) fn hold(&self, running: Running) {
        let mut state = self.state.lock();
        if !state.closed {
            state.running = Some(running);
        }
    }

    /// The stream's way onto a connection.
    pub(super) fn entry(&self) -> Entry {
        Entry {
            state: self.state.clone(),
        }
    }

    /// When a frame last went out without passing here.
    pub(super) fn sent(&self) -> Option<Instant> {
        self.state.lock().sent
    }

    /// The body gives hyper bytes that did not come by the pipe: frames wait until those are written.
    pub(super) fn interrupts(&self) {
        if let Some(line) = &self.state.lock().line {
            line.takes();
        }
    }

    /// Everything unsent; `None` when the stream has ended and all of it was taken.
    pub(crate) fn poll_take(&mut self, context: &Context<'_>) -> Poll<Option<Result<Bytes, Unread>>> {
        let mut state = self.state.lock();
        if state.unread {
            return Poll::Ready(Some(Err(Unread)));
        }
        if let Some(line) = &state.line {
            if state.unsent.is_empty() {
                line.waits();
            } else {
                line.takes();
            }
        }
        if !state.unsent.is_empty() {
            let taken = state.unsent.split().freeze();
            if !state.closed {
                state.unsent.reserve(CAPACITY / 4);
            }
            return Poll::Ready(Some(Ok(taken)));
        }
        if state.closed {
            return Poll::Ready(None);
        }
        match &mut state.waiting {
            Some(waker) => waker.clone_from(context.waker()),
            none => *none = Some(context.waker().clone()),
        }
        Poll::Pending
    }

    /// Whether all of the stream was taken.
    pub(crate) fn is_done(&self) -> bool {
        let state = self.state.lock();
        state.closed && state.unsent.is_empty() && !state.unread
    }
}

impl Drop for Outlet {
    fn drop(&mut self) {
        // Nobody reads on: sinks that still write need not keep their bytes, nor the connection.
        let mut state = self.state.lock();
        state.closed = true;
        state.line = None;
        let running = state.running.take();
        drop(state);
        drop(running);
    }
}

/// Lets a connection offer its line to the stream that it is about to carry.
#[derive(Clone)]
pub(crate) struct Entry {
    state: Arc<Mutex<State>>,
}

impl Entry {
    /// Returns once the stream has something to send, or has ended.
    pub(crate) async fn begun(&self) {
        poll_fn(|context| {
            let mut state = self.state.lock();
            if state.closed || !state.unsent.is_empty() {
                return Poll::Ready(());
            }
            state.waiting = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// From the first flush on, frames go out by `line`.
    pub(crate) fn offer(&self, line: Arc<Line>) {
        let mut state = self.state.lock();
        if !state.closed {
            line.takes();
            state.line = Some(line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::Gate;

    #[test]
    fn frames_leave_together_and_the_end_comes_after_the_last_byte() {
        let context = Context::from_waker(Waker::noop());
        let (pipe, mut outlet) = pipe();
        assert_eq!(outlet.poll_take(&context), Poll::Pending);
        pipe.write(false, |out| out.extend_from_slice(b"a"));
        pipe.write(false, |out| out.extend_from_slice(b"b"));
        assert_eq!(
            outlet.poll_take(&context),
            Poll::Ready(Some(Ok(Bytes::from_static(b"ab"))))
        );
        assert_eq!(outlet.poll_take(&context), Poll::Pending);
        pipe.write(true, |out| out.extend_from_slice(b"c"));
        pipe.write(false, |out| out.extend_from_slice(b"too late"));
        assert!(!outlet.is_done());
        assert_eq!(
            outlet.poll_take(&context),
            Poll::Ready(Some(Ok(Bytes::from_static(b"c"))))
        );
        assert!(outlet.is_done());
        assert_eq!(outlet.poll_take(&context), Poll::Ready(None));
    }

    #[test]
    fn a_client_that_lets_too_much_pile_up_loses_its_stream_and_the_place() {
        let context = Context::from_waker(Waker::noop());
        let gate = Gate::new(1);
        let (pipe, mut outlet) = pipe();
        outlet.hold(Running::holding(gate.enter(1).unwrap()));
        let frame = vec![b'x'; LIMIT / 4];
        for _ in 0..4 {
            pipe.write(false, |out| out.extend_from_slice(&frame));
        }
        assert!(gate.enter(1).is_err(), "what is just enough is kept");
        pipe.write(false, |out| out.extend_from_slice(b"x"));
        assert!(gate.enter(1).is_ok(), "the request is gone");
        pipe.write(true, |out| out.extend_from_slice(b"the end"));
        assert_eq!(outlet.poll_take(&context), Poll::Ready(Some(Err(Unread))));
        assert!(!outlet.is_done(), "it does not look complete");
    }

    #[test]
    fn a_stream_that_has_ended_takes_no_place() {
        let gate = Gate::new(1);
        for held_first in [true, false] {
            let (pipe, outlet) = pipe();
            let running = Running::holding(gate.enter(1).unwrap());
            if held_first {
                outlet.hold(running);
                pipe.write(false, |out| out.extend_from_slice(b"unread"));
                assert!(gate.enter(1).is_err(), "it runs");
                pipe.write(true, |out| out.extend_from_slice(b"the end"));
            } else {
                pipe.write(true, |out| out.extend_from_slice(b"the end"));
                outlet.hold(running);
            }
            assert!(gate.enter(1).is_ok(), "held first: {held_first}");
            assert!(!outlet.is_done(), "the end is still to be read");
        }
    }

    #[test]
    fn a_long_end_is_no_reason_to_lose_it() {
        let context = Context::from_waker(Waker::noop());
        let (pipe, mut outlet) = pipe();
        pipe.write(true, |out| out.resize(LIMIT + 1, b'x'));
        let taken = outlet.poll_take(&context);
        assert!(matches!(taken, Poll::Ready(Some(Ok(bytes))) if bytes.len() == LIMIT + 1));
        assert!(outlet.is_done());
    }
}
