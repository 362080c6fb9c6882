//! Sampling parameters: each is taken in its range, and refused outside by its name.

use agentlm_core::params::{LARGEST_FACTOR, SMALLEST_FACTOR, SamplingParams};

use crate::behaviour::{Desk, new_tokens, refusal};
use crate::world::config;

#[test]
fn every_parameter_is_taken_in_its_range_and_nowhere_else() {
    type Set = fn(&mut SamplingParams, f32);
    let desk = Desk::new(config(64, 4, 64, 1));
    let most_tokens = desk.core.config().limits.max_top_n_tokens as f32;
    let beyond = |x: f32| [x, f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
    // Of the first the reciprocal is infinite, of the second that of a product; the last is what 1e39 becomes.
    let (tiny, small, large) = (1e-44, 1e-38, f32::MAX);
    let cases: [(&str, Set, &[f32], [f32; 4]); 12] = [
        (
            "temperature",
            |p, x| p.temperature = x,
            &[0.0, SMALLEST_FACTOR, 9.0, LARGEST_FACTOR],
            beyond(-1e-6),
        ),
        (
            "temperature",
            |p, x| p.temperature = x,
            &[1.0],
            [tiny, small, 9e-16, large],
        ),
        (
            "repetition_penalty",
            |p, x| p.repetition_penalty = x,
            &[SMALLEST_FACTOR, 9.0, LARGEST_FACTOR],
            beyond(0.0),
        ),
        (
            "repetition_penalty",
            |p, x| p.repetition_penalty = x,
            &[1.0],
            [tiny, small, 1.1e15, large],
        ),
        (
            "frequency_penalty",
            |p, x| p.frequency_penalty = x,
            &[-2.0, 2.0],
            beyond(2.001),
        ),
        (
            "presence_penalty",
            |p, x| p.presence_penalty = x,
            &[-2.0, 2.0],
            beyond(-2.001),
        ),
        ("top_p", |p, x| p.top_p = x, &[1e-6, 1.0], beyond(1.001)),
        ("typical_p", |p, x| p.typical_p = x, &[1e-6, 1.0], beyond(0.0)),
        ("min_p", |p, x| p.min_p = x, &[0.0, 0.999], beyond(1.0)),
        (
            "logit_bias",
            |p, x| p.logit_bias = vec![(3, x)],
            &[-100.0, 100.0],
            beyond(100.1),
        ),
        (
            "stop",
            |p, x| p.stop = vec!["s".repeat(x as usize)],
            &[1.0, 1024.0],
            [0.0, 1025.0, 2e3, 3e3],
        ),
        (
            "top_n_tokens",
            |p, x| p.top_n_tokens = x as u32,
            &[0.0, 2.0],
            [3.0, 4.0, 1e6, 4e9],
        ),
    ];
    assert_eq!(most_tokens, 2.0, "the last case is about it");
    for (name, set, inside, outside) in cases {
        let told = |x| {
            let mut params = new_tokens(1);
            set(&mut params, x);
            let checked = desk.core.config().check(&[1], &params);
            checked.err().map(|refusal| refusal.to_string())
        };
        for &x in inside {
            assert_eq!(told(x), None, "`{name}` of {x}");
        }
        for x in outside {
            let text = told(x).unwrap_or_default();
            assert!(
                text.starts_with(&format!("`{name}` ")),
                "`{name}` of {x}: {text:?}"
            );
        }
    }
    let many = |n| SamplingParams {
        stop: vec!["s".to_owned(); n],
        logit_bias: vec![(3, 1.0); 256 * n],
        ..new_tokens(1)
    };
    assert!(desk.core.config().check(&[1], &many(4)).is_ok());
    let counted = "`stop` supports up to 4 stop sequences. Given: 5";
    assert_eq!(refusal(config(64, 4, 64, 1), vec![1], many(5)), counted);
    let biased = SamplingParams {
        stop: Vec::new(),
        ..many(5)
    };
    let counted = "`logit_bias` supports up to 1024 token ids. Given: 1280";
    assert_eq!(refusal(config(64, 4, 64, 1), vec![1], biased), counted);
    for (min, max, told) in [
        (2, 2, None),
        (3, 2, Some("`min_new_tokens`")),
        (0, 0, Some("`max_new_tokens`")),
    ] {
        let params = SamplingParams {
            min_new_tokens: min,
            ..new_tokens(max)
        };
        let text = desk
            .core
            .config()
            .check(&[1], &params)
            .err()
            .map(|refusal| refusal.to_string());
        assert_eq!(
            text.as_deref().map(|text| text.split(' ').next()),
            told.map(Some),
            "{min} of {max}"
        );
    }
}
