//! Low-rank adapters: what LoRA adds to a linear, `y += scale · B (A x)`, for the tokens whose rows chose the adapter.
//!
//! Each token is computed by itself in one fixed order, so that it does not depend on its batch mates, whatever adapters they
//! have. Refuses to know files, names and requests.

use std::sync::Arc;

use thiserror::Error;

use crate::isa::Isa;
use crate::kernels::low_rank::add_low_rank;
use crate::tape::Tape;

/// Largest rank.
pub const MAX_RANK: usize = 512;

/// What one adapter adds to some outputs of one linear.
#[derive(Clone, Debug)]
pub struct LowRank {
    /// `[rank, k]`, row-major.
    pub a: Vec<f32>,
    /// `Bᵀ` times the scale: `[rank, n]`, row-major.
    pub b: Vec<f32>,
    /// Rows of both.
    pub rank: usize,
    /// First output that it adds to.
    pub offset: usize,
}

impl LowRank {
    /// From `b` as checkpoints have it, `[n, rank]`.
    ///
    /// # Errors
    /// [`AdapterError::Rank`] and [`AdapterError::Shape`].
    pub fn new(a: Vec<f32>, b: &[f32], rank: usize, scale: f32, offset: usize) -> Result<Self, AdapterError> {
        if rank == 0 || rank > MAX_RANK {
            return Err(AdapterError::Rank { given: rank });
        }
        if a.is_empty() || b.is_empty() || !a.len().is_multiple_of(rank) || !b.len().is_multiple_of(rank) {
            return Err(AdapterError::Shape {
                a: a.len(),
                b: b.len(),
                rank,
            });
        }
        let n = b.len() / rank;
        let transposed = (0..rank * n).map(|i| scale * b[i % n * rank + i / n]).collect();
        Ok(Self {
            a,
            b: transposed,
            rank,
            offset,
        })
    }

    fn k(&self) -> usize {
        self.a.len() / self.rank
    }

    fn n(&self) -> usize {
        self.b.len() / self.rank
    }
}

/// An adapter that does not fit.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AdapterError {
    /// No rank, or one beyond what is reserved.
    #[error("the adapter's rank is {given}; it must be in 1..={MAX_RANK}")]
    Rank {
        /// The rank.
        given: usize,
    },
    /// Matrices that are not of the rank.
    #[error("the adapter's matrices have {a} and {b} values, which rank {rank} does not divide")]
    Shape {
        /// Values of A.
        a: usize,
        /// Values of B.
        b: usize,
        /// The rank.
        rank: usize,
    },
    /// Matrices for a linear of other sizes.
    #[error(
        "the adapter has {given_k} inputs and outputs up to {given_n} for linear {linear}, which has {k} and {n}; it belongs to \
         another model"
    )]
    Linear {
        /// Which linear.
        linear: usize,
        /// The adapter's inputs.
        given_k: usize,
        /// Its last output.
        given_n: usize,
        /// The linear's inputs.
        k: usize,
        /// The linear's outputs.
        n: usize,
    },
    /// Matrices for a linear that is not there, or that is computed for samples only.
    #[error("the adapter has matrices for linear {linear}, which takes none")]
    NoLinear {
        /// Which linear.
        linear: usize,
    },
}

/// One adapter: for some linears, in the order of their recording, what is added to them.
#[derive(Clone, Debug, Default)]
pub struct Adapter {
    linears: Vec<Vec<LowRank>>,
}

impl Adapter {
    /// Adds matrices for a linear.
    pub fn add(&mut self, linear: usize, low_rank: LowRank) {
        if self.linears.len() <= linear {
            self.linears.resize_with(linear + 1, Vec::new);
        }
        self.linears[linear].push(low_rank);
    }

    /// Checks every matrix against the tape's linears.
    pub(crate) fn check(&self, tape: &Tape) -> Result<(), AdapterError> {
        for (linear, parts) in self
            .linears
            .iter()
            .enumerate()
            .filter(|(_, parts)| !parts.is_empty())
        {
            let Some((k, n)) = tape.token_linear(linear) else {
                return Err(AdapterError::NoLinear { linear });
            };
            for part in parts {
                let (given_k, given_n) = (part.k(), part.offset + part.n());
                if given_k != k || given_n > n {
                    return Err(AdapterError::Linear {
                        linear,
                        given_k,
                        given_n,
                        k,
                        n,
                    });
                }
            }
        }
        Ok(())
    }

    /// Adds to one token's outputs of a linear.
    ///
    /// # Safety
    /// `isa` is available.
    pub(crate) unsafe fn apply(&self, isa: Isa, linear: usize, x: &[f32], out: &mut [f32]) {
        for part in self.linears.get(linear).into_iter().flatten() {
            let mut inner = [0.0; MAX_RANK];
            let inner = &mut inner[..part.rank];
            let out = &mut out[part.offset..part.offset + part.n()];
            // SAFETY: the caller's promise.
            unsafe { add_low_rank(isa, x, &part.a, &part.b, inner, out) }
        }
    }
}

/// The adapters of an executor, by their number; 0 is none.
#[derive(Debug, Default)]
pub(crate) struct Adapters(Vec<Option<Arc<Adapter>>>);

impl Adapters {
    pub(crate) fn set(&mut self, number: usize, adapter: Option<Arc<Adapter>>) {
        if self.0.len() <= number {
            self.0.resize(number + 1, None);
        }
        self.0[number] = adapter;
    }

    pub(crate) fn get(&self, number: u32) -> Option<&Adapter> {
        self.0.get(number as usize).and_then(Option::as_deref)
    }
}
