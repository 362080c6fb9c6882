//! The kernels between the linears: embedding, norms, rotation and cache write, attention, SwiGLU; and adapters' low-rank updates.
//!
//! Each works on one row, or one task of an attention, and is written once over [`simd::Simd`]; the executor hands
//! rows and tasks to workers. A result depends on its own row and the instruction set only: never on the batch,
//! the thread count or the chunking. Refuses to know requests, rows' owners and threads.

pub(crate) mod attention;
pub(crate) mod embed;
pub(crate) mod exp;
pub(crate) mod low_rank;
pub(crate) mod neon;
pub(crate) mod norm;
pub(crate) mod rope;
pub(crate) mod simd;
pub(crate) mod swiglu;
