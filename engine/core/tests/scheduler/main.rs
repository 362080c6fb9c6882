//! The core against a model runner: a device in miniature that really keeps tokens, block tables and KV, so that
//! any wrong block, row, diff or order changes a request's output or is named as a fault.

#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a failed expectation is a failed test"
)]

mod arena_view;
mod behaviour;
mod device;
mod features;
#[cfg(feature = "mutations")]
mod mutations;
mod params;
mod properties;
mod reference;
mod world;
