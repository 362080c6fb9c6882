//! One stream's bytes on their way: a frame goes out at once where the line is free; else it waits here, and the connection
//! takes everything there is.
//!
//! Frames that pile up while a connection writes leave together in the next write. There is no bound but the
//! request's own length: the output thread must never wait for a client.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::line::{Line, Sent};

/// Room for a few frames; taken again once the connection has sent what it took.
const CAPACITY: usize = 2048;

#[derive(Default)]
struct State {
    unsent: BytesMut,
    waiting: Option<Waker>,
    closed: bool,
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
        if last {
            state.closed = true;
            state.line = None;
        }
        let waiting = state.waiting.take();
        drop(state);
        if let Some(waker) = waiting {
            waker.wake();
        }
    }
}

impl Outlet {
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
    pub(crate) fn poll_take(&mut self, context: &Context<'_>) -> Poll<Option<Bytes>> {
        let mut state = self.state.lock();
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
            return Poll::Ready(Some(taken));
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
        state.closed && state.unsent.is_empty()
    }
}

impl Drop for Outlet {
    fn drop(&mut self) {
        // Nobody reads on: sinks that still write need not keep their bytes, nor the connection.
        let mut state = self.state.lock();
        state.closed = true;
        state.line = None;
    }
}

/// Lets a connection offer its line to the stream that it is about to carry.
#[derive(Clone)]
pub(crate) struct Entry {
    state: Arc<Mutex<State>>,
}

impl Entry {
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

    #[test]
    fn frames_leave_together_and_the_end_comes_after_the_last_byte() {
        let context = Context::from_waker(Waker::noop());
        let (pipe, mut outlet) = pipe();
        assert_eq!(outlet.poll_take(&context), Poll::Pending);
        pipe.write(false, |out| out.extend_from_slice(b"a"));
        pipe.write(false, |out| out.extend_from_slice(b"b"));
        assert_eq!(
            outlet.poll_take(&context),
            Poll::Ready(Some(Bytes::from_static(b"ab")))
        );
        assert_eq!(outlet.poll_take(&context), Poll::Pending);
        pipe.write(true, |out| out.extend_from_slice(b"c"));
        pipe.write(false, |out| out.extend_from_slice(b"too late"));
        assert!(!outlet.is_done());
        assert_eq!(
            outlet.poll_take(&context),
            Poll::Ready(Some(Bytes::from_static(b"c")))
        );
        assert!(outlet.is_done());
        assert_eq!(outlet.poll_take(&context), Poll::Ready(None));
    }
}
