//! A step of the executor allocates nothing, a prompt's as little as a token's: counted, not believed.

mod common;
#[path = "../../core/tests/counting/mod.rs"]
mod counting;

use agentlm_core::arena::flag;
use agentlm_cpu::dtype::Dtype;
use agentlm_cpu::isa::Isa;
use agentlm_cpu::sampler::NoMasks;
use common::llama::{ARENA, Llama, PLAIN, RESULTS, Shape};
use common::{Init, Slot};
use counting::{Counting, allocations};

#[global_allocator]
static COUNTING: Counting = Counting;

const SHAPE: Shape = Shape {
    head_norms: true,
    bias: true,
    ..PLAIN
};
const PROMPT: u32 = 40;
const DECODED: u32 = 120;

/// Every kind of row: greedy with the most likely tokens, sampled from all, sampled from few under penalties.
fn rows(prompt: &[u32]) -> [Init; 3] {
    let greedy = Init {
        top_n: 5,
        ..Init::greedy(0, prompt)
    };
    let sampled = Init {
        row: 1,
        flags: flag::LOGPROBS,
        seed: 7,
        ..Init::greedy(1, prompt)
    };
    let filtered = Init {
        row: 2,
        flags: 0,
        top_k: 20,
        top_p: 0.9,
        temperature: 0.7,
        seed: 8,
        ..Init::greedy(2, prompt)
    };
    [greedy, sampled, filtered]
}

/// One test, so that no other test's allocations are counted.
#[test]
fn a_step_allocates_nothing() {
    let prompt: Vec<u32> = (0..PROMPT).map(|i| i * 7 % 97).collect();
    let blocks = |row: u32| -> Vec<u32> { (row * 20..row * 20 + (PROMPT + DECODED).div_ceil(16)).collect() };
    let mut slots = Vec::new();
    let mut first = Slot::default();
    for init in rows(&prompt) {
        let row = init.row;
        first = first.init(init).blocks(row, 0, &blocks(row));
    }
    // The prompts in two chunks, so that both a cut and a whole prompt are among the steps.
    slots.push(
        first
            .entry(0, 0, PROMPT, true)
            .entry(1, 0, 16, false)
            .entry(2, 0, PROMPT, true),
    );
    slots.push(
        Slot::default()
            .entry(0, PROMPT, 1, true)
            .entry(1, 16, PROMPT - 16, true)
            .entry(2, PROMPT, 1, true),
    );
    for i in 1..DECODED - 1 {
        let decode = Slot::default().entry(0, PROMPT + i, 1, true);
        slots.push(
            decode
                .entry(1, PROMPT + i - 1, 1, true)
                .entry(2, PROMPT + i, 1, true),
        );
    }
    let slots: Vec<Vec<u32>> = slots.iter().map(|slot| slot.words(ARENA)).collect();
    for isa in Isa::available() {
        let mut executor = Llama::random(SHAPE).executor(isa, 2, Dtype::F16);
        let mut results = vec![0; RESULTS.slot_words()];
        let (_, before) = allocations();
        let failed = slots
            .iter()
            .filter(|slot| executor.step(slot, &mut results, &NoMasks).is_err())
            .count();
        let (_, after) = allocations();
        assert_eq!(failed, 0);
        assert_eq!(after - before, 0, "{isa}: {} steps", slots.len());
    }
}
