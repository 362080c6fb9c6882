//! What requests may carry besides a prompt: grammars, biases, scored prompts; and what a host may hold back.

use agentlm_core::arena::{View, flag};
use agentlm_core::params::SamplingParams;
use agentlm_core::{Request, RequestId};

use crate::behaviour::{Desk, new_tokens, refusal, request};
use crate::reference::VOCAB;
use crate::world::config;

#[test]
fn constrained_requests_are_named_with_their_samples() {
    let mut desk = Desk::new(config(16, 4, 64, 1));
    for id in 1..=3 {
        let request = Request {
            constrained: id != 2,
            ..request(
                id,
                vec![1; 10 * usize::try_from(id).expect("small")],
                new_tokens(4),
            )
        };
        desk.core.submit(request).expect("accepted");
    }
    let named = |desk: &Desk| {
        desk.core
            .constrained()
            .map(|(id, sample)| (id.0, sample))
            .collect::<Vec<_>>()
    };
    let (step, _) = desk.plan().expect("three prefills");
    let view = View::new(&desk.arena, desk.core.config().arena_layout()).expect("a valid slot");
    let flags: Vec<bool> = view
        .inits()
        .map(|init| init.flags & flag::CONSTRAINED != 0)
        .collect();
    assert_eq!(flags, [true, false, true]);
    assert_eq!(named(&desk), [(1, 0), (3, 2)]);
    desk.commit(step, 5);
    desk.core.abort(RequestId(1));
    desk.step(5);
    assert_eq!(named(&desk), [(3, 1)]);
}

#[test]
fn a_prompt_is_scored_chunk_by_chunk_and_not_taken_from_the_cache() {
    let mut desk = Desk::new(config(32, 4, 96, 1));
    desk.submit(1, vec![3; 80], new_tokens(1));
    desk.step(5);
    let scored = SamplingParams {
        prompt_logprobs: true,
        ..new_tokens(1)
    };
    desk.submit(2, vec![3; 80], scored);
    let mut found = Vec::new();
    while desk.core.live() > 0 {
        let entries = desk.step(5);
        let [entry] = entries[..] else {
            panic!("one request")
        };
        found.push((entry.computed, entry.q_len, entry.n_scores));
    }
    // 32 scores fit a step; the last position is followed by the sample.
    assert_eq!(found, [(0, 32, 32), (32, 32, 32), (64, 16, 15)]);
    desk.submit(3, vec![3; 80], new_tokens(1));
    let again = desk.step(5);
    assert_eq!(
        (again[0].computed, again[0].n_scores),
        (64, 0),
        "what it computed is shared"
    );
}

#[test]
fn biases_reach_the_row() {
    let mut desk = Desk::new(config(16, 4, 64, 1));
    let params = SamplingParams {
        logit_bias: vec![(3, -100.0), (9, 0.5)],
        watermark: true,
        ..new_tokens(1)
    };
    desk.submit(1, vec![2; 5], params);
    desk.submit(2, vec![2; 5], new_tokens(1));
    desk.plan().expect("two prefills");
    let view = View::new(&desk.arena, desk.core.config().arena_layout()).expect("a valid slot");
    let inits: Vec<_> = view.inits().collect();
    assert_eq!(inits[0].biases, [3, (-100.0_f32).to_bits(), 9, 0.5_f32.to_bits()]);
    assert_eq!(inits[0].flags & flag::WATERMARK, flag::WATERMARK);
    assert!(inits[1].biases.is_empty() && inits[1].flags & flag::WATERMARK == 0);
    assert_eq!((inits[0].tokens, inits[1].tokens), (&[2; 5][..], &[2; 5][..]));
}

#[test]
fn a_bias_out_of_range_is_refused_with_the_numbers() {
    let biased = |logit_bias| SamplingParams {
        logit_bias,
        ..new_tokens(1)
    };
    let cases = [
        (
            vec![(1, 100.5)],
            "`logit_bias` values must be >= -100.0 and <= 100.0. Given: 100.5 for token 1",
        ),
        (
            vec![(1, f32::NAN)],
            "`logit_bias` values must be >= -100.0 and <= 100.0. Given: NaN for token 1",
        ),
        (
            vec![(VOCAB, 1.0)],
            "`logit_bias` names token 16, but ids must be below 16",
        ),
        (
            vec![(1, 1.0); 1025],
            "`logit_bias` supports up to 1024 token ids. Given: 1025",
        ),
    ];
    for (logit_bias, text) in cases {
        assert_eq!(
            refusal(config(16, 4, 64, 1), vec![2; 5], biased(logit_bias)),
            text
        );
    }
}

#[test]
fn while_held_what_has_started_goes_on_and_nothing_else() {
    let mut desk = Desk::new(config(16, 4, 64, 1));
    desk.submit(1, vec![2; 40], new_tokens(3));
    desk.step(5);
    desk.submit(2, vec![2; 40], new_tokens(1));
    desk.core.hold(true);
    assert!(!desk.core.is_quiet());
    assert_eq!(desk.core.started().collect::<Vec<_>>(), [RequestId(1)]);
    desk.step(5);
    assert_eq!(desk.step(5).len(), 1);
    assert!(
        desk.core.is_quiet(),
        "the first has ended, the second has not started"
    );
    assert!(desk.plan().is_none());
    desk.core.forget_cache();
    desk.core.check().expect("every invariant");
    desk.core.hold(false);
    let entries = desk.step(5);
    assert_eq!(
        (entries[0].computed, entries[0].q_len),
        (0, 40),
        "the cache was emptied"
    );
}
