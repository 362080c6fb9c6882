//! SwiGLU: `silu(gate) * up`, where a row is `[gate | up]`. Refuses to know the projections around it.

use super::exp::silu;
use super::simd::{Simd, isa_entry};

#[inline(always)]
unsafe fn swiglu_kernel<S: Simd>(gate: &[f32], up: &[f32], out: &mut [f32]) {
    let n = out.len().min(gate.len()).min(up.len());
    let mut i = 0;
    // SAFETY: all three hold `n` values; the last vector is partial.
    unsafe {
        while i + S::LANES <= n {
            let g = silu::<S>(S::load(gate.as_ptr().add(i)));
            S::store(out.as_mut_ptr().add(i), S::mul(g, S::load(up.as_ptr().add(i))));
            i += S::LANES;
        }
        if i < n {
            let g = silu::<S>(S::load_first(gate.as_ptr().add(i), n - i));
            let u = S::load_first(up.as_ptr().add(i), n - i);
            S::store_first(out.as_mut_ptr().add(i), n - i, S::mul(g, u));
        }
    }
}
isa_entry! {
    /// `out[i] = gate[i] / (1 + e^-gate[i]) * up[i]`; all three of one length.
    fn swiglu(gate: &[f32], up: &[f32], out: &mut [f32]) = swiglu_kernel
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Isa;

    #[test]
    fn matches_f64_at_every_length() {
        for isa in Isa::available() {
            for n in [0, 1, 7, 8, 15, 16, 17, 100] {
                let gate: Vec<f32> = (0..n).map(|i| i as f32 * 1.7 - 60.0).collect();
                let up: Vec<f32> = (0..n).map(|i| 3.0 - i as f32 * 0.1).collect();
                let mut out = vec![f32::NAN; n];
                // SAFETY: only available sets are passed.
                unsafe { swiglu(isa, &gate, &up, &mut out) };
                for i in 0..n {
                    let g = f64::from(gate[i]);
                    let expected = g / (1.0 + (-g).exp()) * f64::from(up[i]);
                    let error = (f64::from(out[i]) - expected).abs();
                    assert!(
                        error <= 4e-7 * expected.abs() + 1e-30,
                        "{isa}, n {n}, {i}: {error}"
                    );
                }
            }
        }
    }

    #[test]
    fn large_gates_saturate() {
        for isa in Isa::available() {
            let gate = [1e30, -1e30, f32::INFINITY, 100.0, -100.0];
            let mut out = [f32::NAN; 5];
            // SAFETY: only available sets are passed.
            unsafe { swiglu(isa, &gate, &[1.0; 5], &mut out) };
            assert_eq!((out[0], out[2], out[3]), (1e30, f32::INFINITY, 100.0), "{isa}");
            assert!(out[4].abs() < 1e-30, "{isa}: {}", out[4]);
        }
    }
}
