//! The engine thread's side: `next` plans a step, `commit` takes it in.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use agentlm_core::{Core, CoreConfig, StepId, Updates, arena, results};
use agentlm_text::Tokenizer;
use crossbeam_channel::{Receiver, TryRecvError, bounded, unbounded};
use thiserror::Error;

use crate::handle::{Command, EngineHandle, Shared};
use crate::output::{OutputMessage, OutputStage};
use crate::ring::Ring;
use crate::{Health, RequestError, watchdog};

/// Everything that shapes an engine.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// The core's own configuration.
    pub core: CoreConfig,
    /// Most unfinished requests; one more is refused as overloaded.
    pub max_unfinished: usize,
    /// A step that takes longer fails the engine. `None` switches the watchdog off.
    pub step_timeout: Option<Duration>,
}

/// Why an engine could not be built.
#[derive(Debug, Error)]
pub enum BuildError {
    /// The core refused its configuration.
    #[error(transparent)]
    Config(#[from] agentlm_core::ConfigError),
    /// The system gave no thread.
    #[error("cannot start a thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// What the engine thread does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Run the step planned in this slot of both rings, then commit it.
    Step {
        /// The step.
        id: StepId,
        /// Its slot.
        slot: usize,
    },
    /// Nothing can be planned before a step in flight is committed.
    Wait,
    /// The engine is closed.
    Shutdown,
}

/// Plans and commits; owned by the engine thread. Dropping it before [`Next::Shutdown`] fails the engine.
pub struct StepSource {
    core: Core,
    shared: Arc<Shared>,
    commands: Receiver<Command>,
    recycled: Receiver<Box<Updates>>,
    pub(crate) arena: Arc<Ring>,
    pub(crate) results: Arc<Ring>,
    planned: u64,
    in_flight: usize,
    draining: bool,
    closed: bool,
    /// When the step in each slot was planned.
    planned_at: Vec<Instant>,
    step_seconds: f64,
    last_step_seconds: f64,
}

/// Builds an engine: the callers' handle and the engine thread's step source. The output thread and the watchdog run
/// from here on.
///
/// # Errors
/// [`BuildError`].
pub fn build(
    config: EngineConfig,
    tokenizer: Arc<Tokenizer>,
) -> Result<(EngineHandle, StepSource), BuildError> {
    let (commands, engine_inbox) = unbounded();
    let (output, output_inbox) = unbounded();
    let core = Core::new(config.core.clone())?;
    let n_slots = config.core.steps_in_flight as usize + 1;
    let (recycle, recycled) = bounded(n_slots + 1);
    for _ in 0..=n_slots {
        // There is room for each of them.
        let _ = recycle.send(Box::default());
    }
    let arena = Arc::new(Ring::new(n_slots, config.core.arena_layout().slot_words()));
    let results = Arc::new(Ring::new(n_slots, config.core.results_layout().slot_words()));
    let shared = Arc::new(Shared::new(
        config.core,
        tokenizer,
        commands,
        output,
        config.max_unfinished,
    ));
    let stage = OutputStage::new(shared.clone(), recycle);
    let watched = shared.clone();
    std::thread::Builder::new()
        .name("agentlm-output".into())
        .spawn(move || {
            // Its streams hear of a panic as they are dropped; the others must not wait for a thread that is gone.
            if catch_unwind(AssertUnwindSafe(|| stage.run(&output_inbox))).is_err() {
                watched.set_health(Health::Failed("the output thread panicked".to_owned()));
            }
        })?;
    if let Some(limit) = config.step_timeout {
        watchdog::spawn(&shared, limit)?;
    }
    let source = StepSource {
        core,
        shared: shared.clone(),
        commands: engine_inbox,
        recycled,
        arena,
        results,
        planned: 0,
        in_flight: 0,
        draining: false,
        closed: false,
        planned_at: vec![Instant::now(); n_slots],
        step_seconds: 0.0,
        last_step_seconds: 0.0,
    };
    source.publish();
    Ok((EngineHandle { shared }, source))
}

impl StepSource {
    /// Takes in what callers asked for and plans a step. Blocks while there is nothing to do, unless a step is in
    /// flight.
    pub fn next_step(&mut self) -> Next {
        loop {
            self.drain_commands();
            if self.closed || matches!(self.shared.health(), Health::Failed(_)) {
                return self.close();
            }
            let slot = self.slot_of(StepId(self.planned + 1));
            // SAFETY: the ring has one slot more than steps in flight, so no runner reads this one.
            let words = unsafe { self.arena.slot_mut(slot) };
            if let Some(id) = self.core.plan(words) {
                self.planned_at[slot] = Instant::now();
                if self.in_flight == 0 {
                    self.mark_step();
                }
                self.planned = id.0;
                self.in_flight += 1;
                return Next::Step { id, slot };
            }
            if self.in_flight > 0 {
                return Next::Wait;
            }
            if self.draining && self.core.live() == 0 {
                return self.close();
            }
            self.publish();
            match self.commands.recv() {
                Ok(command) => self.take(command),
                Err(_) => return self.close(),
            }
        }
    }

