//! The engine thread's side: `next` plans a step, `commit` takes it in.

mod controls;
mod grammars;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use agentlm_core::{Core, CoreConfig, RequestId, StepId, Updates, arena, results};
use agentlm_text::Tokenizer;
use thiserror::Error;

use self::controls::Controls;
use self::grammars::Grammars;
use crate::grammar::{GrammarMessage, GrammarStage, MaskSlot};
use crate::handle::{Command, EngineHandle, Shared};
use crate::output::{OutputMessage, OutputStage};
use crate::queue::{Receiver, queue};
use crate::ring::Ring;
use crate::{Health, RequestError, StepKind, watchdog};

/// How often a control that waits for requests looks at the clock while nothing can be planned.
const CONTROL_POLL: Duration = Duration::from_millis(20);
/// How often an engine with nothing to do wakes up for nothing.
const IDLE_POLL: Duration = Duration::from_secs(3600);

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
    /// Nothing can be done before a step in flight is committed.
    Wait,
    /// No step is in flight: do what [`StepSource::control`] says, then [`StepSource::finish_control`].
    Control,
    /// The engine is closed.
    Shutdown,
}

/// Plans and commits; owned by the engine thread. Dropping it before [`Next::Shutdown`] fails the engine.
pub struct StepSource {
    core: Core,
    shared: Arc<Shared>,
    commands: Receiver<Command>,
    recycled: crossbeam_channel::Receiver<Box<Updates>>,
    pub(crate) arena: Arc<Ring>,
    pub(crate) results: Arc<Ring>,
    grammars: Grammars,
    controls: Controls,
    planned: u64,
    in_flight: usize,
    draining: bool,
    closed: bool,
    /// When the step in each slot was planned.
    planned_at: Vec<Instant>,
    /// What it does.
    kinds: Vec<StepKind>,
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
    let (commands, engine_inbox) = queue();
    let (output, output_inbox) = queue();
    let (grammar, grammar_inbox) = queue();
    let core = Core::new(config.core.clone())?;
    let n_slots = config.core.steps_in_flight as usize + 1;
    let (recycle, recycled) = crossbeam_channel::bounded(n_slots + 1);
    for _ in 0..=n_slots {
        // There is room for each of them.
        let _ = recycle.send(Box::default());
    }
    let arena = Arc::new(Ring::new(n_slots, config.core.arena_layout().slot_words()));
    let results = Arc::new(Ring::new(n_slots, config.core.results_layout().slot_words()));
    let (max_samples, vocab_size) = (config.core.max_running as usize, config.core.vocab_size as usize);
    let masks: Arc<[MaskSlot]> = (0..n_slots)
        .map(|_| MaskSlot::new(max_samples, vocab_size))
        .collect();
    let shared = Arc::new(Shared::new(
        config.core,
        tokenizer,
        commands,
        output,
        grammar,
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
    let grammar_stage = GrammarStage::new(masks.clone(), shared.clone());
    std::thread::Builder::new()
        .name("agentlm-grammar".into())
        .spawn(move || grammar_stage.run(&grammar_inbox))?;
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
        grammars: Grammars::new(masks),
        controls: Controls::default(),
        planned: 0,
        in_flight: 0,
        draining: false,
        closed: false,
        planned_at: vec![Instant::now(); n_slots],
        kinds: vec![StepKind::Decode; n_slots],
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
            if let Some(next) = self.next_control() {
                return next;
            }
            let slot = self.slot_of(StepId(self.planned + 1));
            // SAFETY: the ring has one slot more than steps in flight, so no runner reads this one.
            let words = unsafe { self.arena.slot_mut(slot) };
            if let Some(id) = self.core.plan(words) {
                self.planned_at[slot] = Instant::now();
                let (requests, tokens) = (words[arena::header::N_ENTRIES], words[arena::header::N_TOKENS]);
                self.kinds[slot] = self.shared.steps.plan(requests, tokens);
                if self.in_flight == 0 {
                    self.mark_step();
                }
                self.ask_for_masks(slot);
                self.planned = id.0;
                self.in_flight += 1;
                return Next::Step { id, slot };
            }
            if self.in_flight > 0 {
                return Next::Wait;
            }
            if self.draining && (self.core.live() == 0 || self.never_wakes()) {
                return self.close();
            }
            self.publish();
            // A control that waits for requests must notice when its time is up.
            let patience = if self.controls.is_waiting() {
                CONTROL_POLL
            } else {
                IDLE_POLL
            };
            if let Some(command) = self.commands.recv_timeout(patience) {
                self.take(command);
            }
        }
    }

