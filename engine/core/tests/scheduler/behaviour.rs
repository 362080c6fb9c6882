//! What a caller may rely on, case by case.

use agentlm_core::arena::{Entry, View};
use agentlm_core::params::SamplingParams;
use agentlm_core::results;
use agentlm_core::{Core, CoreConfig, FinishReason, Refusal, Request, RequestId, StepError, StepId, Updates};

use crate::reference::{EOS, VOCAB};
use crate::world::{MAX_INPUT, MAX_TOTAL, config};

/// A core whose samples the test chooses itself.
pub struct Desk {
    pub core: Core,
    pub arena: Vec<u32>,
    results: Vec<u32>,
    updates: Updates,
}

impl Desk {
    pub fn new(config: CoreConfig) -> Self {
        Self {
            arena: vec![0; config.arena_layout().slot_words()],
            results: vec![0; config.results_layout().slot_words()],
            core: Core::new(config).expect("a valid configuration"),
            updates: Updates::new(),
        }
    }

    pub fn submit(&mut self, id: u64, prompt: Vec<u32>, params: SamplingParams) {
        self.core.submit(request(id, prompt, params)).expect("accepted");
    }

    /// Plans a step; its entries, or none.
    pub fn plan(&mut self) -> Option<(StepId, Vec<Entry>)> {
        let step = self.core.plan(&mut self.arena)?;
        let view = View::new(&self.arena, self.core.config().arena_layout()).expect("a valid slot");
        assert_eq!(view.step(), step);
        Some((step, view.entries().collect()))
    }

    /// Commits with the same token for every sample, and fences.
    pub fn commit(&mut self, step: StepId, token: u32) {
        self.results.fill(token);
        self.core
            .commit(step, &self.results, &mut self.updates)
            .expect("in order");
        self.core.fence(step);
        self.core.check().expect("every invariant");
    }

    /// One synchronous step; its entries.
    pub fn step(&mut self, token: u32) -> Vec<Entry> {
        let (step, entries) = self.plan().expect("something to compute");
        self.commit(step, token);
        entries
    }

    fn tokens(&self) -> Vec<(u64, u32, Option<FinishReason>)> {
        self.updates
            .tokens
            .iter()
            .map(|update| (update.request.0, update.token, update.finish))
            .collect()
    }
}

pub fn request(id: u64, prompt: Vec<u32>, params: SamplingParams) -> Request {
    Request {
        id: RequestId(id),
        prompt,
        params,
        cache_seed: 0,
        constrained: false,
        adapter: 0,
    }
}

pub fn new_tokens(max: u32) -> SamplingParams {
    SamplingParams {
        max_new_tokens: Some(max),
        ..SamplingParams::default()
    }
}

pub fn refusal(config: CoreConfig, prompt: Vec<u32>, params: SamplingParams) -> String {
    let mut core = Core::new(config).expect("a valid configuration");
    core.submit(request(1, prompt, params))
        .expect_err("refused")
        .to_string()
}

#[test]
fn refusals_use_the_wire_texts() {
    let small = || config(64, 4, 64, 1);
    assert_eq!(
        refusal(small(), vec![], new_tokens(1)),
        "`inputs` cannot be empty"
    );
    assert_eq!(
        refusal(small(), vec![1; 100], new_tokens(29)),
        "`inputs` tokens + `max_new_tokens` must be <= 128. Given: 100 `inputs` tokens and 29 `max_new_tokens`"
    );
    assert_eq!(
        refusal(small(), vec![1; 200], SamplingParams::default()),
        "`inputs` tokens + `max_new_tokens` must be <= 128. Given: 200 `inputs` tokens and 0 `max_new_tokens`"
    );
    assert_eq!(
        refusal(small(), vec![1; 97], new_tokens(1)),
        "`inputs` must have less than 96 tokens. Given: 97"
    );
    assert_eq!(
        refusal(small(), vec![1, VOCAB], new_tokens(1)),
        "`inputs` token 1 has id 16, but ids must be below 16"
    );
    assert_eq!(
        refusal(
            small(),
            vec![],
            SamplingParams {
                top_p: 0.0,
                ..new_tokens(1)
            }
        ),
        "`top_p` must be > 0.0 and < 1.0"
    );
}

#[test]
fn a_request_that_can_never_fit_is_refused_with_the_numbers() {
    let text = refusal(config(4, 4, 64, 1), vec![1; 60], new_tokens(6));
    assert!(text.contains("needs 5 KV blocks but the cache has 4"), "{text}");
    // The last token is never computed: 65 tokens need 64 positions.
    Desk::new(config(4, 4, 64, 1)).submit(1, vec![1; 60], new_tokens(5));
}

