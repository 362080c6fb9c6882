//! What happened to requests, counted once a request and never once a token.

mod exposition;
mod page;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use agentlm_core::FinishReason;
use agentlm_core::params::Limits;
use agentlm_host::{Finished, Histogram, RequestError, Timing};

use crate::error::ApiError;
use crate::openapi::{Answer, Operation, Schemas};
use crate::request_log::Record;
pub(crate) use exposition::render;

/// `GET /metrics` in the API's document.
pub(crate) fn describe(_: &mut Schemas) -> Operation {
    Operation::new("server", "metrics", "Prometheus text")
        .answering(Answer::Text("text/plain; charset=utf-8"))
}

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
    /// Connections that are open now.
    connections: AtomicUsize,
    duration: Histogram,
    validation: Histogram,
    queue: Histogram,
    inference: Histogram,
    time_per_token: Histogram,
    input_length: Histogram,
    max_new_tokens: Histogram,
    generated_tokens: Histogram,
    skipped_tokens: Histogram,
    /// No batch is ever merged with another or filtered: what TGI times stays empty.
    never: Histogram,
}

impl Metrics {
    pub(crate) fn new(limits: &Limits) -> Self {
        let total = f64::from(limits.max_total_tokens);
        Self {
            arrived: AtomicU64::new(0),
            succeeded: AtomicU64::new(0),
            failed: Default::default(),
            connections: AtomicUsize::new(0),
            duration: Histogram::durations(),
            validation: Histogram::durations(),
            queue: Histogram::durations(),
            inference: Histogram::durations(),
            time_per_token: Histogram::durations(),
            input_length: Histogram::equal(f64::from(limits.max_input_tokens), 100),
            max_new_tokens: Histogram::equal(total, 100),
            generated_tokens: Histogram::equal(total, 100),
            skipped_tokens: Histogram::equal(16.0, 16),
            never: Histogram::durations(),
        }
    }

    /// Counts a connection until what it returns is dropped.
    pub(crate) fn open_connection(self: &Arc<Self>) -> OpenConnection {
        self.connections.fetch_add(1, Ordering::Relaxed);
        OpenConnection {
            metrics: self.clone(),
        }
    }
}

/// One open connection.
pub(crate) struct OpenConnection {
    metrics: Arc<Metrics>,
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.metrics.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What an answered request took.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Account {
    /// The slowest run's.
    pub(crate) timing: Timing,
    /// Those of each prompt once.
    pub(crate) prompt_tokens: u32,
    /// Those of all runs.
    pub(crate) generated_tokens: u32,
    /// Why the run that ended last did.
    pub(crate) reason: FinishReason,
}

impl From<&Finished> for Account {
    /// A request of one run.
    fn from(finished: &Finished) -> Self {
        Self {
            timing: finished.timing,
            prompt_tokens: finished.prompt_tokens,
            generated_tokens: finished.generated_tokens,
            reason: finished.reason,
        }
    }
}

impl Account {
    /// From the first plan to the end.
    pub(crate) fn inference(&self) -> Duration {
        self.timing.total.saturating_sub(self.timing.queue)
    }
}

/// One HTTP request's account: it counts the arrival and exactly one outcome. Dropped without one, the client left.
pub(crate) struct Meter {
    metrics: Arc<Metrics>,
    /// What the log will say of the request.
    record: Option<Arc<Record>>,
    arrived: Instant,
    validation_nanos: AtomicU64,
    settled: AtomicBool,
}

impl Meter {
    pub(crate) fn new(metrics: Arc<Metrics>, record: Option<Arc<Record>>) -> Self {
        metrics.arrived.fetch_add(1, Ordering::Relaxed);
        Self {
            metrics,
            record,
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
        if let Some(record) = &self.record {
            record.admitted(elapsed);
        }
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

    /// The request got its answer.
    pub(crate) fn succeeded(&self, account: &Account) {
        if self.settled.swap(true, Ordering::Relaxed) {
            return;
        }
        let inference = account.inference().as_secs_f64();
        let tokens = f64::from(account.generated_tokens);
        self.metrics.succeeded.fetch_add(1, Ordering::Relaxed);
        self.metrics.duration.record(self.arrived.elapsed().as_secs_f64());
        self.metrics.queue.record(account.timing.queue.as_secs_f64());
        self.metrics.inference.record(inference);
        // A prompt that was only scored has no token to share it.
        if account.generated_tokens > 0 {
            self.metrics.time_per_token.record(inference / tokens);
        }
        self.metrics.generated_tokens.record(tokens);
        if let Some(record) = &self.record {
            record.succeeded(account);
        }
    }

    /// The request got an error.
    pub(crate) fn failed(&self, error: &ApiError) {
        self.settle(error.failure(), error.kind());
    }

    /// The engine ended the request without an answer.
    pub(crate) fn ended(&self, error: &RequestError) {
        if *error == RequestError::Aborted {
            self.left();
        } else {
            self.failed(&ApiError::from(error));
        }
    }

    fn left(&self) {
        self.settle(Failure::Dropped, "dropped");
    }

    fn settle(&self, failure: Failure, kind: &'static str) {
        if self.settled.swap(true, Ordering::Relaxed) {
            return;
        }
        self.metrics.failed[failure as usize].fetch_add(1, Ordering::Relaxed);
        if let Some(record) = &self.record {
            record.failed(kind);
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.left();
    }
}
