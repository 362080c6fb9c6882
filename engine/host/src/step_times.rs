//! How many steps there were, how long they took and how many requests they held. Written by the engine thread, read by
//! whoever watches; it knows no clock of its own.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::Histogram;

/// What a step does, in the words of servers whose batches do one or the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepKind {
    /// At least one of its requests has more than one token computed.
    Prefill,
    /// One token for each of its requests.
    Decode,
}

impl StepKind {
    /// Both kinds.
    pub const ALL: [Self; 2] = [Self::Prefill, Self::Decode];

    const fn of(requests: u32, tokens: u32) -> Self {
        if tokens > requests {
            Self::Prefill
        } else {
            Self::Decode
        }
    }
}

/// The steps of one kind.
#[derive(Debug)]
pub struct KindTimes {
    planned: AtomicU64,
    /// Seconds from the plan to the end of the commit. One a committed step.
    pub whole: Histogram,
    /// Seconds from the plan until the runner was done.
    pub run: Histogram,
    /// Seconds of taking the results in.
    pub commit: Histogram,
}

impl KindTimes {
    fn new() -> Self {
        Self {
            planned: AtomicU64::new(0),
            whole: Histogram::durations(),
            run: Histogram::durations(),
            commit: Histogram::durations(),
        }
    }

    /// Steps planned, those in flight included.
    #[must_use]
    pub fn planned(&self) -> u64 {
        self.planned.load(Ordering::Relaxed)
    }
}

/// All steps of an engine.
#[derive(Debug)]
pub struct StepTimes {
    kinds: [KindTimes; 2],
    /// Requests a planned step.
    pub requests: Histogram,
}

impl Default for StepTimes {
    fn default() -> Self {
        Self {
            kinds: StepKind::ALL.map(|_| KindTimes::new()),
            requests: Histogram::batch_sizes(),
        }
    }
}

impl StepTimes {
    /// The steps of one kind.
    #[must_use]
    pub const fn of(&self, kind: StepKind) -> &KindTimes {
        &self.kinds[kind as usize]
    }

    /// A step was planned that computes `tokens` tokens of `requests` requests.
    pub(crate) fn plan(&self, requests: u32, tokens: u32) -> StepKind {
        let kind = StepKind::of(requests, tokens);
        self.of(kind).planned.fetch_add(1, Ordering::Relaxed);
        self.requests.record(f64::from(requests));
        kind
    }

    /// A step is committed: `ran` after its plan the runner was done, `whole` after it the results were taken in.
    pub(crate) fn commit(&self, kind: StepKind, ran: Duration, whole: Duration) {
        let times = self.of(kind);
        times.run.record(ran.as_secs_f64());
        times.commit.record(whole.saturating_sub(ran).as_secs_f64());
        times.whole.record(whole.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_counted_by_what_they_do() {
        let steps = StepTimes::default();
        for (requests, tokens, kind) in [
            (1, 7, StepKind::Prefill),
            (3, 3, StepKind::Decode),
            (3, 4, StepKind::Prefill),
            (1, 1, StepKind::Decode),
        ] {
            assert_eq!(steps.plan(requests, tokens), kind, "{requests} {tokens}");
        }
        steps.commit(
            StepKind::Decode,
            Duration::from_millis(3),
            Duration::from_millis(4),
        );
        let counts = StepKind::ALL.map(|kind| (steps.of(kind).planned(), steps.of(kind).whole.read().1));
        assert_eq!(counts, [(2, 0), (2, 1)]);
        let sum = |histogram: &Histogram| (histogram.read().2 * 1000.0).round();
        let decode = steps.of(StepKind::Decode);
        assert_eq!(
            (sum(&decode.run), sum(&decode.commit), sum(&decode.whole)),
            (3.0, 1.0, 4.0)
        );
        assert_eq!(steps.requests.read().2, 8.0);
    }
}
