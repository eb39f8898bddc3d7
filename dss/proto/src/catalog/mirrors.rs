//! Mirrored volumes: which of the two legs of a volume counts, and which units only one of them has.
//!
//! A volume of two legs is in one of these states. `Passed` means that every member has read the journal up to the entry
//! that began the state, and has finished the I/O that it began before.
//!
//! ```text
//! Both --Detach--> Out, waiting --Passed--> Out --Resync or ReplaceLeg--> Resyncing, waiting --Passed--> Resyncing --no unit dirty--> Both
//!                        ^_________________________________Detach________________/______________/
//! ```
//!
//! Rules (MIR-n, README of `aquifer-dss`): what is here decides which leg is read, whatever a label says; nobody writes while
//! members are waited for; a unit is dirty before its first write that only one leg gets, and from a `Detach` on when
//! somebody may have written it on one side (`intents.rs`), or may have written it while it was nobody's.

use super::intents::Intents;
use super::unit_set::UnitSet;
use super::{Catalog, NewLeg, OperationError, Outcome, Reply};
use crate::defect::{Defect, planted};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// Runs of dirty units of all volumes at most; more are joined.
const DIRTY_RUNS: usize = 16_384;
/// ... and of one volume.
const DIRTY_RUNS_OF_ONE: usize = 4096;
/// Runs of a volume that are copied to a returning leg at a time.
pub const SYNCS_MAX: usize = 8;

/// A set of the two legs of a volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Legs(u8);

impl Legs {
    /// Both.
    pub const BOTH: Self = Self(3);

    /// One.
    pub const fn only(leg: u8) -> Self {
        Self(1 << (leg & 1))
    }

    /// Whether it has this leg.
    pub const fn contains(self, leg: u8) -> bool {
        self.0 & (1 << (leg & 1)) != 0
    }

    /// The legs in it.
    pub fn iter(self) -> impl Iterator<Item = u8> {
        (0..2).filter(move |leg| self.contains(*leg))
    }
}

/// What the legs of a volume are worth.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum MirrorState {
    /// Both have everything, but for torn units.
    Both,
    /// One is not used.
    Out {
        /// Which.
        leg: u8,
        /// Journal sequence that members have to pass; `None` when they have.
        since: Option<u64>,
    },
    /// One is written again, and read where no unit is dirty.
    Resyncing {
        /// Which.
        leg: u8,
        /// Journal sequence that members have to pass; `None` when they have.
        since: Option<u64>,
    },
}

/// Units where nobody writes: they are copied to a returning leg, or, when both legs count, one of these is written again there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Sync {
    /// First unit.
    pub start: u32,
    /// How many.
    pub count: u32,
    /// Journal sequence that members have to pass; `None` when they have, and the leader copies.
    pub since: Option<u64>,
}

impl Sync {
    const fn has(&self, unit: u32) -> bool {
        self.start <= unit && unit - self.start < self.count
    }
}

/// The legs of one volume.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Mirror {
    /// What they are worth.
    pub state: MirrorState,
    /// How often each leg was let in: a label with a lower figure is that of an old copy.
    pub generations: [u64; 2],
    /// Units that only one leg has.
    pub(super) dirty: UnitSet,
    pub(super) syncs: Vec<Sync>,
}

impl Mirror {
    pub(super) fn new() -> Self {
        Self {
            state: MirrorState::Both,
            generations: [1; 2],
            dirty: UnitSet::default(),
            syncs: Vec::new(),
        }
    }

    /// The leg that is not current, when one is not.
    pub const fn stale(&self) -> Option<u8> {
        match self.state {
            MirrorState::Both => None,
            MirrorState::Out { leg, .. } | MirrorState::Resyncing { leg, .. } => Some(leg),
        }
    }

    /// The leg that is not used at all.
    pub const fn out(&self) -> Option<u8> {
        match self.state {
            MirrorState::Out { leg, .. } => Some(leg),
            MirrorState::Both | MirrorState::Resyncing { .. } => None,
        }
    }

    /// The journal sequence that members have to pass before the state goes on.
    pub const fn waits_for(&self) -> Option<u64> {
        match self.state {
            MirrorState::Both => None,
            MirrorState::Out { since, .. } | MirrorState::Resyncing { since, .. } => since,
        }
    }

    /// Units that only one leg has.
    pub const fn dirty(&self) -> &UnitSet {
        &self.dirty
    }

    /// Units that are being copied.
    pub fn syncs(&self) -> &[Sync] {
        &self.syncs
    }

