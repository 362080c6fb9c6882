//! SIMD kernels of the CPU backend on one persistent thread pool.

pub mod adapter;
pub mod dtype;
pub mod executor;
pub mod isa;
mod kernels;
pub mod kv_cache;
pub mod linear;
pub mod memory;
mod outer_product;
pub mod pool;
pub mod rounding;
pub mod rows;
pub mod sampler;
pub mod tape;
pub mod weight;
