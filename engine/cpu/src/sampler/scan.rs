//! Passes over one row of logits: largest value, exponential sum, candidates above a threshold, the noisy maximum.
//! Refuses to know parameters and rows' owners.

use super::noise::{CHUNK, LARGEST, Noise, gumbel, uniform};
use crate::kernels::exp::exp;
use crate::kernels::simd::{Simd, isa_entry};

/// A token that may be sampled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Candidate {
    /// Its value; what it means is the caller's business.
    pub(super) value: f32,
    /// Its id.
    pub(super) id: u32,
}

/// The largest value, and whether any is NaN or plus infinity.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Extent {
    pub(super) largest: f32,
    pub(super) odd: bool,
}

#[inline(always)]
unsafe fn extent_kernel<S: Simd>(xs: &[f32]) -> Extent {
    let (chunks, rest) = (
        xs.chunks_exact(4 * S::LANES),
        xs.chunks_exact(4 * S::LANES).remainder(),
    );
    let mut extent = Extent {
        largest: f32::NEG_INFINITY,
        odd: false,
    };
    // SAFETY: a chunk holds four vectors.
    unsafe {
        let finite = S::splat(f32::MAX);
        let mut largest = [S::splat(f32::NEG_INFINITY); 4];
        let mut fine = u32::MAX;
        for chunk in chunks {
            for (j, largest) in largest.iter_mut().enumerate() {
                let v = S::load(chunk.as_ptr().add(j * S::LANES));
                *largest = S::max(v, *largest);
                // NaN and plus infinity fail the comparison.
                fine &= S::at_least(finite, v);
            }
        }
        let largest = S::max(S::max(largest[0], largest[1]), S::max(largest[2], largest[3]));
        extent.largest = S::largest(largest);
        extent.odd = fine & ((1 << S::LANES) - 1) != (1 << S::LANES) - 1;
    }
    for &x in rest {
        extent.odd |= x.is_nan() || x == f32::INFINITY;
        if x > extent.largest {
            extent.largest = x;
        }
    }
    extent
}
isa_entry! { fn extent(xs: &[f32]) -> Extent = extent_kernel }

/// The first index whose value is `wanted`.
pub(super) fn index_of(xs: &[f32], wanted: f32) -> Option<usize> {
    const STEP: usize = 64;
    for (c, chunk) in xs.chunks(STEP).enumerate() {
        if chunk.iter().fold(false, |any, &x| any | (x == wanted)) {
            return chunk.iter().position(|&x| x == wanted).map(|i| c * STEP + i);
        }
    }
    None
}

/// Values in one partial sum of f32; the partial sums are added in f64.
const SUM_CHUNK: usize = 1024;

#[inline(always)]
unsafe fn exp_sum_kernel<S: Simd>(xs: &[f32], base: f32) -> f64 {
    let mut total = 0.0;
    for chunk in xs.chunks(SUM_CHUNK) {
        // SAFETY: vectors stay within the chunk; the last one is partial.
        unsafe {
            let base_lanes = S::splat(base);
            let mut sum = S::splat(0.0);
            let mut i = 0;
            while i + S::LANES <= chunk.len() {
                let x = S::sub(S::load(chunk.as_ptr().add(i)), base_lanes);
                sum = S::add(sum, exp::<S>(x));
                i += S::LANES;
            }
            if i < chunk.len() {
                let n = chunk.len() - i;
                let x = S::sub(S::load_first(chunk.as_ptr().add(i), n), base_lanes);
                sum = S::add(sum, S::keep_lanes(exp::<S>(x), 0, n as i32, S::splat(0.0)));
            }
            total += f64::from(S::sum(sum));
        }
    }
    total
}
isa_entry! {
    /// `sum of e^(x - base)`; `base` is the largest value.
    fn exp_sum(xs: &[f32], base: f32) -> f64 = exp_sum_kernel
}

#[inline(always)]
unsafe fn scale_kernel<S: Simd>(xs: &mut [f32], largest: f32, temperature: f32) {
    // SAFETY: vectors stay within the row; the last one is partial.
    unsafe {
        let (base, by) = (S::splat(largest), S::splat(temperature));
        let (p, n) = (xs.as_mut_ptr(), xs.len());
        let mut i = 0;
        while i + S::LANES <= n {
            S::store(p.add(i), S::div(S::sub(S::load(p.add(i)), base), by));
            i += S::LANES;
        }
        if i < n {
            let v = S::div(S::sub(S::load_first(p.add(i), n - i), base), by);
            S::store_first(p.add(i), n - i, v);
        }
    }
}
isa_entry! {
    /// `x = (x - largest) / temperature`.
    fn scale(xs: &mut [f32], largest: f32, temperature: f32) = scale_kernel
}

/// Calls `$found(id, value)` for every value `>= $threshold`, which the body may raise; ids ascend.
macro_rules! each_at_least {
    ($simd:ident, $xs:expr, $threshold:ident, $found:expr) => {
        let mut i = 0;
        while i + $simd::LANES <= $xs.len() {
            let v = $simd::load($xs.as_ptr().add(i));
            let mut bits = $simd::at_least(v, $simd::splat($threshold));
            while bits != 0 {
                let id = i + bits.trailing_zeros() as usize;
                bits &= bits - 1;
                $found(id as u32, *$xs.get_unchecked(id), &mut $threshold);
            }
            i += $simd::LANES;
        }
        for (id, &x) in $xs.iter().enumerate().skip(i) {
            if x >= $threshold {
                $found(id as u32, x, &mut $threshold);
            }
        }
    };
}