    /// The legs to read a unit from.
    fn readable(&self, unit: u32) -> Legs {
        match self.state {
            MirrorState::Both => Legs::BOTH,
            MirrorState::Resyncing { since: None, leg } => {
                if self.dirty.contains(unit) {
                    Legs::only(1 - leg)
                } else {
                    Legs::BOTH
                }
            }
            MirrorState::Out { leg, .. } | MirrorState::Resyncing { leg, .. } => Legs::only(1 - leg),
        }
    }

    /// Units that are held while a wrong leg of them is written again.
    pub fn holds(&self) -> &[Sync] {
        match self.state {
            MirrorState::Both => &self.syncs,
            MirrorState::Out { .. } | MirrorState::Resyncing { .. } => &[],
        }
    }

    fn writable(&self, unit: u32) -> UnitAccess {
        let dirty = self.dirty.contains(unit);
        match self.state {
            MirrorState::Both if self.syncs.iter().any(|sync| sync.has(unit)) => UnitAccess::Wait,
            MirrorState::Both => UnitAccess::Legs(Legs::BOTH),
            MirrorState::Out { leg, since: None } if dirty || planted(Defect::WriteBeforeDirty) => {
                UnitAccess::Legs(Legs::only(1 - leg))
            }
            MirrorState::Out { since: None, .. } => UnitAccess::Unmarked,
            _ if self.waits_for().is_some() => UnitAccess::Wait,
            _ if self.syncs.iter().any(|sync| sync.has(unit)) && !planted(Defect::SyncBesideWriters) => {
                UnitAccess::Wait
            }
            MirrorState::Resyncing { leg, .. } if dirty => UnitAccess::Legs(Legs::only(1 - leg)),
            _ => UnitAccess::Legs(Legs::BOTH),
        }
    }

    fn pass(&mut self, through: u64) {
        match &mut self.state {
            MirrorState::Out { since, .. } | MirrorState::Resyncing { since, .. }
                if since.is_some_and(|since| since <= through) =>
            {
                *since = None;
            }
            _ => {}
        }
        for sync in &mut self.syncs {
            if sync.since.is_some_and(|since| since <= through) {
                sync.since = None;
            }
        }
        self.settle();
    }

    /// A returning leg that lacks nothing is as good as the other.
    fn settle(&mut self) {
        if matches!(self.state, MirrorState::Resyncing { since: None, .. }) && self.dirty.is_empty() {
            self.state = MirrorState::Both;
            self.syncs.clear();
        }
    }
}

/// What may be done with a unit of a volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UnitAccess {
    /// Use all of these legs to write, any of them to read.
    Legs(Legs),
    /// A writer died there: the legs are compared first (HZ-21).
    Torn,
    /// Not now: members are waited for, or the unit is copied.
    Wait,
    /// It is to be marked as dirty first.
    Unmarked,
}

/// All that is known of mirrored volumes.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Mirrors {
    pub(super) volumes: BTreeMap<u16, Mirror>,
    pub(super) intents: Intents,
}

impl Mirrors {
    /// Bytes of a checkpoint that it takes at most.
    pub(super) fn weight(&self) -> usize {
        let of_one = |mirror: &Mirror| 40 + mirror.dirty.run_count() * 10 + mirror.syncs.len() * 20;
        self.volumes.values().map(of_one).sum::<usize>() + self.intents.weight()
    }

    fn dirty_runs_of_one(&self) -> usize {
        (DIRTY_RUNS / self.volumes.len().max(1)).min(DIRTY_RUNS_OF_ONE)
    }

    /// Journal entries that members have to pass.
    pub(super) fn awaited(&self) -> impl Iterator<Item = u64> {
        let of_one = |mirror: &Mirror| {
            let syncs: Vec<u64> = mirror.syncs.iter().filter_map(|sync| sync.since).collect();
            mirror.waits_for().into_iter().chain(syncs)
        };
        self.volumes
            .values()
            .flat_map(of_one)
            .chain(self.intents.torn_since)
    }

    pub(super) fn pass(&mut self, through: u64) {
        self.volumes.values_mut().for_each(|mirror| mirror.pass(through));
        if self.intents.torn_since.is_some_and(|since| since <= through) {
            self.intents.torn_since = None;
        }
    }

    /// A leader starts: what the one before was copying is over when every member has read that.
    pub(super) fn wait_for_copies(&mut self, sequence: u64) {
        if planted(Defect::SyncBesideWriters) {
            return;
        }
        let syncs = self.volumes.values_mut().flat_map(|mirror| &mut mirror.syncs);
        syncs.for_each(|sync| sync.since = Some(sequence));
    }

