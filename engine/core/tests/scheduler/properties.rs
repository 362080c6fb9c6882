//! Random sequences of operations on random small configurations.

use agentlm_core::params::SamplingParams;
use agentlm_core::{Core, CoreConfig};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};

use crate::reference::VOCAB;
use crate::world::{MAX_INPUT, World, config};

/// One operation. Numbers that choose among what exists are taken modulo its count.
#[derive(Clone, Debug)]
pub enum Op {
    /// A prompt that starts like others: `base` names the beginning.
    Submit {
        base: u32,
        shared: u32,
        own: Vec<u32>,
        ask: Ask,
    },
    /// A prompt that continues an earlier request: its prompt and everything it generated.
    Continue {
        which: usize,
        own: Vec<u32>,
        ask: Ask,
    },
    Plan,
    Commit,
    Fence,
    Abort(usize),
    Finish {
        which: usize,
        back: u32,
    },
}

/// What a request asks for.
#[derive(Clone, Debug)]
pub struct Ask {
    max_new: Option<u32>,
    min_new: u32,
    ignore_eos: bool,
    top_n: u32,
    cache_seed: u32,
    prompt_logprobs: bool,
}

impl Ask {
    fn params(&self) -> SamplingParams {
        SamplingParams {
            max_new_tokens: self.max_new,
            min_new_tokens: self.min_new.min(self.max_new.unwrap_or(u32::MAX)),
            ignore_eos: self.ignore_eos,
            top_n_tokens: self.top_n,
            logprobs: true,
            prompt_logprobs: self.prompt_logprobs,
            ..SamplingParams::default()
        }
    }
}

fn asks() -> impl Strategy<Value = Ask> {
    let max_new = prop_oneof![9 => (1..40_u32).prop_map(Some), 1 => Just(None)];
    let flags = (prop::bool::weighted(0.4), prop::bool::weighted(0.2));
    (max_new, 0..8_u32, flags, 0..3_u32, 0..2_u32).prop_map(
        |(max_new, min_new, (ignore_eos, prompt_logprobs), top_n, cache_seed)| Ask {
            max_new,
            min_new,
            ignore_eos,
            top_n,
            cache_seed,
            prompt_logprobs,
        },
    )
}

fn own() -> impl Strategy<Value = Vec<u32>> {
    vec(0..VOCAB, 0..20)
}

pub fn ops() -> impl Strategy<Value = Vec<Op>> {
    let submit = (0..3_u32, 0..70_u32, own(), asks()).prop_map(|(base, shared, own, ask)| Op::Submit {
        base,
        shared,
        own,
        ask,
    });
    let again =
        (any::<usize>(), own(), asks()).prop_map(|(which, own, ask)| Op::Continue { which, own, ask });
    vec(
        prop_oneof![
            3 => submit,
            1 => again,
            12 => Just(Op::Plan),
            12 => Just(Op::Commit),
            10 => Just(Op::Fence),
            1 => any::<usize>().prop_map(Op::Abort),
            1 => (any::<usize>(), 0..20_u32).prop_map(|(which, back)| Op::Finish { which, back }),
        ],
        100..240,
    )
}

pub fn configs() -> impl Strategy<Value = CoreConfig> {
    (
        8..40_u32,
        1..7_u32,
        16..100_u32,
        1..3_u32,
        prop::bool::weighted(0.8),
    )
        .prop_map(
            |(blocks, rows, budget, steps_in_flight, prefix_cache)| CoreConfig {
                prefix_cache,
                ..config(blocks, rows, budget, steps_in_flight)
            },
        )
}

/// Runs a sequence to its end and lets every request end.
pub fn run(core: Core, ops: &[Op]) -> Result<(), String> {
    let mut world = World::new(core);
    ops.iter().try_for_each(|op| apply(&mut world, op))?;
    world.drain()
}

fn apply(world: &mut World, op: &Op) -> Result<(), String> {
    let pick = |list: Vec<u32>, which: usize| list.get(which % list.len().max(1)).copied();
    match op {
        Op::Submit {
            base,
            shared,
            own,
            ask,
        } => {
            let mut prompt: Vec<u32> = (0..*shared).map(|n| (n * (base + 1) + n / 7) % VOCAB).collect();
            prompt.extend(own);
            prompt.push(1);
            world.submit(prompt, ask.params(), ask.cache_seed).map(drop)
        }
        Op::Continue { which, own, ask } => {
            let Some(serial) = pick(world.clients.keys().copied().collect(), *which) else {
                return Ok(());
            };
            let client = &world.clients[&serial];
            let mut prompt = [client.prompt.clone(), client.output.clone(), own.clone()].concat();
            prompt.truncate(MAX_INPUT as usize);
            let cache_seed = crate::reference::cache_seed(client.params.seed);
            world.submit(prompt, ask.params(), cache_seed).map(drop)
        }
        Op::Plan => world.plan().map(drop),
        Op::Commit => world.commit(),
        Op::Fence => world.fence(),
        Op::Abort(which) => match pick(world.live(), *which) {
            Some(serial) => world.abort(serial),
            None => Ok(()),
        },
        Op::Finish { which, back } => {
            let started = world
                .live()
                .into_iter()
                .filter(|serial| !world.clients[serial].output.is_empty());
            let Some(serial) = pick(started.collect(), *which) else {
                return Ok(());
            };
            let generated = u32::try_from(world.clients[&serial].output.len()).expect("short");
            world.finish(serial, generated.saturating_sub(*back).max(1))
        }
    }
}

fn hold_for(cases: u32) {
    let settings = Config {
        cases,
        failure_persistence: None,
        max_shrink_iters: 4096,
        ..Config::default()
    };
    let result = TestRunner::new(settings).run(&(configs(), ops()), |(config, ops)| {
        let core = Core::new(config).expect("a valid configuration");
        run(core, &ops).map_err(TestCaseError::fail)
    });
    if let Err(failure) = result {
        panic!("{failure}");
    }
}

/// Conservation, order, no starvation, and every output as if computed alone: some 10⁴ operations.
#[test]
fn random_operations_keep_every_promise() {
    hold_for(64);
}

/// The same for some 10⁶ operations: `cargo test --release -p agentlm-core --test scheduler soak -- --ignored`.
#[test]
#[ignore = "takes minutes; `make soak` runs it"]
fn soak() {
    hold_for(6000);
}
