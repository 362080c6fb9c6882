//! From sinks on the output thread to bytes on a connection. It knows frames, not what they say.

mod body;
mod pipe;

pub(crate) use body::{EventStream, response};
pub(crate) use pipe::{Pipe, pipe};