    /// Forgets units of a volume from `units` on: it has no more, or is gone.
    pub(super) fn trim(&mut self, volume: u16, units: u32) {
        if let Some(mirror) = self.volumes.get_mut(&volume) {
            mirror.dirty.remove(units, u32::MAX - units);
            mirror.syncs.retain(|sync| sync.start < units);
            for sync in &mut mirror.syncs {
                sync.count = sync.count.min(units - sync.start);
            }
            mirror.settle();
        }
        self.intents.trim(volume, units);
        if units == 0 {
            self.volumes.remove(&volume);
        }
    }
}

impl Catalog {
    /// Whether there are volumes of two legs.
    pub fn is_mirrored(&self) -> bool {
        !self.mirrors.volumes.is_empty()
    }

    /// The legs of a volume; `None` when it has one only.
    pub fn mirror(&self, volume: u16) -> Option<&Mirror> {
        self.mirrors.volumes.get(&volume)
    }

    /// Mirrored volumes in the order of ids.
    pub fn mirrors(&self) -> impl Iterator<Item = (u16, &Mirror)> {
        self.mirrors.volumes.iter().map(|(id, mirror)| (*id, mirror))
    }

    /// How a unit is to be read.
    pub fn read_access(&self, volume: u16, unit: u32) -> UnitAccess {
        match self.mirror(volume) {
            None => UnitAccess::Legs(Legs::only(0)),
            Some(_) if self.is_torn(volume, unit) && !planted(Defect::ReadTornUnits) => UnitAccess::Torn,
            Some(mirror) => UnitAccess::Legs(mirror.readable(unit)),
        }
    }

    /// How a unit is to be written.
    pub fn write_access(&self, volume: u16, unit: u32) -> UnitAccess {
        match self.mirror(volume) {
            None => UnitAccess::Legs(Legs::only(0)),
            Some(_) if self.is_torn(volume, unit) && !planted(Defect::ReadTornUnits) => UnitAccess::Torn,
            Some(mirror) => mirror.writable(unit),
        }
    }

    pub(super) fn detach(
        &mut self,
        sequence: u64,
        volume: u16,
        leg: u8,
        generation: u64,
        units: &[(u32, u32)],
    ) -> Outcome {
        let mirror = self.mirrors.volumes.get(&volume);
        let mirror = mirror.ok_or(OperationError::NotMirrored)?;
        if leg > 1 {
            return Err(OperationError::Invalid);
        }
        if mirror.stale().is_some_and(|stale| stale != leg) {
            return Err(OperationError::LastLeg);
        }
        if mirror.generations[usize::from(leg)] != generation {
            // It was about an earlier stay of the leg: that one is over, and its units were dirty.
            return Ok(Reply::Done);
        }
        if mirror.out().is_none() {
            let mut units = self.units_set_aside(volume);
            if !planted(Defect::ForgetHalfWritten) {
                units.extend(self.mirrors.intents.drop_volume(volume));
            }
            let mirror = self.mirrors.volumes.get_mut(&volume).expect("it was found");
            mirror.syncs.clear();
            mirror.state = MirrorState::Out {
                leg,
                since: Some(sequence),
            };
            self.make_dirty(volume, &units);
        }
        self.make_dirty(volume, units);
        Ok(Reply::Done)
    }

    /// Units that are written while they are nobody's: such a write needs no intent.
    fn units_set_aside(&self, volume: u16) -> Vec<(u32, u32)> {
        let reserved = self.reserved_extents();
        let places = self.moves.iter().map(|unit| &unit.to);
        let all = reserved.chain(places).filter(|run| run.volume == volume);
        all.map(|run| (run.start, run.count)).collect()
    }

    fn make_dirty(&mut self, volume: u16, units: &[(u32, u32)]) {
        let limit = self.units_of(volume).0;
        let most = self.mirrors.dirty_runs_of_one();
        let Some(mirror) = self.mirrors.volumes.get_mut(&volume) else {
            return;
        };
        for (start, count) in units {
            let end = start.saturating_add(*count).min(limit);
            mirror.dirty.insert(*start, end.saturating_sub(*start));
        }
        mirror.dirty.join_down_to(most);
    }

