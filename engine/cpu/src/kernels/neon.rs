//! The vector of f32 lanes on arm64, whose every processor has NEON. Refuses to know what the kernels compute.

#![cfg(target_arch = "aarch64")]

use std::arch::aarch64::*;
use std::arch::asm;

use super::simd::Simd;

/// NEON: eight lanes in two registers, so that a vector is as wide as AVX2's.
#[derive(Clone, Copy)]
pub(crate) struct Neon;

/// Lanes 0..4 and 4..8.
#[derive(Clone, Copy)]
pub(crate) struct Pair(float32x4_t, float32x4_t);

/// Four binary16 values as f32, exactly. (The intrinsic needs a type that stable Rust had not when this was written.)
///
/// # Safety
/// None beyond NEON.
#[inline(always)]
pub(crate) unsafe fn from_f16(bits: uint16x4_t) -> float32x4_t {
    let wide: float32x4_t;
    // SAFETY: one instruction of the base set, from register to register.
    unsafe {
        asm!("fcvtl {wide:v}.4s, {bits:v}.4h", wide = out(vreg) wide, bits = in(vreg) bits,
            options(pure, nomem, nostack, preserves_flags));
    }
    wide
}

/// Four f32 as binary16, to nearest even.
///
/// # Safety
/// None beyond NEON.
#[inline(always)]
unsafe fn to_f16(values: float32x4_t) -> uint16x4_t {
    let bits: uint16x4_t;
    // SAFETY: as above; the rounding mode is the process's, which nobody changes.
    unsafe {
        asm!("fcvtn {bits:v}.4h, {values:v}.4s", bits = out(vreg) bits, values = in(vreg) values,
            options(pure, nomem, nostack, preserves_flags));
    }
    bits
}

/// Four bfloat16 values as f32, exactly.
///
/// # Safety
/// None beyond NEON.
#[inline(always)]
pub(crate) unsafe fn from_bf16(bits: uint16x4_t) -> float32x4_t {
    // SAFETY: NEON.
    unsafe { vreinterpretq_f32_u32(vshlq_n_u32::<16>(vmovl_u16(bits))) }
}

/// Asks for a cache line into the first level (`1`) or the second. Any address will do.
#[inline(always)]
pub(crate) fn prefetch<const LEVEL: u8>(p: *const u8) {
    // SAFETY: a hint; it never faults.
    unsafe {
        if LEVEL == 1 {
            asm!("prfm pldl1keep, [{p}]", p = in(reg) p, options(readonly, nostack, preserves_flags));
        } else {
            asm!("prfm pldl2keep, [{p}]", p = in(reg) p, options(readonly, nostack, preserves_flags));
        }
    }
}

/// Ones in the lanes `lo..hi` of those that `lanes` counts.
#[inline(always)]
unsafe fn between(lanes: int32x4_t, lo: i32, hi: i32) -> uint32x4_t {
    // SAFETY: NEON.
    unsafe {
        vandq_u32(
            vcgeq_s32(lanes, vdupq_n_s32(lo)),
            vcltq_s32(lanes, vdupq_n_s32(hi)),
        )
    }
}

