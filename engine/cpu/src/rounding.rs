//! What storing a tensor in f16 would cost, so that a loader can choose a storage format.
//!
//! f16 holds 11 significant bits for magnitudes from 2⁻¹⁴ to 65504. In that range it holds every bf16 value exactly and f32
//! values to a relative error of 2⁻¹¹. Above is overflow; below, values fall on multiples of 2⁻²⁴ and lose bits.
//!
//! Refuses to know layers and checkpoints.

use half::f16;

use crate::dtype::{Dtype, DtypeError};

/// Largest relative error, root mean square over a tensor, that is called harmless: the bound of f16 for a single value
/// in its normal range.
pub const HARMLESS_ERROR: f64 = 1.0 / 2048.0;
const RUN: usize = 256;

/// Statistics of a tensor and of its rounding to f16.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct F16Rounding {
    /// Largest magnitude; infinite if any value is, or is not a number.
    pub max_abs: f32,
    /// Root mean square of the finite values.
    pub rms: f64,
    /// Root mean square of the rounding errors, divided by `rms`; 0 for zeros, infinite on overflow.
    pub relative_error: f64,
    /// Share of the values that are not zero but become zero.
    pub lost: f64,
    /// Whether f16 holds every value exactly.
    pub exact: bool,
}

impl F16Rounding {
    /// Measures a tensor of little-endian values.
    ///
    /// # Errors
    /// [`DtypeError::Length`] when `bytes` is not a whole number of values.
    pub fn measure(bytes: &[u8], dtype: Dtype) -> Result<Self, DtypeError> {
        let count = bytes.len() / dtype.size();
        if bytes.len() != count * dtype.size() {
            return Err(DtypeError::Length {
                dtype,
                bytes: bytes.len(),
                values: count,
            });
        }
        let (mut max_abs, mut squares, mut errors, mut lost, mut exact) = (0f32, 0f64, 0f64, 0usize, true);
        let mut values = [0f32; RUN];
        let mut stored = [0u8; 2 * RUN];
        let mut rounded = [0f32; RUN];
        for part in bytes.chunks(RUN * dtype.size()) {
            let length = part.len() / dtype.size();
            let (values, stored, rounded) = (
                &mut values[..length],
                &mut stored[..2 * length],
                &mut rounded[..length],
            );
            dtype.decode_exact(part, values);
            Dtype::F16.encode_exact(values, stored);
            Dtype::F16.decode_exact(stored, rounded);
            for (&value, &rounded) in values.iter().zip(&*rounded) {
                let magnitude = if value.is_nan() {
                    f32::INFINITY
                } else {
                    value.abs()
                };
                max_abs = max_abs.max(magnitude);
                exact &= value == rounded;
                lost += usize::from(value != 0.0 && rounded == 0.0);
                squares += f64::from(value) * f64::from(value);
                errors += (f64::from(value) - f64::from(rounded)).powi(2);
            }
        }
        let relative_error = if exact {
            0.0
        } else if max_abs > f16::MAX.to_f32() {
            f64::INFINITY
        } else {
            (errors / squares).sqrt()
        };
        let rms = if count == 0 {
            0.0
        } else {
            (squares / count as f64).sqrt()
        };
        let lost = if count == 0 {
            0.0
        } else {
            lost as f64 / count as f64
        };
        Ok(Self {
            max_abs,
            rms,
            relative_error,
            lost,
            exact,
        })
    }

    /// Whether f16 storage changes nothing that matters: all magnitudes below 65504, and over the whole tensor no more
    /// error than f16 makes on normal numbers. Small values may then lose bits, or vanish, only where they weigh nothing
    /// beside the tensor's root mean square.
    #[must_use]
    pub fn is_harmless(&self) -> bool {
        self.max_abs < f16::MAX.to_f32() && self.relative_error <= HARMLESS_ERROR
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measure(values: &[f32], dtype: Dtype) -> F16Rounding {
        let mut bytes = vec![0; values.len() * dtype.size()];
        dtype.encode(values, &mut bytes).unwrap();
        F16Rounding::measure(&bytes, dtype).unwrap()
    }

    #[test]
    fn bf16_weights_of_usual_size_are_held_exactly() {
        let values: Vec<f32> = (1..2000).map(|i| i as f32 * 1.7e-4 - 0.15).collect();
        let usual = measure(&values, Dtype::BF16);
        assert!(usual.exact && usual.is_harmless(), "{usual:?}");
    }

    #[test]
    fn f32_weights_are_rounded_harmlessly_but_not_exactly() {
        let values: Vec<f32> = (1..2000).map(|i| (i as f32).sin() * 0.02).collect();
        let rounded = measure(&values, Dtype::F32);
        assert!(
            !rounded.exact && rounded.is_harmless() && rounded.relative_error > 0.0,
            "{rounded:?}"
        );
    }

    #[test]
    fn a_few_tiny_values_beside_usual_ones_do_no_harm() {
        let mut values = vec![0.02; 1000];
        values.extend([1e-9; 10]);
        let mixed = measure(&values, Dtype::BF16);
        assert!(
            mixed.is_harmless() && !mixed.exact && (mixed.lost - 10.0 / 1010.0).abs() < 1e-12,
            "{mixed:?}"
        );
    }

    #[test]
    fn tensors_of_tiny_or_huge_values_are_harmed() {
        let tiny = measure(&[3e-8; 64], Dtype::BF16);
        assert!(!tiny.is_harmless(), "{tiny:?}");
        let huge = measure(&[1.0, -65536.0], Dtype::BF16);
        assert!(
            !huge.is_harmless() && huge.relative_error.is_infinite(),
            "{huge:?}"
        );
        assert!(!measure(&[f32::NAN], Dtype::F32).is_harmless());
    }

    #[test]
    fn zeros_are_exact() {
        let zeros = measure(&[0.0, -0.0], Dtype::F32);
        assert!(
            zeros.exact && zeros.is_harmless() && zeros.rms == 0.0,
            "{zeros:?}"
        );
        assert!(F16Rounding::measure(&[], Dtype::F32).unwrap().is_harmless());
        assert!(F16Rounding::measure(&[0; 3], Dtype::BF16).is_err());
    }
}
