//! Telling devices which units nobody needs: after every member let go of what was removed, and before it is free.
//!
//! Rules (DSS-18):
//! - a unit is discarded between the last answer of the members and the record that frees it. Then nobody reads or writes it, and nobody
//!   can be given it (HZ-7);
//! - a discard is counted like a write to its file, and begins only when this node leads after it was counted. So the members of a later
//!   leader's question, of which this node is one, do not let go while it is under way;
//! - where its units are is looked up for each piece: they may move meanwhile;
//! - an entry of limbo is discarded once and freed once in one stay of a leader: whoever is under way is not begun again;
//! - both legs of a mirrored volume stay alike: they are discarded where both read as zeros then. Where one of them refuses, both are
//!   zeroed.
//!
//! It is not on the way of the journal: records are appended meanwhile. Where space is short units are freed without it. Nothing depends on
//! a discard: one that is lost costs space of the device until the unit is used and removed again.

use super::intents::INTENTS_OF_ONE;
use super::leader::RELEASED_AT_ONCE;
use super::places::{Piece, piece};
use super::volume_change::DISCARD_KEY;
use super::volume_group::{VolumeGroup, total_units};
use super::{StorageError, names};
use aquifer_dss_proto::catalog::{Catalog, Extent, Operation, OperationError, Outcome};
use aquifer_dss_proto::defect::{Defect, planted};
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// Bytes of one discard, when units are smaller: no operation takes longer than the lease allows for.
const PIECE: u64 = 32 << 20;
/// Bytes that are discarded in a second at most, so that reads and writes are not crowded out.
const RATE: u64 = 4 << 30;
/// Below so many percent of free units nobody waits for a discard.
const SHORT_PERCENT: u64 = 10;

/// What the leader discards.
#[derive(Default)]
pub(super) struct Discards {
    stay: Mutex<Stay>,
    /// Held while a device works on one.
    running: tokio::sync::Mutex<()>,
    /// This node leaves.
    ended: AtomicBool,
    /// Somebody found no space: what waits is freed as it is.
    hurries: AtomicBool,
    bytes: AtomicU64,
    failures: AtomicU64,
}

/// One time from taking the journal over until somebody else does.
#[derive(Default)]
struct Stay {
    number: u64,
    /// Entries of limbo that are being discarded, or wait in the queue of records to be freed.
    entries: BTreeSet<u64>,
}

/// What this node discarded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiscardStatus {
    /// Bytes that devices were told of.
    pub bytes: u64,
    /// Discards that a device refused.
    pub failures: u64,
}

impl Discards {
    /// Somebody else led, or may have: what was to be freed is asked about again. Before the queue of records is thrown away.
    pub(super) fn forget(&self) {
        let mut stay = self.stay.lock();
        stay.number += 1;
        stay.entries.clear();
    }

    /// What records came to: where there was no space, nobody waits for discards.
    pub(super) fn look_at(&self, outcomes: &[Outcome]) {
        if outcomes.contains(&Err(OperationError::NoSpace)) {
            self.hurries.store(true, Ordering::Relaxed);
        }
    }

    pub(super) fn count(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn count_failure(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }
}

impl VolumeGroup {
    /// What this node discarded as the storage leader.
    pub fn discard_status(&self) -> DiscardStatus {
        DiscardStatus {
            bytes: self.discards.bytes.load(Ordering::Relaxed),
            failures: self.discards.failures.load(Ordering::Relaxed),
        }
    }

    /// Ends discards, because this node leaves: the members of the next view do not wait for it.
    pub async fn end_discards(&self) {
        self.discards.ended.store(true, Ordering::Release);
        drop(self.discards.running.lock().await);
    }

    /// Frees entries of limbo of which every member let go, after their units were discarded. Gives those that are free
    /// when the records that wait are appended.
    pub(super) fn discard_and_release(&self, entries: Vec<u64>) -> Vec<u64> {
        let mut stay = self.discards.stay.lock();
        self.with_catalog(|catalog| {
            stay.entries
                .retain(|number| catalog.limbo_entry(*number).is_some())
        });
        if stay.entries.is_empty() {
            self.discards.hurries.store(false, Ordering::Relaxed);
        }
        let fresh = entries.into_iter().filter(|number| stay.entries.insert(*number));
        let (fresh, number): (Vec<u64>, u64) = (fresh.collect(), stay.number);
        drop(stay);
        if !self.discards_wanted() {
            fresh
                .chunks(RELEASED_AT_ONCE)
                .for_each(|batch| self.release(number, batch));
            return fresh;
        }
        self.spawn_discard(number, fresh);
        Vec::new()
    }

