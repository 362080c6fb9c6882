//! What a step costs in the core: plan + commit + fence at 256 running requests, in nanoseconds.
//!
//! Under callgrind the same binary gives instructions a step, which do not depend on the machine's mood:
//! `bench/core_instructions.sh`. It takes the number of steps as its one argument.

#![expect(
    clippy::expect_used,
    reason = "a benchmark that cannot set itself up shall stop"
)]

use std::time::Instant;

use agentlm_core::params::{Limits, SamplingParams};
use agentlm_core::{Core, CoreConfig, Request, RequestId, Updates};

const RUNNING: u32 = 256;
const PROMPT: u32 = 200;
const MAX_TOTAL: u32 = 4096;

struct Desk {
    core: Core,
    arena: Vec<u32>,
    results: Vec<u32>,
    updates: Updates,
    submitted: u64,
}

impl Desk {
    fn new() -> Self {
        let config = CoreConfig {
            num_blocks: RUNNING * MAX_TOTAL / 16,
            max_running: RUNNING,
            max_step_tokens: 8192,
            limits: Limits {
                max_input_tokens: MAX_TOTAL - 1,
                max_total_tokens: MAX_TOTAL,
                max_stop_sequences: 4,
                max_top_n_tokens: 5,
                max_best_of: 1,
            },
            steps_in_flight: 1,
            prefix_cache: true,
            eos_token_ids: vec![2],
            top_cap: 5,
            max_scores: 32,
            vocab_size: 32_000,
            hash_key: [1; 32],
        };
        Self {
            arena: vec![0; config.arena_layout().slot_words()],
            results: vec![7; config.results_layout().slot_words()],
            core: Core::new(config).expect("a valid configuration"),
            updates: Updates::new(),
            submitted: 0,
        }
    }

    /// Half of the prompt is common to all.
    fn submit(&mut self, max_new_tokens: u32) {
        self.submitted += 1;
        let own = u32::try_from(self.submitted % 30_000).expect("below the vocabulary");
        let prompt = (0..PROMPT)
            .map(|n| if n < PROMPT / 2 { 3 + n } else { (own + n) % 30_000 })
            .collect();
        let params = SamplingParams {
            max_new_tokens: Some(max_new_tokens),
            ..SamplingParams::default()
        };
        let request = Request {
            id: RequestId(self.submitted),
            prompt,
            params,
            cache_seed: 0,
            constrained: false,
            adapter: 0,
        };
        self.core.submit(request).expect("accepted");
    }

    fn step(&mut self) {
        let step = self.core.plan(&mut self.arena).expect("something to compute");
        self.core
            .commit(step, &self.results, &mut self.updates)
            .expect("in order");
        self.core.fence(step);
    }
}

/// All rows decode. The name is what callgrind collects by.
#[unsafe(no_mangle)]
#[inline(never)]
fn measure_decode(desk: &mut Desk, steps: u32) {
    (0..steps).for_each(|_| desk.step());
}

/// All rows decode, four requests end and four are submitted and admitted in each step.
#[unsafe(no_mangle)]
#[inline(never)]
fn measure_churn(desk: &mut Desk, steps: u32) {
    for _ in 0..steps {
        (0..4).for_each(|_| desk.submit(64));
        desk.step();
    }
}

fn report(name: &str, steps: u32, run: impl FnOnce()) {
    let start = Instant::now();
    run();
    let step = start.elapsed().as_nanos() as f64 / f64::from(steps);
    println!(
        "{name}: {step:.0} ns a step, {:.1} ns a request",
        step / f64::from(RUNNING)
    );
}

fn main() {
    let steps = std::env::args()
        .skip(1)
        .find_map(|argument| argument.parse().ok())
        .unwrap_or(3000);
    let mut desk = Desk::new();
    (0..RUNNING).for_each(|_| desk.submit(MAX_TOTAL - PROMPT));
    (0..16).for_each(|_| desk.step());
    report("decode", steps, || measure_decode(&mut desk, steps));

    let mut desk = Desk::new();
    for _ in 0..200 {
        (0..4).for_each(|_| desk.submit(64));
        desk.step();
    }
    report("churn", steps, || measure_churn(&mut desk, steps));
}
