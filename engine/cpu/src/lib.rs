//! SIMD kernels of the CPU backend on one persistent thread pool.

pub mod dtype;
pub mod isa;
pub mod pool;
