//! agentlm-host: the threads and channels between callers, the pure core and the output stage.
//!
//! Callers hold an [`EngineHandle`]; the engine thread holds the one [`StepSource`]; between them run the output
//! thread (text, stop strings, sinks), the grammar thread (masks) and the watchdog. It knows no HTTP, no Python and no kernel.

mod control;
mod counters;
mod event;
mod grammar;
mod handle;
mod health;
mod histogram;
mod mock;
mod output;
mod queue;
mod ring;
mod source;
mod step_times;
mod submission;
mod waiting;
mod watchdog;

pub use agentlm_core::TopToken;
pub use control::{AdapterInfo, AdapterRef, Control, ControlError, Done, Quiesce, Withdrawal};
pub use counters::Snapshot;
pub use event::{Finished, PromptToken, RequestError, Sink, Timing, Token};
pub use grammar::MaskSlot;
pub use handle::{EngineHandle, RequestHandle};
pub use health::Health;
pub use histogram::Histogram;
pub use mock::{Ends, MockConfig, MockRunner, spawn_mock};
pub use ring::Ring;
pub use source::{BuildError, EngineConfig, Next, StepSource, build};
pub use step_times::{KindTimes, StepKind, StepTimes};
pub use submission::{Submission, SubmitError};
