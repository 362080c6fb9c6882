//! The executor on a small random Llama: right against f64, the same bits however the work is cut, typed refusals.

#![expect(clippy::unwrap_used, reason = "helpers of tests: a failure is the test's")]

mod common;

use agentlm_core::arena::flag;
use agentlm_core::results::Layout;
use agentlm_cpu::dtype::Dtype;
use agentlm_cpu::executor::Executor;
use agentlm_cpu::isa::Isa;
use agentlm_cpu::sampler::{Masks, NoMasks};
use common::llama::{ARENA, Llama, PLAIN, RESULTS, Shape};
use common::{Init, Slot};

fn prompt(n: usize, seed: usize) -> Vec<u32> {
    (0..n).map(|i| ((i * i * 7 + i * seed + 3) % 97) as u32).collect()
}

/// Blocks of a row in a scattered order, apart from other rows'.
fn blocks(row: u32, n: usize) -> Vec<u32> {
    (0..n.div_ceil(16) as u32)
        .map(|i| (i * 7 + 3 + row * 26) % 80)
        .collect()
}

struct Results(Vec<u32>);

impl Results {
    fn id(&self, sample: usize) -> u32 {
        self.0[Layout::IDS + sample]
    }
}

fn step(executor: &mut Executor, slot: &Slot) -> Results {
    let mut results = vec![0; RESULTS.slot_words()];
    executor.step(&slot.words(ARENA), &mut results, &NoMasks).unwrap();
    Results(results)
}

fn assert_close(got: &[f32], want: &[f64], tolerance: f64, what: &str) {
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!(
            (f64::from(*g) - w).abs() < tolerance,
            "{what}: logit {i} is {g}, not {w}"
        );
    }
}

/// Runs a prompt in the given cuts, then `decode` greedy steps; gives the logits of each sampled position and the ids.
fn generate(
    executor: &mut Executor,
    prompt: &[u32],
    cuts: &[usize],
    decode: usize,
) -> (Vec<Vec<f32>>, Vec<u32>) {
    let (mut logits, mut ids) = (vec![], vec![]);
    let mut slot =
        Slot::default()
            .init(Init::greedy(1, prompt))
            .blocks(1, 0, &blocks(1, prompt.len() + decode));
    let mut from = 0;
    for &cut in cuts.iter().chain([&prompt.len()]) {
        let samples = cut == prompt.len();
        let results = step(
            executor,
            &slot.entry(1, from as u32, (cut - from) as u32, samples),
        );
        if samples {
            ids.push(results.id(0));
            logits.push(executor.logits().to_vec());
        }
        (slot, from) = (Slot::default(), cut);
    }
    for i in 0..decode as u32 {
        let results = step(
            executor,
            &Slot::default().entry(1, prompt.len() as u32 + i, 1, true),
        );
        ids.push(results.id(0));
        logits.push(executor.logits().to_vec());
    }
    (logits, ids)
}

/// The log-probabilities of a prompt's tokens but the first, the prompt computed in the given cuts.
fn scores(executor: &mut Executor, prompt: &[u32], cuts: &[usize]) -> Vec<f32> {
    let mut slot = Slot::default()
        .init(Init {
            top_n: 2,
            ..Init::greedy(1, prompt)
        })
        .blocks(1, 0, &blocks(1, prompt.len()));
    let (mut from, mut found) = (0, vec![]);
    for &cut in cuts.iter().chain([&prompt.len()]) {
        let n = cut.min(prompt.len() - 1) - from;
        let samples = cut == prompt.len();
        let entry = slot.scored(1, from as u32, (cut - from) as u32, samples, n as u32);
        let results = step(executor, &entry);
        for i in 0..n {
            let logprob = f32::from_bits(results.0[RESULTS.score_logprobs() + i]);
            let at = i * RESULTS.top_cap as usize;
            let best = results.0[RESULTS.score_top_ids() + at];
            let best_logprob = f32::from_bits(results.0[RESULTS.score_top_logprobs() + at]);
            assert!(logprob <= best_logprob);
            assert_eq!(logprob == best_logprob, best == prompt[from + i + 1]);
            found.push(logprob);
        }
        (slot, from) = (Slot::default(), cut);
    }
    found
}

#[test]
fn prompts_are_scored_by_the_logits_before_each_token() {
    let model = Llama::random(PLAIN);
    let prompt = prompt(41, 3);
    let logits = model.forward(&prompt);
    let want = prompt.iter().skip(1).zip(&logits).map(|(&next, row)| {
        let total: f64 = row.iter().map(|x| x.exp()).sum();
        row[next as usize] - total.ln()
    });
    let want: Vec<f64> = want.collect();
    for isa in Isa::available() {
        let mut executor = model.executor(isa, 2, Dtype::F32);
        let found = scores(&mut executor, &prompt, &[16]);
        assert_close(&found, &want, 2e-4, &format!("{isa}"));
        for cuts in [vec![32], vec![16, 32], vec![16, 32, 40]] {
            assert_eq!(found, scores(&mut executor, &prompt, &cuts), "{cuts:?}");
        }
    }
}

