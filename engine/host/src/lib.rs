//! Threads and channels between callers, the core and the output stage.
