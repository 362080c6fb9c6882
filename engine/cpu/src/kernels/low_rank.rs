//! One token's low-rank update, `out += Bᵀ (A x)`. Refuses to know which token, and whose.

use super::simd::{Simd, isa_entry};

#[inline(always)]
unsafe fn add_low_rank_kernel<S: Simd>(x: &[f32], a: &[f32], b: &[f32], inner: &mut [f32], out: &mut [f32]) {
    let (k, n) = (x.len(), out.len());
    for (row, inner) in a.chunks_exact(k).zip(inner.iter_mut()) {
        // SAFETY: both hold `k` values; the last vector is partial.
        *inner = unsafe {
            let mut sums = [S::splat(0.0); 4];
            let mut i = 0;
            while i + 4 * S::LANES <= k {
                for (j, sum) in sums.iter_mut().enumerate() {
                    let at = i + j * S::LANES;
                    *sum = S::fma(S::load(row.as_ptr().add(at)), S::load(x.as_ptr().add(at)), *sum);
                }
                i += 4 * S::LANES;
            }
            while i + S::LANES <= k {
                sums[0] = S::fma(S::load(row.as_ptr().add(i)), S::load(x.as_ptr().add(i)), sums[0]);
                i += S::LANES;
            }
            if i < k {
                let (row, x) = (row.as_ptr().add(i), x.as_ptr().add(i));
                sums[1] = S::fma(S::load_first(row, k - i), S::load_first(x, k - i), sums[1]);
            }
            S::sum(S::add(S::add(sums[0], sums[1]), S::add(sums[2], sums[3])))
        };
    }
    for (row, &inner) in b.chunks_exact(n).zip(inner.iter()) {
        // SAFETY: both hold `n` values; the last vector is partial.
        unsafe {
            let by = S::splat(inner);
            let mut i = 0;
            while i + S::LANES <= n {
                let to = out.as_mut_ptr().add(i);
                S::store(to, S::fma(by, S::load(row.as_ptr().add(i)), S::load(to)));
                i += S::LANES;
            }
            if i < n {
                let to = out.as_mut_ptr().add(i);
                let sum = S::fma(
                    by,
                    S::load_first(row.as_ptr().add(i), n - i),
                    S::load_first(to, n - i),
                );
                S::store_first(to, n - i, sum);
            }
        }
    }
}
isa_entry! {
    /// `inner = A x`, then `out += sum over r of inner[r] * b[r]`, with A `[rank, x.len()]` and b `[rank, out.len()]`.
    fn add_low_rank(x: &[f32], a: &[f32], b: &[f32], inner: &mut [f32], out: &mut [f32]) = add_low_rank_kernel
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Isa;

    #[test]
    fn matches_f64_at_every_width() {
        for isa in Isa::available() {
            for (k, n, rank) in [(1, 1, 1), (7, 9, 2), (64, 33, 3), (130, 200, 8)] {
                let value = |i: usize| (i * 37 % 101) as f32 / 50.0 - 1.0;
                let x: Vec<f32> = (0..k).map(value).collect();
                let a: Vec<f32> = (0..rank * k).map(|i| value(i + 5)).collect();
                let b: Vec<f32> = (0..rank * n).map(|i| value(i + 11)).collect();
                let mut out: Vec<f32> = (0..n).map(|i| value(i + 17)).collect();
                let before = out.clone();
                let mut inner = vec![f32::NAN; rank];
                // SAFETY: only available sets are passed.
                unsafe { add_low_rank(isa, &x, &a, &b, &mut inner, &mut out) };
                for i in 0..n {
                    let dot = |r: usize| {
                        (0..k)
                            .map(|j| f64::from(a[r * k + j]) * f64::from(x[j]))
                            .sum::<f64>()
                    };
                    let sum: f64 = (0..rank).map(|r| dot(r) * f64::from(b[r * n + i])).sum();
                    let error = f64::from(out[i]) - (f64::from(before[i]) + sum);
                    assert!(error.abs() < 1e-4, "{isa}, {k} {n} {rank}, {i}: {error}");
                }
            }
        }
    }
}
