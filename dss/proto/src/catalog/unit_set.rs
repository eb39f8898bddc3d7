//! A set of units of one volume, as runs.
//!
//! Rule: it may be told to stay below a number of runs. Then it takes the smallest gaps in, so it may have more units than were
//! put in, and never fewer: who copies what is in it copies too much at worst.

use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// Runs of units in order, none touching the next.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct UnitSet {
    /// First unit, and the first one behind the run.
    runs: Vec<(u32, u32)>,
}

impl UnitSet {
    /// Whether a unit is in it.
    pub fn contains(&self, unit: u32) -> bool {
        let at = self.runs.partition_point(|run| run.1 <= unit);
        self.runs.get(at).is_some_and(|run| run.0 <= unit)
    }

    /// Whether it has nothing.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// How many units it has.
    pub fn units(&self) -> u64 {
        self.runs.iter().map(|run| u64::from(run.1 - run.0)).sum()
    }

    /// How many runs they are.
    pub fn run_count(&self) -> usize {
        self.runs.len()
    }

    /// The runs: first unit, and how many.
    pub fn runs(&self) -> impl Iterator<Item = (u32, u32)> {
        self.runs.iter().map(|run| (run.0, run.1 - run.0))
    }

    /// Puts `count` units from `start` in.
    pub(super) fn insert(&mut self, start: u32, count: u32) {
        let end = start.saturating_add(count);
        if start >= end {
            return;
        }
        let first = self.runs.partition_point(|run| run.1 < start);
        let last = self.runs.partition_point(|run| run.0 <= end);
        let (mut from, mut to) = (start, end);
        if first < last {
            from = from.min(self.runs[first].0);
            to = to.max(self.runs[last - 1].1);
        }
        self.runs.splice(first..last, [(from, to)]);
    }

    /// Takes `count` units from `start` out.
    pub(super) fn remove(&mut self, start: u32, count: u32) {
        let end = start.saturating_add(count);
        if start >= end {
            return;
        }
        let mut left = Vec::with_capacity(self.runs.len() + 1);
        for run in &self.runs {
            let parts = [(run.0, run.1.min(start)), (run.0.max(end), run.1)];
            left.extend(parts.into_iter().filter(|part| part.0 < part.1));
        }
        self.runs = left;
    }

    /// Takes gaps in, the smallest first, until there are at most `most` runs.
    pub(super) fn join_down_to(&mut self, most: usize) {
        while self.runs.len() > most.max(1) {
            let gaps = self.runs.windows(2).map(|pair| pair[1].0 - pair[0].1);
            let Some((at, _)) = gaps.enumerate().min_by_key(|gap| gap.1) else {
                return;
            };
            self.runs[at].1 = self.runs[at + 1].1;
            self.runs.remove(at + 1);
        }
    }

    /// Whether the runs are in order, apart from each other, and end at `units` at the latest.
    pub(super) fn is_sound(&self, units: u32) -> bool {
        let ordered = self.runs.windows(2).all(|pair| pair[0].1 < pair[1].0);
        ordered && self.runs.iter().all(|run| run.0 < run.1 && run.1 <= units)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeSet;

    fn of(set: &UnitSet) -> BTreeSet<u32> {
        set.runs()
            .flat_map(|(start, count)| start..start + count)
            .collect()
    }

    #[test]
    fn it_is_a_set_whatever_is_put_in_and_taken_out() {
        let (mut set, mut expected, mut random) = (UnitSet::default(), BTreeSet::new(), 7u64);
        for _ in 0..20_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let (start, count) = ((random >> 33) as u32 % 64, (random >> 50) as u32 % 6);
            if (random >> 60).is_multiple_of(2) {
                set.insert(start, count);
                expected.extend(start..start + count);
            } else {
                set.remove(start, count);
                expected.retain(|unit| !(start..start + count).contains(unit));
            }
            assert_eq!(of(&set), expected);
            assert!(set.is_sound(70), "{set:?}");
            assert!((0..70).all(|unit| set.contains(unit) == expected.contains(&unit)));
        }
    }

    #[test]
    fn what_is_joined_has_everything_and_the_smallest_gaps() {
        let mut set = UnitSet::default();
        for (start, count) in [(0, 1), (10, 1), (12, 1), (40, 2)] {
            set.insert(start, count);
        }
        set.join_down_to(3);
        assert_eq!(set.runs().collect::<Vec<_>>(), [(0, 1), (10, 3), (40, 2)]);
        set.join_down_to(1);
        assert_eq!(set.runs().collect::<Vec<_>>(), [(0, 42)]);
    }
}