/// Allows one id.
struct Only(Vec<u32>);

impl Masks for Only {
    fn of_sample(&self, index: usize) -> &[u32] {
        assert_eq!(index, 0);
        &self.0
    }
}

#[test]
fn masks_and_biases_decide_what_is_sampled() {
    let model = Llama::random(PLAIN);
    let prompt = prompt(20, 3);
    let mut executor = model.executor(Isa::available()[0], 2, Dtype::F32);
    let mut sampled = |init: Init, masks: &dyn Masks| {
        let slot = Slot::default()
            .init(init)
            .blocks(1, 0, &blocks(1, prompt.len()))
            .entry(1, 0, prompt.len() as u32, true);
        let mut results = vec![0; RESULTS.slot_words()];
        executor.step(&slot.words(ARENA), &mut results, masks).unwrap();
        results[Layout::IDS]
    };
    let greedy = || Init::greedy(1, &prompt);
    let free = sampled(greedy(), &NoMasks);
    let biased = Init {
        biases: vec![(free, -100.0), (11, 100.0)],
        ..greedy()
    };
    assert_eq!(sampled(biased.clone(), &NoMasks), 11);
    let constrained = Init {
        flags: flag::GREEDY | flag::CONSTRAINED,
        ..biased
    };
    assert_eq!(
        sampled(constrained.clone(), &Only(vec![0, 0, 1 << 3, 0])),
        67,
        "the mask is stronger than a bias"
    );
    assert_eq!(
        sampled(constrained, &NoMasks),
        agentlm_cpu::sampler::FAILED,
        "nothing is allowed"
    );
    assert_eq!(
        sampled(greedy(), &NoMasks),
        free,
        "a new request has no biases of the one before it"
    );
}

#[test]
fn logits_match_a_naive_forward_pass() {
    let shapes = [
        PLAIN,
        Shape {
            head_norms: true,
            bias: true,
            ..PLAIN
        },
        Shape {
            head_dim: 24,
            rotary_dim: 8,
            heads: 6,
            kv_heads: 1,
            window: Some(20),
            ..PLAIN
        },
    ];
    for shape in shapes {
        let model = Llama::random(shape);
        let prompt = prompt(37, 5);
        for isa in Isa::available() {
            for (dtype, tolerance) in [(Dtype::F32, 2e-4), (Dtype::F16, 3e-2)] {
                let mut executor = model.executor(isa, 2, dtype);
                let (logits, ids) = generate(&mut executor, &prompt, &[], 3);
                let mut tokens = prompt.clone();
                for (got, &id) in logits.iter().zip(&ids) {
                    let want = model.forward(&tokens).pop().unwrap();
                    assert_close(got, &want, tolerance, &format!("{shape:?}, {isa}, {dtype}"));
                    let largest = got
                        .iter()
                        .enumerate()
                        .max_by(|a, b| a.1.total_cmp(b.1))
                        .unwrap()
                        .0;
                    assert_eq!(id, largest as u32);
                    tokens.push(id);
                }
            }
        }
    }
}

#[test]
fn bits_do_not_depend_on_cuts_threads_or_the_batch() {
    let model = Llama::random(PLAIN);
    let prompt = prompt(300, 5);
    for isa in Isa::available() {
        let alone = generate(&mut model.executor(isa, 1, Dtype::F16), &prompt, &[], 8);
        for (threads, cuts) in [
            (2, vec![]),
            (3, vec![16, 48, 256]),
            (1, (1..300).collect::<Vec<_>>()),
        ] {
            let other = generate(&mut model.executor(isa, threads, Dtype::F16), &prompt, &cuts, 8);
            assert!(alone == other, "{isa}, {threads} threads, {} cuts", cuts.len());
        }
        // Beside two other requests, in one step with a prefill and a decode.
        let mut executor = model.executor(isa, 2, Dtype::F16);
        let others = (&prompt[..30], &prompt[7..70]);
        let slot = Slot::default()
            .init(Init::greedy(0, others.0))
            .blocks(0, 0, &blocks(0, 40))
            .entry(0, 0, 30, true);
        step(&mut executor, &slot);
        let slot = Slot::default()
            .init(Init::greedy(1, &prompt))
            .init(Init::greedy(2, others.1))
            .blocks(1, 0, &blocks(1, 320))
            .blocks(2, 0, &blocks(2, 80))
            .entry(0, 30, 1, true)
            .entry(1, 0, 300, true)
            .entry(2, 0, 40, false);
        let results = step(&mut executor, &slot);
        assert_eq!(results.id(1), alone.1[0], "{isa}");
        assert!(executor.logits()[97..] == alone.0[0], "{isa}: logits in a batch");
    }
}

