//! RMSNorm of one row, alone or after adding to the residual. Refuses to know what the row is.

use super::simd::{Simd, isa_entry};

/// Sum of squares in four partial sums, combined in one fixed order.
#[inline(always)]
unsafe fn inverse_rms<S: Simd>(x: &[f32], eps: f32) -> f32 {
    let n = x.len();
    // SAFETY: loads stay below `n`; the last vector is partial.
    unsafe {
        let mut sums = [S::splat(0.0); 4];
        let mut i = 0;
        while i + 4 * S::LANES <= n {
            for (j, sum) in sums.iter_mut().enumerate() {
                let v = S::load(x.as_ptr().add(i + j * S::LANES));
                *sum = S::fma(v, v, *sum);
            }
            i += 4 * S::LANES;
        }
        while i < n {
            let left = n - i;
            let v = if left < S::LANES {
                S::load_first(x.as_ptr().add(i), left)
            } else {
                S::load(x.as_ptr().add(i))
            };
            sums[0] = S::fma(v, v, sums[0]);
            i += S::LANES;
        }
        let sum = S::sum(S::add(S::add(sums[0], sums[1]), S::add(sums[2], sums[3])));
        1.0 / (sum / n as f32 + eps).sqrt()
    }
}

/// Calls `f(offset, lanes)` for whole vectors and once for the rest.
macro_rules! each_vector {
    ($simd:ident, $n:expr, |$i:ident| $whole:expr, |$j:ident, $left:ident| $rest:expr) => {
        let mut $i = 0;
        while $i + $simd::LANES <= $n {
            $whole;
            $i += $simd::LANES;
        }
        if $i < $n {
            let ($j, $left) = ($i, $n - $i);
            $rest;
        }
    };
}

/// `out` may be `x`.
#[inline(always)]
pub(super) unsafe fn scale_rows<S: Simd>(x: *const f32, weight: &[f32], by: f32, out: *mut f32) {
    let n = weight.len();
    // SAFETY: `x` and `out` hold `n` values by the callers' checks.
    unsafe {
        let by = S::splat(by);
        let w = weight.as_ptr();
        each_vector!(
            S,
            n,
            |i| S::store(
                out.add(i),
                S::mul(S::mul(S::load(x.add(i)), by), S::load(w.add(i)))
            ),
            |i, left| {
                let v = S::mul(
                    S::mul(S::load_first(x.add(i), left), by),
                    S::load_first(w.add(i), left),
                );
                S::store_first(out.add(i), left, v);
            }
        );
    }
}

/// In place, for the heads of queries and keys.
#[inline(always)]
pub(super) unsafe fn rms_norm_in_place<S: Simd>(x: &mut [f32], weight: &[f32], eps: f32) {
    debug_assert_eq!(x.len(), weight.len());
    // SAFETY: both hold the same number of values.
    unsafe {
        let by = inverse_rms::<S>(x, eps);
        scale_rows::<S>(x.as_ptr(), weight, by, x.as_mut_ptr());
    }
}

#[inline(always)]
unsafe fn rms_norm_kernel<S: Simd>(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    debug_assert!(x.len() == weight.len() && x.len() == out.len());
    // SAFETY: all three hold the same number of values (a tape's shape checks).
    unsafe {
        let by = inverse_rms::<S>(x, eps);
        scale_rows::<S>(x.as_ptr(), weight, by, out.as_mut_ptr());
    }
}
isa_entry! {
    /// `out = x / sqrt(mean(x^2) + eps) * weight`; all of one length.
    fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) = rms_norm_kernel
}

#[inline(always)]
unsafe fn add_rms_norm_kernel<S: Simd>(
    residual: &mut [f32],
    x: &[f32],
    weight: &[f32],
    eps: f32,
    out: &mut [f32],
) {
    debug_assert!(x.len() == weight.len() && x.len() == out.len() && x.len() == residual.len());
    let n = weight.len();
    // SAFETY: all four hold the same number of values (a tape's shape checks).
    unsafe {
        let (r, p) = (residual.as_mut_ptr(), x.as_ptr());
        each_vector!(
            S,
            n,
            |i| S::store(r.add(i), S::add(S::load(r.add(i)), S::load(p.add(i)))),
            |i, left| {
                let v = S::add(S::load_first(r.add(i), left), S::load_first(p.add(i), left));
                S::store_first(r.add(i), left, v);
            }
        );
        let by = inverse_rms::<S>(residual, eps);
        scale_rows::<S>(residual.as_ptr(), weight, by, out.as_mut_ptr());
    }
}
isa_entry! {
    /// `residual += x`, then `out` = the norm of the residual; all of one length.
    fn add_rms_norm(residual: &mut [f32], x: &[f32], weight: &[f32], eps: f32, out: &mut [f32])
        = add_rms_norm_kernel
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Isa;

    fn values(n: usize, seed: usize) -> Vec<f32> {
        (0..n)
            .map(|i| ((i * 37 + seed * 101) % 97) as f32 / 31.0 - 1.4)
            .collect()
    }

    fn reference(x: &[f32], weight: &[f32], eps: f64) -> Vec<f64> {
        let mean = x.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / x.len() as f64;
        x.iter()
            .zip(weight)
            .map(|(&v, &w)| f64::from(v) / (mean + eps).sqrt() * f64::from(w))
            .collect()
    }

    #[test]
    fn norms_match_f64_and_the_residual_is_kept() {
        for isa in Isa::available() {
            for n in [1, 8, 16, 24, 64, 100, 576, 2048] {
                let (x, y, w) = (values(n, 1), values(n, 2), values(n, 3));
                let mut out = vec![f32::NAN; n];
                // SAFETY: only available sets are passed.
                unsafe { rms_norm(isa, &x, &w, 1e-5, &mut out) };
                for (got, want) in out.iter().zip(reference(&x, &w, 1e-5)) {
                    assert!(
                        (f64::from(*got) - want).abs() < 1e-6 * (1.0 + want.abs()),
                        "{isa}, {n}"
                    );
                }
                let mut residual = y.clone();
                // SAFETY: only available sets are passed.
                unsafe { add_rms_norm(isa, &mut residual, &x, &w, 1e-5, &mut out) };
                let sum: Vec<f32> = x.iter().zip(&y).map(|(a, b)| a + b).collect();
                assert_eq!(residual, sum, "{isa}, {n}");
                for (got, want) in out.iter().zip(reference(&sum, &w, 1e-5)) {
                    assert!(
                        (f64::from(*got) - want).abs() < 1e-6 * (1.0 + want.abs()),
                        "{isa}, {n}"
                    );
                }
            }
        }
    }
}
