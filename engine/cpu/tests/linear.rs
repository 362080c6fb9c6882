//! Linear layers: the right product, and the same bits whatever is computed beside it.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests, outside of any test function"
)]

use agentlm_cpu::dtype::Dtype;
use agentlm_cpu::isa::Isa;
use agentlm_cpu::linear::{LinearError, Rows, RowsMut, Scratch, linear_on_pool};
use agentlm_cpu::pool::Pool;
use agentlm_cpu::weight::{PackedWeight, Source};

/// Deterministic values in [-1, 1) that every storage format holds exactly.
fn values(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..count)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            ((state >> 56) as f32 - 128.0) / 128.0
        })
        .collect()
}

/// Values whose sums round, so that a different order shows.
fn noisy(count: usize, seed: u64) -> Vec<f32> {
    values(count, seed)
        .iter()
        .zip(values(count, seed + 1))
        .map(|(a, b)| a + b * 1.1e-3)
        .collect()
}

fn stored(values: &[f32], dtype: Dtype) -> Vec<u8> {
    let mut bytes = vec![0; values.len() * dtype.size()];
    dtype.encode(values, &mut bytes).unwrap();
    bytes
}

fn pack(pool: &Pool, weight: &[f32], n: usize, k: usize, dtype: Dtype, bias: Option<&[f32]>) -> PackedWeight {
    let bytes = stored(weight, Dtype::F32);
    PackedWeight::pack(
        pool,
        &[Source {
            bytes: &bytes,
            dtype: Dtype::F32,
            n,
        }],
        k,
        dtype,
        bias,
    )
    .unwrap()
}

/// The product of contiguous rows.
fn product(pool: &Pool, isa: Isa, x: &[f32], m: usize, weight: &PackedWeight) -> Vec<f32> {
    let (n, k) = (weight.n(), weight.k());
    let mut out = vec![f32::NAN; m * n];
    let mut scratch = Scratch::new(pool.count(), k).unwrap();
    linear_on_pool(
        pool,
        isa,
        Rows::new(x, m, k, k).unwrap(),
        weight,
        &mut RowsMut::new(&mut out, m, n, n).unwrap(),
        &mut scratch,
    )
    .unwrap();
    out
}

