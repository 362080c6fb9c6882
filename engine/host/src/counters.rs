//! A snapshot of what the engine did and holds, for metrics.

use agentlm_core::Stats;

/// Counters and gauges at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The core's own.
    pub core: Stats,
    /// Requests submitted and not yet ended.
    pub unfinished: usize,
    /// Duration of the last step, plan to commit, in seconds.
    pub last_step_seconds: f64,
    /// Sum of all steps' durations, in seconds.
    pub total_step_seconds: f64,
}
