//! The engine as Python sees it: the callers' side (submit, health, shutdown) and the engine thread's (next, commit).

use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use agentlm_core::params::Limits;
use agentlm_core::{BLOCK_SIZE, CoreConfig, StepId};
use agentlm_host::{
    Control, ControlError, EngineConfig, EngineHandle, Health, MaskSlot, Next, Quiesce, RequestHandle,
    StepSource, Submission, SubmitError,
};
use agentlm_text::{GrammarError, GrammarState};
use parking_lot::Mutex;
use pyo3::buffer::PyBuffer;
use pyo3::prelude::*;

use crate::mailbox::{Mailbox, MailboxSink};
use crate::params::PySamplingParams;
use crate::rings::Rings;
use crate::tokenizer::Tokenizer;
use crate::{errors, grammar};

/// What the engine thread drives: a step source and the step that was planned but not yet committed.
struct Loop {
    source: StepSource,
    planned: std::collections::VecDeque<(StepId, usize)>,
}

/// One engine: requests in, steps out.
#[pyclass(frozen, module = "agentlm._engine")]
pub struct Engine {
    handle: EngineHandle,
    engine_loop: Mutex<Option<Loop>>,
}

impl Engine {
    /// The callers' handle, for the server.
    pub fn handle(&self) -> &EngineHandle {
        &self.handle
    }

    fn start_grammar(
        &self,
        py: Python<'_>,
        grammar: Option<(String, String)>,
    ) -> PyResult<Option<GrammarState>> {
        let Some((kind, text)) = grammar else {
            return Ok(None);
        };
        let grammar = grammar::read(&kind, text)?;
        py.detach(|| self.handle.grammars().start(&grammar))
            .map(Some)
            .map_err(|error| not_valid(&error))
    }

    /// Runs `f` with a planned slot's plan, results and masks.
    pub fn with_slot<R>(
        &self,
        slot: usize,
        f: impl FnOnce(&[u32], &mut [u32], &MaskSlot) -> R,
    ) -> PyResult<R> {
        let guard = self.engine_loop.lock();
        let engine_loop = guard.as_ref().ok_or_else(closed)?;
        if !engine_loop.planned.iter().any(|&(_, planned)| planned == slot) {
            let why = format!("slot {slot} holds no planned step");
            return Err(errors::raise("EngineFailedError", why));
        }
        // SAFETY: the slot is planned and not committed, and the lock makes this the only runner.
        Ok(unsafe {
            f(
                engine_loop.source.arena_slot(slot),
                engine_loop.source.results_slot(slot),
                engine_loop.source.masks(slot),
            )
        })
    }
}

/// How often a caller that waits for a control looks for Ctrl-C and for a failed engine.
const ASK_POLL: Duration = Duration::from_millis(100);
/// Longest that anything can be waited for: 30 years.
const MAX_SECONDS: f64 = 1e9;
/// Prompt positions scored in one step: each takes a row of logits.
const MAX_SCORES: u32 = 256;

fn not_valid(error: &GrammarError) -> PyErr {
    errors::raise("InvalidRequestError", format!("grammar is not valid: {error}"))
}

fn closed() -> PyErr {
    errors::raise("EngineClosedError", "the engine is closed")
}