    pub(super) fn mark_dirty(&mut self, volume: u16, units: &[(u32, u32)]) -> Outcome {
        let mirror = self.mirror(volume).ok_or(OperationError::NotMirrored)?;
        // Once the leg comes back, others may read it where the asker has not marked yet.
        if mirror.out().is_none() {
            return Err(OperationError::VolumeRaced);
        }
        self.make_dirty(volume, units);
        Ok(Reply::Done)
    }

    pub(super) fn resync(&mut self, sequence: u64, volume: u16, leg: u8, generation: u64) -> Outcome {
        let mirror = self.mirrors.volumes.get_mut(&volume);
        let mirror = mirror.ok_or(OperationError::NotMirrored)?;
        let known = mirror.generations.get_mut(usize::from(leg));
        let known = known.ok_or(OperationError::Invalid)?;
        if mirror.state != (MirrorState::Out { leg, since: None }) || generation <= *known {
            return Err(OperationError::VolumeRaced);
        }
        *known = generation;
        mirror.state = MirrorState::Resyncing {
            leg,
            since: Some(sequence),
        };
        Ok(Reply::Done)
    }

    /// A blank device is let in, as a leg that lacks everything.
    pub(super) fn begin_stay(&mut self, sequence: u64, new: &NewLeg) -> Outcome {
        let units = self.units_of(new.volume).0;
        self.resync(sequence, new.volume, new.leg, new.generation)?;
        if !planted(Defect::TakeBlankForWhole) {
            self.make_dirty(new.volume, &[(0, units)]);
        }
        Ok(Reply::Done)
    }

    pub(super) fn begin_sync(&mut self, sequence: u64, volume: u16, start: u32, count: u32) -> Outcome {
        let units = self.units_of(volume).0;
        let mirror = self.mirrors.volumes.get_mut(&volume);
        let mirror = mirror.ok_or(OperationError::NotMirrored)?;
        let end = start.checked_add(count).ok_or(OperationError::Invalid)?;
        let meets = |sync: &Sync| sync.start < end && start < sync.start + sync.count;
        let is_dirty = mirror
            .dirty
            .runs()
            .any(|run| run.0 <= start && end <= run.0 + run.1);
        let fits = match mirror.state {
            MirrorState::Resyncing { since: None, .. } => is_dirty,
            // One of them has wrong bytes.
            MirrorState::Both => end <= units,
            MirrorState::Out { .. } | MirrorState::Resyncing { .. } => false,
        };
        if !fits || count == 0 || mirror.syncs.len() >= SYNCS_MAX || mirror.syncs.iter().any(meets) {
            return Err(OperationError::VolumeRaced);
        }
        let since = (!planted(Defect::SyncBesideWriters)).then_some(sequence);
        mirror.syncs.push(Sync { start, count, since });
        Ok(Reply::Done)
    }

    /// What was to be written on one leg is durable there.
    pub(super) fn end_sync(&mut self, volume: u16, start: u32, count: u32) -> Outcome {
        let mirror = self.mirrors.volumes.get_mut(&volume);
        let mirror = mirror.ok_or(OperationError::NotMirrored)?;
        let done = Sync {
            start,
            count,
            since: None,
        };
        let at = mirror.syncs.iter().position(|sync| *sync == done);
        mirror.syncs.remove(at.ok_or(OperationError::VolumeRaced)?);
        mirror.dirty.remove(start, count);
        mirror.settle();
        Ok(Reply::Done)
    }

    /// Whether what a checkpoint says of mirrors can be.
    pub(super) fn check_mirrors(&self) -> Option<()> {
        let mirrored = |(_, volume): &(u16, &super::Volume)| volume.exists() && volume.twin.is_some();
        let sound = |(id, mirror): (&u16, &Mirror)| {
            let units = self.units_of(*id).0;
            let inside = |sync: &Sync| {
                let end = sync.start.checked_add(sync.count);
                sync.count > 0 && end.is_some_and(|end| end <= units)
            };
            mirror.stale().is_none_or(|leg| leg < 2)
                && mirror.dirty.is_sound(units)
                && mirror.syncs.len() <= SYNCS_MAX
                && mirror.syncs.iter().all(inside)
        };
        let ids = self.volumes().filter(mirrored).map(|(id, _)| id);
        let all = ids.eq(self.mirrors.volumes.keys().copied());
        let is_unit = |volume: u16, unit: u32| {
            self.mirrors.volumes.contains_key(&volume) && unit < self.units_of(volume).0
        };
        let sound = self.mirrors.volumes.iter().all(sound) && self.mirrors.intents.is_sound(is_unit);
        (all && sound).then_some(())
    }
}
