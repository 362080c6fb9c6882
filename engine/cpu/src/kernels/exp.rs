//! The exponential on vectors, and what is built from it. Refuses to know who asks.

use super::simd::Simd;

/// `e^r - 1 - r` over `r^2` on |r| <= ln 2 / 2, by our own weighted least-squares fit. With the two exact leading terms the
/// relative error of the polynomial is 0.06 units in the last place.
const TAIL: [f32; 5] = [
    4.999_999_3e-1,
    1.666_652e-1,
    4.166_839_4e-2,
    8.368_78e-3,
    1.381_447e-3,
];

/// `e^r` for |r| <= ln 2 / 2.
#[inline(always)]
unsafe fn reduced<S: Simd>(r: S::V) -> S::V {
    // SAFETY: the caller has the instruction set.
    unsafe {
        let mut p = S::splat(TAIL[4]);
        for c in [TAIL[3], TAIL[2], TAIL[1], TAIL[0], 1.0, 1.0] {
            p = S::fma(p, r, S::splat(c));
        }
        p
    }
}

/// `2^x` for `x <= 127`; 0 below -126.5 and at minus infinity. Error below 1.5 units in the last place.
/// 0 gives exactly 1.
#[inline(always)]
pub(crate) unsafe fn exp2<S: Simd>(x: S::V) -> S::V {
    // SAFETY: the caller has the instruction set.
    unsafe {
        let x = S::max(x, S::splat(-127.0));
        let n = S::round(x);
        let r = S::mul(S::sub(x, n), S::splat(std::f32::consts::LN_2));
        S::mul(reduced::<S>(r), S::pow2(n))
    }
}

/// `e^x`; 0 below -87.3 and `e^88` above 88. Error below 1.5 units in the last place in between.
#[inline(always)]
pub(crate) unsafe fn exp<S: Simd>(x: S::V) -> S::V {
    /// ln 2 in two parts; the first has 9 trailing zero bits, so that its product with |n| <= 127 is exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // SAFETY: the caller has the instruction set.
    unsafe {
        let x = S::min(S::max(x, S::splat(-88.0)), S::splat(88.0));
        let n = S::round(S::mul(x, S::splat(std::f32::consts::LOG2_E)));
        let r = S::fma(n, S::splat(-LN2_HIGH), x);
        let r = S::fma(n, S::splat(-LN2_LOW), r);
        S::mul(reduced::<S>(r), S::pow2(n))
    }
}

/// `x / (1 + e^-x)`.
#[inline(always)]
pub(crate) unsafe fn silu<S: Simd>(x: S::V) -> S::V {
    // SAFETY: the caller has the instruction set.
    unsafe {
        let e = exp::<S>(S::sub(S::splat(0.0), x));
        S::div(x, S::add(S::splat(1.0), e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Isa;
    use crate::kernels::simd::isa_entry;

    #[inline(always)]
    unsafe fn apply_kernel<S: Simd>(xs: &mut [f32], base_two: bool) {
        for chunk in xs.chunks_exact_mut(S::LANES) {
            // SAFETY: the chunk holds one vector.
            unsafe {
                let v = S::load(chunk.as_ptr());
                S::store(
                    chunk.as_mut_ptr(),
                    if base_two { exp2::<S>(v) } else { exp::<S>(v) },
                );
            }
        }
    }
    isa_entry! { fn apply(xs: &mut [f32], base_two: bool) = apply_kernel }

    fn worst_ulps(isa: Isa, base_two: bool, range: std::ops::Range<f32>) -> f64 {
        let n = 1 << 18;
        let given: Vec<f32> = (0..n)
            .map(|i| range.start + (range.end - range.start) * (i as f32 / n as f32))
            .collect();
        let mut got = given.clone();
        // SAFETY: only available sets are passed.
        unsafe { apply(isa, &mut got, base_two) };
        given.iter().zip(&got).fold(0.0, |worst, (&x, &y)| {
            let exact = if base_two {
                f64::from(x).exp2()
            } else {
                f64::from(x).exp()
            };
            let ulp = f64::from(f32::EPSILON) * 2f64.powf(exact.log2().floor());
            worst.max((f64::from(y) - exact).abs() / ulp)
        })
    }

    #[test]
    fn error_is_below_one_and_a_half_units_in_the_last_place() {
        for isa in Isa::available() {
            for range in [-126.0..0.0, -1.0..1.0, 0.0..126.0] {
                let worst = worst_ulps(isa, true, range.clone());
                assert!(worst < 1.5, "2^x on {range:?}, {isa}: {worst}");
            }
            for range in [-87.0..0.0, -1.0..1.0, 0.0..88.0] {
                let worst = worst_ulps(isa, false, range.clone());
                assert!(worst < 1.5, "e^x on {range:?}, {isa}: {worst}");
            }
        }
    }

    #[test]
    fn ends_of_the_range_are_exact() {
        for isa in Isa::available() {
            let mut xs = [0.0; 16];
            xs[..4].copy_from_slice(&[0.0, -0.0, f32::NEG_INFINITY, -1e30]);
            // SAFETY: only available sets are passed.
            unsafe { apply(isa, &mut xs, true) };
            assert_eq!(xs[..4], [1.0, 1.0, 0.0, 0.0], "{isa}");
        }
    }
}
