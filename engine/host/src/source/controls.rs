//! Controls between steps: which one is next, what it waits for, and what it changes when it is done.

use std::collections::VecDeque;

use agentlm_core::RequestId;
use rustc_hash::FxHashMap;

use super::{Next, StepSource};
use crate::RequestError;
use crate::control::{AdapterInfo, AdapterRef, Control, ControlError, Pending, Quiesce};
use crate::output::OutputMessage;

/// Controls that were asked for, and what they look at.
#[derive(Default)]
pub(super) struct Controls {
    queue: VecDeque<Pending>,
    /// The first of the queue was checked.
    prepared: bool,
    /// The one that the engine thread carries out.
    acting: Option<Pending>,
    /// The adapter whose unloading is under way.
    removed: Option<AdapterInfo>,
    /// Requests that live and have an adapter.
    users: FxHashMap<RequestId, u32>,
}

impl Controls {
    pub(super) fn push(&mut self, pending: Pending) {
        self.queue.push_back(pending);
    }

    pub(super) fn is_waiting(&self) -> bool {
        !self.queue.is_empty()
    }

    /// A request with an adapter has come.
    pub(super) fn uses(&mut self, request: RequestId, adapter: AdapterRef) {
        if adapter.number != 0 {
            self.users.insert(request, adapter.number);
        }
    }

    /// A request has ended.
    pub(super) fn leaves(&mut self, request: RequestId) {
        self.users.remove(&request);
    }

    pub(super) fn has_users(&self) -> bool {
        !self.users.is_empty()
    }
}

impl StepSource {
    /// The first control that is to be carried out now: [`Next::Control`], or [`Next::Wait`] while a step in flight is in
    /// its way. None while it waits for requests, and without one.
    pub(super) fn next_control(&mut self) -> Option<Next> {
        loop {
            self.controls.queue.front()?;
            if let Err(outcome) = self.prepare() {
                self.answer_first(outcome);
                continue;
            }
            let running = self.in_the_way();
            let front = self.controls.queue.front()?;
            if running == 0 && !front.is_withdrawn() {
                break;
            }
            let waited = front.asked.elapsed();
            if waited < front.patience && !front.is_withdrawn() {
                return None;
            }
            self.answer_first(Err(ControlError::Timeout { running, waited }));
        }
        if self.in_flight > 0 {
            return Some(Next::Wait);
        }
        self.controls.acting = self.controls.queue.pop_front();
        self.controls.prepared = false;
        Some(Next::Control)
    }

    /// Checks the first control once. An error is its outcome, which may be that there is nothing to do.
    fn prepare(&mut self) -> Result<(), Result<(), ControlError>> {
        if std::mem::replace(&mut self.controls.prepared, true) {
            return Ok(());
        }
        let loaded = &self.shared.loaded;
        let Some(front) = self.controls.queue.front_mut() else {
            return Ok(());
        };
        let asleep = loaded.is_asleep();
        match &mut front.control {
            Control::Sleep if asleep => return Err(Ok(())),
            Control::Wake if !asleep => return Err(Ok(())),
            Control::LoadAdapter { .. } | Control::ReloadWeights { .. } if asleep => {
                return Err(Err(ControlError::Asleep));
            }
            Control::LoadAdapter { name, number, .. } => {
                if loaded.find(name).is_some() {
                    return Err(Err(ControlError::AdapterExists(name.clone())));
                }
                *number = loaded.free_number();
            }
            Control::UnloadAdapter { name, number } => {
                let Some(adapter) = loaded.remove(name) else {
                    return Err(Err(ControlError::UnknownAdapter(name.clone())));
                };
                *number = adapter.adapter.number;
                self.controls.removed = Some(adapter);
            }
            Control::ReloadWeights { .. } | Control::Sleep | Control::Wake => {}
        }
        if front.control.needs_quiet() {
            let (abort, name) = (front.quiesce == Quiesce::Abort, front.control.name());
            self.core.hold(true);
            if abort {
                self.abort_started(name);
            }
        }
        Ok(())
    }

    fn abort_started(&mut self, why: &str) {
        let started: Vec<RequestId> = self.core.started().collect();
        for request in started {
            self.core.abort(request);
            self.ended(request);
            let error = RequestError::Generation(format!("the request was aborted by `{why}`"));
            // The output thread ends only after this one.
            let _ = self.shared.output.send(OutputMessage::End(request, error));
        }
    }

    /// How many requests the first control waits for.
    fn in_the_way(&self) -> usize {
        match self.controls.queue.front().map(|front| &front.control) {
            Some(control) if control.needs_quiet() && self.core.is_quiet() => 0,
            Some(control) if control.needs_quiet() => self.core.started().count(),
            Some(Control::UnloadAdapter { number, .. }) => {
                let users = self.controls.users.values();
                users.filter(|user| *user == number).count()
            }
            _ => 0,
        }
    }

    fn answer_first(&mut self, outcome: Result<(), ControlError>) {
        self.controls.prepared = false;
        if let Some(pending) = self.controls.queue.pop_front() {
            self.conclude(pending, outcome);
        }
    }

    /// What [`Next::Control`] asks the runner to do.
    #[must_use]
    pub fn control(&self) -> Option<&Control> {
        self.controls.acting.as_ref().map(|acting| &acting.control)
    }

    /// The runner has done it, or could not and is as it was before.
    pub fn finish_control(&mut self, outcome: Result<(), String>) {
        let Some(pending) = self.controls.acting.take() else {
            return;
        };
        if outcome.is_ok() {
            let loaded = &self.shared.loaded;
            match &pending.control {
                Control::LoadAdapter { name, path, number } => {
                    loaded.add(name.clone(), path.clone(), *number);
                }
                Control::UnloadAdapter { .. } => self.controls.removed = None,
                Control::ReloadWeights { .. } => {
                    self.core.forget_cache();
                    loaded.reloaded();
                }
                Control::Sleep => {
                    self.core.forget_cache();
                    loaded.set_asleep(true);
                }
                Control::Wake => loaded.set_asleep(false),
            }
        }
        self.conclude(pending, outcome.map_err(ControlError::Failed));
    }

    fn conclude(&mut self, pending: Pending, outcome: Result<(), ControlError>) {
        if let Some(adapter) = self.controls.removed.take() {
            self.shared.loaded.restore(adapter);
        }
        self.core.hold(self.shared.loaded.is_asleep());
        pending.finish(outcome);
    }
}
