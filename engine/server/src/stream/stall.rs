//! Notices a socket that takes nothing for too long: its client has stopped to read.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// Turns a wait that is too long into an error.
pub(super) struct Stall {
    patience: Duration,
    /// Set while bytes wait.
    waiting: bool,
    alarm: Option<Pin<Box<Sleep>>>,
}

impl Stall {
    pub(super) const fn new(patience: Duration) -> Self {
        Self {
            patience,
            waiting: false,
            alarm: None,
        }
    }

    /// What a write gave. A pending one fails once none has been taken for the patience; any that is taken begins it anew.
    pub(super) fn watch<T>(
        &mut self,
        context: &mut Context<'_>,
        write: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if write.is_ready() {
            self.waiting = false;
            return write;
        }
        let begins = !std::mem::replace(&mut self.waiting, true);
        let until = Instant::now() + self.patience;
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(sleep_until(until)));
        if begins {
            alarm.as_mut().reset(until);
        }
        alarm
            .as_mut()
            .poll(context)
            .map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_a_wait_without_progress_is_too_long() {
        let mut stall = Stall::new(Duration::from_secs(120));
        let began = Instant::now();
        for _ in 0..3 {
            let pending = poll_fn(|context| Poll::Ready(stall.watch::<usize>(context, Poll::Pending))).await;
            assert!(pending.is_pending());
            tokio::time::advance(Duration::from_secs(100)).await;
            let taken = poll_fn(|context| stall.watch(context, Poll::Ready(Ok(1)))).await;
            assert_eq!(taken.unwrap(), 1);
        }
        let error = poll_fn(|context| stall.watch::<usize>(context, Poll::Pending)).await;
        assert_eq!(error.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(began.elapsed().as_secs(), 420);
    }
}
