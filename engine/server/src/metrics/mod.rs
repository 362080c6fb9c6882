//! What happened to requests, counted once a request and never once a token.

mod exposition;
mod histogram;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use agentlm_core::params::Limits;
use agentlm_host::{RequestError, Timing};

use crate::error::ApiError;
pub(crate) use exposition::render;
use histogram::Histogram;

/// The `err` label of `tgi_request_failure`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    Validation,
    Overloaded,
    Generation,
    Incomplete,
    Dropped,
    Template,
}

impl Failure {
    const ALL: [(Self, &str); 6] = [
        (Self::Validation, "validation"),
        (Self::Overloaded, "overloaded"),
        (Self::Generation, "generation"),
        (Self::Incomplete, "incomplete"),
        (Self::Dropped, "dropped"),
        (Self::Template, "template"),
    ];
}

/// Counters and histograms of the whole server.
pub(crate) struct Metrics {
    arrived: AtomicU64,
    succeeded: AtomicU64,
    failed: [AtomicU64; 6],
    duration: Histogram,
    validation: Histogram,
    queue: Histogram,
    inference: Histogram,
    time_per_token: Histogram,
    input_length: Histogram,
    max_new_tokens: Histogram,
    generated_tokens: Histogram,
    skipped_tokens: Histogram,
}

impl Metrics {
    pub(crate) fn new(limits: &Limits) -> Self {
        let total = f64::from(limits.max_total_tokens);
        Self {
            arrived: AtomicU64::new(0),
            succeeded: AtomicU64::new(0),
            failed: Default::default(),
            duration: Histogram::durations(),
            validation: Histogram::durations(),
            queue: Histogram::durations(),
            inference: Histogram::durations(),
            time_per_token: Histogram::durations(),
            input_length: Histogram::equal(f64::from(limits.max_input_tokens), 100),
            max_new_tokens: Histogram::equal(total, 100),
            generated_tokens: Histogram::equal(total, 100),
            skipped_tokens: Histogram::equal(16.0, 16),
        }
    }
}

/// One HTTP request's account: it counts the arrival and exactly one outcome. Dropped without one, the client left.
pub(crate) struct Meter {
    metrics: Arc<Metrics>,
    arrived: Instant,
    validation_nanos: AtomicU64,
    settled: AtomicBool,
}

impl Meter {
    pub(crate) fn new(metrics: Arc<Metrics>) -> Self {
        metrics.arrived.fetch_add(1, Ordering::Relaxed);
        Self {
            metrics,
            arrived: Instant::now(),
            validation_nanos: AtomicU64::new(0),
            settled: AtomicBool::new(false),
        }
    }

    /// The request is valid: `runs` prompts of these lengths go to the engine.
    pub(crate) fn admitted(&self, lengths: impl Iterator<Item = (usize, u32)>) {
        let elapsed = self.arrived.elapsed();
        self.validation_nanos.store(
            u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX),
            Ordering::Relaxed,
        );
        self.metrics.validation.record(elapsed.as_secs_f64());
        for (input, max_new) in lengths {
            self.metrics.input_length.record(input as f64);
            self.metrics.max_new_tokens.record(f64::from(max_new));
        }
    }

    /// From arrival to admission.
    pub(crate) fn validation_time(&self) -> Duration {
        Duration::from_nanos(self.validation_nanos.load(Ordering::Relaxed))
    }

    /// From arrival to now.
    pub(crate) fn total_time(&self) -> Duration {
        self.arrived.elapsed()
    }

    /// The request got its answer of `tokens` tokens.
    pub(crate) fn succeeded(&self, timing: &Timing, tokens: u32) {
        if self.settled.swap(true, Ordering::Relaxed) {
            return;
        }
        let inference = timing.total.saturating_sub(timing.queue).as_secs_f64();
        self.metrics.succeeded.fetch_add(1, Ordering::Relaxed);
        self.metrics.duration.record(self.arrived.elapsed().as_secs_f64());
        self.metrics.queue.record(timing.queue.as_secs_f64());
        self.metrics.inference.record(inference);
        self.metrics
            .time_per_token
            .record(inference / f64::from(tokens.max(1)));
        self.metrics.generated_tokens.record(f64::from(tokens));
    }

    /// The request got an error.
    pub(crate) fn failed(&self, error: &ApiError) {
        self.settle(error.failure());
    }

    /// The engine ended the request without an answer.
    pub(crate) fn ended(&self, error: &RequestError) {
        self.settle(match error {
            RequestError::Aborted => Failure::Dropped,
            other => ApiError::from(other).failure(),
        });
    }

    fn settle(&self, failure: Failure) {
        if !self.settled.swap(true, Ordering::Relaxed) {
            self.metrics.failed[failure as usize].fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.settle(Failure::Dropped);
    }
}
