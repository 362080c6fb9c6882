//! The sampler against plain f64 code, its distributions, and rows that no distribution can be made of.

use super::*;

const RESULTS: Layout = Layout {
    max_rows: 4,
    top_cap: 5,
    max_scores: 3,
};

fn record() -> SamplingRecord {
    SamplingRecord {
        flags: flag::LOGPROBS,
        temperature: 1.0,
        top_p: 1.0,
        typical_p: 1.0,
        repetition_penalty: 1.0,
        ..SamplingRecord::default()
    }
}

fn greedy() -> SamplingRecord {
    SamplingRecord {
        flags: flag::GREEDY | flag::LOGPROBS,
        ..record()
    }
}

struct Sampled {
    id: u32,
    logprob: f32,
    top: Vec<(u32, f32)>,
}

/// Samples one row on every instruction set, which must agree on the id.
fn run(record: &SamplingRecord, history: &[u32], logits: &[f32]) -> Sampled {
    let config = SamplerConfig::new(vec![1], logits.len());
    let mut all = Isa::available().into_iter().map(|isa| {
        let mut words = vec![0xAAAA_AAAA; RESULTS.slot_words()];
        let mut scratch = Scratch::new(logits.len());
        let mut logits = logits.to_vec();
        // SAFETY: only available sets are passed; the slot is ours.
        unsafe {
            let out = Outcome::of_sample(words.as_mut_ptr(), RESULTS, 2);
            sample(
                isa,
                &config,
                Row {
                    record,
                    history,
                    biases: &[],
                    mask: None,
                },
                &mut logits,
                &mut scratch,
                out,
            );
        }
        assert!(scratch.counts.iter().all(|&n| n == 0), "counts must be left zero");
        let top = (0..record.top_n as usize).map(|n| {
            let at = 2 * RESULTS.top_cap as usize + n;
            (
                words[RESULTS.top_ids() + at],
                f32::from_bits(words[RESULTS.top_logprobs() + at]),
            )
        });
        Sampled {
            id: words[Layout::IDS + 2],
            logprob: f32::from_bits(words[RESULTS.logprobs() + 2]),
            top: top.collect(),
        }
    });
    let first = all.next().unwrap();
    for other in all {
        assert_eq!(other.id, first.id);
        assert!(other.logprob == first.logprob || (other.logprob - first.logprob).abs() < 1e-5);
    }
    first
}

/// Reproducible logits with a spread like a language model's.
fn logits(n: usize, seed: u64) -> Vec<f32> {
    (0..n as u32)
        .map(|id| {
            Noise {
                seed,
                position: 7,
                sample_index: 0,
            }
            .gumbel(id)
                * 1.5
        })
        .collect()
}

fn log_softmax(xs: &[f32]) -> Vec<f64> {
    let largest = xs.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = xs.iter().map(|&x| f64::from(x - largest).exp()).sum();
    xs.iter().map(|&x| f64::from(x - largest) - sum.ln()).collect()
}

#[test]
fn greedy_takes_the_largest_and_of_equal_ones_the_lowest_id() {
    for n in [1, 5, 63, 64, 65, 1000, 4099] {
        let mut xs = logits(n, 3);
        let wanted = n * 2 / 3;
        xs[wanted] = 50.0;
        xs[n - 1] = 50.0;
        let got = run(&greedy(), &[5; 3], &xs);
        assert_eq!(got.id as usize, wanted, "{n}");
        assert!(
            (f64::from(got.logprob) - log_softmax(&xs)[wanted]).abs() < 1e-5,
            "{n}"
        );
    }
}

