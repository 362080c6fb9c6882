//! The server over a real socket, on the mock runner: wire formats, limits, and what happens when things end.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

mod client;
mod features;
mod fields;
mod fixture;
mod lifecycle;
mod limits;
mod native;
mod openai;
mod openapi;
mod operate;
mod protection;
mod ranges;
mod sagemaker;
mod script;
mod statuses;
mod streams;
mod tools;
mod traces;
