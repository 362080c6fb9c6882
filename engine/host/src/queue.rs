//! The queues between threads: many senders, one receiver, and no allocation once a queue has been as long as it gets.
//!
//! (Channels made of linked blocks allocate one every so many messages for ever.) It knows nothing of what passes through.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// A queue's two ends. Senders never wait.
pub(crate) fn queue<T>() -> (Sender<T>, Receiver<T>) {
    let inner = Arc::new(Inner {
        state: Mutex::new(State {
            items: VecDeque::new(),
            closed: false,
        }),
        arrived: Condvar::new(),
    });
    (Sender { inner: inner.clone() }, Receiver { inner })
}

/// The receiver is gone: the item comes back.
#[derive(Debug)]
pub(crate) struct Closed<T>(pub T);

struct Inner<T> {
    state: Mutex<State<T>>,
    arrived: Condvar,
}

struct State<T> {
    items: VecDeque<T>,
    /// The receiver is gone.
    closed: bool,
}

/// The end that many threads may hold.
pub(crate) struct Sender<T> {
    inner: Arc<Inner<T>>,
}

impl<T> Sender<T> {
    /// Appends an item, unless the receiver is gone.
    pub fn send(&self, item: T) -> Result<(), Closed<T>> {
        let mut state = self.inner.state.lock();
        if state.closed {
            drop(state);
            return Err(Closed(item));
        }
        state.items.push_back(item);
        drop(state);
        self.inner.arrived.notify_one();
        Ok(())
    }
}

/// The end that one thread holds. Dropping it drops what was never received.
pub(crate) struct Receiver<T> {
    inner: Arc<Inner<T>>,
}

impl<T> Receiver<T> {
    /// The oldest item; waits for one. It waits for ever where none comes: senders say by an item that they end.
    pub fn recv(&self) -> T {
        let mut state = self.inner.state.lock();
        loop {
            if let Some(item) = state.items.pop_front() {
                return item;
            }
            self.inner.arrived.wait(&mut state);
        }
    }

    /// As [`Receiver::recv`], but `None` when the time is up.
    pub fn recv_timeout(&self, wait: Duration) -> Option<T> {
        let deadline = Instant::now() + wait;
        let mut state = self.inner.state.lock();
        loop {
            if let Some(item) = state.items.pop_front() {
                return Some(item);
            }
            if self.inner.arrived.wait_until(&mut state, deadline).timed_out() {
                return state.items.pop_front();
            }
        }
    }

    /// The oldest item, if there is one now.
    pub fn try_recv(&self) -> Option<T> {
        self.inner.state.lock().items.pop_front()
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let mut state = self.inner.state.lock();
        state.closed = true;
        let left = std::mem::take(&mut state.items);
        drop(state);
        // Unlocked: what an item does when it is dropped may be to send.
        drop(left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_come_in_order_and_from_several_threads() {
        let (sender, receiver) = queue();
        let sender = Arc::new(sender);
        std::thread::scope(|scope| {
            for thread in 0..4_u32 {
                let sender = sender.clone();
                scope.spawn(move || (0..1000).for_each(|n| assert!(sender.send((thread, n)).is_ok())));
            }
            let mut next = [0; 4];
            for _ in 0..4000 {
                let (thread, n) = receiver.recv();
                assert_eq!(n, next[thread as usize]);
                next[thread as usize] += 1;
            }
        });
        assert_eq!(receiver.try_recv(), None);
        assert_eq!(receiver.recv_timeout(Duration::from_millis(1)), None);
    }

    #[test]
    fn what_is_never_received_is_dropped_and_what_comes_later_comes_back() {
        /// Sends when it is dropped, as a request's handle does.
        struct Last {
            queue: Arc<Sender<Option<Last>>>,
            _alive: Arc<()>,
        }
        impl Drop for Last {
            fn drop(&mut self) {
                assert!(self.queue.send(None).is_err());
            }
        }
        let (sender, receiver) = queue();
        let (queue, alive) = (Arc::new(sender), Arc::new(()));
        let last = || Last {
            queue: queue.clone(),
            _alive: alive.clone(),
        };
        (0..3).for_each(|_| assert!(queue.send(Some(last())).is_ok()));
        drop(receiver);
        assert_eq!(Arc::strong_count(&alive), 1);
        assert!(matches!(queue.send(Some(last())), Err(Closed(Some(_)))));
    }
}
