//! Free space of one volume: a bit per allocation unit, searched from where the last search ended (next fit).
//!
//! Rules: a unit is given once until it is freed (DSS-5); the result depends on the state alone, so that every
//! node that applies the same records has the same map.

use alloc::vec;
use alloc::vec::Vec;

/// Units of one volume that are free or taken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FreeMap {
    /// Bit set = taken.
    words: Vec<u64>,
    units: u32,
    free: u32,
    cursor: u32,
}

impl FreeMap {
    /// A map of `units` free units, searched from `cursor`.
    pub fn new(units: u32, cursor: u32) -> Self {
        let cursor = if cursor < units { cursor } else { 0 };
        Self {
            words: vec![0; units.div_ceil(64) as usize],
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

    fn is_taken(&self, unit: u32) -> bool {
        self.words[(unit / 64) as usize] & (1 << (unit % 64)) != 0
    }

    /// Marks a run as taken; false when part of it is outside or taken already (nothing is changed then).
    pub fn take(&mut self, start: u32, count: u32) -> bool {
        let Some(end) = start.checked_add(count) else {
            return false;
        };
        if end > self.units || (start..end).any(|unit| self.is_taken(unit)) {
            return false;
        }
        for unit in start..end {
            self.words[(unit / 64) as usize] |= 1 << (unit % 64);
        }
        self.free -= count;
        true
    }

    /// Gives a run back. Every unit of it must be taken.
    pub fn give_back(&mut self, start: u32, count: u32) {
        for unit in start..start + count {
            assert!(self.is_taken(unit), "unit {unit} is freed twice");
            self.words[(unit / 64) as usize] &= !(1 << (unit % 64));
        }
        self.free += count;
    }

    /// Takes one run of at most `wanted` units: the first free run at or after the cursor, then from the start.
    pub fn next_run(&mut self, wanted: u32) -> Option<(u32, u32)> {
        if self.free == 0 || wanted == 0 {
            return None;
        }
        let start = self.first_free(self.cursor).or_else(|| self.first_free(0))?;
        let limit = start.saturating_add(wanted).min(self.units);
        let end = (start..limit).find(|unit| self.is_taken(*unit)).unwrap_or(limit);
        let taken = self.take(start, end - start);
        assert!(taken, "a run that was seen free is free");
        self.cursor = if end == self.units { 0 } else { end };
        Some((start, end - start))
    }

    fn first_free(&self, from: u32) -> Option<u32> {
        let mut unit = from;
        while unit < self.units {
            let word = self.words[(unit / 64) as usize] >> (unit % 64);
            if word == 0 || word.trailing_ones() < 64 - unit % 64 {
                let found = unit + word.trailing_ones();
                return (found < self.units).then_some(found);
            }
            unit = (unit / 64 + 1) * 64;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::FreeMap;

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
}
