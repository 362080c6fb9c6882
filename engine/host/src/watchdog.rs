//! Fails the engine when one step takes longer than it ever should.
//!
//! It counts the time in which it was awake: a process that was stopped (Ctrl-Z), or a machine that slept, did not compute.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crate::Health;
use crate::handle::Shared;

/// Watches steps until the engine ends. The thread holds no reference that would keep the engine alive.
pub(crate) fn spawn(shared: &Arc<Shared>, limit: Duration) -> std::io::Result<()> {
    let shared = Arc::downgrade(shared);
    let pause = (limit / 4).clamp(Duration::from_millis(5), Duration::from_millis(500));
    std::thread::Builder::new()
        .name("agentlm-watchdog".into())
        .spawn(move || watch(&shared, limit, pause))?;
    Ok(())
}

fn watch(shared: &Weak<Shared>, limit: Duration, pause: Duration) {
    let mut watched = Watched::default();
    loop {
        let before = Instant::now();
        std::thread::sleep(pause);
        // A late wake-up counts as two pauses at most.
        let awake = before.elapsed().min(pause * 2);
        let Some(shared) = shared.upgrade() else { return };
        if matches!(shared.health(), Health::Closed | Health::Failed(_)) {
            return;
        }
        let started = shared.step_started.load(Ordering::Acquire);
        let lasts = shared
            .epoch
            .elapsed()
            .saturating_sub(Duration::from_nanos(started.saturating_sub(1)));
        let age = watched.age(started, lasts, awake);
        if age > limit {
            shared.fail(&format!(
                "a step has run for {:.1} s, longer than the watchdog's {:.1} s",
                age.as_secs_f64(),
                limit.as_secs_f64()
            ));
            return;
        }
    }
}

/// How long the step in flight has been watched.
#[derive(Default)]
struct Watched {
    /// See [`Shared::step_started`].
    step: u64,
    age: Duration,
}

impl Watched {
    /// The age of the step that began at `step`, `lasts` ago, after another `awake` of watching. No step has none.
    fn age(&mut self, step: u64, lasts: Duration, awake: Duration) -> Duration {
        self.age = match step {
            0 => Duration::ZERO,
            same if same == self.step => self.age + awake,
            _ => lasts.min(awake),
        };
        self.step = step;
        self.age
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steps_age_is_the_time_it_was_watched() {
        let mut watched = Watched::default();
        let at = Duration::from_millis;
        // The process was stopped for an hour while step 9 ran.
        for (step, lasts, awake, age) in [
            (0, 5000, 100, 0),
            (7, 30, 100, 30),
            (7, 130, 100, 130),
            (9, 40, 100, 40),
            (9, 3_600_240, 200, 240),
            (9, 3_600_340, 100, 340),
            (0, 3_600_500, 100, 0),
            (12, 3_600_000, 100, 100),
        ] {
            assert_eq!(
                watched.age(step, at(lasts), at(awake)),
                at(age),
                "{step} after {lasts} ms"
            );
        }
    }
}
