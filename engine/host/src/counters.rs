//! A snapshot of what the engine did and holds, for metrics.

use agentlm_core::Stats;

/// Counters and gauges at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The core's own.
    pub core: Stats,
    /// Requests submitted and not yet ended.
    pub unfinished: usize,
    /// How long the oldest request that no step has included yet has waited, in seconds; 0 when there is none.
    pub oldest_waiting_seconds: f64,
    /// Duration of the last step, plan to commit, in seconds.
    pub last_step_seconds: f64,
    /// Sum of all steps' durations, in seconds.
    pub total_step_seconds: f64,
    /// Kernels that the runner compiled, or loaded from a cache on disk, once it had warmed up: requests waited for each.
    pub late_compilations: u64,
}

impl Snapshot {
    /// Every figure by name, for people and for tests.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^53")]
    pub fn named(&self) -> Vec<(&'static str, f64)> {
        let core = &self.core;
        vec![
            ("queued", f64::from(core.queued)),
            ("running", f64::from(core.running)),
            ("unfinished", self.unfinished as f64),
            ("oldest_waiting_seconds", self.oldest_waiting_seconds),
            ("blocks_free", f64::from(core.blocks.free)),
            ("blocks_cached", f64::from(core.blocks.cached)),
            ("blocks_held", f64::from(core.blocks.held)),
            ("blocks_limbo", f64::from(core.blocks.limbo)),
            ("preemptions", core.preemptions as f64),
            ("prefix_lookup_tokens", core.prefix_lookup_tokens as f64),
            ("prefix_hit_tokens", core.prefix_hit_tokens as f64),
            ("steps", core.steps as f64),
            ("tokens_computed", core.tokens_computed as f64),
            ("tokens_generated", core.tokens_generated as f64),
            ("aborted", core.aborted as f64),
            ("last_step_seconds", self.last_step_seconds),
            ("total_step_seconds", self.total_step_seconds),
            ("late_compilations", self.late_compilations as f64),
        ]
    }
}
