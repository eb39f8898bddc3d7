//! Making the two legs alike where a writer died (HZ-21), by the storage leader.
//!
//! Rules (MIR-n, README of this crate):
//! - units are compared when every member knows that they are torn: the living may have been writing there too;
//! - what is on one leg counts as much as what is on the other, for nothing of it was acknowledged and is missing on one: so
//!   differing blocks are written from one of them, from that which lacks nothing when the other returns; but where a checksum
//!   says that one is wrong, from the other (MIR-14);
//! - both legs are flushed before the journal says that they are alike;
//! - units that somebody waits for come first, the rest in their order.

use super::error::StorageError;
use super::in_flight::NOBODY;
use super::sides::Judged;
use super::volume_group::VolumeGroup;
use super::worker::Worker;
use crate::seam::{BLOCK, IoBuffer};
use aquifer_dss_proto::catalog::{Catalog, Mirror, Operation, VolumeUnit};
use aquifer_dss_proto::storage_message::StorageMessage;
use futures_util::future::join_all;
use parking_lot::Mutex;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Units that are compared at a time.
const AT_ONCE: usize = 8;
/// Bytes that are compared at a time.
const PART: u64 = 1 << 20;
/// How often it is looked whether the members have passed.
const LOOK_AGAIN: Duration = Duration::from_millis(1);
/// How long until units that could not be healed are tried again.
const TRY_AGAIN: Duration = Duration::from_millis(200);

/// What the leader knows of torn units.
#[derive(Default)]
pub(super) struct Healer {
    running: AtomicBool,
    /// Units that somebody waits for.
    wanted: Mutex<Vec<VolumeUnit>>,
}

/// The legs of a unit.
pub(super) struct Pair {
    volume: u16,
    unit: u32,
    pub(super) offset: u64,
    /// The leg that is taken where no checksum tells.
    source: u8,
    /// Whether neither lacks anything else.
    both_count: bool,
    judged: OnceLock<Option<(Judged, u64)>>,
    /// Whether nothing is written where no checksum tells.
    only_judged: bool,
    /// Device offsets where none does.
    pub(super) undecided: Mutex<Vec<u64>>,
    /// Bytes that were written on one leg.
    pub(super) written: AtomicU64,
}

impl Pair {
    fn of(catalog: &Catalog, (volume, unit): VolumeUnit) -> Self {
        let stale = catalog.mirror(volume).and_then(Mirror::stale);
        Self {
            volume,
            unit,
            offset: catalog.offset_of_unit(volume, unit),
            source: stale.map_or(0, |stale| 1 - stale),
            both_count: stale.is_none(),
            judged: OnceLock::new(),
            only_judged: false,
            undecided: Mutex::default(),
            written: AtomicU64::new(0),
        }
    }

    /// Of a unit that nobody may be writing: there is no reason for a difference.
    pub(super) fn of_settled(catalog: &Catalog, unit: VolumeUnit) -> Self {
        Self {
            only_judged: true,
            ..Self::of(catalog, unit)
        }
    }
}

/// What is to be done about some bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Remedy {
    Nothing,
    /// They are written on this leg.
    Write(u8),
    Tell,
}

/// Runs when something is torn.
pub(super) static HEALER: Worker<()> = Worker {
    name: "heal torn units",
    running: |group| &group.healer.running,
    is_needed: |group| group.with_catalog(|catalog| catalog.torn_units() > 0),
    step: |group, ()| Box::pin(group.heal_step()),
};

impl VolumeGroup {
    /// Asks the leader to heal these units first.
    pub(super) fn want_healed(&self, units: Vec<VolumeUnit>) {
        use super::volume_group::Role;
        let role = *self.role.borrow();
        match role {
            Role::Leader { .. } => self.heal_first(&units),
            Role::Follower { leader: Some(leader) } => self.send(leader, &StorageMessage::Wanted { units }),
            Role::Follower { leader: None } => {}
        }
    }

    /// Somebody waits for these units.
    pub(super) fn heal_first(&self, units: &[VolumeUnit]) {
        let mut wanted = self.healer.wanted.lock();
        self.with_catalog(|catalog| {
            let is_new = |unit: &&VolumeUnit| catalog.is_torn(unit.0, unit.1) && !wanted.contains(unit);
            let new: Vec<VolumeUnit> = units.iter().filter(is_new).copied().collect();
            wanted.extend(new);
        });
    }

