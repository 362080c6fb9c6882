//! A steady decode allocates nothing on the engine thread, whatever passes to the other threads: counted, not believed.

#![expect(clippy::expect_used, reason = "a failed expectation is a failed test")]

#[path = "../../core/tests/counting/mod.rs"]
mod counting;

mod common;

use std::time::Duration;

use agentlm_core::CoreConfig;
use agentlm_core::params::SamplingParams;
use agentlm_host::{
    AdapterRef, EngineConfig, Finished, MockConfig, MockRunner, Next, RequestError, Sink, StepSource,
    Submission, Token, build,
};
use counting::{Counting, allocations};

#[global_allocator]
static COUNTING: Counting = Counting;

const REQUESTS: u32 = 8;
const LENGTH: u32 = 1000;
/// Until queues and buffers are as long as they get.
const WARM_UP: u32 = 100;
const STEPS: u32 = 800;

struct Unheard;

impl Sink for Unheard {
    fn token(&mut self, _: &Token<'_>, _: Option<&Finished>) {}

    fn fail(&mut self, _: &RequestError) {}
}

fn turn(source: &mut StepSource, runner: &mut MockRunner) {
    let Next::Step { id, slot } = source.next_step() else {
        return;
    };
    // SAFETY: the step is planned and not committed, and this is the only runner.
    let ran = unsafe {
        runner.run(
            source.arena_slot(slot),
            source.results_slot(slot),
            source.masks(slot),
        )
    };
    ran.expect("a plan of the core's");
    source.commit(id);
}

/// One test, so that no other test's allocations are counted.
#[test]
fn the_engine_thread_allocates_nothing_in_a_steady_decode() {
    let tokenizer = common::tokenizer();
    let core = CoreConfig {
        num_blocks: REQUESTS * 64,
        max_running: REQUESTS,
        ..common::core(&tokenizer, 16, 1024)
    };
    let config = EngineConfig {
        core,
        max_unfinished: 64,
        step_timeout: None,
    };
    let (handle, mut source) = build(config, tokenizer.clone()).expect("valid settings");
    let mock = MockConfig::for_tokenizer(&tokenizer, Duration::ZERO);
    let mut runner = MockRunner::new(mock, source.arena_layout(), source.results_layout());
    let running: Vec<_> = (0..REQUESTS)
        .map(|id| {
            let submission = Submission {
                prompt: vec![1 + id, 2, 3],
                params: SamplingParams {
                    max_new_tokens: Some(LENGTH),
                    top_n_tokens: 3,
                    ..SamplingParams::default()
                },
                keep_stop: false,
                adapter: AdapterRef::default(),
                grammar: None,
                sink: Box::new(Unheard),
            };
            handle.submit(submission).expect("the engine is open")
        })
        .collect();
    (0..WARM_UP).for_each(|_| turn(&mut source, &mut runner));
    let (steps, (before, _)) = (handle.snapshot().core.steps, allocations());
    (0..STEPS).for_each(|_| turn(&mut source, &mut runner));
    let (after, _) = allocations();
    assert_eq!(handle.snapshot().core.steps - steps, u64::from(STEPS));
    assert_eq!(after - before, 0, "in {STEPS} steps");
    drop(running);
    handle.shutdown(false);
    assert_eq!(source.next_step(), Next::Shutdown);
}
