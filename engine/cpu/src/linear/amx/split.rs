//! Values as sums of bfloat16, laid out as the matrix registers take them.
//!
//! Refuses to know products.

use std::arch::x86_64::*;
use std::ops::Range;

use super::super::avx512::load;
use super::super::choice::F16;
use super::super::driver::Job;
use super::tiles::{TILE, TILE_ROW, TILE_ROWS};
use super::{A_STEP, STEP};
use crate::weight::GROUP;

/// Values of a vector.
pub(super) const LANES: usize = 16;
/// Bytes of an input's weights.
pub(super) const INPUT_BYTES: usize = GROUP * 2;
/// How far ahead weights are fetched.
const AHEAD_BYTES: usize = 3072;

/// A mask of the first `n` lanes.
pub(super) fn lanes(n: usize) -> __mmask16 {
    #[expect(clippy::cast_possible_truncation, reason = "of at most 16 lanes")]
    let mask = ((1u32 << n.min(LANES)) - 1) as __mmask16;
    mask
}

/// An activation's high part: rounded to bfloat16.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) fn high_part(values: __m512) -> __m512 {
    // SAFETY: sixteen values of 16 bits, under another name.
    widened(unsafe { std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(values)) })
}

/// A weight's high part: cut off, not rounded. Of the eleven bits of half precision three at most are left, so the low part
/// is exact.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
pub(super) fn cut(values: __m512) -> __m512 {
    _mm512_and_ps(
        values,
        _mm512_castsi512_ps(_mm512_set1_epi32(0xFFFF_0000_u32.cast_signed())),
    )
}

/// Sixteen bfloat16 as f32.
#[inline]
#[target_feature(enable = "avx512f")]
fn widened(values: __m256i) -> __m512 {
    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(values)))
}

/// Splits some inputs of some rows: `[tile][step][high, low][16][32]`, filled up with zeros.
///
/// # Safety
/// The job's rows and inputs exist; `to` is aligned to 64 bytes and has room.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub(super) unsafe fn split_activations(job: &Job<'_>, rows: Range<usize>, inputs: Range<usize>, to: *mut u8) {
    let steps = inputs.len().div_ceil(STEP);
    let tile_bytes = steps * A_STEP;
    for row in 0..rows.len().next_multiple_of(TILE_ROWS) {
        let line = row / TILE_ROWS * tile_bytes + row % TILE_ROWS * TILE_ROW;
        for step in 0..steps {
            let left = if row < rows.len() {
                inputs.len() - step * STEP
            } else {
                0
            };
            let from = job
                .x
                .wrapping_add((rows.start + row) * job.x_stride + inputs.start + step * STEP);
            // SAFETY: what is not masked is one of the row's inputs; there is room for whole tiles.
            unsafe {
                let near = _mm512_maskz_loadu_ps(lanes(left), from);
                let far = _mm512_maskz_loadu_ps(lanes(left.saturating_sub(LANES)), from.wrapping_add(LANES));
                let near_low = _mm512_sub_ps(near, high_part(near));
                let far_low = _mm512_sub_ps(far, high_part(far));
                let to = to.add(line + step * A_STEP);
                _mm512_store_si512(to.cast(), rounded(far, near));
                _mm512_store_si512(to.add(TILE).cast(), rounded(far_low, near_low));
            }
        }
    }
}

/// Two vectors, the lower one first, as bfloat16.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn rounded(upper: __m512, lower: __m512) -> __m512i {
    // SAFETY: thirty-two values of 16 bits, under another name.
    unsafe { std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(upper, lower)) }
}

/// Splits a step of a group's weights: `[high, low][half][pair of inputs][16][2]`, filled up with zeros. Only half
/// precision has low parts.
///
/// # Safety
/// So many inputs, at most [`STEP`], lie at `from`; `to` is aligned to 64 bytes and has room.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub(super) unsafe fn split_weights<const LOW: bool>(from: *const u8, inputs: usize, to: *mut u8) {
    // SAFETY: the caller's promise.
    unsafe {
        if inputs < STEP {
            split_step::<LOW>(filled_up(from, inputs).as_ptr().cast(), to);
        } else {
            split_step::<LOW>(from, to);
        }
    }
}

/// The last inputs of a group as a whole step. On its own, since else the compiler makes the zeros in every step.
///
/// # Safety
/// So many inputs, fewer than [`STEP`], lie at `from`.
#[cold]
#[inline(never)]
pub(super) unsafe fn filled_up(from: *const u8, inputs: usize) -> [[u8; INPUT_BYTES]; STEP] {
    let mut whole = [[0; INPUT_BYTES]; STEP];
    // SAFETY: the caller's promise.
    unsafe { std::ptr::copy_nonoverlapping(from.cast(), whole.as_mut_ptr(), inputs) };
    whole
}

/// # Safety
/// As [`split_weights`], a whole step.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn split_step<const LOW: bool>(from: *const u8, to: *mut u8) {
    for pair in 0..STEP / 2 {
        for half in 0..2 {
            let line = from.wrapping_add((4 * pair + half) * TILE_ROW / 2);
            let to = to.wrapping_add(half * TILE + pair * TILE_ROW);
            // SAFETY: the caller's promise; a prefetch cannot fault.
            unsafe {
                _mm_prefetch::<_MM_HINT_T0>(
                    from.wrapping_add(AHEAD_BYTES + (2 * pair + half) * TILE_ROW)
                        .cast(),
                );
                if LOW {
                    let (even, odd) = (load::<F16>(line), load::<F16>(line.add(TILE_ROW)));
                    let (even_low, odd_low) = (_mm512_sub_ps(even, cut(even)), _mm512_sub_ps(odd, cut(odd)));
                    _mm512_store_si512(to.cast(), upper_halves(even, odd));
                    _mm512_store_si512(to.add(2 * TILE).cast(), upper_halves(even_low, odd_low));
                } else {
                    let even = _mm512_cvtepu16_epi32(_mm256_loadu_si256(line.cast()));
                    let odd = _mm512_cvtepu16_epi32(_mm256_loadu_si256(line.add(TILE_ROW).cast()));
                    _mm512_store_si512(to.cast(), _mm512_or_si512(even, _mm512_slli_epi32::<16>(odd)));
                }
            }
        }
    }
}

/// The upper 16 bits of each two values, side by side.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn upper_halves(even: __m512, odd: __m512) -> __m512i {
    let even = _mm512_srli_epi32::<16>(_mm512_castps_si512(even));
    _mm512_mask_blend_epi16(0xAAAA_AAAA, even, _mm512_castps_si512(odd))
}