    /// Takes a run step's results in and hands its tokens to the output thread. Steps are committed in order.
    pub fn commit(&mut self, id: StepId) {
        let slot = self.slot_of(id);
        let planned = self.planned_at[slot];
        let ran = planned.elapsed();
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
        self.forget_ended(&updates);
        self.advance_grammars(&updates);
        self.in_flight = self.in_flight.saturating_sub(1);
        if self.in_flight == 0 {
            self.shared.step_started.store(0, Ordering::Release);
        } else {
            self.mark_step();
        }
        let whole = planned.elapsed();
        self.shared.steps.commit(self.kinds[slot], ran, whole);
        self.last_step_seconds = whole.as_secs_f64();
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

    /// The rings of plans and of results, for a runner whose device copies slots by itself.
    #[must_use]
    pub fn rings(&self) -> (Arc<Ring>, Arc<Ring>) {
        (self.arena.clone(), self.results.clone())
    }

    /// The slot's masks, for a runner to sample under.
    #[must_use]
    pub fn masks(&self, slot: usize) -> &MaskSlot {
        &self.grammars.masks[slot]
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

    /// Forgets what belongs to a request that has ended.
    fn ended(&mut self, request: RequestId) {
        self.close_grammar(request);
        self.controls.leaves(request);
    }

    /// The same for all that a commit ended.
    fn forget_ended(&mut self, updates: &Updates) {
        if self.has_constrained() || self.controls.has_users() {
            let finished = updates.tokens.iter().filter(|update| update.finish.is_some());
            for request in finished
                .map(|update| update.request)
                .chain(updates.failed.iter().copied())
            {
                self.ended(request);
            }
        }
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

    /// What lives waits for weights, and nobody may ask for them any more.
    fn never_wakes(&self) -> bool {
        self.shared.loaded.is_asleep() && !self.controls.is_waiting()
    }

    fn mark_step(&self) {
        let nanos = u64::try_from(self.shared.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX - 1);
        self.shared.step_started.store(nanos + 1, Ordering::Release);
    }

    fn drain_commands(&mut self) {
        while let Some(command) = self.commands.try_recv() {
            self.take(command);
        }
    }

    fn take(&mut self, command: Command) {
        match command {
            Command::Submit(request, adapter) => {
                let id = request.id;
                if request.constrained {
                    self.grammars.follow(id);
                }
                // It may have been unloaded since the request was made.
                let submitted = if self.shared.loaded.has(adapter) {
                    self.controls.uses(id, adapter);
                    self.core.submit(*request).map_err(|refusal| refusal.to_string())
                } else {
                    Err("the request's adapter was unloaded".to_owned())
                };
                if let Err(why) = submitted {
                    self.ended(id);
                    // The output thread ends only after this one.
                    let ending = OutputMessage::End(id, RequestError::Refused(why));
                    let _ = self.shared.output.send(ending);
                }
            }
            Command::Control(pending) => self.controls.push(*pending),
            Command::Abort(id) => {
                self.core.abort(id);
                self.ended(id);
            }
            Command::Finish { id, at_token } => {
                self.core
                    .finish(id, at_token, agentlm_core::FinishReason::StopSequence);
                self.ended(id);
            }
            Command::Shutdown { drain } => {
                self.draining = true;
                self.closed |= !drain;
            }
        }
    }

    fn close(&mut self) -> Next {
        self.closed = true;
        // Whoever asked for something hears that nobody will do it.
        self.controls = Controls::default();
        self.shared.step_started.store(0, Ordering::Release);
        self.shared.set_health(Health::Closed);
        // Whatever is still open hears that the engine was closed, or why it failed.
        let _ = self.shared.output.send(OutputMessage::Stop);
        let _ = self.shared.grammar.send(GrammarMessage::Stop);
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
