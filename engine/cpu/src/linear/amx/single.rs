//! One row without matrix registers, which would split the weights for a sixteenth of their work.
//!
//! Multiply-adds in the order in which the matrix registers add, so with the same bits: over a step's inputs one chain of
//! the even ones and one of the odd ones, both from 0; their sum is added to what was there. Only results below 2⁻¹²⁶,
//! which matrix registers flush to zero, may differ.

use std::arch::x86_64::*;

use super::super::avx512::load;
use super::super::choice::{BF16, F16};
use super::super::driver::Job;
use super::STEP;
use super::split::{INPUT_BYTES, LANES, cut, filled_up, high_part, lanes};
use crate::weight::GROUP;

/// How far ahead they are fetched.
const AHEAD_BYTES: usize = 3072;

/// Splits the row: high parts, then, `k` rounded up to whole steps behind them, low ones, as f32, filled up with zeros.
///
/// # Safety
/// `to` has room.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub(super) unsafe fn split_row(job: &Job<'_>, to: *mut f32) {
    let k = job.weight.k();
    let whole = k.next_multiple_of(STEP);
    for first in (0..whole).step_by(LANES) {
        // SAFETY: what is not masked is one of the row's inputs; there is room for whole steps.
        unsafe {
            let x = _mm512_maskz_loadu_ps(lanes(k.saturating_sub(first)), job.x.wrapping_add(first));
            let high = high_part(x);
            _mm512_storeu_ps(to.add(first), high);
            _mm512_storeu_ps(to.add(whole + first), high_part(_mm512_sub_ps(x, high)));
        }
    }
}

/// Computes a group's outputs.
///
/// # Safety
/// `x` is as [`split_row`] left it; the output is writable.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub(super) unsafe fn group<const LOW: bool>(job: &Job<'_>, group: usize, x: *const f32) {
    let (k, column) = (job.weight.k(), group * GROUP);
    let packed = job.weight.block_ptr(group, 0);
    let low = x.wrapping_add(k.next_multiple_of(STEP));
    let mut sums = match job.weight.bias() {
        // SAFETY: biases are there for whole groups.
        Some(bias) => unsafe { [0, LANES].map(|half| _mm512_loadu_ps(bias[column + half..].as_ptr())) },
        None => [_mm512_setzero_ps(); 2],
    };
    for first in (0..k).step_by(STEP) {
        let weights = packed.wrapping_add(first * INPUT_BYTES);
        // SAFETY: the step's inputs, or a copy of them that zeros fill up; the row's parts of them.
        unsafe {
            if k - first >= STEP {
                step::<LOW>(weights, x.add(first), low.add(first), &mut sums);
            } else {
                let weights = filled_up(weights, k - first);
                step::<LOW>(weights.as_ptr().cast(), x.add(first), low.add(first), &mut sums);
            }
        }
    }
    let columns = job.weight.n() - column;
    for (half, sum) in sums.into_iter().enumerate() {
        let exist = lanes(columns.saturating_sub(half * LANES));
        // SAFETY: the output has the columns that are not masked.
        unsafe { _mm512_mask_storeu_ps(job.out.wrapping_add(column + half * LANES), exist, sum) };
    }
}

/// # Safety
/// A step's weights of a group, and as many high and low parts.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn step<const LOW: bool>(
    weights: *const u8,
    high: *const f32,
    low: *const f32,
    sums: &mut [__m512; 2],
) {
    // By product, half of the columns, and whether the input is odd.
    let mut chains = [[[_mm512_setzero_ps(); 2]; 2]; 3];
    for input in (0..STEP).step_by(2) {
        for odd in 0..2 {
            // SAFETY: the caller's promise.
            unsafe {
                let x_high = _mm512_set1_ps(*high.add(input + odd));
                let x_low = _mm512_set1_ps(*low.add(input + odd));
                let line = weights.add((input + odd) * INPUT_BYTES);
                _mm_prefetch::<_MM_HINT_T0>(line.wrapping_add(AHEAD_BYTES).cast());
                for half in 0..2 {
                    let from = line.add(half * INPUT_BYTES / 2);
                    let (weight, rest) = if LOW {
                        let weight = load::<F16>(from);
                        let high = cut(weight);
                        (high, Some(_mm512_sub_ps(weight, high)))
                    } else {
                        (load::<BF16>(from), None)
                    };
                    let [by_high, by_low, rests] = &mut chains;
                    by_high[half][odd] = _mm512_fmadd_ps(x_high, weight, by_high[half][odd]);
                    by_low[half][odd] = _mm512_fmadd_ps(x_low, weight, by_low[half][odd]);
                    if let Some(rest) = rest {
                        rests[half][odd] = _mm512_fmadd_ps(x_high, rest, rests[half][odd]);
                    }
                }
            }
        }
    }
    for chain in chains.iter().take(if LOW { 3 } else { 2 }) {
        for (sum, [even, odd]) in sums.iter_mut().zip(chain) {
            *sum = _mm512_add_ps(*sum, _mm512_add_ps(*even, *odd));
        }
    }
}
