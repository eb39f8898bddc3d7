//! The units of a file: a list of runs in logical order, with holes between them.
//!
//! Rules: runs do not overlap and are in the order of their logical units; neighbours that continue each other on the
//! same volume are one run.

use super::Extent;
use alloc::vec::Vec;

impl Extent {
    /// The first logical unit after it.
    pub const fn end(&self) -> u32 {
        self.unit + self.count
    }

    /// Whether `next` goes on where this ends, in the file and on the volume.
    fn continues_as(&self, next: &Self) -> bool {
        self.volume == next.volume && self.end() == next.unit && self.start + self.count == next.start
    }

    /// Its units from logical unit `from` up to `to`, when there are any.
    fn part(&self, from: u32, to: u32) -> Option<Self> {
        let (from, to) = (from.max(self.unit), to.min(self.end()));
        (from < to).then(|| Self {
            unit: from,
            volume: self.volume,
            start: self.start + (from - self.unit),
            count: to - from,
        })
    }
}

/// Where in the list the run is that contains logical unit `unit`, or the first one after it.
pub fn position(extents: &[Extent], unit: u32) -> usize {
    extents.partition_point(|extent| extent.end() <= unit)
}

/// Logical units that a file with these extents reaches to.
pub(super) fn end(extents: &[Extent]) -> u32 {
    extents.last().map_or(0, Extent::end)
}

/// Units in these runs.
pub fn units(extents: &[Extent]) -> u64 {
    extents.iter().map(|extent| u64::from(extent.count)).sum()
}

/// Puts a run where there is a hole.
pub(super) fn insert(extents: &mut Vec<Extent>, run: Extent) {
    let at = position(extents, run.unit);
    assert!(
        extents.get(at).is_none_or(|next| run.end() <= next.unit),
        "a unit is put where there is one"
    );
    let joins_next = extents.get(at).is_some_and(|next| run.continues_as(next));
    let joins_last = at > 0 && extents[at - 1].continues_as(&run);
    match (joins_last, joins_next) {
        (true, true) => {
            extents[at - 1].count += run.count + extents[at].count;
            extents.remove(at);
        }
        (true, false) => extents[at - 1].count += run.count,
        (false, true) => {
            let next = &mut extents[at];
            (next.unit, next.start, next.count) = (run.unit, run.start, next.count + run.count);
        }
        (false, false) => extents.insert(at, run),
    }
}

/// Takes the logical units from `from` up to `to` out; gives what was there.
pub(super) fn cut(extents: &mut Vec<Extent>, from: u32, to: u32) -> Vec<Extent> {
    let first = position(extents, from);
    let last = first + extents[first..].partition_point(|extent| extent.unit < to);
    let touched: Vec<Extent> = extents[first..last].to_vec();
    let kept = touched
        .iter()
        .flat_map(|extent| [extent.part(0, from), extent.part(to, u32::MAX)])
        .flatten();
    extents.splice(first..last, kept.collect::<Vec<_>>());
    touched
        .iter()
        .filter_map(|extent| extent.part(from, to))
        .collect()
}

/// The holes between logical units `from` and `to`: first unit and number of units of each.
pub fn holes(extents: &[Extent], from: u32, to: u32) -> Vec<(u32, u32)> {
    let (mut holes, mut at) = (Vec::new(), from);
    for extent in &extents[position(extents, from)..] {
        if extent.unit >= to {
            break;
        }
        if extent.unit > at {
            holes.push((at, extent.unit - at));
        }
        at = extent.end();
    }
    if at < to {
        holes.push((at, to - at));
    }
    holes
}

/// Whether the runs are as the rules say.
pub(super) fn are_sound(extents: &[Extent]) -> bool {
    let fits = |extent: &Extent| {
        extent.count > 0
            && extent.unit.checked_add(extent.count).is_some()
            && extent.start.checked_add(extent.count).is_some()
    };
    extents.iter().all(fits)
        && extents
            .windows(2)
            .all(|pair| pair[0].end() <= pair[1].unit && !pair[0].continues_as(&pair[1]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeMap;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_list_of_runs_is_a_map_of_units(steps in prop::collection::vec((any::<bool>(), 0u32..40, 1u32..9), 0..60)) {
            let mut runs: Vec<Extent> = Vec::new();
            let mut map: BTreeMap<u32, u32> = BTreeMap::new();
            let mut next = 100;
            for (fill, unit, count) in steps {
                if fill {
                    for (unit, count) in holes(&runs, unit, unit + count) {
                        insert(&mut runs, Extent { unit, volume: 0, start: next, count });
                        (0..count).for_each(|index| assert!(map.insert(unit + index, next + index).is_none()));
                        next += count;
                    }
                } else {
                    let gone = cut(&mut runs, unit, unit + count);
                    let expected: Vec<u32> = (unit..unit + count).filter_map(|unit| map.remove(&unit)).collect();
                    let found: Vec<u32> = gone.iter().flat_map(|run| run.start..run.start + run.count).collect();
                    prop_assert_eq!(found, expected);
                }
                prop_assert!(are_sound(&runs), "{:?}", runs);
                let listed: Vec<(u32, u32)> = runs
                    .iter()
                    .flat_map(|run| (0..run.count).map(|index| (run.unit + index, run.start + index)))
                    .collect();
                prop_assert_eq!(listed, map.iter().map(|(a, b)| (*a, *b)).collect::<Vec<_>>());
            }
        }
    }
}
