//! One persistent pool of threads on which every kernel runs.
//!
//! [`Pool::run`] executes a *region*: one closure on every worker, the calling thread being worker 0. Inside a region
//! workers meet at barriers and share loops whose indexes are handed out one at a time, so a worker that loses its
//! core to another process only takes fewer of them. Waiting is a bounded spin, then yielding, then sleeping.
//!
//! Refuses to know what runs on it.

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::hint::spin_loop;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use thiserror::Error;

/// Most workers of a pool; more than any machine's cores is a mistake in a unit.
pub const MAX_THREADS: usize = 1024;
/// Pauses before a waiting worker starts to yield: some ten microseconds, longer than most imbalances.
const SPINS: u32 = 512;
/// Yields before it sleeps. A yield returns at once on an idle machine and gives way on a busy one.
const YIELDS: u32 = 128;

/// Why a pool could not be built or a region did not finish.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PoolError {
    /// A thread count outside the range.
    #[error("a pool of {given} threads cannot be built; use 1 to {MAX_THREADS}")]
    Threads {
        /// The count given.
        given: usize,
    },
    /// The operating system refused a thread.
    #[error("worker thread {index} could not be started: {reason}; use fewer threads or raise the limit")]
    Spawn {
        /// Index of the worker.
        index: usize,
        /// The operating system's answer.
        reason: String,
    },
    /// The pool was built before a fork: its threads do not exist in this process.
    #[error(
        "the thread pool of process {owner} was used in process {current} after a fork; build a new one there"
    )]
    Forked {
        /// Process that built the pool.
        owner: u32,
        /// Process that used it.
        current: u32,
    },
    /// `run` was called from inside a region.
    #[error("a region was started inside another one; use the worker's own parallel loop instead")]
    Nested,
    /// A worker panicked; the others were stopped at their next barrier.
    #[error("worker {worker} of the thread pool panicked: {message}")]
    Panicked {
        /// Index of the worker.
        worker: usize,
        /// Its panic message.
        message: String,
    },
}

type Region<'a> = dyn Fn(&Worker<'_>) + Sync + 'a;

/// Keeps a value on cache lines of its own (two: the adjacent-line prefetcher pairs them).
#[repr(align(128))]
struct Apart<T>(T);

/// A counter that threads wait on.
struct Gate {
    epoch: AtomicU32,
    sleepers: AtomicU32,
    lock: Mutex<()>,
    wake: Condvar,
}

impl Gate {
    fn new() -> Self {
        Self {
            epoch: AtomicU32::new(0),
            sleepers: AtomicU32::new(0),
            lock: Mutex::new(()),
            wake: Condvar::new(),
        }
    }

    /// Moves on to the next epoch and wakes everyone who waits for it.
    fn open(&self) {
        // SeqCst on both sides: either this load sees the sleeper, or the sleeper sees the new epoch.
        self.epoch.fetch_add(1, Ordering::SeqCst);
        self.wake_sleepers();
    }

