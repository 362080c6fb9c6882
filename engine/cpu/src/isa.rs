//! Which instruction set the kernels use. A value is passed into every kernel; nothing here reads the environment.
//!
//! Refuses to know what the kernels compute.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::linear;

/// An instruction set that kernels are written for, from the least to the most demanding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// Plain Rust; runs everywhere.
    Portable,
    /// arm64, all of which has it.
    Neon,
    /// x86-64 with AVX2, FMA and F16C.
    Avx2,
    /// x86-64 with AVX-512 F, BW, DQ and VL.
    Avx512,
    /// The same with AMX for bfloat16, under Linux: linear layers of half-precision weights use it.
    Amx,
}

impl Isa {
    /// Every instruction set, whether or not this machine has it.
    pub const ALL: [Self; 5] = [Self::Portable, Self::Neon, Self::Avx2, Self::Avx512, Self::Amx];

    /// The best instruction set of this machine.
    #[must_use]
    pub fn detect() -> Self {
        Self::ALL
            .into_iter()
            .rev()
            .find(|isa| isa.is_available())
            .unwrap_or(Self::Portable)
    }

    /// What this machine can run, from the least to the most demanding; never empty.
    #[must_use]
    pub fn available() -> Vec<Self> {
        Self::ALL.into_iter().filter(|isa| isa.is_available()).collect()
    }

    /// Whether this machine can run it. Always false for another architecture's.
    #[must_use]
    pub fn is_available(self) -> bool {
        match self {
            Self::Portable => true,
            Self::Neon => cfg!(target_arch = "aarch64"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => has_avx2(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                has_avx2()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            }
            #[cfg(not(target_arch = "x86_64"))]
            Self::Avx2 | Self::Avx512 => false,
            Self::Amx => linear::has_amx(),
        }
    }

    /// The name that [`FromStr`] reads.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Neon => "neon",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Amx => "amx",
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that is not an instruction set, or one that this machine lacks.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum IsaError {
    /// Not a name of an instruction set.
    #[error("`{given}` is not an instruction set; use one of: {}", names(&Isa::ALL))]
    Unknown {
        /// The name given.
        given: String,
    },
    /// A known instruction set that this machine cannot run.
    #[error("this machine cannot run `{given}`; use one of: {}", names(&Isa::available()))]
    Unavailable {
        /// The one given.
        given: Isa,
    },
}

fn names(of: &[Isa]) -> String {
    of.iter().map(|isa| isa.name()).collect::<Vec<_>>().join(", ")
}

impl FromStr for Isa {
    type Err = IsaError;

    /// Reads a name and checks that this machine can run it.
    fn from_str(given: &str) -> Result<Self, IsaError> {
        let isa = Self::ALL
            .into_iter()
            .find(|isa| isa.name() == given)
            .ok_or_else(|| IsaError::Unknown {
                given: given.to_owned(),
            })?;
        if isa.is_available() {
            Ok(isa)
        } else {
            Err(IsaError::Unavailable { given: isa })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_for_everything_available() {
        for isa in Isa::available() {
            assert_eq!(isa.to_string().parse(), Ok(isa));
        }
        assert!(Isa::available().contains(&Isa::detect()));
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_allowed_ones() {
        let message = "sse9".parse::<Isa>().unwrap_err().to_string();
        for expected in ["sse9", "portable", "neon", "avx2", "avx512", "amx"] {
            assert!(message.contains(expected), "{message}");
        }
    }
}
