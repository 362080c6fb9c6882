//! What is asked of a running engine besides requests: adapters, other weights, sleep. It knows no files: the runner does the work on
//! the engine thread, between two steps.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::RwLock;
use thiserror::Error;

/// One act of the engine thread's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Control {
    /// Make an adapter ready under a number of its own.
    LoadAdapter {
        /// Requests choose it by this name.
        name: String,
        /// Where it lies.
        path: String,
        /// Its number, from 1 on; the engine sets it.
        number: u32,
    },
    /// Forget an adapter, once its requests have ended.
    UnloadAdapter {
        /// Its name.
        name: String,
        /// Its number; the engine sets it.
        number: u32,
    },
    /// Put a checkpoint of the same shape in place of the weights.
    ReloadWeights {
        /// Where it lies; the served one again if empty.
        path: String,
    },
    /// Give the memory of weights and KV cache back until [`Control::Wake`].
    Sleep,
    /// Take them back.
    Wake,
}

impl Control {
    /// Its name in messages and to runners.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::LoadAdapter { .. } => "load_adapter",
            Self::UnloadAdapter { .. } => "unload_adapter",
            Self::ReloadWeights { .. } => "reload_weights",
            Self::Sleep => "sleep",
            Self::Wake => "wake",
        }
    }

    /// Whether nothing may have KV meanwhile.
    pub(crate) const fn needs_quiet(&self) -> bool {
        matches!(self, Self::ReloadWeights { .. } | Self::Sleep)
    }
}

/// What becomes of the requests that run when weights are to be exchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quiesce {
    /// They finish first; new ones wait.
    Drain,
    /// They end with an error.
    Abort,
}

/// Why a control was not carried out. Nothing was changed then.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ControlError {
    /// The requests that stand in the way did not end in time.
    #[error("{} requests were still running after {:.1} s; wait longer, or abort them", .running, .waited.as_secs_f64())]
    Timeout {
        /// Requests in the way.
        running: usize,
        /// How long it was waited.
        waited: Duration,
    },
    /// The name is taken.
    #[error("an adapter called {0:?} is loaded; unload it first, or choose another name")]
    AdapterExists(String),
    /// No adapter has this name.
    #[error("no adapter is called {0:?}")]
    UnknownAdapter(String),
    /// The engine sleeps.
    #[error("the engine is asleep; wake it first")]
    Asleep,
    /// The runner could not.
    #[error("{0}")]
    Failed(String),
    /// The engine is closing, closed or failed.
    #[error("the engine is closed")]
    Closed,
}

/// Where a control's outcome goes. Called on the engine thread.
pub type Done = Box<dyn FnOnce(Result<(), ControlError>) + Send>;

/// How whoever asked for a control takes it back, as long as it was not begun.
#[derive(Clone, Debug, Default)]
pub struct Withdrawal(Arc<AtomicBool>);

impl Withdrawal {
    /// It is not to be carried out any more. One that has begun is not stopped.
    pub fn withdraw(&self) {
        self.0.store(true, Ordering::Release);
    }
}

/// A control on its way.
pub(crate) struct Pending {
    pub control: Control,
    pub quiesce: Quiesce,
    pub asked: Instant,
    pub patience: Duration,
    withdrawal: Withdrawal,
    done: Option<Done>,
}

impl Pending {
    pub fn new(control: Control, quiesce: Quiesce, patience: Duration, done: Done) -> Self {
        Self {
            control,
            quiesce,
            asked: Instant::now(),
            patience,
            withdrawal: Withdrawal::default(),
            done: Some(done),
        }
    }

    pub fn withdrawal(&self) -> Withdrawal {
        self.withdrawal.clone()
    }

    pub fn is_withdrawn(&self) -> bool {
        self.withdrawal.0.load(Ordering::Acquire)
    }

    pub fn finish(mut self, outcome: Result<(), ControlError>) {
        if let Some(done) = self.done.take() {
            done(outcome);
        }
    }
}

impl Drop for Pending {
    /// Nobody will carry it out any more.
    fn drop(&mut self) {
        if let Some(done) = self.done.take() {
            done(Err(ControlError::Closed));
        }
    }
}

/// A loaded adapter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdapterInfo {
    /// Requests choose it by this name.
    pub name: String,
    /// Where it was loaded from.
    pub path: String,
    /// What requests that chose it carry.
    pub adapter: AdapterRef,
}

/// What a request carries of its adapter. The default is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AdapterRef {
    /// The runner's number for it; 0 is none.
    pub(crate) number: u32,
    /// Which load it was: the same name may be loaded again with other weights.
    pub(crate) load: u32,
}

/// What is loaded now; shared by callers and the engine thread.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    state: RwLock<State>,
}

#[derive(Debug, Default)]
struct State {
    adapters: Vec<AdapterInfo>,
    loads: u32,
    weight_version: u32,
    asleep: bool,
}

impl Loaded {
    pub fn adapters(&self) -> Vec<AdapterInfo> {
        self.state.read().adapters.clone()
    }

    pub fn find(&self, name: &str) -> Option<AdapterInfo> {
        let state = self.state.read();
        state
            .adapters
            .iter()
            .find(|adapter| adapter.name == name)
            .cloned()
    }

    pub fn weight_version(&self) -> u32 {
        self.state.read().weight_version
    }

    pub fn is_asleep(&self) -> bool {
        self.state.read().asleep
    }

    /// Whether requests may carry this adapter.
    pub fn has(&self, adapter: AdapterRef) -> bool {
        let known = |info: &AdapterInfo| info.adapter == adapter;
        adapter == AdapterRef::default() || self.state.read().adapters.iter().any(known)
    }

    /// The seed of the prefix cache: requests share KV only of the same weights and the same adapter.
    pub fn cache_seed(&self, adapter: AdapterRef) -> u64 {
        u64::from(self.weight_version()) << 32 | u64::from(adapter.load)
    }

    /// The lowest number that no adapter has.
    pub fn free_number(&self) -> u32 {
        let state = self.state.read();
        let taken = |number: &u32| state.adapters.iter().any(|known| known.adapter.number == *number);
        (1..u32::MAX).find(|number| !taken(number)).unwrap_or(u32::MAX)
    }

    pub fn add(&self, name: String, path: String, number: u32) {
        let mut state = self.state.write();
        state.loads += 1;
        let load = state.loads;
        state.adapters.push(AdapterInfo {
            name,
            path,
            adapter: AdapterRef { number, load },
        });
    }

    /// Takes an adapter away from who comes next; who carries it already goes on.
    pub fn remove(&self, name: &str) -> Option<AdapterInfo> {
        let mut state = self.state.write();
        let at = state.adapters.iter().position(|adapter| adapter.name == name)?;
        Some(state.adapters.remove(at))
    }

    /// Puts one back whose removal was not carried out.
    pub fn restore(&self, adapter: AdapterInfo) {
        self.state.write().adapters.push(adapter);
    }

    pub fn reloaded(&self) {
        self.state.write().weight_version += 1;
    }

    pub fn set_asleep(&self, asleep: bool) {
        self.state.write().asleep = asleep;
    }
}
