//! The callers' side: submit, abort, watch, close.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use agentlm_core::params::Limits;
use agentlm_core::{CoreConfig, Request, RequestId};
use agentlm_text::{GrammarCompiler, StreamOptions, TextStream, Tokenizer};
use parking_lot::{Condvar, Mutex};

use crate::control::{Loaded, Pending};
use crate::grammar::GrammarMessage;
use crate::output::{OutputMessage, Stream};
use crate::queue::Sender;
use crate::{
    AdapterInfo, AdapterRef, Control, ControlError, Done, Health, Quiesce, RequestError, Snapshot, StepTimes,
    Submission, SubmitError, Withdrawal,
};

/// What reaches the engine thread.
pub(crate) enum Command {
    Submit(Box<Request>, AdapterRef),
    Control(Box<Pending>),
    Abort(RequestId),
    Finish { id: RequestId, at_token: u32 },
    Shutdown { drain: bool },
}

/// What every side shares.
pub(crate) struct Shared {
    pub core: CoreConfig,
    pub tokenizer: Arc<Tokenizer>,
    pub grammars: Arc<GrammarCompiler>,
    pub commands: Sender<Command>,
    pub output: Sender<OutputMessage>,
    pub grammar: Sender<GrammarMessage>,
    pub unfinished: AtomicUsize,
    pub max_unfinished: usize,
    pub snapshot: Mutex<Snapshot>,
    pub steps: StepTimes,
    /// Since when the oldest request without a first step has waited, in nanoseconds since `epoch`, plus one; 0 when none has.
    pub oldest_waiting: AtomicU64,
    pub loaded: Loaded,
    /// See [`Snapshot::late_compilations`].
    pub late_compilations: AtomicU64,
    /// When the step in flight began, in nanoseconds since `epoch`, plus one; 0 when none is.
    pub step_started: AtomicU64,
    pub epoch: Instant,
    next_id: AtomicU64,
    health: Mutex<Health>,
    health_changed: Condvar,
}

impl Shared {
    pub fn new(
        core: CoreConfig,
        tokenizer: Arc<Tokenizer>,
        commands: Sender<Command>,
        output: Sender<OutputMessage>,
        grammar: Sender<GrammarMessage>,
        max_unfinished: usize,
    ) -> Self {
        let (eos, vocab_size) = (core.eos_token_ids.clone(), core.vocab_size as usize);
        let grammars = Arc::new(GrammarCompiler::new(tokenizer.clone(), eos, vocab_size));
        Self {
            core,
            tokenizer,
            grammars,
            commands,
            output,
            grammar,
            unfinished: AtomicUsize::new(0),
            max_unfinished,
            snapshot: Mutex::new(Snapshot::default()),
            steps: StepTimes::default(),
            oldest_waiting: AtomicU64::new(0),
            loaded: Loaded::default(),
            late_compilations: AtomicU64::new(0),
            step_started: AtomicU64::new(0),
            epoch: Instant::now(),
            next_id: AtomicU64::new(1),
            health: Mutex::new(Health::Ready),
            health_changed: Condvar::new(),
        }
    }

    pub fn health(&self) -> Health {
        self.health.lock().clone()
    }

    /// Moves on to `next`; a failed or closed engine stays so.
    pub fn set_health(&self, next: Health) -> bool {
        let mut health = self.health.lock();
        if matches!(*health, Health::Failed(_) | Health::Closed) {
            return false;
        }
        *health = next;
        self.health_changed.notify_all();
        true
    }

    /// Ends every request with an error and turns health off for good. The first failure's words stay.
    pub fn fail(&self, why: &str) {
        if self.set_health(Health::Failed(why.to_owned())) {
            // The output thread may be gone at interpreter exit; then nobody is left to hear.
            let _ = self
                .output
                .send(OutputMessage::EndAll(RequestError::EngineFailed(why.to_owned())));
        }
    }
}

