//! The server over a real socket, on the mock runner: wire formats, limits, and what happens when things end.

mod client;
mod fixture;
mod lifecycle;
mod limits;
mod native;
mod openai;
