//! Linear layers on packed weights: `out = x · Wᵀ + bias`, activations and sums in f32.
//!
//! **Numeric contract.** An output element is the sum over k-blocks of [`crate::weight::K_BLOCK`] steps, in order, each block
//! one chain of multiply-adds from 0 in order, then the bias; with AMX, for weights in half precision, the chain that its
//! module tells. That depends on `k`, on the instruction set, and with AMX on the weight's format: not on the number of rows,
//! on which rows are computed together, on the number of workers or on who computed what.
//!
//! Refuses to know models and steps.

mod amx;
mod avx2;
mod avx512;
mod choice;
mod driver;
mod few;
mod many;
mod neon;
mod portable;
mod scratch;
mod tile;
mod view;

use thiserror::Error;

pub use scratch::Scratch;
pub use view::{Rows, RowsMut, ViewError};

use crate::isa::Isa;
use crate::pool::{Pool, PoolError, Worker};
use crate::weight::PackedWeight;

/// Whether this machine can run [`Isa::Amx`].
pub(crate) fn has_amx() -> bool {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    return amx::is_available();
    #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
    false
}

/// Arguments that do not fit each other.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LinearError {
    /// The input's width is not the weight's.
    #[error("an input of {given} columns does not fit a weight of {k} inputs")]
    InputWidth {
        /// Columns given.
        given: usize,
        /// The weight's inputs.
        k: usize,
    },
    /// The output's shape does not follow.
    #[error("an output of {rows} x {columns} does not fit {m} rows and a weight of {n} outputs")]
    OutputShape {
        /// Rows given.
        rows: usize,
        /// Columns given.
        columns: usize,
        /// The input's rows.
        m: usize,
        /// The weight's outputs.
        n: usize,
    },
    /// The scratch was made for less.
    #[error(
        "scratch for {workers} workers and {max_k} inputs does not serve {count} workers and {k} inputs; make a larger one"
    )]
    Scratch {
        /// Workers it serves.
        workers: usize,
        /// Inputs it serves.
        max_k: usize,
        /// Workers of the region.
        count: usize,
        /// The weight's inputs.
        k: usize,
    },
    /// The machine lacks the instruction set.
    #[error("this machine cannot run {isa} kernels")]
    Isa {
        /// The one given.
        isa: Isa,
    },
    /// The pool failed.
    #[error(transparent)]
    Pool(#[from] PoolError),
}

/// Computes `out = x · Wᵀ + bias` together with the other workers of the region; ends with a barrier.
///
/// # Safety
/// All workers of the region call it with the same arguments, and until it returns nobody else touches `out` or uses
/// `scratch`, nor writes `x`.
///
/// # Errors
/// [`LinearError`], before anything is written, and the same on every worker.
pub unsafe fn linear(
    worker: &Worker<'_>,
    isa: Isa,
    x: Rows<'_>,
    weight: &PackedWeight,
    out: &RowsMut<'_>,
    scratch: &Scratch,
) -> Result<(), LinearError> {
    check(worker.count(), isa, x, weight, out, scratch)?;
    if x.rows() == 0 {
        return Ok(());
    }
    let job = driver::Job {
        x: x.as_ptr(),
        x_stride: x.stride(),
        m: x.rows(),
        weight,
        out: out.as_ptr(),
        out_stride: out.stride(),
    };
    // SAFETY: the sizes and the instruction set were checked; the part is this worker's; the rest is the caller's promise.
    unsafe {
        let part = scratch.part(worker.index());
        match isa {
            Isa::Portable => driver::run::<portable::Portable>(worker, &job, &part),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => driver::run::<avx2::Avx2>(worker, &job, &part),
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Isa::Amx if weight.dtype() != crate::dtype::Dtype::F32 => amx::run(worker, &job, &part),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Amx => driver::run::<avx512::Avx512>(worker, &job, &part),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => driver::run::<neon::Neon>(worker, &job, &part),
            // Those of other architectures, whose availability was checked.
            _ => return Err(LinearError::Isa { isa }),
        }
    }
    Ok(())
}

/// [`linear`] as a region of its own, for single calls.
///
/// # Errors
/// [`LinearError`]: arguments that do not fit, a failed pool.
pub fn linear_on_pool(
    pool: &Pool,
    isa: Isa,
    x: Rows<'_>,
    weight: &PackedWeight,
    out: &mut RowsMut<'_>,
    scratch: &mut Scratch,
) -> Result<(), LinearError> {
    check(pool.count(), isa, x, weight, out, scratch)?;
    let (out, scratch) = (&*out, &*scratch);
    pool.run(&|worker| {
        // SAFETY: one region, the same arguments; `out` and `scratch` are borrowed exclusively for its length.
        let outcome = unsafe { linear(worker, isa, x, weight, out, scratch) };
        debug_assert!(outcome.is_ok(), "checked above");
    })?;
    Ok(())
}

fn check(
    count: usize,
    isa: Isa,
    x: Rows<'_>,
    weight: &PackedWeight,
    out: &RowsMut<'_>,
    scratch: &Scratch,
) -> Result<(), LinearError> {
    let (n, k) = (weight.n(), weight.k());
    if !isa.is_available() {
        return Err(LinearError::Isa { isa });
    }
    if x.columns() != k {
        return Err(LinearError::InputWidth {
            given: x.columns(),
            k,
        });
    }
    if (out.rows(), out.columns()) != (x.rows(), n) {
        return Err(LinearError::OutputShape {
            rows: out.rows(),
            columns: out.columns(),
            m: x.rows(),
            n,
        });
    }
    if scratch.workers() < count || scratch.max_k() < k {
        let (workers, max_k) = (scratch.workers(), scratch.max_k());
        return Err(LinearError::Scratch {
            workers,
            max_k,
            count,
            k,
        });
    }
    Ok(())
}