// SAFETY of every body below: the trait's contract, pointers valid for the lanes; NEON is part of the architecture.
impl Simd for Neon {
    type V = Pair;
    const LANES: usize = 8;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Pair {
        unsafe { Pair(vdupq_n_f32(x), vdupq_n_f32(x)) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Pair {
        unsafe { Pair(vld1q_f32(p), vld1q_f32(p.add(4))) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: Pair) {
        unsafe {
            vst1q_f32(p, v.0);
            vst1q_f32(p.add(4), v.1);
        }
    }
    #[inline(always)]
    unsafe fn load_first(p: *const f32, n: usize) -> Pair {
        unsafe {
            let mut lanes = [0f32; 8];
            std::ptr::copy_nonoverlapping(p, lanes.as_mut_ptr(), n);
            Self::load(lanes.as_ptr())
        }
    }
    #[inline(always)]
    unsafe fn store_first(p: *mut f32, n: usize, v: Pair) {
        unsafe {
            let mut lanes = [0f32; 8];
            Self::store(lanes.as_mut_ptr(), v);
            std::ptr::copy_nonoverlapping(lanes.as_ptr(), p, n);
        }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> Pair {
        unsafe { Pair(from_f16(vld1_u16(p)), from_f16(vld1_u16(p.add(4)))) }
    }
    #[inline(always)]
    unsafe fn store_f16(p: *mut u16, v: Pair) {
        unsafe {
            vst1_u16(p, to_f16(v.0));
            vst1_u16(p.add(4), to_f16(v.1));
        }
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> Pair {
        unsafe { Pair(from_bf16(vld1_u16(p)), from_bf16(vld1_u16(p.add(4)))) }
    }
    #[inline(always)]
    unsafe fn add(a: Pair, b: Pair) -> Pair {
        unsafe { Pair(vaddq_f32(a.0, b.0), vaddq_f32(a.1, b.1)) }
    }
    #[inline(always)]
    unsafe fn sub(a: Pair, b: Pair) -> Pair {
        unsafe { Pair(vsubq_f32(a.0, b.0), vsubq_f32(a.1, b.1)) }
    }
    #[inline(always)]
    unsafe fn mul(a: Pair, b: Pair) -> Pair {
        unsafe { Pair(vmulq_f32(a.0, b.0), vmulq_f32(a.1, b.1)) }
    }
    #[inline(always)]
    unsafe fn div(a: Pair, b: Pair) -> Pair {
        unsafe { Pair(vdivq_f32(a.0, b.0), vdivq_f32(a.1, b.1)) }
    }
    #[inline(always)]
    unsafe fn fma(a: Pair, b: Pair, c: Pair) -> Pair {
        unsafe { Pair(vfmaq_f32(c.0, a.0, b.0), vfmaq_f32(c.1, a.1, b.1)) }
    }
    #[inline(always)]
    unsafe fn max(a: Pair, b: Pair) -> Pair {
        // Not the instruction for it: that one gives NaN where either is.
        unsafe {
            Pair(
                vbslq_f32(vcgtq_f32(a.0, b.0), a.0, b.0),
                vbslq_f32(vcgtq_f32(a.1, b.1), a.1, b.1),
            )
        }
    }
    #[inline(always)]
    unsafe fn min(a: Pair, b: Pair) -> Pair {
        unsafe {
            Pair(
                vbslq_f32(vcltq_f32(a.0, b.0), a.0, b.0),
                vbslq_f32(vcltq_f32(a.1, b.1), a.1, b.1),
            )
        }
    }
    #[inline(always)]
    unsafe fn round(v: Pair) -> Pair {
        unsafe { Pair(vrndnq_f32(v.0), vrndnq_f32(v.1)) }
    }
    #[inline(always)]
    unsafe fn pow2(n: Pair) -> Pair {
        unsafe {
            let power = |n: float32x4_t| {
                let biased = vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127));
                vreinterpretq_f32_s32(vshlq_n_s32::<23>(biased))
            };
            Pair(power(n.0), power(n.1))
        }
    }
    #[inline(always)]
    unsafe fn keep_lanes(v: Pair, lo: i32, hi: i32, other: Pair) -> Pair {
        const LANES: [i32; 8] = [0, 1, 2, 3, 4, 5, 6, 7];
        unsafe {
            let low = between(vld1q_s32(LANES.as_ptr()), lo, hi);
            let high = between(vld1q_s32(LANES.as_ptr().add(4)), lo, hi);
            Pair(vbslq_f32(low, v.0, other.0), vbslq_f32(high, v.1, other.1))
        }
    }
    #[inline(always)]
    unsafe fn at_least(a: Pair, b: Pair) -> u32 {
        const BITS: [u32; 8] = [1, 2, 4, 8, 16, 32, 64, 128];
        unsafe {
            let low = vandq_u32(vcgeq_f32(a.0, b.0), vld1q_u32(BITS.as_ptr()));
            let high = vandq_u32(vcgeq_f32(a.1, b.1), vld1q_u32(BITS.as_ptr().add(4)));
            vaddvq_u32(vorrq_u32(low, high))
        }
    }
    #[inline(always)]
    unsafe fn sum(v: Pair) -> f32 {
        unsafe {
            let four = vaddq_f32(v.0, v.1);
            let two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
            vget_lane_f32::<0>(two) + vget_lane_f32::<1>(two)
        }
    }
    #[inline(always)]
    unsafe fn largest(v: Pair) -> f32 {
        unsafe { vmaxnmvq_f32(vmaxnmq_f32(v.0, v.1)) }
    }
    #[inline(always)]
    fn prefetch<T>(p: *const T) {
        prefetch::<2>(p.cast());
    }
}