#[test]
fn an_id_in_use_is_refused_and_free_again_after_the_end() {
    let mut desk = Desk::new(config(8, 4, 64, 1));
    desk.submit(1, vec![1; 4], new_tokens(1));
    let again = desk.core.submit(request(1, vec![1; 4], new_tokens(1)));
    assert_eq!(again, Err(Refusal::DuplicateId(RequestId(1))));
    desk.step(5);
    desk.submit(1, vec![1; 4], new_tokens(1));
}

#[test]
fn without_max_new_tokens_a_request_fills_what_there_is() {
    for (blocks, length) in [(64, MAX_TOTAL), (4, 4 * 16 + 1)] {
        let mut desk = Desk::new(config(blocks, 4, 128, 1));
        desk.submit(1, vec![1; 40], SamplingParams::default());
        for _ in 40..length - 1 {
            desk.step(5);
            assert_eq!(desk.tokens(), [(1, 5, None)]);
        }
        desk.step(5);
        assert_eq!(desk.tokens(), [(1, 5, Some(FinishReason::Length))]);
    }
}

#[test]
fn length_is_checked_before_end_of_sequence() {
    let mut desk = Desk::new(config(8, 4, 64, 1));
    desk.submit(1, vec![1; 4], new_tokens(2));
    desk.step(5);
    desk.step(EOS);
    assert_eq!(desk.tokens(), [(1, EOS, Some(FinishReason::Length))]);
}

#[test]
fn end_of_sequence_ends_unless_told_otherwise() {
    let ends = |params: SamplingParams| {
        let mut desk = Desk::new(config(8, 4, 64, 1));
        desk.submit(1, vec![1; 4], params);
        desk.step(EOS);
        desk.tokens()[0].2
    };
    assert_eq!(ends(new_tokens(5)), Some(FinishReason::EosToken));
    assert_eq!(
        ends(SamplingParams {
            ignore_eos: true,
            ..new_tokens(5)
        }),
        None
    );
    assert_eq!(
        ends(SamplingParams {
            min_new_tokens: 2,
            ..new_tokens(5)
        }),
        None
    );
    assert_eq!(
        ends(SamplingParams {
            min_new_tokens: 1,
            ..new_tokens(5)
        }),
        Some(FinishReason::EosToken)
    );
}

#[test]
fn a_long_prompt_is_cut_on_block_borders_beside_running_requests() {
    let mut desk = Desk::new(config(64, 4, 40, 1));
    desk.submit(1, vec![1; 4], new_tokens(9));
    desk.step(5);
    desk.submit(2, vec![2; 90], new_tokens(9));
    let chunks: Vec<(u32, u32)> = (0..3)
        .map(|_| desk.step(5)[1])
        .map(|entry| (entry.computed, entry.q_len))
        .collect();
    // 39 tokens of budget are left beside the decode: two blocks.
    assert_eq!(chunks, [(0, 32), (32, 32), (64, 26)]);
    assert_eq!(desk.tokens().len(), 2, "the last chunk samples");
}

#[test]
fn a_common_beginning_is_computed_once_per_cache_seed() {
    let mut desk = Desk::new(config(64, 4, 128, 1));
    desk.submit(1, vec![1; 40], new_tokens(1));
    desk.step(5);
    desk.submit(2, vec![1; 40], new_tokens(1));
    let other = Request {
        cache_seed: 1,
        ..request(3, vec![1; 40], new_tokens(1))
    };
    desk.core.submit(other).expect("accepted");
    let computed: Vec<u32> = desk.step(5).iter().map(|entry| entry.computed).collect();
    assert_eq!(computed, [32, 0]);
    let stats = desk.core.stats();
    assert_eq!((stats.prefix_lookup_tokens, stats.prefix_hit_tokens), (120, 32));
}

#[test]
fn a_full_hit_still_computes_the_end() {
    let mut desk = Desk::new(config(64, 4, 128, 1));
    for id in 1..3 {
        desk.submit(id, vec![1; 32], new_tokens(1));
        let entry = desk.step(5)[0];
        assert_eq!(
            (entry.computed, entry.q_len),
            if id == 1 { (0, 32) } else { (16, 16) }
        );
    }
}

#[test]
fn generated_tokens_enter_the_prefix_cache() {
    let mut desk = Desk::new(config(64, 4, 128, 1));
    desk.submit(1, vec![1; 10], new_tokens(30));
    (0..30).for_each(|_| drop(desk.step(5)));
    desk.submit(2, [vec![1; 10], vec![5; 30]].concat(), new_tokens(1));
    assert_eq!(desk.step(5)[0].computed, 32);
}

