//! From sinks on the output thread to bytes on a connection. It knows frames, not what they say.

mod body;
mod intake;
mod line;
mod pipe;
mod stall;

pub(crate) use body::{EventStream, response};
pub(crate) use intake::Intake;
pub(crate) use line::{Line, Socket};
pub(crate) use pipe::{Entry, Pipe, pipe};
