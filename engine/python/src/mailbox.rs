//! Where Python hears from its requests: one queue for many requests, one wake-up for many events.
//!
//! A thread waits on it with the GIL released; an event loop watches its file descriptor. No foreign thread ever
//! attaches to the interpreter.

use std::collections::VecDeque;
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use agentlm_core::FinishReason;
use agentlm_host::{Finished, PromptToken, RequestError, Sink, Token, TopToken};
use parking_lot::{Condvar, Mutex};
use pyo3::prelude::*;

use crate::errors;

/// One token of a streaming request.
#[pyclass(frozen, get_all, module = "agentlm._engine")]
pub struct TokenEvent {
    /// The caller's key of the request.
    key: u64,
    /// 1 for the first generated token.
    index: u32,
    /// Vocabulary id.
    id: u32,
    /// Visible text that this token released.
    text: String,
    /// Natural logarithm of its probability.
    logprob: f32,
    /// Whether the tokenizer calls it special.
    special: bool,
    /// Most likely tokens as (id, log-probability), most likely first.
    top: Vec<(u32, f32)>,
}

/// One scored prompt token: id, log-probability, most likely tokens.
type PromptEntry = (u32, Option<f32>, Vec<(u32, f32)>);

/// A request's end.
#[pyclass(frozen, get_all, module = "agentlm._engine")]
pub struct EndEvent {
    /// The caller's key of the request.
    key: u64,
    /// All visible text.
    text: String,
    /// Generated ids.
    token_ids: Vec<u32>,
    /// One a token when asked for, else empty.
    logprobs: Vec<f32>,
    /// Most likely tokens at each position when asked for, else empty.
    top_logprobs: Vec<Vec<(u32, f32)>>,
    /// The prompt's tokens when they were to be scored, else empty: id, log-probability (none for the first) and most likely
    /// tokens.
    prompt: Vec<PromptEntry>,
    /// "length", "eos_token" or "stop_sequence".
    finish_reason: &'static str,
    /// The stop string that ended it: its index in the request.
    stop_index: Option<usize>,
    /// Tokens of the prompt.
    prompt_tokens: u32,
    /// Prompt tokens whose KV came from the prefix cache.
    cached_tokens: u32,
    /// Seconds from submission to the first plan.
    queue_seconds: f64,
    /// Seconds from submission to the first token.
    first_token_seconds: f64,
    /// Seconds from submission to the end.
    total_seconds: f64,
}

/// A request's end without an answer.
#[pyclass(frozen, get_all, module = "agentlm._engine")]
pub struct ErrorEvent {
    /// The caller's key of the request.
    key: u64,
    /// "refused", "aborted", "generation", "engine_failed" or "closed".
    kind: &'static str,
    /// What happened.
    message: String,
}

enum Event {
    Token(TokenEvent),
    End(EndEvent),
    Error(ErrorEvent),
}

struct Queue {
    events: VecDeque<Event>,
    /// A byte is in the pipe.
    signalled: bool,
}

struct Inner {
    queue: Mutex<Queue>,
    arrived: Condvar,
    reader: PipeReader,
    writer: PipeWriter,
}

impl Inner {
    /// Appends events that belong together: a reader takes all of them or none.
    fn push(&self, events: impl IntoIterator<Item = Event>) {
        let mut queue = self.queue.lock();
        queue.events.extend(events);
        if !queue.signalled {
            queue.signalled = true;
            // The pipe holds at most this one byte, so the write neither blocks nor fails while the reader lives.
            let _ = (&self.writer).write(&[1]);
        }
        self.arrived.notify_one();
    }
}

/// A queue of events for one thread or one event loop.
#[pyclass(frozen, module = "agentlm._engine")]
pub struct Mailbox {
    inner: Arc<Inner>,
    /// The process whose engine fills it.
    owner: u32,
}

#[pymethods]
impl Mailbox {
    #[new]
    fn new() -> PyResult<Self> {
        let (reader, writer) = std::io::pipe()?;
        let queue = Mutex::new(Queue {
            events: VecDeque::new(),
            signalled: false,
        });
        Ok(Self {
            inner: Arc::new(Inner {
                queue,
                arrived: Condvar::new(),
                reader,
                writer,
            }),
            owner: std::process::id(),
        })
    }

    /// A descriptor that is readable while events wait.
    fn fileno(&self) -> i32 {
        self.inner.reader.as_raw_fd()
    }

