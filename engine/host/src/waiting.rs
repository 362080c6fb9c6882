//! Who waits for a first step, oldest first: the queue's age, for whoever watches.

use std::collections::VecDeque;
use std::time::Instant;

use agentlm_core::RequestId;

/// Requests in the order of their submission. Those that wait no more leave when they come to the front.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    queue: VecDeque<(RequestId, Instant)>,
}

impl Waiting {
    /// `request` waits since `submitted`.
    pub fn push(&mut self, request: RequestId, submitted: Instant) {
        self.queue.push_back((request, submitted));
    }

    /// Since when the oldest has waited, of those of whom `waits` is true.
    pub fn since(&mut self, waits: impl Fn(RequestId) -> bool) -> Option<Instant> {
        while let Some(&(request, submitted)) = self.queue.front() {
            if waits(request) {
                return Some(submitted);
            }
            self.queue.pop_front();
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_oldest_that_waits_is_told() {
        let mut waiting = Waiting::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        for id in 0..4 {
            waiting.push(RequestId(id), at(id));
        }
        assert_eq!(waiting.since(|_| true), Some(at(0)));
        assert_eq!(waiting.since(|id| id.0 > 1), Some(at(2)));
        assert_eq!(waiting.since(|id| id.0 == 3), Some(at(3)));
        assert_eq!(waiting.since(|_| false), None);
        waiting.push(RequestId(4), at(9));
        assert_eq!(waiting.since(|_| true), Some(at(9)));
    }
}