#[test]
fn tokens_past_a_stop_string_leave_the_prefix_cache() {
    let mut desk = Desk::new(config(64, 4, 128, 1));
    desk.submit(1, vec![1; 10], new_tokens(50));
    (0..30).for_each(|_| drop(desk.step(5)));
    // The stop string ended at the 8th token: position 18, in the second block.
    assert!(desk.core.finish(RequestId(1), 8, FinishReason::StopSequence));
    assert!(
        !desk.core.finish(RequestId(1), 8, FinishReason::StopSequence),
        "it has ended"
    );
    desk.submit(2, [vec![1; 10], vec![5; 30]].concat(), new_tokens(1));
    assert_eq!(desk.step(5)[0].computed, 16);
    assert_eq!(desk.core.stats().finished_stop, 1);
}

#[test]
fn the_latest_arrival_is_preempted_and_the_oldest_uses_the_whole_pool() {
    let mut desk = Desk::new(config(8, 4, 128, 1));
    desk.submit(1, vec![1; 30], new_tokens(90));
    desk.submit(2, vec![2; 30], new_tokens(90));
    let mut ends = Vec::new();
    while desk.core.live() > 0 {
        desk.step(5);
        ends.extend(
            desk.tokens()
                .into_iter()
                .filter(|(_, _, finish)| finish.is_some()),
        );
    }
    let length = Some(FinishReason::Length);
    assert_eq!(ends, [(1, 5, length), (2, 5, length)]);
    assert!(desk.core.stats().preemptions >= 1);
    assert_eq!(desk.core.stats().blocks.held, 0);
}

#[test]
fn of_an_unused_beginning_the_end_is_given_up_first() {
    let mut desk = Desk::new(config(6, 4, 128, 1));
    desk.submit(1, vec![1; 65], new_tokens(1));
    desk.step(5);
    // Two blocks are free and four are cached: it takes two of those.
    desk.submit(2, vec![2; 50], new_tokens(1));
    desk.step(5);
    desk.submit(3, vec![1; 65], new_tokens(1));
    assert_eq!(desk.step(5)[0].computed, 32);
}

#[test]
fn nobody_is_admitted_into_the_blocks_that_who_runs_will_need() {
    let mut desk = Desk::new(config(4, 4, 128, 1));
    desk.submit(1, vec![1; 4], new_tokens(20));
    desk.step(5);
    // There are three blocks for it, until the first request needs its second one.
    desk.submit(2, vec![2; 48], new_tokens(9));
    while desk.core.live() > 0 {
        desk.step(5);
    }
    let stats = desk.core.stats();
    assert_eq!((stats.finished_length, stats.preemptions), (2, 0));
}

#[test]
fn overlap_plans_a_decode_before_its_token_is_known() {
    let mut desk = Desk::new(config(8, 4, 64, 2));
    desk.submit(1, vec![1; 4], new_tokens(3));
    let (first, _) = desk.plan().expect("prefill");
    let (second, entries) = desk.plan().expect("a decode of a placeholder");
    assert_eq!(
        (entries[0].computed, entries[0].q_len, entries[0].sample_position),
        (4, 1, 5)
    );
    assert_eq!(desk.plan(), None, "two steps are in flight");
    desk.commit(first, 5);
    let (third, _) = desk.plan().expect("the last decode");
    desk.commit(second, 6);
    assert_eq!(desk.plan(), None, "step 3 certainly ends the request by length");
    desk.commit(third, 7);
    assert_eq!(desk.tokens(), [(1, 7, Some(FinishReason::Length))]);
    assert_eq!(
        desk.core.stats().tokens_computed,
        6,
        "4 + 1 + 1: the last token is not computed"
    );
}

#[test]
fn overlap_drops_the_token_after_end_of_sequence() {
    let mut desk = Desk::new(config(8, 4, 64, 2));
    desk.submit(1, vec![1; 4], new_tokens(9));
    let (first, _) = desk.plan().expect("prefill");
    let (second, _) = desk.plan().expect("decode");
    desk.commit(first, EOS);
    assert_eq!(desk.tokens(), [(1, EOS, Some(FinishReason::EosToken))]);
    assert_eq!(
        desk.core.stats().blocks.limbo,
        1,
        "step 2 may still touch its block"
    );
    desk.commit(second, 5);
    assert!(desk.updates.is_empty());
    assert_eq!(desk.core.stats().blocks.limbo, 0);
}