    fn wake_sleepers(&self) {
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            let _guard = lock(&self.lock);
            self.wake.notify_all();
        }
    }

    /// Waits until `ready`; whoever makes it true must call [`Gate::open`] or [`Gate::wake_sleepers`] afterwards.
    fn wait(&self, spins: u32, ready: impl Fn() -> bool) {
        for _ in 0..spins {
            if ready() {
                return;
            }
            spin_loop();
        }
        for _ in 0..YIELDS {
            if ready() {
                return;
            }
            thread::yield_now();
        }
        let mut guard = lock(&self.lock);
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        while !ready() {
            guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code panics while holding one of these locks, so a poisoned one still guards a whole value.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Shared {
    count: usize,
    spins: u32,
    /// Opened when a region starts, and at shutdown.
    start: Apart<Gate>,
    /// Opened when the last of the other workers leaves the region.
    done: Apart<Gate>,
    /// Opened when the last worker reaches a barrier.
    barrier: Apart<Gate>,
    arrived: Apart<AtomicUsize>,
    next_index: Apart<AtomicUsize>,
    /// Workers 1.. still inside the region.
    running: Apart<AtomicUsize>,
    /// A worker panicked: barriers no longer wait, they unwind.
    broken: AtomicBool,
    first_panic: Mutex<Option<(usize, String)>>,
    shutdown: AtomicBool,
    region: UnsafeCell<Option<*const Region<'static>>>,
}

// SAFETY: `region` is written by `Pool::run` alone, under its lock and while no other worker is inside a region, and read by
// workers after the `start` gate opened (SeqCst increment, SeqCst load). The pointee is `Sync`, so sharing it is sound.
unsafe impl Sync for Shared {}
// SAFETY: as above; every other field is Send.
unsafe impl Send for Shared {}

impl Shared {
    /// Runs the region on this worker; a panic is recorded, and the other workers are released.
    fn enter(&self, index: usize, region: &Region<'_>) {
        let worker = Worker {
            index,
            shared: self,
            in_loop: Cell::new(false),
        };
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| region(&worker)))
            && !payload.is::<Stopped>()
        {
            lock(&self.first_panic).get_or_insert_with(|| (index, message_of(payload.as_ref())));
            self.broken.store(true, Ordering::SeqCst);
            self.barrier.0.wake_sleepers();
        }
    }

    fn work(&self, index: usize) {
        IN_REGION.set(true);
        let mut seen = 0u32;
        loop {
            self.start
                .0
                .wait(self.spins, || self.start.0.epoch.load(Ordering::SeqCst) != seen);
            seen = seen.wrapping_add(1);
            if self.shutdown.load(Ordering::SeqCst) {
                return;
            }
            // SAFETY: the gate opened, so `run` has stored a region, and it does not return (or replace it) before
            // this worker decrements `running`.
            if let Some(region) = unsafe { *self.region.get() } {
                // SAFETY: as above: the closure outlives the region.
                self.enter(index, unsafe { &*region });
            }
            if self.running.0.fetch_sub(1, Ordering::SeqCst) == 1 {
                self.done.0.open();
            }
        }
    }
}

/// Unwinds a worker out of a region that another worker broke.
struct Stopped;

fn message_of(payload: &(dyn Any + Send)) -> String {
    payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a message".to_owned())
}

thread_local! {
    /// Whether this thread is inside a region of any pool.
    static IN_REGION: Cell<bool> = const { Cell::new(false) };
}

/// A persistent pool. Dropping it joins its threads.
pub struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    owner: u32,
    turn: Mutex<()>,
}

impl Pool {
    /// Starts `threads - 1` named threads; whoever calls [`Pool::run`] is the remaining worker.
    ///
    /// # Errors
    /// [`PoolError::Threads`] for 0 or too many, [`PoolError::Spawn`] when the system refuses one.
    pub fn new(threads: usize) -> Result<Self, PoolError> {
        if !(1..=MAX_THREADS).contains(&threads) {
            return Err(PoolError::Threads { given: threads });
        }
        // With more workers than cores a spinning one keeps a working one from its core.
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let shared = Arc::new(Shared {
            count: threads,
            spins: if threads <= cores { SPINS } else { 0 },
            start: Apart(Gate::new()),
            done: Apart(Gate::new()),
            barrier: Apart(Gate::new()),
            arrived: Apart(AtomicUsize::new(0)),
            next_index: Apart(AtomicUsize::new(0)),
            running: Apart(AtomicUsize::new(0)),
            broken: AtomicBool::new(false),
            first_panic: Mutex::new(None),
            shutdown: AtomicBool::new(false),
            region: UnsafeCell::new(None),
        });
        let mut pool = Self {
            shared,
            threads: Vec::new(),
            owner: std::process::id(),
            turn: Mutex::new(()),
        };
        for index in 1..threads {
            let shared = Arc::clone(&pool.shared);
            let thread = thread::Builder::new()
                .name(format!("agentlm-cpu-{index}"))
                .spawn(move || shared.work(index))
                .map_err(|error| PoolError::Spawn {
                    index,
                    reason: error.to_string(),
                })?;
            pool.threads.push(thread);
        }
        Ok(pool)
    }

    /// Workers, the calling thread included.
    #[must_use]
    pub fn count(&self) -> usize {
        self.shared.count
    }

