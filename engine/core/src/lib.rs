//! agentlm-core decides what every step computes.
//!
//! A pure state machine: requests go in, plans come out, sampled ids go back. It does no I/O, knows no
//! text, no Python, no thread and no clock, so that random sequences of operations can test all of it.

pub mod arena;
pub mod params;
pub mod results;

/// KV positions in one block.
pub const BLOCK_SIZE: u32 = 16;

/// A request's name for its whole life; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// A step's number, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StepId(pub u64);

/// Why a request ended. The names are TGI's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FinishReason {
    /// `max_new_tokens` or the context is used up. Checked before the end-of-sequence ids, as TGI does.
    Length,
    /// An end-of-sequence id was sampled.
    EosToken,
    /// The output stage found a stop string.
    StopSequence,
}