#[test]
fn unfiltered_sampling_is_the_documented_formula() {
    for (n, temperature) in [(1, 1.0), (70, 0.7), (3001, 1.0), (3001, 30.0), (3001, 0.05)] {
        let xs = logits(n, 11);
        for position in 1..40 {
            let record = SamplingRecord {
                temperature,
                seed: 99 << 40 | 5,
                sample_index: 2,
                ..record()
            };
            let noise = Noise {
                seed: record.seed,
                position: position as u32,
                sample_index: 2,
            };
            let largest = xs.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let noisy = |id: usize| (xs[id] - largest) / temperature + noise.gumbel(id as u32);
            let best = (0..n)
                .rev()
                .max_by(|&a, &b| noisy(a).total_cmp(&noisy(b)))
                .unwrap();
            let got = run(&record, &vec![0; position], &xs);
            assert_eq!(
                got.id as usize, best,
                "{n} ids at temperature {temperature}, position {position}"
            );
        }
    }
}

#[test]
fn draws_follow_the_softmax() {
    let xs = [2.0, 1.0, 0.0, -1.0, f32::NEG_INFINITY];
    let draws = 4000;
    for filters in [record(), SamplingRecord { top_k: 3, ..record() }] {
        let mut counts = [0; 5];
        for seed in 0..draws {
            counts[run(&SamplingRecord { seed, ..filters }, &[0; 9], &xs).id as usize] += 1;
        }
        let kept = if filters.top_k > 0 { 3 } else { 4 };
        let expected = log_softmax(&xs[..kept]);
        for (id, &count) in counts.iter().enumerate() {
            let p = expected.get(id).map_or(0.0, |x| x.exp());
            let deviation = (f64::from(count) - p * draws as f64).abs();
            assert!(
                deviation <= 5.0 * (p * (1.0 - p) * draws as f64).sqrt(),
                "id {id}: {count} draws, p {p}"
            );
        }
    }
}

/// Which ids a record keeps, by plain sorting as transformers' warpers do it.
fn kept_by_sorting(record: &SamplingRecord, xs: &[f32]) -> Vec<u32> {
    let largest = xs.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut zs: Vec<(f64, u32)> = xs
        .iter()
        .zip(0..)
        .map(|(&x, id)| (f64::from((x - largest) / record.temperature), id))
        .collect();
    zs.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    if record.top_k > 0 && (record.top_k as usize) < zs.len() {
        let last = zs[record.top_k as usize - 1].0;
        zs.retain(|z| z.0 >= last);
    }
    let total = |zs: &[(f64, u32)]| zs.iter().map(|z| z.0.exp()).sum::<f64>();
    if record.top_p < 1.0 {
        let (all, mut above) = (total(&zs), 0.0);
        zs.retain(|z| {
            let keep = above < f64::from(record.top_p) * all;
            above += z.0.exp();
            keep
        });
    }
    if record.min_p > 0.0 {
        zs.retain(|z| z.0 >= f64::from(record.min_p.ln()));
    }
    if record.typical_p < 1.0 {
        let all = total(&zs);
        let surprise = |z: f64| all.ln() - z;
        let entropy: f64 = zs.iter().map(|z| z.0.exp() / all * surprise(z.0)).sum();
        zs.sort_by(|a, b| {
            (surprise(a.0) - entropy)
                .abs()
                .total_cmp(&(surprise(b.0) - entropy).abs())
                .then(a.1.cmp(&b.1))
        });
        let mut before = 0.0;
        zs.retain(|z| {
            let keep = before < f64::from(record.typical_p) * all;
            before += z.0.exp();
            keep
        });
    }
    let mut ids: Vec<u32> = zs.into_iter().map(|z| z.1).collect();
    ids.sort_unstable();
    ids
}

