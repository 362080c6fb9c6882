//! What the executor's tests share.

pub mod llama;
mod slot;

pub use slot::{Init, Slot, value};