/// The callers' handle on a running engine. Cheap to clone.
#[derive(Clone)]
pub struct EngineHandle {
    pub(crate) shared: Arc<Shared>,
}

impl EngineHandle {
    /// Hands a request to the engine. Its sink hears everything else.
    ///
    /// # Errors
    /// [`SubmitError`]: overloaded, a parameter out of range, a prompt that does not fit, closing, failed.
    pub fn submit(&self, submission: Submission) -> Result<RequestHandle, SubmitError> {
        let shared = &self.shared;
        match shared.health() {
            Health::Ready => {}
            Health::Draining => return Err(SubmitError::Draining),
            Health::Closed => return Err(SubmitError::Closed),
            Health::Failed(why) => return Err(SubmitError::Failed(why)),
        }
        let Submission {
            prompt,
            params,
            keep_stop,
            adapter,
            grammar,
            sink,
        } = submission;
        shared.core.check(&prompt, &params)?;
        if shared.unfinished.fetch_add(1, Ordering::AcqRel) >= shared.max_unfinished {
            shared.unfinished.fetch_sub(1, Ordering::AcqRel);
            return Err(SubmitError::Overloaded);
        }
        let id = RequestId(shared.next_id.fetch_add(1, Ordering::Relaxed));
        let ended = Arc::new(AtomicBool::new(false));
        let options = StreamOptions {
            stop: params.stop.clone(),
            keep_stop,
        };
        let text = TextStream::new(shared.tokenizer.clone(), &prompt, options);
        let prompt_tokens = u32::try_from(prompt.len()).unwrap_or(u32::MAX);
        let scored = prompt.first().filter(|_| params.prompt_logprobs).copied();
        let stream = Stream::new(text, sink, prompt_tokens, scored, ended.clone());
        // The stream is opened before the engine can know the request, so no token can come too early.
        let opening = OutputMessage::Open(id, Box::new(stream));
        if let Err(unsent) = shared.output.send(opening) {
            // The caller hears it from here.
            ended.store(true, Ordering::Release);
            shared.unfinished.fetch_sub(1, Ordering::AcqRel);
            drop(unsent);
            return Err(SubmitError::Closed);
        }
        let request = Request {
            id,
            prompt,
            params,
            cache_seed: shared.loaded.cache_seed(adapter),
            constrained: grammar.is_some(),
            adapter: adapter.number,
        };
        if let Some(state) = grammar {
            // Its thread ends only when the engine has.
            let _ = shared.grammar.send(GrammarMessage::Open(id, Box::new(state)));
        }
        // An engine thread that has just ended has told the output thread so, and that ends the stream.
        let _ = shared.commands.send(Command::Submit(Box::new(request), adapter));
        Ok(RequestHandle {
            id,
            ended,
            shared: shared.clone(),
        })
    }