#[test]
fn filters_keep_what_sorting_keeps() {
    let base = record();
    let records = [
        SamplingRecord { top_k: 1, ..base },
        SamplingRecord { top_k: 50, ..base },
        SamplingRecord { top_k: 900, ..base },
        SamplingRecord {
            top_k: 100_000,
            top_p: 0.3,
            ..base
        },
        SamplingRecord { top_p: 0.9, ..base },
        SamplingRecord {
            top_p: 0.999,
            temperature: 3.0,
            ..base
        },
        SamplingRecord { top_p: 1e-6, ..base },
        SamplingRecord { min_p: 0.1, ..base },
        SamplingRecord {
            min_p: 0.02,
            top_p: 0.8,
            top_k: 60,
            ..base
        },
        SamplingRecord {
            typical_p: 0.2,
            ..base
        },
        SamplingRecord {
            typical_p: 0.95,
            ..base
        },
        SamplingRecord {
            typical_p: 0.5,
            top_k: 40,
            top_p: 0.95,
            temperature: 0.7,
            ..base
        },
    ];
    for n in [3, 64, 2500] {
        let xs = logits(n, 21);
        for record in &records {
            let expected = kept_by_sorting(record, &xs);
            for isa in Isa::available() {
                let largest = xs.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let mut zs = xs.clone();
                let mut kept = Vec::with_capacity(n);
                // SAFETY: only available sets are passed; there is room for the row.
                unsafe {
                    scale(isa, &mut zs, largest, record.temperature);
                    filter::keep(isa, &zs, record, &mut kept);
                }
                let mut ids: Vec<u32> = kept.iter().map(|c| c.id).collect();
                ids.sort_unstable();
                assert_eq!(ids, expected, "{n} ids, {isa}, {record:?}");
            }
            let got = run(record, &[0; 4], &xs);
            assert!(expected.contains(&got.id));
            // After processing: the kept tokens are the whole distribution.
            let zs: Vec<f32> = expected
                .iter()
                .map(|&id| xs[id as usize] / record.temperature)
                .collect();
            let at = expected.iter().position(|&id| id == got.id).unwrap();
            assert!(
                (f64::from(got.logprob) - log_softmax(&zs)[at]).abs() < 1e-4,
                "{record:?}"
            );
        }
    }
}

#[test]
fn min_p_keeps_what_lies_on_its_border() {
    let border = 0.25_f32.ln();
    let xs = [border, 0.0, border.next_down(), border.next_up()];
    let record = SamplingRecord {
        min_p: 0.25,
        ..record()
    };
    let mut kept = Vec::with_capacity(xs.len());
    for isa in Isa::available() {
        for top_p in [1.0, 0.999] {
            let record = SamplingRecord { top_p, ..record };
            // SAFETY: only available sets are passed; there is room for the row.
            unsafe { filter::keep(isa, &xs, &record, &mut kept) };
            let mut ids: Vec<u32> = kept.iter().map(|c| c.id).collect();
            ids.sort_unstable();
            assert_eq!(ids, [0, 1, 3], "{isa}, top_p {top_p}");
        }
    }
}

#[test]
fn equal_logits_survive_top_k_together() {
    let xs = vec![1.0; 5000];
    let mut kept = Vec::with_capacity(5000);
    for isa in Isa::available() {
        // SAFETY: only available sets are passed; there is room for the row.
        unsafe { select_top(isa, &xs, 10, &mut kept) };
        assert_eq!(kept.len(), 5000, "{isa}");
    }
}

#[test]
fn tgi_penalties_count_prompt_and_output() {
    let xs = [2.0, -9.0, -1.0, 1.0];
    let record = SamplingRecord {
        repetition_penalty: 2.0,
        frequency_penalty: 0.5,
        n_prompt: 2,
        top_n: 4,
        ..greedy()
    };
    let got = run(&record, &[0, 2, 0, 0], &xs);
    // 2 / 2 - 0.5 * 3/4 = 0.625; -1 * 2 - 0.5 / 4 = -2.125.
    let expected = log_softmax(&[0.625, -9.0, -2.125, 1.0]);
    assert_eq!(got.id, 3);
    assert_eq!(got.top.iter().map(|t| t.0).collect::<Vec<_>>(), [3, 0, 2, 1]);
    for (id, logprob) in got.top {
        assert!((f64::from(logprob) - expected[id as usize]).abs() < 1e-5);
    }
}

