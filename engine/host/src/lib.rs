//! agentlm-host: the threads and channels between callers, the pure core and the output stage.
//!
//! Callers hold an [`EngineHandle`]; the engine thread holds the one [`StepSource`]; between them run the output
//! thread (text, stop strings, sinks) and the watchdog. It knows no HTTP, no Python and no kernel.

mod counters;
mod event;
mod handle;
mod health;
mod mock;
mod output;
mod ring;
mod source;
mod submission;
mod watchdog;

pub use agentlm_core::TopToken;
pub use counters::Snapshot;
pub use event::{Finished, RequestError, Sink, Timing, Token};
pub use handle::{EngineHandle, RequestHandle};
pub use health::Health;
pub use mock::{MockConfig, MockRunner, spawn_mock};
pub use source::{BuildError, EngineConfig, Next, StepSource, build};
pub use submission::{Submission, SubmitError};