#[pymethods]
impl Engine {
    /// Builds the engine; its output thread and watchdog start here, its steps when `next_step` is first called.
    #[new]
    #[expect(
        clippy::too_many_arguments,
        reason = "keyword arguments of one frozen Python configuration"
    )]
    #[pyo3(signature = (*, tokenizer, num_blocks, max_running, max_step_tokens, max_input_tokens, max_total_tokens,
                        max_stop_sequences, max_top_n_tokens, max_best_of, steps_in_flight, prefix_cache,
                        eos_token_ids, vocab_size, hash_key, max_unfinished, step_timeout))]
    fn new(
        tokenizer: &Tokenizer,
        num_blocks: u32,
        max_running: u32,
        max_step_tokens: u32,
        max_input_tokens: u32,
        max_total_tokens: u32,
        max_stop_sequences: u32,
        max_top_n_tokens: u32,
        max_best_of: u32,
        steps_in_flight: u32,
        prefix_cache: bool,
        eos_token_ids: Vec<u32>,
        vocab_size: u32,
        hash_key: [u8; 32],
        max_unfinished: usize,
        step_timeout: Option<f64>,
    ) -> PyResult<Self> {
        let limits = Limits {
            max_input_tokens,
            max_total_tokens,
            max_stop_sequences,
            max_top_n_tokens,
            max_best_of,
        };
        let core = CoreConfig {
            num_blocks,
            max_running,
            max_step_tokens,
            limits,
            steps_in_flight,
            prefix_cache,
            eos_token_ids,
            top_cap: max_top_n_tokens,
            max_scores: max_step_tokens.clamp(BLOCK_SIZE, MAX_SCORES),
            vocab_size,
            hash_key,
        };
        let step_timeout = step_timeout
            .map(Duration::try_from_secs_f64)
            .transpose()
            .map_err(|_| errors::raise("ConfigError", "`step_timeout` must be seconds > 0, or None"))?;
        let config = EngineConfig {
            core,
            max_unfinished,
            step_timeout,
        };
        let (handle, source) = agentlm_host::build(config, tokenizer.inner.clone())
            .map_err(|error| errors::raise("ConfigError", error))?;
        let engine_loop = Loop {
            source,
            planned: std::collections::VecDeque::new(),
        };
        Ok(Self {
            handle,
            engine_loop: Mutex::new(Some(engine_loop)),
        })
    }

    /// The engine thread's next act: a planned slot (>= 0), -1 when a step in flight must be committed first, -2 when
    /// the engine is closed, -3 when `control` says what to do before the next step. Waits, with the GIL released, while there is nothing to do.
    fn next_step(&self, py: Python<'_>) -> PyResult<i64> {
        py.detach(|| {
            let mut guard = self.engine_loop.lock();
            let engine_loop = guard.as_mut().ok_or_else(closed)?;
            Ok(match engine_loop.source.next_step() {
                Next::Step { id, slot } => {
                    engine_loop.planned.push_back((id, slot));
                    slot as i64
                }
                Next::Wait => -1,
                Next::Control => -3,
                Next::Shutdown => {
                    *guard = None;
                    -2
                }
            })
        })
    }

    /// The rings of plans and results.
    fn rings(&self) -> PyResult<Rings> {
        let guard = self.engine_loop.lock();
        let source = &guard.as_ref().ok_or_else(closed)?.source;
        Ok(Rings::new(
            source.rings(),
            source.arena_layout(),
            source.results_layout(),
        ))
    }

    /// Writes the mask of a constrained sample of a planned slot into `into`, `ceil(vocabulary / 32)` words or more, of which the
    /// rest becomes zero. Waits, with the GIL released, until it is made.
    fn copy_mask(&self, py: Python<'_>, slot: usize, sample: usize, into: PyBuffer<u32>) -> PyResult<()> {
        if into.readonly() || !into.is_c_contiguous() {
            let why = "the mask's memory is read-only or has gaps";
            return Err(errors::raise("EngineFailedError", why));
        }
        // SAFETY: the buffer is held during the call, has no gaps, and Python gives one runner's memory to nobody else.
        let words =
            unsafe { std::slice::from_raw_parts_mut(into.buf_ptr().cast::<u32>(), into.item_count()) };
        py.detach(|| {
            self.with_slot(slot, |_, _, masks| {
                let mask = masks.of_sample(sample);
                let n = mask.len().min(words.len());
                words[..n].copy_from_slice(&mask[..n]);
                words[n..].fill(0);
            })
        })
    }

    /// What is to be done before the next step: its name, and a name, a path and a number where it has them.
    fn control(&self) -> PyResult<Option<(&'static str, String, String, u32)>> {
        let guard = self.engine_loop.lock();
        let engine_loop = guard.as_ref().ok_or_else(closed)?;
        Ok(engine_loop.source.control().map(|control| {
            let (name, path, number) = match control.clone() {
                Control::LoadAdapter { name, path, number } => (name, path, number),
                Control::UnloadAdapter { name, number } => (name, String::new(), number),
                Control::ReloadWeights { path } => (String::new(), path, 0),
                Control::Sleep | Control::Wake => (String::new(), String::new(), 0),
            };
            (control.name(), name, path, number)
        }))
    }

    /// It was done, or could not be for the reason given, and nothing was changed.
    #[pyo3(signature = (error=None))]
    fn finish_control(&self, error: Option<String>) -> PyResult<()> {
        let mut guard = self.engine_loop.lock();
        let engine_loop = guard.as_mut().ok_or_else(closed)?;
        engine_loop.source.finish_control(error.map_or(Ok(()), Err));
        Ok(())
    }

    /// Asks for a control (`load_adapter`, `unload_adapter`, `reload_weights`, `sleep`, `wake`) and waits for its outcome, with
    /// the GIL released. What has to end first has `patience` seconds; `abort` ends it at once. Ctrl-C takes it back, if it was
    /// not begun.
    #[pyo3(signature = (kind, *, name="", path="", abort=false, patience=60.0))]
    fn ask(
        &self,
        py: Python<'_>,
        kind: &str,
        name: &str,
        path: &str,
        abort: bool,
        patience: f64,
    ) -> PyResult<()> {
        let (name, path) = (name.to_owned(), path.to_owned());
        let control = match kind {
            "load_adapter" => Control::LoadAdapter {
                name,
                path,
                number: 0,
            },
            "unload_adapter" => Control::UnloadAdapter { name, number: 0 },
            "reload_weights" => Control::ReloadWeights { path },
            "sleep" => Control::Sleep,
            "wake" => Control::Wake,
            other => return Err(errors::raise("ConfigError", format!("{other:?} is no control"))),
        };
        let quiesce = if abort { Quiesce::Abort } else { Quiesce::Drain };
        // Its callers' name for it.
        if !(0.0..=MAX_SECONDS).contains(&patience) {
            let why = format!("`timeout` must be seconds from 0 to {MAX_SECONDS:e}. Given: {patience}");
            return Err(errors::raise("ConfigError", why));
        }
        let patience = Duration::from_secs_f64(patience);
        let (tell, outcome) = std::sync::mpsc::channel();
        let done = Box::new(move |result| {
            // A caller that is gone has stopped caring.
            let _ = tell.send(result);
        });
        let withdrawal = self.handle.control(control, quiesce, patience, done);
        let mut waiting = outcome;
        loop {
            let (receiver, heard) = py.detach(move || {
                let heard = waiting.recv_timeout(ASK_POLL);
                (waiting, heard)
            });
            waiting = receiver;
            let failure = match self.handle.health() {
                Health::Failed(why) => Some(why),
                _ => None,
            };
            match (heard, failure) {
                (Ok(Ok(())), _) => return Ok(()),
                // The control may be what the engine failed by, or a step that hangs may keep it from being answered.
                (Ok(Err(ControlError::Closed)) | Err(_), Some(why)) => {
                    return Err(errors::submit(&SubmitError::Failed(why)));
                }
                (Ok(Err(error)), _) => return Err(errors::control(&error)),
                (Err(RecvTimeoutError::Disconnected), None) => {
                    return Err(errors::control(&ControlError::Closed));
                }
                (Err(RecvTimeoutError::Timeout), None) => {
                    py.check_signals().inspect_err(|_| withdrawal.withdraw())?;
                }
            }
        }
    }

    /// The loaded adapters: names and paths.
    fn adapters(&self) -> Vec<(String, String)> {
        let all = self.handle.adapters().into_iter();
        all.map(|adapter| (adapter.name, adapter.path)).collect()
    }

    /// How often the weights were exchanged.
    fn weight_version(&self) -> u32 {
        self.handle.weight_version()
    }

    /// Takes in the results of the oldest planned step.
    fn commit(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| {
            let mut guard = self.engine_loop.lock();
            let engine_loop = guard.as_mut().ok_or_else(closed)?;
            let (id, _) = engine_loop
                .planned
                .pop_front()
                .ok_or_else(|| errors::raise("EngineFailedError", "commit without a planned step"))?;
            engine_loop.source.commit(id);
            Ok(())
        })
    }

    /// Reports that the engine cannot go on: every request ends with an error, health turns off for good.
    fn fail(&self, why: &str) {
        self.handle.fail(why);
    }

    /// Ends the engine thread's side for good, whatever it was doing.
    fn abandon(&self, py: Python<'_>) {
        py.detach(|| drop(self.engine_loop.lock().take()));
    }

    /// Raises `InvalidRequestError` if `submit` would refuse this prompt with these parameters and this grammar.
    #[pyo3(signature = (prompt, params, *, grammar=None))]
    fn check(
        &self,
        py: Python<'_>,
        prompt: Vec<u32>,
        params: PySamplingParams,
        grammar: Option<(String, String)>,
    ) -> PyResult<()> {
        if let Some((kind, text)) = grammar {
            let grammar = grammar::read(&kind, text)?;
            py.detach(|| self.handle.grammars().check(&grammar))
                .map_err(|error| not_valid(&error))?;
        }
        let checked = self
            .handle
            .core_config()
            .check(&prompt, &params.into_params(0, 0));
        checked
            .map(|_| ())
            .map_err(|refusal| errors::raise("InvalidRequestError", refusal))
    }

    /// Hands a prompt (token ids) to the engine; its events come to `mailbox` under `key`. Dropping the returned
    /// request aborts it.
    #[expect(clippy::too_many_arguments, reason = "keyword arguments; one call a request")]
    #[pyo3(signature = (prompt, params, mailbox, key, *, stream=false, seed=0, sample_index=0, grammar=None, adapter=None))]
    fn submit(
        &self,
        py: Python<'_>,
        prompt: Vec<u32>,
        params: PySamplingParams,
        mailbox: &Mailbox,
        key: u64,
        stream: bool,
        seed: u64,
        sample_index: u32,
        grammar: Option<(String, String)>,
        adapter: Option<&str>,
    ) -> PyResult<Request> {
        let grammar = self.start_grammar(py, grammar)?;
        let adapter = adapter
            .map(|name| {
                let unknown = || errors::control(&ControlError::UnknownAdapter(name.to_owned()));
                self.handle
                    .adapter(name)
                    .map(|info| info.adapter)
                    .ok_or_else(unknown)
            })
            .transpose()?
            .unwrap_or_default();
        let sink = Box::new(MailboxSink::new(mailbox, key, stream, params.wants_logprobs()));
        let params = params.into_params(seed, sample_index);
        let submission = Submission {
            prompt,
            params,
            keep_stop: false,
            adapter,
            grammar,
            sink,
        };
        // The GIL is kept: a caller's submissions then follow each other, and no step comes between two of them.
        let handle = self
            .handle
            .submit(submission)
            .map_err(|error| errors::submit(&error))?;
        Ok(Request {
            handle: Mutex::new(Some(handle)),
            owner: std::process::id(),
        })
    }

    /// "ready", "draining", "closed" or "failed", and the failure's words.
    fn health(&self) -> (&'static str, Option<String>) {
        describe(self.handle.health())
    }

    /// Waits up to `timeout` seconds for the engine to be closed or failed; returns its health.
    fn wait_ended(&self, py: Python<'_>, timeout: f64) -> (&'static str, Option<String>) {
        let wait = Duration::try_from_secs_f64(timeout.max(0.0)).unwrap_or(Duration::from_secs(1 << 30));
        describe(py.detach(|| self.handle.wait_ended(wait)))
    }

    /// Takes nothing new; finishes what there is (`drain`) or ends it with an error; then the engine thread ends.
    fn shutdown(&self, drain: bool) {
        self.handle.shutdown(drain);
    }

    /// Tells how many kernels were compiled since the runner had warmed up.
    fn set_late_compilations(&self, count: u64) {
        self.handle.set_late_compilations(count);
    }

    /// Counters and gauges by name, as of the last step.
    fn snapshot(&self) -> std::collections::BTreeMap<&'static str, f64> {
        self.handle.snapshot().named().into_iter().collect()
    }
}

fn describe(health: Health) -> (&'static str, Option<String>) {
    match health {
        Health::Ready => ("ready", None),
        Health::Draining => ("draining", None),
        Health::Closed => ("closed", None),
        Health::Failed(why) => ("failed", Some(why)),
    }
}

/// A submitted request. Dropping or aborting it frees its blocks at once.
#[pyclass(frozen, module = "agentlm._engine")]
pub struct Request {
    handle: Mutex<Option<RequestHandle>>,
    /// The process that submitted it.
    owner: u32,
}

impl Drop for Request {
    fn drop(&mut self) {
        if std::process::id() != self.owner {
            // A fork copied it. The request is the other process's, and so are the threads that would hear of its end.
            std::mem::forget(self.handle.get_mut().take());
        }
    }
}

#[pymethods]
impl Request {
    /// Aborts the request if it has not ended. Does nothing in a process forked from the one that submitted it.
    fn abort(&self) {
        if std::process::id() == self.owner {
            drop(self.handle.lock().take());
        }
    }
}