#[test]
fn openai_penalties_count_the_output_only_and_raw_logprobs_ignore_them() {
    let xs = [2.0, -9.0, 1.5, 1.0];
    let flags = flag::GREEDY | flag::LOGPROBS | flag::OPENAI_PENALTIES;
    let record = SamplingRecord {
        flags,
        frequency_penalty: 0.25,
        presence_penalty: 0.5,
        n_prompt: 2,
        ..greedy()
    };
    // Generated: 0 twice, so 2 - 0.5 - 0.5 = 1; the prompt's 2 is not penalised.
    let got = run(&record, &[2, 2, 0, 0], &xs);
    assert_eq!(got.id, 2);
    assert!((f64::from(got.logprob) - log_softmax(&[1.0, -9.0, 1.5, 1.0])[2]).abs() < 1e-5);
    let raw = SamplingRecord {
        flags: flags | flag::RAW_LOGPROBS,
        top_n: 2,
        ..record
    };
    let got = run(&raw, &[2, 2, 0, 0], &xs);
    assert_eq!(got.id, 2);
    assert!((f64::from(got.logprob) - log_softmax(&xs)[2]).abs() < 1e-5);
    assert_eq!(got.top.iter().map(|t| t.0).collect::<Vec<_>>(), [0, 2]);
}

#[test]
fn end_of_sequence_waits_for_min_new_tokens() {
    let xs = [0.0, 9.0, 1.0];
    let record = SamplingRecord {
        min_new_tokens: 2,
        n_prompt: 3,
        top_n: 3,
        ..greedy()
    };
    let early = run(&record, &[0; 4], &xs);
    assert_eq!(early.id, 2);
    assert_eq!(
        early.top[2],
        (NONE, f32::NEG_INFINITY),
        "a masked id is never listed"
    );
    assert_eq!(run(&record, &[0; 5], &xs).id, 1);
    let banned = SamplingRecord {
        flags: flag::BAN_EOS | flag::GREEDY,
        ..record
    };
    assert_eq!(run(&banned, &[0; 9], &xs).id, 2);
}

#[test]
fn odd_logits_neither_crash_nor_win() {
    let (nan, inf) = (f32::NAN, f32::INFINITY);
    let sampling = [
        greedy(),
        record(),
        SamplingRecord {
            top_k: 2,
            top_n: 2,
            ..record()
        },
        SamplingRecord {
            top_p: 0.5,
            ..record()
        },
        SamplingRecord {
            typical_p: 0.5,
            repetition_penalty: 0.5,
            ..record()
        },
        SamplingRecord {
            flags: flag::RAW_LOGPROBS | flag::LOGPROBS,
            min_p: 0.1,
            ..record()
        },
        SamplingRecord {
            temperature: f32::MIN_POSITIVE,
            ..record()
        },
    ];
    for record in sampling {
        for n in [4, 100] {
            let mut xs = vec![nan; n];
            assert_eq!(run(&record, &[0, 3], &xs).id, FAILED, "all NaN, {record:?}");
            xs[3] = -5.0;
            let got = run(&record, &[0, 2], &xs);
            assert_eq!((got.id, got.logprob), (3, 0.0), "one number, {record:?}");
            xs[2] = inf;
            let got = run(&record, &[0, 2], &xs);
            assert_eq!((got.id, got.logprob), (2, 0.0), "one infinity, {record:?}");
            assert_eq!(
                run(&record, &[0], &vec![-inf; n]).id,
                FAILED,
                "all minus infinity, {record:?}"
            );
        }
    }
}

#[test]
fn a_configuration_that_does_not_fit_is_refused_with_the_numbers() {
    let config = |vocab, eos| SamplerConfig::new(vec![eos], vocab);
    for (config, expected) in [
        (config(0, 0), "0 ids"),
        (config(9, 0), "9 ids"),
        (config(5, 5), "id 5"),
    ] {
        let message = config.check(8).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
}
