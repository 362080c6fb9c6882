//! A Prometheus histogram that many threads add to without a lock. It knows no names and no formats.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts by upper bound, and the sum of what was recorded.
#[derive(Debug)]
pub struct Histogram {
    /// Inclusive upper bounds, ascending; one more bucket takes the rest.
    bounds: Box<[f64]>,
    counts: Box<[AtomicU64]>,
    /// Bits of an f64.
    sum: AtomicU64,
}

impl Histogram {
    fn new(bounds: impl Iterator<Item = f64>) -> Self {
        let bounds: Box<[f64]> = bounds.collect();
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self {
            bounds,
            counts,
            sum: AtomicU64::new(0f64.to_bits()),
        }
    }

    /// TGI's 35 geometric buckets, in seconds: 0.00015 · 1.5^k.
    #[must_use]
    pub fn durations() -> Self {
        Self::new((0..35).map(|k| 0.000_15 * 1.5f64.powi(k)))
    }

    /// `n` equal buckets up to `top`.
    #[must_use]
    pub fn equal(top: f64, n: u32) -> Self {
        Self::new((1..=n).map(|k| top * f64::from(k) / f64::from(n)))
    }

    /// TGI's buckets of batch sizes: the powers of two from 1 to 1024.
    #[must_use]
    pub fn batch_sizes() -> Self {
        Self::new((0..=10).map(|k| 2f64.powi(k)))
    }

    /// Adds one value; one that is not finite is ignored.
    pub fn record(&self, value: f64) {
        if !value.is_finite() {
            return;
        }
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        let add = |bits| Some((f64::from_bits(bits) + value).to_bits());
        // The closure never declines, so this cannot fail.
        let _ = self.sum.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    /// Pairs of bound and cumulative count, then the count and the sum of all.
    #[must_use]
    pub fn read(&self) -> (Vec<(f64, u64)>, u64, f64) {
        let mut total = 0;
        let mut buckets = Vec::with_capacity(self.bounds.len());
        for (count, bound) in self.counts.iter().zip(&self.bounds) {
            total += count.load(Ordering::Relaxed);
            buckets.push((*bound, total));
        }
        total += self.counts[self.bounds.len()].load(Ordering::Relaxed);
        (buckets, total, f64::from_bits(self.sum.load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_inclusive_and_counts_cumulative() {
        let histogram = Histogram::equal(4.0, 4);
        for value in [0.0, 1.0, 1.5, 4.0, 9.0, f64::NAN] {
            histogram.record(value);
        }
        let (buckets, count, sum) = histogram.read();
        assert_eq!(buckets, [(1.0, 2), (2.0, 3), (3.0, 3), (4.0, 4)]);
        assert_eq!((count, sum), (5, 15.5));
    }

    #[test]
    fn durations_reach_from_150_microseconds_to_145_seconds() {
        let (buckets, ..) = Histogram::durations().read();
        assert_eq!(buckets.len(), 35);
        assert_eq!(buckets[0].0, 0.000_15);
        assert!((buckets[34].0 - 145.6).abs() < 0.1);
    }

    #[test]
    fn batch_sizes_reach_from_1_to_1024() {
        let (buckets, ..) = Histogram::batch_sizes().read();
        assert_eq!((buckets.len(), buckets[0].0, buckets[10].0), (11, 1.0, 1024.0));
    }
}
