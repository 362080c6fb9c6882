//! The engine's state as a whole.

/// Whether the engine serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// It serves.
    Ready,
    /// It finishes what it has and takes nothing new.
    Draining,
    /// It has ended in order.
    Closed,
    /// It has failed; the text says how.
    Failed(String),
}