#[test]
fn a_row_is_recomputed_to_the_same_bits_in_other_blocks() {
    let model = Llama::random(PLAIN);
    let prompt = prompt(40, 9);
    let mut executor = model.executor(Isa::detect(), 2, Dtype::F16);
    let (logits, ids) = generate(&mut executor, &prompt, &[], 2);
    let mut known = prompt;
    known.extend(&ids[..2]);
    let moved: Vec<u32> = [60, 61, 5, 79].to_vec();
    let init = Init {
        n_prompt: 40,
        ..Init::greedy(4, &known)
    };
    let slot = Slot::default()
        .init(init)
        .blocks(4, 0, &moved)
        .entry(4, 0, 42, true);
    assert_eq!(step(&mut executor, &slot).id(0), ids[2]);
    assert!(executor.logits() == logits[2]);
}

#[test]
fn a_step_may_sample_nothing_or_hold_nothing() {
    let model = Llama::random(PLAIN);
    let mut executor = model.executor(Isa::detect(), 2, Dtype::F16);
    step(&mut executor, &Slot::default());
    assert!(executor.logits().is_empty());
    let prompt = prompt(20, 2);
    let slot = Slot::default()
        .init(Init::greedy(0, &prompt))
        .blocks(0, 0, &[3, 4])
        .entry(0, 0, 16, false);
    step(&mut executor, &slot);
    assert!(executor.logits().is_empty());
}

#[test]
fn seeded_samples_repeat_and_differ_by_parallel_sample() {
    let model = Llama::random(PLAIN);
    let prompt = prompt(12, 4);
    let draw = |threads, rows: &[(u32, u32)]| {
        let mut executor = model.executor(Isa::detect(), threads, Dtype::F16);
        let mut slot = Slot::default();
        for &(row, sample_index) in rows {
            let seed = 0x0123_4567_89ab_cdef;
            let flags = flag::LOGPROBS;
            let init = Init {
                flags,
                temperature: 1.5,
                seed,
                sample_index,
                top_n: 3,
                ..Init::greedy(row, &prompt)
            };
            slot = slot
                .init(init)
                .blocks(row, 0, &blocks(row, 64))
                .entry(row, 0, 12, true);
        }
        let mut ids: Vec<Vec<u32>> = vec![vec![]; rows.len()];
        for position in 12..40 {
            let results = step(&mut executor, &slot);
            ids.iter_mut()
                .enumerate()
                .for_each(|(i, ids)| ids.push(results.id(i)));
            slot = rows.iter().fold(Slot::default(), |slot, &(row, _)| {
                slot.entry(row, position, 1, true)
            });
        }
        ids
    };
    let alone = draw(1, &[(0, 0)]).remove(0);
    let both = draw(2, &[(2, 1), (0, 0)]);
    assert_eq!(both[1], alone);
    assert_ne!(both[0], alone);
}

#[test]
fn plans_that_cannot_be_followed_are_refused_with_their_numbers() {
    let model = Llama::random(PLAIN);
    let good = || Slot::default().init(Init::greedy(0, &prompt(20, 2)));
    for (slot, expected) in [
        (good().blocks(0, 0, &[3, 80]).entry(0, 0, 20, true), "block 80"),
        (good().blocks(0, 1, &[3]).entry(0, 0, 20, true), "cells from 1 on"),
        (good().blocks(0, 0, &[3]).entry(0, 0, 20, true), "need 2 blocks"),
        (
            Slot::default()
                .init(Init::greedy(0, &[5, 97]))
                .blocks(0, 0, &[1])
                .entry(0, 0, 2, true),
            "token 97",
        ),
        (
            good()
                .blocks(0, 0, &[3, 4])
                .entry(0, 0, 16, false)
                .entry(0, 16, 4, true),
            "two entries",
        ),
    ] {
        let mut executor = model.executor(Isa::detect(), 1, Dtype::F16);
        let mut results = vec![0; RESULTS.slot_words()];
        let message = executor
            .step(&slot.words(ARENA), &mut results, &NoMasks)
            .unwrap_err()
            .to_string();
        assert!(message.contains(expected), "{message}");
        // The executor goes on: the row is initialised again.
        let slot = good().blocks(0, 0, &[3, 4]).entry(0, 0, 20, true);
        executor.step(&slot.words(ARENA), &mut results, &NoMasks).unwrap();
    }
}