    fn spawn_discard(&self, stay: u64, entries: Vec<u64>) {
        let Some(group) = self.itself.upgrade().filter(|_| !entries.is_empty()) else {
            return;
        };
        let discard = async move {
            for batch in entries.chunks(RELEASED_AT_ONCE) {
                for entry in batch {
                    group.discard_entry(stay, *entry).await;
                }
                group.release(stay, batch);
            }
        };
        self.runtime.spawn("discard units", Box::pin(discard));
    }

    /// HZ-7 planted: members are asked, and it is not waited for them.
    pub(super) fn discard_before_passed(&self) {
        let entries = self.with_catalog(|catalog| catalog.limbo().map(|limbo| limbo.number).collect());
        let stay = self.discards.stay.lock().number;
        self.spawn_discard(stay, entries);
    }

    fn discards_wanted(&self) -> bool {
        let hurries = self.discards.hurries.load(Ordering::Relaxed);
        !hurries
            && self.with_catalog(|catalog| {
                let short = catalog.free_units() * 100 < total_units(catalog) * SHORT_PERCENT;
                !short && catalog.config(DISCARD_KEY) != Some("off")
            })
    }

    /// Has entries freed, unless somebody else led since.
    fn release(&self, stay: u64, entries: &[u64]) {
        let now = self.discards.stay.lock();
        if now.number == stay {
            let entries = entries.to_vec();
            self.enqueue_own(Operation::Release { entries });
        }
    }

    /// Whether a discard that is counted may begin.
    fn may_discard(&self, stay: u64) -> bool {
        let leads = self.leading().is_some() && self.discards.stay.lock().number == stay;
        (leads || planted(Defect::DiscardAsDeposed)) && !self.discards.ended.load(Ordering::Acquire)
    }

    async fn discard_entry(&self, stay: u64, entry: u64) {
        let file = self.with_catalog(|catalog| catalog.limbo_entry(entry).map(|limbo| limbo.file));
        let Some(file) = file else { return };
        let (mut unit, next) = (0, AtomicU32::new(0));
        while self.may_discard(stay) && self.discards_wanted() {
            let locate = |catalog: &Catalog| {
                let run = next_run(catalog, entry, unit).ok_or_else(no_more)?;
                next.store(run.end(), Ordering::Relaxed);
                let bytes = u64::from(run.count) * catalog.au_bytes();
                let place = piece(catalog, run.volume, catalog.offset_of(&run), bytes as usize);
                Ok(vec![place]) as Result<Vec<Piece>, StorageError>
            };
            let running = self.discards.running.lock().await;
            let begun = self.runtime.now();
            if planted(Defect::AllocateBesideDiscard) {
                self.release(stay, &[entry]);
            }
            let may = || self.may_discard(stay);
            // An error says that there is no more, or that a device is gone: nothing depends on it.
            let Ok(bytes) = self.discard_located(file, &locate, &may).await else {
                return;
            };
            drop(running);
            unit = next.load(Ordering::Relaxed);
            self.pace(begun, bytes, RATE).await;
        }
    }
}

fn no_more() -> StorageError {
    names::refused("", OperationError::NotFound)
}

/// The units of an entry of limbo from `unit` of its file on, as many as are discarded at once.
fn next_run(catalog: &Catalog, entry: u64, unit: u32) -> Option<Extent> {
    let limbo = catalog.limbo_entry(entry)?;
    let run = catalog.limbo_runs(limbo).iter().find(|run| run.end() > unit)?;
    let from = run.unit.max(unit);
    let most = (PIECE / catalog.au_bytes()).clamp(1, INTENTS_OF_ONE) as u32;
    Some(Extent {
        unit: from,
        start: run.start + (from - run.unit),
        count: (run.end() - from).min(most),
        ..*run
    })
}
