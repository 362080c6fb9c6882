//! The reader takes nothing on trust: no slot, however damaged, makes it read out of bounds.

use agentlm_core::arena::{ArenaError, View, entry, flag, header};
use agentlm_core::params::SamplingParams;
use agentlm_core::{Core, CoreConfig, Request, RequestId};
use proptest::prelude::*;

use crate::world::config;

/// A slot with two rows, one of them mid-prefill.
fn slot() -> (CoreConfig, Vec<u32>) {
    let config = config(16, 4, 64, 1);
    let mut core = Core::new(config.clone()).expect("a valid configuration");
    let params = SamplingParams {
        max_new_tokens: Some(9),
        temperature: 0.5,
        top_k: 7,
        top_p: 0.9,
        seed: 0x0123_4567_89ab_cdef,
        logprobs: true,
        top_n_tokens: 2,
        ..SamplingParams::default()
    };
    for (id, len) in [(1, 20), (2, 60)] {
        let request = Request {
            id: RequestId(id),
            prompt: vec![3; len],
            params: params.clone(),
            cache_seed: 0,
            constrained: false,
            adapter: 0,
        };
        core.submit(request).expect("accepted");
    }
    let mut slot = vec![0; config.arena_layout().slot_words()];
    core.plan(&mut slot).expect("something to compute");
    (config, slot)
}

#[test]
fn a_slot_reads_back_as_it_was_planned() {
    let (config, slot) = slot();
    let view = View::new(&slot, config.arena_layout()).expect("valid");
    assert_eq!((view.n_entries(), view.n_tokens(), view.n_samples()), (2, 52, 1));
    assert_eq!((view.max_q_len(), view.max_context(), view.step().0), (32, 32, 1));
    let inits: Vec<_> = view.inits().collect();
    assert_eq!(inits[1].tokens, [3; 60]);
    assert_eq!((inits[0].n_prompt, inits[0].seed), (20, 0x0123_4567_89ab_cdef));
    assert_eq!(
        (inits[0].temperature, inits[0].top_k, inits[0].top_p),
        (0.5, 7, 0.9)
    );
    assert_eq!(
        (inits[0].flags, inits[0].top_n, inits[0].greedy()),
        (flag::LOGPROBS, 2, false)
    );
    let diffs: Vec<_> = view
        .block_diffs()
        .map(|diff| (diff.row, diff.start, diff.blocks.len()))
        .collect();
    assert_eq!(diffs, [(inits[0].row, 0, 2), (inits[1].row, 0, 4)]);
    assert_eq!(view.words().len(), slot[header::USED_WORDS] as usize);
}

#[test]
fn damage_is_named() {
    let (config, good) = slot();
    let layout = config.arena_layout();
    let broken = |word: usize, value: u32| {
        let mut slot = good.clone();
        slot[word] = value;
        View::new(&slot, layout).expect_err("refused")
    };
    assert!(matches!(broken(header::MAGIC, 1), ArenaError::Magic { given: 1 }));
    assert!(matches!(
        broken(header::VERSION, 9),
        ArenaError::Version { given: 9 }
    ));
    assert!(matches!(
        broken(header::USED_WORDS, u32::MAX),
        ArenaError::TooShort { .. }
    ));
    assert!(matches!(
        broken(header::N_ENTRIES, u32::MAX),
        ArenaError::Bounds {
            section: "entries",
            ..
        }
    ));
    assert!(matches!(
        broken(header::OFF_TOKENS, 0),
        ArenaError::Bounds {
            section: "tokens",
            ..
        }
    ));
    let row = broken(header::WORDS + entry::ROW, 4);
    assert_eq!(
        row.to_string(),
        "arena `entries` record 0: `row` is 4, which the layout does not allow"
    );
    assert!(matches!(
        View::new(&good[..8], layout),
        Err(ArenaError::TooShort { given: 8, .. })
    ));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_damage_makes_it_read_out_of_bounds(
        damage in prop::collection::vec((0..300_usize, any::<u32>(), 0..32_u32), 1..6),
    ) {
        let (config, mut slot) = slot();
        for (word, value, shift) in damage {
            slot[word] = value >> shift;
        }
        if let Ok(view) = View::new(&slot, config.arena_layout()) {
            let (rows, len) = (config.max_running, config.limits.max_total_tokens);
            prop_assert!(view.entries().all(|entry| entry.row < rows && entry.sample_position <= len));
            prop_assert!(view.inits().all(|init| init.row < rows && init.tokens.len() <= len as usize));
            prop_assert!(view.block_diffs().all(|diff| diff.row < rows && diff.blocks.len() <= slot.len()));
        }
    }
}