#[inline(always)]
unsafe fn collect_kernel<S: Simd>(xs: &[f32], threshold: f32, out: &mut Vec<Candidate>) {
    out.clear();
    let mut threshold = threshold;
    // SAFETY: vectors stay within the row.
    unsafe {
        each_at_least!(S, xs, threshold, |id: u32, value: f32, _: &mut f32| {
            if value > f32::NEG_INFINITY && out.len() < out.capacity() {
                out.push(Candidate { value, id });
            }
        });
    }
}
isa_entry! {
    /// All values `>= threshold` but minus infinity, ids ascending. `out` has room for the whole row.
    fn collect(xs: &[f32], threshold: f32, out: &mut Vec<Candidate>) = collect_kernel
}

/// Larger values first, of equal ones the lower id.
pub(super) fn descending(a: &Candidate, b: &Candidate) -> std::cmp::Ordering {
    b.value.total_cmp(&a.value).then(a.id.cmp(&b.id))
}

/// Keeps the `k` largest and whatever equals the smallest of them; gives that smallest value.
fn shrink(out: &mut Vec<Candidate>, k: usize) -> f32 {
    let (_, &mut last, _) = out.select_nth_unstable_by(k - 1, descending);
    out.retain(|candidate| candidate.value >= last.value);
    last.value
}

#[inline(always)]
unsafe fn select_top_kernel<S: Simd>(xs: &[f32], k: usize, out: &mut Vec<Candidate>) {
    out.clear();
    if k == 0 {
        return;
    }
    let room = (2 * k).max(k + 64);
    let mut limit = room;
    let mut threshold = f32::NEG_INFINITY;
    // SAFETY: vectors stay within the row.
    unsafe {
        each_at_least!(S, xs, threshold, |id: u32, value: f32, threshold: &mut f32| {
            if value >= *threshold && value > f32::NEG_INFINITY && out.len() < out.capacity() {
                out.push(Candidate { value, id });
                if out.len() >= limit {
                    *threshold = shrink(out, k);
                    // Many equal values survive: shrinking again costs as much as they do.
                    limit = room.max(2 * out.len());
                }
            }
        });
    }
    if out.len() > k {
        shrink(out, k);
    }
}
isa_entry! {
    /// The `k` largest values and whatever equals the smallest of them, without minus infinity, in no order. One pass, no
    /// sort. `out` has room for the whole row.
    fn select_top(xs: &[f32], k: usize, out: &mut Vec<Candidate>) = select_top_kernel
}

#[inline(always)]
unsafe fn noisy_max_kernel<S: Simd>(xs: &[f32], start: Candidate, noise: &Noise) -> u32 {
    let mut best = Candidate {
        value: start.value + noise.gumbel(start.id),
        id: start.id,
    };
    let mut words = [0; CHUNK];
    let consider = |best: &mut Candidate, id: usize, x: f32, word: u32| {
        let value = x + gumbel(word);
        if value > best.value || (value == best.value && (id as u32) < best.id) {
            *best = Candidate { value, id: id as u32 };
        }
    };
    let chunks = xs.chunks_exact(CHUNK);
    let (rest, rest_at) = (chunks.remainder(), xs.len() - chunks.remainder().len());
    for (c, chunk) in chunks.enumerate() {
        // SAFETY: a chunk holds CHUNK / LANES whole vectors.
        unsafe {
            let mut any = 0;
            let reach = S::splat(best.value - LARGEST);
            for j in (0..CHUNK).step_by(S::LANES) {
                any |= S::at_least(S::load(chunk.as_ptr().add(j)), reach);
            }
            if any == 0 {
                continue;
            }
            noise.words((c * CHUNK) as u32, &mut words);
            let mut short: [f32; CHUNK] = [0.0; CHUNK];
            for (short, &word) in short.iter_mut().zip(&words) {
                *short = 1.0 - uniform(word);
            }
            // x + g > best needs -ln u < e^(x - best), and 1 - u <= -ln u: most tokens fail that without a logarithm.
            // The margin covers the rounding of the exponential and of g.
            let (base, margin) = (S::splat(best.value), S::splat(1.0001));
            for j in (0..CHUNK).step_by(S::LANES) {
                let bound = S::mul(exp::<S>(S::sub(S::load(chunk.as_ptr().add(j)), base)), margin);
                let mut bits = S::at_least(bound, S::load(short.as_ptr().add(j)));
                while bits != 0 {
                    let i = j + bits.trailing_zeros() as usize;
                    bits &= bits - 1;
                    consider(&mut best, c * CHUNK + i, chunk[i], words[i]);
                }
            }
        }
    }
    if !rest.is_empty() {
        noise.words(rest_at as u32, &mut words);
        for (i, &x) in rest.iter().enumerate() {
            consider(&mut best, rest_at + i, x, words[i]);
        }
    }
    best.id
}
isa_entry! {
    /// The id with the largest value plus noise; of equal ones the lowest. `start` is any candidate, best the largest.
    fn noisy_max(xs: &[f32], start: Candidate, noise: &Noise) -> u32 = noisy_max_kernel
}