    /// One step; false when there is none, or this node does not lead.
    async fn heal_step(&self) -> bool {
        if self.leading().is_none() || self.with_catalog(|catalog| catalog.torn_units() == 0) {
            return false;
        }
        if !self.with_catalog(Catalog::torn_is_passed) {
            self.runtime.sleep(LOOK_AGAIN).await;
            return true;
        }
        let units = self.next_torn();
        let healed = join_all(units.iter().map(|unit| self.heal_unit(*unit))).await;
        if self.leading().is_none() {
            return false;
        }
        let units: Vec<VolumeUnit> = units
            .iter()
            .zip(&healed)
            .filter_map(|(unit, healed)| healed.as_ref().is_ok_and(|done| *done).then_some(*unit))
            .collect();
        for error in healed.iter().filter_map(|healed| healed.as_ref().err()) {
            tracing::error!(%error, "a unit whose writer died cannot be compared; it is tried again");
        }
        let done = match units.is_empty() {
            true => Ok(()),
            false => self.append_as_leader(Operation::Healed { units }).await,
        };
        if done.is_err() || healed.iter().any(Result::is_err) {
            self.runtime.sleep(TRY_AGAIN).await;
        }
        true
    }

    /// The next units, those first that somebody waits for.
    fn next_torn(&self) -> Vec<VolumeUnit> {
        let mut wanted = self.healer.wanted.lock();
        self.with_catalog(|catalog| {
            wanted.retain(|unit| catalog.is_torn(unit.0, unit.1));
            let mut next: Vec<VolumeUnit> = wanted.iter().copied().take(AT_ONCE).collect();
            let rest: Vec<VolumeUnit> = catalog.torn().filter(|unit| !next.contains(unit)).collect();
            next.extend(rest.into_iter().take(AT_ONCE - next.len()));
            next
        })
    }

    /// Makes the legs of a unit alike, durably; false when that is not needed any more.
    async fn heal_unit(&self, (volume, unit): VolumeUnit) -> Result<bool, StorageError> {
        let (pair, generation) = {
            let known = self.known.read();
            let catalog = &known.catalog;
            if !(catalog.is_torn(volume, unit) && catalog.torn_is_passed()) {
                return Ok(false);
            }
            (Pair::of(catalog, (volume, unit)), self.in_flight.begin(NOBODY))
        };
        let alike = self.make_alike(&pair).await.map(|()| true);
        self.end_on_legs(volume, (unit, 1), generation, alike, |_| true)
            .await
    }

    /// Writes what differs from one leg to the other: from that which is right, where a checksum tells. Flushes both. On failure: which leg it was.
    pub(super) async fn make_alike(&self, pair: &Pair) -> Result<(), (u8, StorageError)> {
        let au_bytes = self.label.au_bytes;
        let mut done = 0;
        while done < au_bytes {
            let length = PART.min(au_bytes - done) as usize;
            self.make_part_alike(pair, pair.offset + done, length).await?;
            done += length as u64;
        }
        for leg in [pair.source, 1 - pair.source] {
            let open = self.leg((pair.volume, leg)).await.map_err(|error| (leg, error))?;
            let flushed = open.device.flush().await;
            flushed.map_err(|error| (leg, error.into()))?;
        }
        Ok(())
    }

    async fn make_part_alike(
        &self,
        pair: &Pair,
        offset: u64,
        length: usize,
    ) -> Result<(), (u8, StorageError)> {
        let sides = self.read_both(pair.volume, offset, length).await?;
        if sides[0][..] == sides[1][..] {
            return Ok(());
        }
        let judged = self.judged_of(pair);
        let step = judged.map_or(BLOCK, |(judged, _)| judged.chunk);
        let remedy_at = |at: usize| {
            let both = sides.each_ref().map(|side| &side[at..length.min(at + step)]);
            let right = judged.and_then(|(judged, in_file)| {
                judged.right_one(in_file + (offset - pair.offset) + at as u64, both)
            });
            match right {
                _ if both[0] == both[1] => Remedy::Nothing,
                Some(right) => Remedy::Write(1 - right),
                None if pair.only_judged => Remedy::Tell,
                None => Remedy::Write(1 - pair.source),
            }
        };
        let mut at = 0;
        while at < length {
            let remedy = remedy_at(at);
            let same = (at..length)
                .step_by(step)
                .take_while(|at| remedy_at(*at) == remedy);
            let run = (same.count() * step).min(length - at);
            if remedy == Remedy::Tell {
                pair.undecided.lock().push(offset + at as u64);
            }
            if let Remedy::Write(target) = remedy {
                let mut part = IoBuffer::zeroed(run);
                part.copy_from_slice(&sides[usize::from(1 - target)][at..at + run]);
                let written = self
                    .write_leg((pair.volume, target), offset + at as u64, part)
                    .await;
                written.map_err(|error| (target, error))?;
                pair.written.fetch_add(run as u64, Ordering::Relaxed);
            }
            at += run;
        }
        Ok(())
    }

    /// Who can tell which leg is right, and where the unit begins in its file. Looked for when something differs.
    fn judged_of<'a>(&self, pair: &'a Pair) -> Option<&'a (Judged, u64)> {
        let find = || {
            let (file, in_file) = self.file_of_unit((pair.volume, pair.unit))?;
            Some((self.judged(file)?, in_file))
        };
        let judged = pair.judged.get_or_init(|| find().filter(|_| pair.both_count));
        judged.as_ref()
    }
}
