//! Free space of one volume: runs of free allocation units, searched from where the last search ended (next fit).
//!
//! Rules: a unit is given once until it is freed (DSS-5); the result depends on the state alone, so that every
//! node that applies the same records has the same map. Memory follows the number of free runs, not the size of the
//! volume: a fresh volume of 64 TiB is one run.

use alloc::collections::BTreeMap;

/// Most allocation units of a volume: 64 TiB in units of 1 MiB.
pub const UNITS_MAX: u32 = 1 << 26;

/// Units of one volume that are free.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FreeMap {
    /// First unit and length of each free run; runs never touch each other.
    runs: BTreeMap<u32, u32>,
    units: u32,
    free: u32,
    cursor: u32,
}

impl FreeMap {
    /// A map of `units` free units, searched from `cursor`.
    pub fn new(units: u32, cursor: u32) -> Self {
        let cursor = if cursor < units { cursor } else { 0 };
        Self {
            runs: (units > 0).then_some((0, units)).into_iter().collect(),
            units,
            free: units,
            cursor,
        }
    }

    /// How many units are free.
    pub const fn free(&self) -> u32 {
        self.free
    }

    /// How many units there are.
    pub const fn units(&self) -> u32 {
        self.units
    }

    /// Where the next search starts.
    pub const fn cursor(&self) -> u32 {
        self.cursor
    }

    /// Lets the next search start at `unit`, as it did before one that is taken back.
    pub fn search_from(&mut self, unit: u32) {
        self.cursor = unit;
    }

    /// The free run that has `unit`: its start and its end.
    fn run_with(&self, unit: u32) -> Option<(u32, u32)> {
        let (start, count) = self.runs.range(..=unit).next_back()?;
        let end = start + count;
        (unit < end).then_some((*start, end))
    }

    fn put(&mut self, start: u32, end: u32) {
        if start < end {
            self.runs.insert(start, end - start);
        }
    }

    /// Marks a run as taken; false when part of it is outside or taken already (nothing is changed then).
    pub fn take(&mut self, start: u32, count: u32) -> bool {
        let Some(end) = start.checked_add(count) else {
            return false;
        };
        if count == 0 {
            return end <= self.units;
        }
        let Some((run_start, run_end)) = self.run_with(start).filter(|run| end <= run.1) else {
            return false;
        };
        self.runs.remove(&run_start);
        self.put(run_start, start);
        self.put(end, run_end);
        self.free -= count;
        true
    }

    /// Gives a run back. Every unit of it must be taken.
    pub fn give_back(&mut self, start: u32, count: u32) {
        if count == 0 {
            return;
        }
        let end = start + count;
        assert!(
            end <= self.units,
            "unit {} is past the end of the volume",
            end - 1
        );
        let freed = self.runs.range(..end).next_back();
        let overlaps = freed.is_some_and(|(run, length)| run + length > start);
        assert!(!overlaps, "a unit of {start} to {} is freed twice", end - 1);
        let after = self.runs.remove(&end).unwrap_or(0);
        let before = start.checked_sub(1).and_then(|unit| self.run_with(unit));
        let from = before.map_or(start, |(run, _)| run);
        self.runs.insert(from, end + after - from);
        self.free += count;
    }

    /// Takes one run of at most `wanted` units: the first free run at or after the cursor, then from the start.
    pub fn next_run(&mut self, wanted: u32) -> Option<(u32, u32)> {
        if wanted == 0 {
            return None;
        }
        let here = self.run_with(self.cursor).map(|(_, end)| (self.cursor, end));
        let later = || self.runs.range(self.cursor..).next();
        let first = || self.runs.first_key_value();
        let (start, run_end) = here.or_else(|| {
            later()
                .or_else(first)
                .map(|(start, count)| (*start, start + count))
        })?;
        let end = start.saturating_add(wanted).min(run_end);
        let taken = self.take(start, end - start);
        assert!(taken, "a run that was seen free is free");
        self.cursor = if end == self.units { 0 } else { end };
        Some((start, end - start))
    }

    /// Makes the volume `units` long. False, and nothing changed, when units that would go are taken.
    pub fn resize(&mut self, units: u32) -> bool {
        if units < self.units {
            let old = self.units;
            if !self.take(units, old - units) {
                return false;
            }
            self.units = units;
        } else {
            let old = core::mem::replace(&mut self.units, units);
            self.give_back(old, units - old);
        }
        if self.cursor >= self.units {
            self.cursor = 0;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::{FreeMap, UNITS_MAX};

    #[test]
    fn every_unit_is_given_once_and_a_freed_one_again() {
        let mut map = FreeMap::new(130, 5);
        let mut seen = alloc::collections::BTreeSet::new();
        while let Some((start, count)) = map.next_run(7) {
            assert!(count <= 7);
            for unit in start..start + count {
                assert!(seen.insert(unit));
            }
        }
        assert_eq!((seen.len(), map.free()), (130, 0));
        map.give_back(63, 2);
        assert_eq!(map.next_run(7), Some((63, 2)));
        assert_eq!(map.next_run(1), None);
    }

    #[test]
    fn a_run_outside_or_taken_is_refused() {
        let mut map = FreeMap::new(10, 0);
        assert!(map.take(2, 3));
        assert!(!map.take(4, 1) && !map.take(9, 2) && !map.take(u32::MAX, 2));
        assert_eq!(map.free(), 7);
    }

    #[test]
    fn what_is_given_back_in_any_order_is_one_run_again() {
        let mut map = FreeMap::new(64, 0);
        assert!(map.take(0, 64));
        for unit in (0..64).map(|number| number * 37 % 64) {
            map.give_back(unit, 1);
        }
        assert_eq!(map, FreeMap::new(64, 0));
    }

    #[test]
    #[should_panic = "freed twice"]
    fn a_unit_is_not_freed_twice() {
        let mut map = FreeMap::new(64, 0);
        assert!(map.take(8, 8));
        map.give_back(8, 4);
        map.give_back(11, 2);
    }

    #[test]
    fn the_tail_goes_only_when_it_is_free_and_the_largest_volume_is_one_run() {
        let mut map = FreeMap::new(10, 9);
        assert!(map.take(4, 1));
        assert!(!map.resize(4), "unit 4 is taken");
        assert!(map.resize(5));
        assert_eq!((map.units(), map.free(), map.cursor()), (5, 4, 0));
        assert!(map.resize(UNITS_MAX));
        assert_eq!(map.free(), UNITS_MAX - 1);
        assert_eq!(map.runs.len(), 2);
        map.give_back(4, 1);
        assert_eq!(map.runs.len(), 1);
    }
}