    /// All waiting events, in order of arrival; waits up to `timeout` seconds for the first. Empty when none came. Raises
    /// `ForkError` in a forked process: nothing would ever come, and the pipe's byte is the other process's to read.
    fn take(&self, py: Python<'_>, timeout: f64) -> PyResult<Vec<Py<PyAny>>> {
        let current = std::process::id();
        if current != self.owner {
            let why = format!(
                "this request was submitted in process {}; after a fork (now {current}) open a new engine, or start \
                 processes with the 'spawn' method",
                self.owner
            );
            return Err(errors::raise("ForkError", why));
        }
        let wait = Duration::try_from_secs_f64(timeout.max(0.0)).unwrap_or(Duration::MAX);
        let events = py.detach(|| {
            let deadline = Instant::now().checked_add(wait);
            let mut queue = self.inner.queue.lock();
            while queue.events.is_empty() {
                let late = match deadline {
                    Some(deadline) => self.inner.arrived.wait_until(&mut queue, deadline).timed_out(),
                    None => {
                        self.inner.arrived.wait(&mut queue);
                        false
                    }
                };
                if late {
                    break;
                }
            }
            if queue.signalled {
                queue.signalled = false;
                let mut byte = [0];
                // The one byte is there, so the read returns at once.
                let _ = (&self.inner.reader).read(&mut byte);
            }
            std::mem::take(&mut queue.events)
        });
        events
            .into_iter()
            .map(|event| {
                Ok(match event {
                    Event::Token(event) => Py::new(py, event)?.into_any(),
                    Event::End(event) => Py::new(py, event)?.into_any(),
                    Event::Error(event) => Py::new(py, event)?.into_any(),
                })
            })
            .collect()
    }
}

/// One request's way into a mailbox.
pub struct MailboxSink {
    inner: Arc<Inner>,
    key: u64,
    /// Send each token as it comes.
    stream: bool,
    logprobs: bool,
    token_ids: Vec<u32>,
    token_logprobs: Vec<f32>,
    top_logprobs: Vec<Vec<(u32, f32)>>,
    prompt: Vec<PromptEntry>,
}

impl MailboxSink {
    /// A sink for the request that its caller knows as `key`.
    pub fn new(mailbox: &Mailbox, key: u64, stream: bool, logprobs: bool) -> Self {
        Self {
            inner: mailbox.inner.clone(),
            key,
            stream,
            logprobs,
            token_ids: Vec::new(),
            token_logprobs: Vec::new(),
            top_logprobs: Vec::new(),
            prompt: Vec::new(),
        }
    }

    fn end(&mut self, end: &Finished) -> EndEvent {
        EndEvent {
            key: self.key,
            text: end.text.clone(),
            token_ids: std::mem::take(&mut self.token_ids),
            logprobs: std::mem::take(&mut self.token_logprobs),
            top_logprobs: std::mem::take(&mut self.top_logprobs),
            prompt: std::mem::take(&mut self.prompt),
            // Its text ends there, whatever else was true of the last token.
            finish_reason: end.stop.map_or(end.reason, |_| FinishReason::StopSequence).name(),
            stop_index: end.stop,
            prompt_tokens: end.prompt_tokens,
            cached_tokens: end.cached_tokens,
            queue_seconds: end.timing.queue.as_secs_f64(),
            first_token_seconds: end.timing.first_token.as_secs_f64(),
            total_seconds: end.timing.total.as_secs_f64(),
        }
    }
}

fn pairs(top: &[TopToken]) -> Vec<(u32, f32)> {
    top.iter().map(|token| (token.id, token.logprob)).collect()
}

impl Sink for MailboxSink {
    fn prompt(&mut self, prompt: &[PromptToken]) {
        self.prompt = prompt
            .iter()
            .map(|token| (token.id, token.logprob, pairs(&token.top)))
            .collect();
    }

    fn token(&mut self, token: &Token<'_>, end: Option<&Finished>) {
        self.token_ids.push(token.id);
        if self.logprobs {
            self.token_logprobs.push(token.logprob);
        }
        if !token.top.is_empty() {
            self.top_logprobs.push(pairs(token.top));
        }
        let step = self.stream.then(|| {
            Event::Token(TokenEvent {
                key: self.key,
                index: token.index,
                id: token.id,
                text: token.delta.to_owned(),
                logprob: token.logprob,
                special: token.special,
                top: pairs(token.top),
            })
        });
        let end = end.map(|end| Event::End(self.end(end)));
        if step.is_some() || end.is_some() {
            self.inner.push(step.into_iter().chain(end));
        }
    }

    fn fail(&mut self, error: &RequestError) {
        let kind = match error {
            RequestError::Refused(_) => "refused",
            RequestError::Aborted => "aborted",
            RequestError::Generation(_) => "generation",
            RequestError::EngineFailed(_) => "engine_failed",
            RequestError::Closed => "closed",
        };
        let event = ErrorEvent {
            key: self.key,
            kind,
            message: error.to_string(),
        };
        self.inner.push([Event::Error(event)]);
    }
}
