//! How many runs may be in flight. Full is refused at once, never waited for.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::ApiError;

/// The door that `max_concurrent_requests` sets.
pub(crate) struct Gate {
    places: Arc<Semaphore>,
    size: u32,
}

/// Places taken; dropping it gives them back.
pub(crate) struct Places {
    _permit: OwnedSemaphorePermit,
}

impl Gate {
    pub(crate) fn new(size: usize) -> Self {
        let size = u32::try_from(size.min(Semaphore::MAX_PERMITS)).unwrap_or(u32::MAX);
        Self {
            places: Arc::new(Semaphore::new(size as usize)),
            size,
        }
    }

    /// Takes one place a run. A request with more runs than there are places takes them all.
    pub(crate) fn enter(&self, runs: usize) -> Result<Places, ApiError> {
        let runs = u32::try_from(runs).unwrap_or(u32::MAX).min(self.size);
        match self.places.clone().try_acquire_many_owned(runs) {
            Ok(permit) => Ok(Places { _permit: permit }),
            Err(_) => Err(ApiError::Overloaded),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_gate_refuses_and_a_dropped_place_is_free_again() {
        let gate = Gate::new(2);
        let first = gate.enter(1).unwrap();
        assert!(gate.enter(2).is_err());
        let second = gate.enter(1).unwrap();
        assert!(gate.enter(1).is_err());
        drop((first, second));
        assert!(gate.enter(5).is_ok(), "more runs than places take all places");
    }
}
