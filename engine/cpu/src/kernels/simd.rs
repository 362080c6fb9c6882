//! One vector of f32 lanes on each instruction set, so that every kernel is written once.
//!
//! A kernel is an `#[inline(always)]` function generic over [`Simd`]; [`isa_entry!`] compiles it once for each
//! instruction set inside a function that enables the features. Refuses to know what the kernels compute.

/// Lanes of f32 and what the kernels need of them.
///
/// # Safety
/// Every function may run only on a machine that has the instruction set, and pointers must be valid for the
/// lanes that are read or written. No alignment is required.
pub(crate) trait Simd: Copy + 'static {
    /// The vector.
    type V: Copy;
    /// Its lanes: 8 or 16, so that a block of 16 positions is a whole number of vectors.
    const LANES: usize;

    unsafe fn splat(x: f32) -> Self::V;
    unsafe fn load(p: *const f32) -> Self::V;
    unsafe fn store(p: *mut f32, v: Self::V);
    /// The first `n < LANES` lanes; the others are zero.
    unsafe fn load_first(p: *const f32, n: usize) -> Self::V;
    unsafe fn store_first(p: *mut f32, n: usize, v: Self::V);
    /// IEEE binary16, exact.
    unsafe fn load_f16(p: *const u16) -> Self::V;
    /// IEEE binary16, to nearest even.
    unsafe fn store_f16(p: *mut u16, v: Self::V);
    unsafe fn load_bf16(p: *const u16) -> Self::V;
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`; one rounding where the instruction set has it.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The larger lane; `b` where either is NaN.
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    /// The smaller lane; `b` where either is NaN.
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn round(v: Self::V) -> Self::V;
    /// `2^n` for integral `-127 <= n <= 127`; `n = -127` gives 0.
    unsafe fn pow2(n: Self::V) -> Self::V;
    /// `v` in lanes `lo..hi` (counted from 0, either may lie outside the vector), `other` elsewhere.
    unsafe fn keep_lanes(v: Self::V, lo: i32, hi: i32, other: Self::V) -> Self::V;
    /// A bit for each lane with `a >= b`.
    unsafe fn at_least(a: Self::V, b: Self::V) -> u32;
    /// Sum of the lanes, in one fixed order.
    unsafe fn sum(v: Self::V) -> f32;
    /// Largest lane.
    unsafe fn largest(v: Self::V) -> f32;
    /// Asks for a cache line into the second level. Any address will do.
    fn prefetch<T>(p: *const T);
}

/// Eight lanes of plain Rust.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

#[inline(always)]
fn map8(f: impl Fn(usize) -> f32) -> [f32; 8] {
    std::array::from_fn(f)
}

impl Simd for Portable {
    type V = [f32; 8];
    const LANES: usize = 8;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::V {
        [x; 8]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self::V {
        // SAFETY: the caller's pointer holds 8 values.
        unsafe { p.cast::<[f32; 8]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: Self::V) {
        // SAFETY: the caller's pointer holds 8 values.
        unsafe { p.cast::<[f32; 8]>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn load_first(p: *const f32, n: usize) -> Self::V {
        // SAFETY: the caller's pointer holds n values.
        map8(|i| {
            if i < n {
                unsafe { p.add(i).read_unaligned() }
            } else {
                0.0
            }
        })
    }
    #[inline(always)]
    unsafe fn store_first(p: *mut f32, n: usize, v: Self::V) {
        for (i, x) in v.into_iter().enumerate().take(n) {
            // SAFETY: the caller's pointer holds n values.
            unsafe { *p.add(i) = x }
        }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> Self::V {
        // SAFETY: the caller's pointer holds 8 values.
        map8(|i| half::f16::from_bits(unsafe { p.add(i).read_unaligned() }).to_f32())
    }
    #[inline(always)]
    unsafe fn store_f16(p: *mut u16, v: Self::V) {
        for (i, x) in v.into_iter().enumerate() {
            // SAFETY: the caller's pointer holds 8 values.
            unsafe { *p.add(i) = half::f16::from_f32(x).to_bits() }
        }
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> Self::V {
        // SAFETY: the caller's pointer holds 8 values.
        map8(|i| f32::from_bits(u32::from(unsafe { p.add(i).read_unaligned() }) << 16))
    }
    #[inline(always)]
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
        map8(|i| a[i] + b[i])
    }
    #[inline(always)]
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V {
        map8(|i| a[i] - b[i])
    }
    #[inline(always)]
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
        map8(|i| a[i] * b[i])
    }
    #[inline(always)]
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V {
        map8(|i| a[i] / b[i])
    }
    #[inline(always)]
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // Not `mul_add`: without a fused instruction that is a library call.
        map8(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V {
        map8(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V {
        map8(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn round(v: Self::V) -> Self::V {
        // Adding and subtracting 1.5 * 2^23 rounds to nearest even for |x| < 2^22.
        const SHIFT: f32 = 12_582_912.0;
        map8(|i| (v[i] + SHIFT) - SHIFT)
    }
    #[inline(always)]
    unsafe fn pow2(n: Self::V) -> Self::V {
        map8(|i| f32::from_bits(((n[i] as i32 + 127) as u32) << 23))
    }
    #[inline(always)]
    unsafe fn keep_lanes(v: Self::V, lo: i32, hi: i32, other: Self::V) -> Self::V {
        map8(|i| {
            if (lo..hi).contains(&(i as i32)) {
                v[i]
            } else {
                other[i]
            }
        })
    }
    #[inline(always)]
    unsafe fn at_least(a: Self::V, b: Self::V) -> u32 {
        (0..8).fold(0, |bits, i| bits | u32::from(a[i] >= b[i]) << i)
    }
    #[inline(always)]
    unsafe fn sum(v: Self::V) -> f32 {
        ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]))
    }
    #[inline(always)]
    unsafe fn largest(v: Self::V) -> f32 {
        v.into_iter()
            .fold(f32::NEG_INFINITY, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn prefetch<T>(_: *const T) {}
}

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::Simd;

    const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;

    /// AVX2, FMA and F16C.
    #[derive(Clone, Copy)]
    pub(crate) struct Avx2;

    /// Eight ones then eight zeros: a mask of the first n lanes starts at index 8 - n.
    static FIRST: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];

    #[inline(always)]
    unsafe fn first_mask(n: usize) -> __m256i {
        // SAFETY: n <= 8, so 8 words follow the index.
        unsafe { _mm256_loadu_si256(FIRST.as_ptr().add(8 - n).cast()) }
    }

    // SAFETY of every body below: the trait's contract, features present and pointers valid for the lanes.
    impl Simd for Avx2 {
        type V = __m256;
        const LANES: usize = 8;

        #[inline(always)]
        unsafe fn splat(x: f32) -> __m256 {
            unsafe { _mm256_set1_ps(x) }
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> __m256 {
            unsafe { _mm256_loadu_ps(p) }
        }
        #[inline(always)]
        unsafe fn store(p: *mut f32, v: __m256) {
            unsafe { _mm256_storeu_ps(p, v) }
        }
        #[inline(always)]
        unsafe fn load_first(p: *const f32, n: usize) -> __m256 {
            unsafe { _mm256_maskload_ps(p, first_mask(n)) }
        }
        #[inline(always)]
        unsafe fn store_first(p: *mut f32, n: usize, v: __m256) {
            unsafe { _mm256_maskstore_ps(p, first_mask(n), v) }
        }
        #[inline(always)]
        unsafe fn load_f16(p: *const u16) -> __m256 {
            unsafe { _mm256_cvtph_ps(_mm_loadu_si128(p.cast())) }
        }
        #[inline(always)]
        unsafe fn store_f16(p: *mut u16, v: __m256) {
            unsafe { _mm_storeu_si128(p.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v)) }
        }
        #[inline(always)]
        unsafe fn load_bf16(p: *const u16) -> __m256 {
            unsafe {
                let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()));
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
            }
        }
        #[inline(always)]
        unsafe fn add(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_add_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn sub(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_sub_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn mul(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_mul_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn div(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_div_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn fma(a: __m256, b: __m256, c: __m256) -> __m256 {
            unsafe { _mm256_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        unsafe fn max(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_max_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn min(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_min_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn round(v: __m256) -> __m256 {
            unsafe { _mm256_round_ps::<NEAREST>(v) }
        }
        #[inline(always)]
        unsafe fn pow2(n: __m256) -> __m256 {
            unsafe {
                let biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))
            }
        }
        #[inline(always)]
        unsafe fn keep_lanes(v: __m256, lo: i32, hi: i32, other: __m256) -> __m256 {
            unsafe {
                let lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
                let from = _mm256_cmpgt_epi32(lane, _mm256_set1_epi32(lo - 1));
                let below = _mm256_cmpgt_epi32(_mm256_set1_epi32(hi), lane);
                _mm256_blendv_ps(other, v, _mm256_castsi256_ps(_mm256_and_si256(from, below)))
            }
        }
        #[inline(always)]
        unsafe fn at_least(a: __m256, b: __m256) -> u32 {
            unsafe { _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_GE_OQ>(a, b)) as u32 }
        }
        #[inline(always)]
        unsafe fn sum(v: __m256) -> f32 {
            unsafe {
                let four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
                let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
                _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
            }
        }
        #[inline(always)]
        unsafe fn largest(v: __m256) -> f32 {
            unsafe {
                let four = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
                let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
                _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps::<1>(two, two)))
            }
        }
        #[inline(always)]
        fn prefetch<T>(p: *const T) {
            // SAFETY: a hint; it never faults.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
        }
    }

    /// AVX-512 F, BW, DQ and VL.
    #[derive(Clone, Copy)]
    pub(crate) struct Avx512;

    /// Bits `lo..hi` of 16, clamped.
    #[inline(always)]
    fn lanes(lo: i32, hi: i32) -> u16 {
        let below = |n: i32| ((1u32 << n.clamp(0, 16)) - 1) as u16;
        below(hi) & !below(lo)
    }

    // SAFETY of every body below: the trait's contract, features present and pointers valid for the lanes.
    impl Simd for Avx512 {
        type V = __m512;
        const LANES: usize = 16;

        #[inline(always)]
        unsafe fn splat(x: f32) -> __m512 {
            unsafe { _mm512_set1_ps(x) }
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> __m512 {
            unsafe { _mm512_loadu_ps(p) }
        }
        #[inline(always)]
        unsafe fn store(p: *mut f32, v: __m512) {
            unsafe { _mm512_storeu_ps(p, v) }
        }
        #[inline(always)]
        unsafe fn load_first(p: *const f32, n: usize) -> __m512 {
            unsafe { _mm512_maskz_loadu_ps(lanes(0, n as i32), p) }
        }
        #[inline(always)]
        unsafe fn store_first(p: *mut f32, n: usize, v: __m512) {
            unsafe { _mm512_mask_storeu_ps(p, lanes(0, n as i32), v) }
        }
        #[inline(always)]
        unsafe fn load_f16(p: *const u16) -> __m512 {
            unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) }
        }
        #[inline(always)]
        unsafe fn store_f16(p: *mut u16, v: __m512) {
            unsafe { _mm256_storeu_si256(p.cast(), _mm512_cvtps_ph::<NEAREST>(v)) }
        }
        #[inline(always)]
        unsafe fn load_bf16(p: *const u16) -> __m512 {
            unsafe {
                let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast()));
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
            }
        }
        #[inline(always)]
        unsafe fn add(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_add_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn sub(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_sub_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn mul(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_mul_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn div(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_div_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
            unsafe { _mm512_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        unsafe fn max(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_max_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn min(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_min_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn round(v: __m512) -> __m512 {
            unsafe { _mm512_roundscale_ps::<NEAREST>(v) }
        }
        #[inline(always)]
        unsafe fn pow2(n: __m512) -> __m512 {
            unsafe {
                let biased = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
                _mm512_castsi512_ps(_mm512_slli_epi32::<23>(biased))
            }
        }
        #[inline(always)]
        unsafe fn keep_lanes(v: __m512, lo: i32, hi: i32, other: __m512) -> __m512 {
            unsafe { _mm512_mask_blend_ps(lanes(lo, hi), other, v) }
        }
        #[inline(always)]
        unsafe fn at_least(a: __m512, b: __m512) -> u32 {
            unsafe { u32::from(_mm512_cmp_ps_mask::<_CMP_GE_OQ>(a, b)) }
        }
        #[inline(always)]
        unsafe fn sum(v: __m512) -> f32 {
            unsafe {
                let eight = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v));
                <Avx2 as Simd>::sum(eight)
            }
        }
        #[inline(always)]
        unsafe fn largest(v: __m512) -> f32 {
            unsafe {
                let eight = _mm256_max_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v));
                <Avx2 as Simd>::largest(eight)
            }
        }
        #[inline(always)]
        fn prefetch<T>(p: *const T) {
            <Avx2 as Simd>::prefetch(p);
        }
    }
}

/// Defines `pub(crate) unsafe fn NAME(isa, ARGS…)` that runs the generic kernel on the instruction set.
///
/// # Safety
/// `isa.is_available()` must hold (checked once, when an executor is built), beside the kernel's own conditions.
macro_rules! isa_entry {
    ($(#[$meta:meta])* fn $name:ident($($arg:ident: $type:ty),* $(,)?) $(-> $ret:ty)? = $kernel:ident) => {
        $(#[$meta])*
        #[allow(clippy::allow_attributes, clippy::too_many_arguments, reason = "a kernel takes all it needs as numbers and pointers")]
        pub(crate) unsafe fn $name(isa: $crate::isa::Isa, $($arg: $type),*) $(-> $ret)? {
            debug_assert!(isa.is_available());
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
            unsafe fn avx512($($arg: $type),*) $(-> $ret)? {
                // SAFETY: the features are enabled here; the rest is the caller's promise.
                unsafe { $kernel::<$crate::kernels::simd::Avx512>($($arg),*) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn avx2($($arg: $type),*) $(-> $ret)? {
                // SAFETY: as above.
                unsafe { $kernel::<$crate::kernels::simd::Avx2>($($arg),*) }
            }
            // SAFETY: the caller promises that the instruction set is available.
            unsafe {
                match isa {
                    #[cfg(target_arch = "x86_64")]
                    $crate::isa::Isa::Avx512 | $crate::isa::Isa::Amx => avx512($($arg),*),
                    #[cfg(target_arch = "x86_64")]
                    $crate::isa::Isa::Avx2 => avx2($($arg),*),
                    // Part of the architecture: no feature to enable.
                    #[cfg(target_arch = "aarch64")]
                    $crate::isa::Isa::Neon => $kernel::<$crate::kernels::neon::Neon>($($arg),*),
                    _ => $kernel::<$crate::kernels::simd::Portable>($($arg),*),
                }
            }
        }
    };
}
pub(crate) use isa_entry;
