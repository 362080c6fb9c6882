//! Number formats in which weights are stored, and their conversion from and to f32.
//!
//! Refuses to know tensors and kernels: it works on flat little-endian bytes, as safetensors stores them.

use std::fmt;
use std::str::FromStr;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use thiserror::Error;

/// Values converted at a time: whole runs use the machine's vector conversion.
const RUN: usize = 64;

/// A storage format. Arithmetic is always f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// bfloat16: the upper half of an f32.
    BF16,
}

impl Dtype {
    /// Every format.
    pub const ALL: [Self; 3] = [Self::F32, Self::F16, Self::BF16];

    /// Bytes of one value.
    #[must_use]
    pub const fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
        }
    }

    /// The short name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
        }
    }

    /// Converts stored values to f32: exact for every format.
    ///
    /// # Errors
    /// [`DtypeError::Length`] when `stored` does not hold exactly `values.len()` values.
    pub fn decode(self, stored: &[u8], values: &mut [f32]) -> Result<(), DtypeError> {
        self.check(stored.len(), values.len())?;
        self.decode_exact(stored, values);
        Ok(())
    }

    /// Converts f32 to stored values, rounding to nearest, ties to even.
    ///
    /// # Errors
    /// [`DtypeError::Length`] when `stored` does not hold exactly `values.len()` values.
    pub fn encode(self, values: &[f32], stored: &mut [u8]) -> Result<(), DtypeError> {
        self.check(stored.len(), values.len())?;
        self.encode_exact(values, stored);
        Ok(())
    }

    /// [`Self::decode`] where the lengths are known to match; of two lengths the shorter counts.
    pub(crate) fn decode_exact(self, stored: &[u8], values: &mut [f32]) {
        match self {
            Self::F32 => {
                let (chunks, _) = stored.as_chunks::<4>();
                values
                    .iter_mut()
                    .zip(chunks)
                    .for_each(|(v, b)| *v = f32::from_le_bytes(*b));
            }
            Self::F16 => {
                let mut run = [f16::ZERO; RUN];
                for (bytes, values) in stored.chunks(2 * RUN).zip(values.chunks_mut(RUN)) {
                    let run = &mut run[..values.len()];
                    let (chunks, _) = bytes.as_chunks::<2>();
                    run.iter_mut()
                        .zip(chunks)
                        .for_each(|(h, b)| *h = f16::from_le_bytes(*b));
                    run.convert_to_f32_slice(values);
                }
            }
            Self::BF16 => {
                let (chunks, _) = stored.as_chunks::<2>();
                values.iter_mut().zip(chunks).for_each(|(v, b)| {
                    *v = f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16);
                });
            }
        }
    }

    /// [`Self::encode`] where the lengths are known to match; of two lengths the shorter counts.
    pub(crate) fn encode_exact(self, values: &[f32], stored: &mut [u8]) {
        match self {
            Self::F32 => {
                let (chunks, _) = stored.as_chunks_mut::<4>();
                chunks
                    .iter_mut()
                    .zip(values)
                    .for_each(|(b, v)| *b = v.to_le_bytes());
            }
            Self::F16 => {
                let mut run = [f16::ZERO; RUN];
                for (bytes, values) in stored.chunks_mut(2 * RUN).zip(values.chunks(RUN)) {
                    let run = &mut run[..values.len()];
                    run.convert_from_f32_slice(values);
                    let (chunks, _) = bytes.as_chunks_mut::<2>();
                    chunks.iter_mut().zip(run).for_each(|(b, h)| *b = h.to_le_bytes());
                }
            }
            Self::BF16 => {
                let (chunks, _) = stored.as_chunks_mut::<2>();
                chunks
                    .iter_mut()
                    .zip(values)
                    .for_each(|(b, v)| *b = bf16::from_f32(*v).to_le_bytes());
            }
        }
    }

    fn check(self, bytes: usize, values: usize) -> Result<(), DtypeError> {
        if bytes == values * self.size() {
            Ok(())
        } else {
            Err(DtypeError::Length {
                dtype: self,
                bytes,
                values,
            })
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A format name or a buffer length that does not fit.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DtypeError {
    /// Not a name of a storage format.
    #[error("`{given}` is not a storage format; use f32, f16 or bf16")]
    Unknown {
        /// The name given.
        given: String,
    },
    /// Bytes and values do not match.
    #[error("{bytes} bytes do not hold {values} values of {dtype}: {} bytes are needed", values * dtype.size())]
    Length {
        /// The storage format.
        dtype: Dtype,
        /// Bytes given.
        bytes: usize,
        /// Values given.
        values: usize,
    },
}

impl FromStr for Dtype {
    type Err = DtypeError;

    /// Reads the short name, torch's long name or safetensors' upper-case name.
    fn from_str(given: &str) -> Result<Self, DtypeError> {
        match given {
            "f32" | "float32" | "F32" => Ok(Self::F32),
            "f16" | "float16" | "F16" => Ok(Self::F16),
            "bf16" | "bfloat16" | "BF16" => Ok(Self::BF16),
            _ => Err(DtypeError::Unknown {
                given: given.to_owned(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_every_format_holds_round_trip() {
        let values = [0.0, -0.0, 1.0, -2.5, 0.007_812_5, f32::INFINITY];
        for dtype in Dtype::ALL {
            let mut stored = vec![0; values.len() * dtype.size()];
            dtype.encode(&values, &mut stored).unwrap();
            let mut back = [0.0; 6];
            dtype.decode(&stored, &mut back).unwrap();
            assert_eq!(values.map(f32::to_bits), back.map(f32::to_bits), "{dtype}");
        }
    }

    #[test]
    fn rounding_is_to_nearest_even() {
        let half_way = 1.0 + 2f32.powi(-11); // between 1 and the next f16
        let mut stored = [0; 2];
        Dtype::F16.encode(&[half_way], &mut stored).unwrap();
        assert_eq!(stored, f16::ONE.to_le_bytes());
    }

    #[test]
    fn every_name_is_read_and_a_wrong_one_is_answered() {
        for (name, dtype) in [
            ("float32", Dtype::F32),
            ("F16", Dtype::F16),
            ("bfloat16", Dtype::BF16),
        ] {
            assert_eq!(name.parse(), Ok(dtype));
        }
        let message = "int3".parse::<Dtype>().unwrap_err().to_string();
        assert!(message.contains("int3") && message.contains("bf16"), "{message}");
    }

    #[test]
    fn a_short_buffer_is_refused_with_the_numbers() {
        let message = Dtype::F32
            .encode(&[1.0, 2.0], &mut [0; 7])
            .unwrap_err()
            .to_string();
        assert!(message.contains('7') && message.contains('8'), "{message}");
    }
}
