//! Fails the engine when one step takes longer than it ever should.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

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
    loop {
        std::thread::sleep(pause);
        let Some(shared) = shared.upgrade() else { return };
        if matches!(shared.health(), Health::Closed | Health::Failed(_)) {
            return;
        }
        let started = shared.step_started.load(Ordering::Acquire);
        if started == 0 {
            continue;
        }
        let age = shared
            .epoch
            .elapsed()
            .saturating_sub(Duration::from_nanos(started - 1));
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
