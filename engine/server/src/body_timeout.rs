//! A request's body has to keep coming: who stalls within it is told so and gives the connection back. It does not look at the
//! bytes.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::BoxError;
use axum::body::Body;
use axum::extract::{Request, State};
use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use thiserror::Error;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::app::App;

/// The whole of a body may take this many times as long as the wait for a part of it.
const WHOLE: u32 = 4;

/// The body did not come in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("it did not come in time")]
pub(crate) struct Late;

/// Watches the body of each request.
pub(crate) async fn watch(State(app): State<Arc<App>>, request: Request) -> Request {
    if request.body().is_end_stream() {
        return request;
    }
    let patience = app.config.read_timeout;
    request.map(|body| Body::new(TimedBody::new(body, patience)))
}

/// A body that fails with [`Late`] when it stalls.
struct TimedBody {
    body: Body,
    patience: Duration,
    /// When all of it must be there.
    deadline: Instant,
    /// Set while a part is waited for.
    waiting: bool,
    alarm: Option<Pin<Box<Sleep>>>,
}

impl TimedBody {
    fn new(body: Body, patience: Duration) -> Self {
        Self {
            body,
            patience,
            deadline: Instant::now() + patience * WHOLE,
            waiting: false,
            alarm: None,
        }
    }

    /// Ready when the wait has been too long.
    fn poll_alarm(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let until = (Instant::now() + self.patience).min(self.deadline);
        let begins = !std::mem::replace(&mut self.waiting, true);
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(sleep_until(until)));
        if begins {
            alarm.as_mut().reset(until);
        }
        alarm.as_mut().poll(context)
    }
}

impl http_body::Body for TimedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Ready(frame) => {
                self.waiting = false;
                Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
            }
            Poll::Pending => self.poll_alarm(context).map(|()| Some(Err(Late.into()))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::future::poll_fn;

    use tokio::time::sleep;

    use super::*;

    /// Gives a byte every `pause`, for ever.
    struct Drip {
        pause: Duration,
        next: Pin<Box<Sleep>>,
    }

    impl http_body::Body for Drip {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            let pause = self.pause;
            self.next.as_mut().poll(context).map(|()| {
                self.next = Box::pin(sleep(pause));
                Some(Ok(Frame::data(Bytes::from_static(b"x"))))
            })
        }
    }

    /// Bytes that came before the body was given up, and the seconds until then.
    async fn given_up(pause: u64) -> (usize, u64) {
        let pause = Duration::from_secs(pause);
        let drip = Drip {
            pause,
            next: Box::pin(sleep(pause)),
        };
        let mut body = TimedBody::new(Body::new(drip), Duration::from_secs(75));
        let began = Instant::now();
        let mut bytes = 0;
        loop {
            match poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
                Some(Ok(_)) => bytes += 1,
                Some(Err(error)) => {
                    assert!(error.is::<Late>(), "{error}");
                    return (bytes, began.elapsed().as_secs());
                }
                None => panic!("the body ended"),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_silence_and_a_trickle_are_given_up() {
        assert_eq!(given_up(100).await, (0, 75), "silence");
        assert_eq!(given_up(40).await, (7, 300), "a trickle");
    }
}
