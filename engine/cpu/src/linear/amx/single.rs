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

/// Computes the outputs of groups side by side: so their weights are several streams.
///
/// # Safety
/// `x` is as [`split_row`] left it; the groups exist; the output is writable.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub(super) unsafe fn groups<const LOW: bool, const GROUPS: usize>(
    job: &Job<'_>,
    first: usize,
    x: *const f32,
) {
    let k = job.weight.k();
    let packed: [*const u8; GROUPS] = std::array::from_fn(|group| job.weight.block_ptr(first + group, 0));
    let low = x.wrapping_add(k.next_multiple_of(STEP));
    let mut sums = [[_mm512_setzero_ps(); 2]; GROUPS];
    if let Some(bias) = job.weight.bias() {
        for (group, sums) in sums.iter_mut().enumerate() {
            for (half, sum) in sums.iter_mut().enumerate() {
                // SAFETY: biases are there for whole groups.
                *sum = unsafe { _mm512_loadu_ps(bias[(first + group) * GROUP + half * LANES..].as_ptr()) };
            }
        }
    }
    for input in (0..k).step_by(STEP) {
        let mut weights = packed.map(|packed| packed.wrapping_add(input * INPUT_BYTES));
        // SAFETY: the step's inputs, or a copy of them that zeros fill up; the row's parts of them.
        unsafe {
            if k - input >= STEP {
                step::<LOW, GROUPS>(weights, x.add(input), low.add(input), &mut sums);
            } else {
                let filled: [_; GROUPS] = std::array::from_fn(|group| filled_up(weights[group], k - input));
                for (weights, filled) in weights.iter_mut().zip(&filled) {
                    *weights = filled.as_ptr().cast();
                }
                step::<LOW, GROUPS>(weights, x.add(input), low.add(input), &mut sums);
            }
        }
    }
    for (group, sums) in sums.into_iter().enumerate() {
        for (half, sum) in sums.into_iter().enumerate() {
            let column = (first + group) * GROUP + half * LANES;
            let exist = lanes(job.weight.n().saturating_sub(column));
            // SAFETY: the output has the columns that are not masked.
            unsafe { _mm512_mask_storeu_ps(job.out.wrapping_add(column), exist, sum) };
        }
    }
}

/// # Safety
/// A step's weights of each group, and as many high and low parts.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn step<const LOW: bool, const GROUPS: usize>(
    weights: [*const u8; GROUPS],
    high: *const f32,
    low: *const f32,
    sums: &mut [[__m512; 2]; GROUPS],
) {
    // By group, product, half of the columns, and whether the input is odd.
    let mut chains = [[[[_mm512_setzero_ps(); 2]; 2]; 3]; GROUPS];
    for input in (0..STEP).step_by(2) {
        for odd in 0..2 {
            // SAFETY: the caller's promise.
            unsafe {
                let x_high = _mm512_set1_ps(*high.add(input + odd));
                let x_low = _mm512_set1_ps(*low.add(input + odd));
                for (weights, chains) in weights.iter().zip(&mut chains) {
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
                        let [by_high, by_low, rests] = chains;
                        by_high[half][odd] = _mm512_fmadd_ps(x_high, weight, by_high[half][odd]);
                        by_low[half][odd] = _mm512_fmadd_ps(x_low, weight, by_low[half][odd]);
                        if let Some(rest) = rest {
                            rests[half][odd] = _mm512_fmadd_ps(x_high, rest, rests[half][odd]);
                        }
                    }
                }
            }
        }
    }
    for (sums, chains) in sums.iter_mut().zip(&chains) {
        for chain in chains.iter().take(if LOW { 3 } else { 2 }) {
            for (sum, [even, odd]) in sums.iter_mut().zip(chain) {
                *sum = _mm512_add_ps(*sum, _mm512_add_ps(*even, *odd));
            }
        }
    }
}
