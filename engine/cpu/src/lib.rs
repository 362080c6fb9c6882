//! SIMD kernels of the CPU backend on one persistent thread pool.

pub mod dtype;
pub mod isa;
mod kernels;
pub mod kv_cache;
pub mod memory;
pub mod pool;
