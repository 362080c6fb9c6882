//! A steady decode allocates nothing: counted, not believed.

#![expect(clippy::expect_used, reason = "a failed expectation is a failed test")]

mod counting;

use agentlm_core::params::{Limits, SamplingParams};
use agentlm_core::{Core, CoreConfig, Request, RequestId, StepId, Updates};
use counting::{Counting, allocations};

#[global_allocator]
static COUNTING: Counting = Counting;

const RUNNING: u32 = 256;
const PROMPT: u32 = 20;
const STEPS: u32 = 600;

fn core(steps_in_flight: u32) -> Core {
    let config = CoreConfig {
        num_blocks: RUNNING * 48,
        max_running: RUNNING,
        max_step_tokens: 8192,
        limits: Limits {
            max_input_tokens: 512,
            max_total_tokens: 1024,
            max_stop_sequences: 4,
            max_top_n_tokens: 2,
            max_best_of: 1,
        },
        steps_in_flight,
        prefix_cache: true,
        eos_token_ids: vec![0],
        top_cap: 2,
        max_scores: 32,
        vocab_size: 1000,
        hash_key: [0; 32],
    };
    Core::new(config).expect("a valid configuration")
}

/// One pipe of steps, `depth` deep.
struct Pipe {
    core: Core,
    slots: Vec<Vec<u32>>,
    results: Vec<u32>,
    updates: Updates,
    next: u64,
    reported: usize,
}

impl Pipe {
    fn turn(&mut self) {
        let depth = self.slots.len() as u64;
        let slot = (self.next % depth) as usize;
        if let Some(step) = self.core.plan(&mut self.slots[slot]) {
            assert_eq!(step.0, self.next);
            self.next += 1;
        }
        if self.core.in_flight() >= depth {
            let oldest = StepId(self.next - depth);
            self.core
                .commit(oldest, &self.results, &mut self.updates)
                .expect("in order");
            self.core.fence(oldest);
            self.reported += self.updates.tokens.len();
        }
    }
}

fn steady_decode_allocates_nothing(steps_in_flight: u32) {
    let core = core(steps_in_flight);
    let (slot, results) = (
        core.config().arena_layout().slot_words(),
        core.config().results_layout().slot_words(),
    );
    let mut pipe = Pipe {
        slots: vec![vec![0; slot]; steps_in_flight as usize],
        results: vec![7; results],
        updates: Updates::new(),
        core,
        next: 1,
        reported: 0,
    };
    for id in 0..RUNNING {
        let params = SamplingParams {
            max_new_tokens: Some(900),
            top_n_tokens: 2,
            ..SamplingParams::default()
        };
        let prompt = (0..PROMPT).map(|n| 1 + (id + n) % 900).collect();
        let request = Request {
            id: RequestId(u64::from(id)),
            prompt,
            params,
            cache_seed: 0,
            constrained: false,
            adapter: 0,
        };
        pipe.core.submit(request).expect("accepted");
    }
    (0..8).for_each(|_| pipe.turn());
    let (before, reported) = (allocations(), pipe.reported);
    (0..STEPS).for_each(|_| pipe.turn());
    let after = allocations();
    assert_eq!(
        pipe.reported - reported,
        (RUNNING * STEPS) as usize,
        "every request advances in every step"
    );
    assert_eq!(after, before, "{steps_in_flight} steps in flight");
}

/// One test, so that no other test's allocations are counted.
#[test]
fn steady_decode_allocates_nothing_with_and_without_overlap() {
    steady_decode_allocates_nothing(1);
    steady_decode_allocates_nothing(2);
}