    /// The caps that requests are validated against.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.shared.core.limits
    }

    /// What compiles grammars for this engine's vocabulary. It is one for all callers, and so is what it keeps.
    #[must_use]
    pub fn grammars(&self) -> &Arc<GrammarCompiler> {
        &self.shared.grammars
    }

    /// What the core was built with.
    #[must_use]
    pub fn core_config(&self) -> &CoreConfig {
        &self.shared.core
    }

    /// The tokenizer that the output stage uses.
    #[must_use]
    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.shared.tokenizer
    }

    /// The engine's state.
    #[must_use]
    pub fn health(&self) -> Health {
        self.shared.health()
    }

    /// Waits until the engine is closed or failed, or the time is up, and returns its state.
    #[must_use]
    pub fn wait_ended(&self, timeout: Duration) -> Health {
        let deadline = Instant::now() + timeout;
        let mut health = self.shared.health.lock();
        while !matches!(*health, Health::Closed | Health::Failed(_)) {
            if self
                .shared
                .health_changed
                .wait_until(&mut health, deadline)
                .timed_out()
            {
                break;
            }
        }
        health.clone()
    }

    /// Tells how many kernels were compiled since the runner had warmed up. Called by the runner.
    pub fn set_late_compilations(&self, count: u64) {
        self.shared.late_compilations.store(count, Ordering::Relaxed);
    }

    /// Counters and gauges as of the last step.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let mut snapshot = self.shared.snapshot.lock().clone();
        snapshot.unfinished = self.shared.unfinished.load(Ordering::Acquire);
        snapshot.late_compilations = self.shared.late_compilations.load(Ordering::Relaxed);
        let since = self.shared.oldest_waiting.load(Ordering::Relaxed);
        if let Some(since) = since.checked_sub(1) {
            let waited = self
                .shared
                .epoch
                .elapsed()
                .saturating_sub(Duration::from_nanos(since));
            snapshot.oldest_waiting_seconds = waited.as_secs_f64();
        }
        snapshot
    }

    /// How many steps there were, how long they took and how many requests they held.
    #[must_use]
    pub fn step_times(&self) -> &StepTimes {
        &self.shared.steps
    }

    /// Asks the engine thread for something besides steps; `done` hears how it went, on that thread. What has to end first
    /// has `patience` to do so. Whoever stops waiting for the outcome may take it back.
    pub fn control(&self, control: Control, quiesce: Quiesce, patience: Duration, done: Done) -> Withdrawal {
        let pending = Pending::new(control, quiesce, patience, done);
        let withdrawal = pending.withdrawal();
        if self.health() == Health::Ready {
            // An engine thread that has just ended drops it, and so `done` hears of it.
            let _ = self.shared.commands.send(Command::Control(Box::new(pending)));
        } else {
            pending.finish(Err(ControlError::Closed));
        }
        withdrawal
    }

    /// The loaded adapters, in the order of their loading.
    #[must_use]
    pub fn adapters(&self) -> Vec<AdapterInfo> {
        self.shared.loaded.adapters()
    }

    /// A loaded adapter by its name.
    #[must_use]
    pub fn adapter(&self, name: &str) -> Option<AdapterInfo> {
        self.shared.loaded.find(name)
    }

    /// How often the weights were exchanged.
    #[must_use]
    pub fn weight_version(&self) -> u32 {
        self.shared.loaded.weight_version()
    }

    /// Whether the memory of weights and KV cache was given back; requests wait until it is taken again.
    #[must_use]
    pub fn is_asleep(&self) -> bool {
        self.shared.loaded.is_asleep()
    }

    /// Takes nothing new; finishes what there is (`drain`) or ends it with an error; then the engine thread ends.
    pub fn shutdown(&self, drain: bool) {
        let open = self.shared.set_health(Health::Draining);
        // An engine thread that is gone has nothing left to shut down.
        let _ = self.shared.commands.send(Command::Shutdown { drain });
        if open && !drain {
            // Now, not when the step in flight has ended. An output thread that is gone has told everyone already.
            let closed = OutputMessage::EndAll(RequestError::Closed);
            let _ = self.shared.output.send(closed);
        }
    }

    /// Reports that the engine cannot go on: every request ends with an error, health turns off.
    pub fn fail(&self, why: &str) {
        self.shared.fail(why);
    }
}

/// One request in the engine. Dropping it aborts the request if it has not ended.
pub struct RequestHandle {
    id: RequestId,
    ended: Arc<AtomicBool>,
    shared: Arc<Shared>,
}

impl RequestHandle {
    /// The request's name.
    #[must_use]
    pub fn id(&self) -> RequestId {
        self.id
    }
}

impl Drop for RequestHandle {
    fn drop(&mut self) {
        if !self.ended.load(Ordering::Acquire) {
            // Either thread may be gone already; then the request has ended with it.
            let _ = self.shared.commands.send(Command::Abort(self.id));
            let _ = self
                .shared
                .output
                .send(OutputMessage::End(self.id, RequestError::Aborted));
        }
    }
}