    /// Executes `f` on every worker and returns when all have finished. Callers from several threads take turns.
    ///
    /// # Errors
    /// [`PoolError::Panicked`] with the first panic, [`PoolError::Nested`] from inside a region,
    /// [`PoolError::Forked`] in a child process. The pool stays usable after a panic.
    pub fn run(&self, f: &(dyn Fn(&Worker<'_>) + Sync)) -> Result<(), PoolError> {
        let current = std::process::id();
        if current != self.owner {
            return Err(PoolError::Forked {
                owner: self.owner,
                current,
            });
        }
        if IN_REGION.get() {
            return Err(PoolError::Nested);
        }
        let _turn = lock(&self.turn);
        let shared = &*self.shared;
        shared.arrived.0.store(0, Ordering::Relaxed);
        shared.next_index.0.store(0, Ordering::Relaxed);
        shared.broken.store(false, Ordering::Relaxed);
        shared.running.0.store(shared.count - 1, Ordering::Relaxed);
        let region: *const Region<'_> = ptr::from_ref(f);
        // SAFETY: only the lifetime changes. The pointer is used until `running` reaches 0, which is awaited below on
        // every path (`enter` does not unwind), so the closure outlives its use. No worker reads the cell now: all wait at `start`.
        unsafe {
            *shared.region.get() = Some(std::mem::transmute::<*const Region<'_>, *const Region<'static>>(
                region,
            ));
        }
        if shared.count > 1 {
            shared.start.0.open();
        }
        IN_REGION.set(true);
        shared.enter(0, f);
        IN_REGION.set(false);
        if shared.count > 1 {
            shared
                .done
                .0
                .wait(shared.spins, || shared.running.0.load(Ordering::SeqCst) == 0);
        }
        match lock(&shared.first_panic).take() {
            Some((worker, message)) => Err(PoolError::Panicked { worker, message }),
            None => Ok(()),
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if std::process::id() != self.owner {
            // The threads exist only in the parent: there is nothing to join, not even to detach.
            std::mem::forget(std::mem::take(&mut self.threads));
            return;
        }
        self.shared.shutdown.store(true, Ordering::SeqCst);
        self.shared.start.0.open();
        for thread in self.threads.drain(..) {
            // A worker's panics are caught inside the region, so there is nothing to report.
            let _ = thread.join();
        }
    }
}

/// One worker's view of a region.
pub struct Worker<'a> {
    index: usize,
    shared: &'a Shared,
    in_loop: Cell<bool>,
}

impl Worker<'_> {
    /// This worker's index, `0..count`; 0 is the thread that called [`Pool::run`].
    #[must_use]
    pub fn index(&self) -> usize {
        self.index
    }

    /// Workers in the region.
    #[must_use]
    pub fn count(&self) -> usize {
        self.shared.count
    }

    /// Waits until every worker has reached this barrier. All workers must pass the same barriers in the same order.
    ///
    /// # Panics
    /// Inside a parallel loop's body, where the others cannot arrive; and, silently, to leave a region that another
    /// worker's panic broke.
    #[expect(
        clippy::panic,
        reason = "the alternative is a region that never ends; `run` returns it as an error"
    )]
    pub fn barrier(&self) {
        if self.in_loop.get() {
            panic!("a barrier inside the body of a parallel loop can never be reached by all workers");
        }
        let shared = self.shared;
        if shared.count == 1 {
            shared.next_index.0.store(0, Ordering::Relaxed);
            return;
        }
        let gate = &shared.barrier.0;
        let epoch = gate.epoch.load(Ordering::SeqCst);
        if shared.arrived.0.fetch_add(1, Ordering::AcqRel) + 1 == shared.count {
            // Everyone else waits: the counters of the next barrier and loop can be reset without a race.
            shared.arrived.0.store(0, Ordering::Relaxed);
            shared.next_index.0.store(0, Ordering::Relaxed);
            gate.open();
        } else {
            gate.wait(shared.spins, || {
                gate.epoch.load(Ordering::SeqCst) != epoch || shared.broken.load(Ordering::SeqCst)
            });
        }
        if shared.broken.load(Ordering::Relaxed) {
            resume_unwind(Box::new(Stopped));
        }
    }

    /// Calls `body` once for each index in `0..n`, on whichever worker is free, and ends with a barrier.
    /// All workers must call it with the same `n`. Inside another loop's body it runs all of `0..n` on this worker.
    ///
    /// # Panics
    /// As [`Worker::barrier`].
    pub fn parallel_for(&self, n: usize, mut body: impl FnMut(usize)) {
        if self.in_loop.get() {
            (0..n).for_each(body);
            return;
        }
        self.in_loop.set(true);
        loop {
            let index = self.shared.next_index.0.fetch_add(1, Ordering::Relaxed);
            if index >= n {
                break;
            }
            body(index);
        }
        self.in_loop.set(false);
        self.barrier();
    }
}