    /// Takes a run step's results in and hands its tokens to the output thread. Steps are committed in order.
    pub fn commit(&mut self, id: StepId) {
        let slot = self.slot_of(id);
        // Waits when the output thread is some steps behind: tokens that pile up there would be late for everyone, and stop
        // strings found too late. The output thread waits for nobody; were it gone, there would be nobody to tell.
        let mut updates = self.recycled.recv().unwrap_or_default();
        // SAFETY: the runner has finished this step; it writes the slot again only for a later plan.
        let words = unsafe { self.results.slot(slot) };
        let committed = self.core.commit(id, words, &mut updates);
        if let Err(error) = committed {
            return self.shared.fail(&error.to_string());
        }
        self.core.fence(id);
        self.in_flight = self.in_flight.saturating_sub(1);
        if self.in_flight == 0 {
            self.shared.step_started.store(0, Ordering::Release);
        } else {
            self.mark_step();
        }
        let planned = self.planned_at[slot];
        self.last_step_seconds = planned.elapsed().as_secs_f64();
        self.step_seconds += self.last_step_seconds;
        self.publish();
        // The output thread ends only after this one.
        let _ = self.shared.output.send(OutputMessage::Batch { updates, planned });
    }

    /// Reports that the runner failed: every request ends with an error and health turns off.
    pub fn fail(&mut self, why: &str) {
        self.shared.fail(why);
    }

    /// The slot's plan, for a runner.
    ///
    /// # Safety
    /// Only between `next_step` returning `slot` and the step's commit.
    #[must_use]
    pub unsafe fn arena_slot(&self, slot: usize) -> &[u32] {
        // SAFETY: passed on to the caller.
        unsafe { self.arena.slot(slot) }
    }

    /// The slot's results, for a runner to write.
    ///
    /// # Safety
    /// Only between `next_step` returning `slot` and the step's commit, and by one runner.
    #[expect(
        clippy::mut_from_ref,
        reason = "the ring hands out slots by the step protocol"
    )]
    #[must_use]
    pub unsafe fn results_slot(&self, slot: usize) -> &mut [u32] {
        // SAFETY: passed on to the caller.
        unsafe { self.results.slot_mut(slot) }
    }

    /// Layout of an arena slot.
    #[must_use]
    pub fn arena_layout(&self) -> arena::Layout {
        self.shared.core.arena_layout()
    }

    /// Layout of a results slot.
    #[must_use]
    pub fn results_layout(&self) -> results::Layout {
        self.shared.core.results_layout()
    }

    fn publish(&self) {
        let mut snapshot = self.shared.snapshot.lock();
        snapshot.core = self.core.stats();
        snapshot.last_step_seconds = self.last_step_seconds;
        snapshot.total_step_seconds = self.step_seconds;
    }

    fn slot_of(&self, id: StepId) -> usize {
        (id.0 % self.arena.n_slots() as u64) as usize
    }

    fn mark_step(&self) {
        let nanos = u64::try_from(self.shared.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX - 1);
        self.shared.step_started.store(nanos + 1, Ordering::Release);
    }

    fn drain_commands(&mut self) {
        loop {
            match self.commands.try_recv() {
                Ok(command) => self.take(command),
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Disconnected) => {
                    self.closed = true;
                    return;
                }
            }
        }
    }

    fn take(&mut self, command: Command) {
        match command {
            Command::Submit(request) => {
                let id = request.id;
                if let Err(refusal) = self.core.submit(*request) {
                    let error = RequestError::Refused(refusal.to_string());
                    // The output thread ends only after this one.
                    let _ = self.shared.output.send(OutputMessage::End(id, error));
                }
            }
            Command::Abort(id) => {
                self.core.abort(id);
            }
            Command::Finish { id, at_token } => {
                self.core
                    .finish(id, at_token, agentlm_core::FinishReason::StopSequence);
            }
            Command::Shutdown { drain } => {
                self.draining = true;
                self.closed |= !drain;
            }
        }
    }

    fn close(&mut self) -> Next {
        self.closed = true;
        self.shared.step_started.store(0, Ordering::Release);
        self.shared.set_health(Health::Closed);
        // Whatever is still open hears that the engine was closed, or why it failed.
        let _ = self.shared.output.send(OutputMessage::Stop);
        Next::Shutdown
    }
}

impl Drop for StepSource {
    fn drop(&mut self) {
        if !self.closed {
            self.shared.fail("the engine thread ended");
            self.close();
        }
    }
}
