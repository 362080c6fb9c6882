//! SIMD kernels of the CPU backend on one persistent thread pool.
