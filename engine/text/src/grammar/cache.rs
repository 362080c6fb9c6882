//! A few values by their keys; the one that was not used for longest goes first. Knows nothing of what they are.

use std::sync::Arc;

/// Holds up to `capacity` values, least recently used first.
pub(super) struct Cache<T> {
    capacity: usize,
    entries: Vec<(String, Arc<T>)>,
}

impl<T: Default> Cache<T> {
    /// An empty one.
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            entries: Vec::new(),
        }
    }

    /// The value of `key`, a default one if it is new.
    pub(super) fn entry(&mut self, key: String) -> Arc<T> {
        let entry = match self.entries.iter().position(|(known, _)| *known == key) {
            Some(at) => self.entries.remove(at),
            None => {
                if self.entries.len() >= self.capacity {
                    self.entries.remove(0);
                }
                (key, Arc::default())
            }
        };
        let value = entry.1.clone();
        self.entries.push(entry);
        value
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn the_least_recently_used_goes_first() {
        let mut cache = Cache::<AtomicU32>::new(2);
        let count = |cache: &mut Cache<AtomicU32>, key: &str| {
            cache.entry(key.to_owned()).fetch_add(1, Ordering::Relaxed)
        };
        let seen: Vec<u32> = ["a", "b", "a", "c", "a", "b"]
            .into_iter()
            .map(|key| count(&mut cache, key))
            .collect();
        // `c` took the place of `b`, not of `a`.
        assert_eq!(seen, [0, 0, 1, 0, 2, 0]);
        assert_eq!(cache.entries.len(), 2);
    }

    #[test]
    fn a_value_in_use_outlives_its_place() {
        let mut cache = Cache::<AtomicU32>::new(1);
        let held = cache.entry("a".to_owned());
        cache.entry("b".to_owned());
        held.store(7, Ordering::Relaxed);
        assert_eq!(cache.entry("a".to_owned()).load(Ordering::Relaxed), 0);
    }
}
