//! How one step's attention is cut into tasks, the same for all layers. Refuses to know what the tasks compute.
//!
//! The cut follows the thread count, the results do not: see the module's order of reduction.

use super::task::Partials;
use super::{MAX_ROWS, SPLIT};

/// Units of more query rows are not split over positions: there are enough of them, or they are decode of a very wide group.
const SPLIT_ROWS: usize = 16;
/// Fewest query rows of a unit that was cut to give every worker something.
const MIN_ROWS: usize = 14;

/// A run of query rows of one entry, computed for every KV head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unit {
    /// Index of the entry.
    pub(crate) entry: u32,
    /// First query row.
    pub(crate) start: u32,
    /// Query rows.
    pub(crate) count: u32,
    /// One past the last position seen.
    end: u32,
    /// Index of its partial results, when it is split.
    pub(crate) partial: Option<u32>,
}

impl Unit {
    /// Work in arbitrary units: rows times positions, and the reading of the positions.
    fn cost(&self) -> u64 {
        (u64::from(self.count) + 4) * u64::from(self.end)
    }

    fn splits(&self) -> usize {
        (self.end as usize).div_ceil(SPLIT)
    }
}

/// One unit, or one split of it; to be run for every KV head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) unit: u32,
    pub(crate) split: Option<u32>,
}

/// The cut of one step. Made anew each step without allocating.
#[derive(Debug)]
pub(crate) struct AttentionPlan {
    kv_heads: usize,
    group: usize,
    threads: usize,
    max_splits: usize,
    pub(crate) units: Vec<Unit>,
    pub(crate) items: Vec<Item>,
    /// Units whose splits must be folded after the items.
    pub(crate) merges: Vec<u32>,
}

impl AttentionPlan {
    /// Reserves for steps of at most `max_entries` entries and `max_tokens` tokens with up to `max_positions` positions.
    pub(crate) fn new(
        (heads, kv_heads): (usize, usize),
        threads: usize,
        (max_entries, max_tokens): (usize, usize),
        max_positions: usize,
    ) -> Self {
        let group = heads / kv_heads;
        let max_splits = max_positions.div_ceil(SPLIT);
        let units = max_entries + (max_tokens * group).div_ceil(MIN_ROWS);
        let merges = 2 * threads;
        Self {
            kv_heads,
            group,
            threads,
            max_splits,
            units: Vec::with_capacity(units),
            items: Vec::with_capacity(units + merges * max_splits),
            merges: Vec::with_capacity(merges),
        }
    }

    /// Values that all partial results can take.
    pub(crate) fn partial_len(&self, value_dim: usize) -> usize {
        if self.threads == 1 {
            0
        } else {
            2 * self.threads * self.unit_partial_len(value_dim)
        }
    }

    fn unit_partial_len(&self, value_dim: usize) -> usize {
        self.max_splits * SPLIT_ROWS * Partials::row_len(value_dim)
    }

    /// Where the partial results of a unit and KV head lie, in values from the start.
    pub(crate) fn partial_offset(&self, partial: u32, kv_head: usize, value_dim: usize) -> usize {
        (partial as usize * self.kv_heads + kv_head) * self.unit_partial_len(value_dim)
    }

    /// Cuts a step: `(q_len, computed)` of each entry.
    pub(crate) fn cut(&mut self, entries: impl Iterator<Item = (u32, u32)> + Clone) {
        self.units.clear();
        self.items.clear();
        self.merges.clear();
        let rows: usize = entries
            .clone()
            .map(|(q_len, _)| q_len as usize * self.group)
            .sum();
        // About four tasks a worker, in whole register blocks.
        let even = (rows * self.kv_heads / (4 * self.threads)).next_multiple_of(MIN_ROWS);
        let most = even.clamp(MIN_ROWS, MAX_ROWS);
        for (entry, (q_len, computed)) in entries.enumerate() {
            let rows = q_len as usize * self.group;
            for start in (0..rows).step_by(most) {
                let count = most.min(rows - start);
                self.units.push(Unit {
                    entry: entry as u32,
                    start: start as u32,
                    count: count as u32,
                    end: computed + ((start + count - 1) / self.group) as u32 + 1,
                    partial: None,
                });
            }
        }
        // Longest first, so that the last tasks to finish are short. Ties by place: the order is a function of the step.
        self.units
            .sort_unstable_by_key(|unit| (std::cmp::Reverse(unit.cost()), unit.entry, unit.start));
        let total: u64 = self.units.iter().map(Unit::cost).sum();
        // Fewer than `2 * threads` pairs of unit and head can each exceed this share of the total.
        let share = total * self.kv_heads as u64 / (2 * self.threads as u64);
        for (index, unit) in self.units.iter_mut().enumerate() {
            let splits = unit.splits();
            let large = self.threads > 1 && unit.cost() > share;
            if large && splits > 1 && unit.count as usize <= SPLIT_ROWS {
                unit.partial = Some(self.merges.len() as u32);
                self.merges.push(index as u32);
                self.items.extend((0..splits as u32).map(|split| Item {
                    unit: index as u32,
                    split: Some(split),
                }));
            } else {
                self.items.push(Item {
                    unit: index as u32,
                    split: None,
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_cover_every_query_row_once_and_stay_within_the_reserve() {
        for threads in [1, 2, 16] {
            for (heads, kv_heads) in [(32, 32), (32, 8), (14, 2), (71, 1)] {
                let mut plan = AttentionPlan::new((heads, kv_heads), threads, (8, 2048), 8192);
                let reserve = (
                    plan.units.capacity(),
                    plan.items.capacity(),
                    plan.merges.capacity(),
                );
                for step in [
                    vec![],
                    vec![(1, 8191)],
                    vec![(1, 5), (600, 40), (1, 3000)],
                    vec![(2048, 0)],
                ] {
                    plan.cut(step.iter().copied());
                    for (entry, &(q_len, _)) in step.iter().enumerate() {
                        let mut rows = vec![0; q_len as usize * heads / kv_heads];
                        for unit in plan.units.iter().filter(|unit| unit.entry as usize == entry) {
                            let range = unit.start as usize..(unit.start + unit.count) as usize;
                            assert!(range.len() <= MAX_ROWS);
                            rows[range].iter_mut().for_each(|n| *n += 1);
                        }
                        assert!(
                            rows.iter().all(|&n| n == 1),
                            "{threads} threads, {heads}/{kv_heads}, {step:?}"
                        );
                    }
                    assert!(plan.merges.len() * kv_heads <= 2 * threads);
                    assert_eq!(
                        reserve,
                        (
                            plan.units.capacity(),
                            plan.items.capacity(),
                            plan.merges.capacity()
                        )
                    );
                }
            }
        }
    }

    #[test]
    fn one_long_decode_is_split_over_its_positions() {
        let mut plan = AttentionPlan::new((8, 2), 8, (4, 64), 8192);
        plan.cut([(1, 4000)].into_iter());
        assert_eq!(plan.items.len(), 4001usize.div_ceil(SPLIT));
        assert_eq!(plan.merges, [0]);
        plan.cut([(1, 100)].into_iter());
        assert_eq!((plan.items.len(), plan.merges.len()), (1, 0));
    }
}