fn reference(x: &[f32], weight: &[f32], bias: Option<&[f32]>, (m, n, k): (usize, usize, usize)) -> Vec<f64> {
    let mut out = vec![0.0; m * n];
    for i in 0..m {
        for j in 0..n {
            let dot: f64 = (0..k)
                .map(|s| f64::from(x[i * k + s]) * f64::from(weight[j * k + s]))
                .sum();
            out[i * n + j] = dot + bias.map_or(0.0, |bias| f64::from(bias[j]));
        }
    }
    out
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

#[test]
fn products_match_a_double_precision_reference() {
    let pool = Pool::new(2).unwrap();
    let shapes = [
        (1, 1, 1),
        (1, 33, 7),
        (2, 16, 64),
        (3, 31, 257),
        (5, 40, 512),
        (7, 64, 300),
        (14, 48, 256),
        (15, 50, 259),
        (16, 95, 130),
        (17, 33, 520),
        (28, 70, 256),
        (29, 64, 256),
        (57, 130, 513),
        (130, 97, 300),
    ];
    for isa in Isa::available() {
        for (m, n, k) in shapes {
            let (x, weight, bias) = (noisy(m * k, 1), values(n * k, 2), noisy(n, 3));
            for dtype in Dtype::ALL {
                for bias in [None, Some(&bias[..])] {
                    let expected = reference(&x, &weight, bias, (m, n, k));
                    let got = product(&pool, isa, &x, m, &pack(&pool, &weight, n, k, dtype, bias));
                    // Split activations have 16 bits.
                    let is_split = isa == Isa::Amx && dtype != Dtype::F32;
                    let bound = if is_split { 4e-6 } else { 1e-6 } * (k as f64).sqrt() + 1e-6;
                    for (i, (got, expected)) in got.iter().zip(&expected).enumerate() {
                        let error = (f64::from(*got) - expected).abs();
                        assert!(
                            error < bound,
                            "{isa} {dtype} {m}x{n}x{k} [{i}]: {got} for {expected}"
                        );
                    }
                }
            }
        }
    }
}

/// Compares batches of `rows` sizes with the same rows computed one by one.
fn check_batches(isa: Isa, dtype: Dtype, (n, k): (usize, usize), rows: impl Iterator<Item = usize>) {
    let pool = Pool::new(2).unwrap();
    let most = 2048;
    let x = noisy(most * k, 5);
    let weight = pack(&pool, &noisy(n * k, 7), n, k, dtype, Some(&noisy(n, 9)));
    let alone: Vec<u32> = (0..most)
        .flat_map(|row| bits(&product(&pool, isa, &x[row * k..(row + 1) * k], 1, &weight)))
        .collect();
    for m in rows {
        let from = (m * 37) % (most - m + 1);
        let batch = product(&pool, isa, &x[from * k..], m, &weight);
        assert!(
            bits(&batch) == alone[from * n..(from + m) * n],
            "{isa} {dtype} m={m}"
        );
    }
}

#[test]
fn a_row_has_the_same_bits_in_every_batch() {
    let some = [
        83, 84, 85, 127, 128, 255, 256, 511, 512, 513, 514, 1000, 1024, 1537, 2047, 2048,
    ];
    for isa in Isa::available() {
        for dtype in Dtype::ALL {
            check_batches(isa, dtype, (80, 600), (1..=64).chain(some));
        }
    }
}

#[test]
fn a_row_has_the_same_bits_in_batches_of_every_size() {
    // The portable kernels take too long for all sizes; their cut into tiles is the same code.
    for isa in Isa::available().into_iter().filter(|isa| *isa != Isa::Portable) {
        check_batches(isa, Dtype::F16, (33, 260), 1..=2048);
    }
}

#[test]
fn bits_do_not_depend_on_the_number_of_threads() {
    let (n, k) = (300, 700);
    let weight = noisy(n * k, 11);
    let pools = [1, 2, 3, 8].map(|threads| Pool::new(threads).unwrap());
    for isa in Isa::available() {
        let packed = pack(&pools[0], &weight, n, k, Dtype::F16, None);
        for m in [1, 4, 16, 20, 100] {
            let x = noisy(m * k, 13);
            let expected = bits(&product(&pools[0], isa, &x, m, &packed));
            for pool in &pools[1..] {
                assert!(
                    bits(&product(pool, isa, &x, m, &packed)) == expected,
                    "{isa} m={m} threads={}",
                    pool.count()
                );
            }
        }
    }
}

#[test]
fn storage_that_holds_the_weights_exactly_changes_no_bit() {
    let pool = Pool::new(2).unwrap();
    let (n, k) = (70, 530);
    let weight = values(n * k, 17);
    for isa in Isa::available() {
        for m in [1, 6, 16, 28, 50] {
            let x = noisy(m * k, 19);
            let [a, b, c] = Dtype::ALL.map(|dtype| {
                bits(&product(
                    &pool,
                    isa,
                    &x,
                    m,
                    &pack(&pool, &weight, n, k, dtype, None),
                ))
            });
            assert!(b == c, "{isa} m={m}");
            // Only weights in half precision go to matrix registers.
            assert!(a == b || isa == Isa::Amx, "{isa} m={m}");
        }
    }
}

/// What AMX computes, in plain code: over 32 inputs a chain of the even products and one of the odd ones.
fn by_parts(x: &[f32], weight: &[f32], dtype: Dtype, bias: f32) -> f32 {
    let rounded = |value: f32| half::bf16::from_f32(value).to_f32();
    let cut = |value: f32| f32::from_bits(value.to_bits() & 0xFFFF_0000);
    let mut sum = bias;
    for (xs, ws) in x.chunks(32).zip(weight.chunks(32)) {
        let product = |a: &dyn Fn(f32) -> f32, b: &dyn Fn(f32) -> f32| {
            let chain = |odd: usize| {
                let inputs = (odd..xs.len()).step_by(2);
                inputs.fold(0.0_f32, |sum, i| a(xs[i]).mul_add(b(ws[i]), sum))
            };
            chain(0) + chain(1)
        };
        sum += product(&rounded, &cut);
        sum += product(&|x| rounded(x - rounded(x)), &cut);
        if dtype == Dtype::F16 {
            sum += product(&rounded, &|w| w - cut(w));
        }
    }
    sum
}

#[test]
fn matrix_registers_add_as_told() {
    if !Isa::Amx.is_available() {
        return;
    }
    let pool = Pool::new(2).unwrap();
    let (n, k) = (70, 300);
    for (dtype, weight) in [(Dtype::F16, noisy(n * k, 51)), (Dtype::BF16, values(n * k, 51))] {
        let weight: Vec<f32> = match dtype {
            Dtype::F16 => weight.iter().map(|&w| half::f16::from_f32(w).to_f32()).collect(),
            _ => weight,
        };
        let bias = noisy(n, 53);
        let packed = pack(&pool, &weight, n, k, dtype, Some(&bias));
        for m in [1, 2, 16, 17, 32, 33, 70] {
            let x = noisy(m * k, 55);
            let got = product(&pool, Isa::Amx, &x, m, &packed);
            for (i, got) in got.iter().enumerate() {
                let (row, column) = (i / n, i % n);
                let expected = by_parts(
                    &x[row * k..(row + 1) * k],
                    &weight[column * k..(column + 1) * k],
                    dtype,
                    bias[column],
                );
                assert_eq!(
                    got.to_bits(),
                    expected.to_bits(),
                    "{dtype} m={m} [{row}, {column}]"
                );
            }
        }
    }
}

#[test]
fn sources_are_stacked_and_converted() {
    let pool = Pool::new(2).unwrap();
    let k = 300;
    let parts = [(20, Dtype::BF16), (33, Dtype::F32), (5, Dtype::F16)];
    let weights: Vec<_> = parts.iter().map(|(n, _)| values(n * k, *n as u64)).collect();
    let bytes: Vec<_> = parts
        .iter()
        .zip(&weights)
        .map(|((_, dtype), w)| stored(w, *dtype))
        .collect();
    let sources: Vec<_> = parts
        .iter()
        .zip(&bytes)
        .map(|(&(n, dtype), bytes)| Source { bytes, dtype, n })
        .collect();
    let x = values(3 * k, 23);
    for dtype in Dtype::ALL {
        let stacked = PackedWeight::pack(&pool, &sources, k, dtype, None).unwrap();
        let whole = pack(&pool, &weights.concat(), 58, k, dtype, None);
        let isa = Isa::detect();
        assert!(
            product(&pool, isa, &x, 3, &stacked) == product(&pool, isa, &x, 3, &whole),
            "{dtype}"
        );
    }
}

#[test]
fn rows_apart_are_read_and_written_without_touching_what_lies_between() {
    let pool = Pool::new(2).unwrap();
    let (n, k, x_stride, out_stride) = (45, 130, 150, 64);
    let weight = values(n * k, 29);
    for isa in Isa::available() {
        let packed = pack(&pool, &weight, n, k, Dtype::F32, None);
        for m in [1, 5, 16, 40] {
            let x = noisy(m * x_stride, 31);
            let close: Vec<f32> = (0..m)
                .flat_map(|i| x[i * x_stride..i * x_stride + k].to_vec())
                .collect();
            let expected = product(&pool, isa, &close, m, &packed);
            let mut out = vec![7.0; m * out_stride];
            let mut scratch = Scratch::new(2, k).unwrap();
            let x = Rows::new(&x, m, k, x_stride).unwrap();
            let mut view = RowsMut::new(&mut out, m, n, out_stride).unwrap();
            linear_on_pool(&pool, isa, x, &packed, &mut view, &mut scratch).unwrap();
            for i in 0..m {
                assert_eq!(
                    out[i * out_stride..i * out_stride + n],
                    expected[i * n..(i + 1) * n],
                    "{isa} m={m}"
                );
                assert!(
                    out[i * out_stride + n..(i + 1) * out_stride]
                        .iter()
                        .all(|&v| v == 7.0),
                    "{isa} m={m}"
                );
            }
        }
    }
}

#[test]
fn an_infinite_or_missing_value_stays_in_its_row() {
    let pool = Pool::new(2).unwrap();
    let (m, n, k) = (20, 40, 64);
    let weight = values(n * k, 37);
    let packed = pack(&pool, &weight, n, k, Dtype::F16, None);
    for isa in Isa::available() {
        let mut x = values(m * k, 41);
        let clean = product(&pool, isa, &x, m, &packed);
        x[3 * k + 5] = f32::NAN;
        let got = product(&pool, isa, &x, m, &packed);
        assert!(got[3 * n..4 * n].iter().all(|v| v.is_nan()));
        assert!(bits(&got[..3 * n]) == bits(&clean[..3 * n]) && bits(&got[4 * n..]) == bits(&clean[4 * n..]));
    }
}

#[test]
fn arguments_that_do_not_fit_are_refused_with_the_numbers() {
    let pool = Pool::new(2).unwrap();
    let packed = pack(&pool, &values(12 * 10, 43), 12, 10, Dtype::F32, None);
    let (x, mut out) = (vec![0.0; 100], vec![0.0; 100]);
    let mut call = |k: usize, n: usize, workers: usize| {
        linear_on_pool(
            &pool,
            Isa::Portable,
            Rows::new(&x, 2, k, k).unwrap(),
            &packed,
            &mut RowsMut::new(&mut out, 2, n, n).unwrap(),
            &mut Scratch::new(workers, 10).unwrap(),
        )
    };
    assert_eq!(call(10, 12, 2), Ok(()));
    assert_eq!(call(9, 12, 2), Err(LinearError::InputWidth { given: 9, k: 10 }));
    assert!(matches!(
        call(10, 11, 2),
        Err(LinearError::OutputShape {
            columns: 11,
            n: 12,
            ..
        })
    ));
    assert!(matches!(
        call(10, 12, 1),
        Err(LinearError::Scratch {
            workers: 1,
            count: 2,
            ..
        })
    ));
    assert!(Rows::new(&x, 11, 10, 10).is_err(), "a view past its values");
    assert!(Rows::new(&x, 3, 10, 5).is_err(), "rows that overlap");
}

#[test]
fn weights_that_do_not_fit_are_refused_with_the_numbers() {
    let pool = Pool::new(1).unwrap();
    let bytes = [0; 40];
    let source = Source {
        bytes: &bytes,
        dtype: Dtype::F16,
        n: 5,
    };
    let message = |sources: &[Source<'_>], k, bias: Option<&[f32]>| {
        PackedWeight::pack(&pool, sources, k, Dtype::F32, bias)
            .unwrap_err()
            .to_string()
    };
    let short = message(&[source], 5, None);
    assert!(short.contains("40 bytes") && short.contains("50"), "{short}");
    assert!(message(&[], 4, None).contains("0 outputs"));
    assert!(message(&[source], 4, Some(&[0.0; 4])).contains("bias of 4"));
}