#[test]
fn an_abort_in_flight_frees_after_the_fence_and_is_reported_once() {
    let mut desk = Desk::new(config(4, 1, 64, 1));
    desk.submit(1, vec![1; 40], new_tokens(20));
    desk.submit(2, vec![2; 40], new_tokens(20));
    let (step, _) = desk.plan().expect("prefill");
    assert!(desk.core.abort(RequestId(1)));
    assert!(!desk.core.abort(RequestId(1)));
    assert_eq!(desk.core.stats().blocks.limbo, 3);
    desk.results.fill(5);
    desk.core
        .commit(step, &desk.results, &mut desk.updates)
        .expect("in order");
    assert!(desk.updates.tokens.is_empty());
    assert_eq!(desk.updates.aborted, [RequestId(1)]);
    assert_eq!(desk.plan(), None, "row and blocks wait for the fence");
    desk.core.fence(step);
    assert!(desk.plan().is_some());
}

#[test]
fn an_abort_without_a_step_is_reported_on_request() {
    let mut desk = Desk::new(config(4, 1, 64, 1));
    desk.submit(1, vec![1; 4], new_tokens(1));
    desk.core.abort_all();
    desk.core.take_aborted(&mut desk.updates);
    assert_eq!(desk.updates.aborted, [RequestId(1)]);
    assert_eq!(desk.core.live(), 0);
    assert_eq!(desk.plan(), None);
}

#[test]
fn steps_are_committed_in_order_each_once() {
    let mut desk = Desk::new(config(8, 4, 64, 2));
    desk.submit(1, vec![1; 4], new_tokens(9));
    let (first, _) = desk.plan().expect("prefill");
    let (second, _) = desk.plan().expect("decode");
    let early = desk.core.commit(second, &desk.results, &mut desk.updates);
    assert_eq!(
        early,
        Err(StepError::OutOfOrder {
            given: 2,
            next: Some(1)
        })
    );
    let short = desk.core.commit(first, &[], &mut desk.updates);
    assert!(matches!(short, Err(StepError::ResultsTooShort { given: 0, .. })));
    desk.commit(first, 5);
    desk.commit(second, 5);
    let again = desk.core.commit(second, &desk.results, &mut desk.updates);
    assert_eq!(
        again.expect_err("committed").to_string(),
        "step 2 cannot be committed: no step is in flight"
    );
}

#[test]
fn a_configuration_that_cannot_work_is_refused() {
    let refused = |config: CoreConfig| Core::new(config).expect_err("refused").to_string();
    let good = || config(8, 4, 64, 1);
    let mut lengths = good();
    lengths.limits.max_input_tokens = MAX_TOTAL;
    assert!(refused(lengths).contains("below max_total_tokens"));
    assert!(
        refused(CoreConfig {
            num_blocks: 0,
            ..good()
        })
        .starts_with("num_blocks is 0")
    );
    assert!(
        refused(CoreConfig {
            max_running: 0,
            ..good()
        })
        .starts_with("max_running is 0")
    );
    assert!(
        refused(CoreConfig {
            max_step_tokens: 15,
            ..good()
        })
        .starts_with("max_step_tokens is 15")
    );
    assert!(
        refused(CoreConfig {
            steps_in_flight: 3,
            ..good()
        })
        .starts_with("steps_in_flight is 3")
    );
    assert!(refused(CoreConfig { top_cap: 1, ..good() }).starts_with("top_cap is 1"));
    assert!(
        refused(CoreConfig {
            vocab_size: 0,
            ..good()
        })
        .starts_with("vocab_size is 0")
    );
}

#[test]
fn new_rows_wait_until_their_tokens_fit_the_slot() {
    // 80 prompts of 96 tokens are 7680 words; the slab has 2 · 128 + 4096.
    let mut desk = Desk::new(config(1000, 100, 10_000, 1));
    for id in 0..80 {
        desk.submit(
            id,
            vec![u32::try_from(id % 16).expect("small"); MAX_INPUT as usize],
            new_tokens(9),
        );
    }
    assert_eq!(desk.step(5).len(), 45);
    assert_eq!(desk.step(5).len(), 80);
}

#[test]
fn a_failed_sample_ends_its_request_and_no_other() {
    let mut desk = Desk::new(config(16, 4, 128, 2));
    desk.submit(1, vec![1; 40], new_tokens(9));
    desk.submit(2, vec![2; 40], new_tokens(9));
    let (first, _) = desk.plan().expect("prefill");
    let (second, _) = desk.plan().expect("decode");
    desk.results.fill(5);
    desk.results[0] = results::FAILED;
    desk.core
        .commit(first, &desk.results, &mut desk.updates)
        .expect("in order");
    assert_eq!(desk.tokens(), [(2, 5, None)]);
    assert_eq!(desk.updates.failed, [RequestId(1)]);
    desk.core.fence(first);
    desk.commit(second, 5);
    assert_eq!(desk.tokens(), [(2, 5, None)]);
    // Nothing that it computed is found again.
    desk.submit(3, vec![1; 40], new_tokens(1));
    assert_eq!(desk.step(5)[1].computed, 0);
}
