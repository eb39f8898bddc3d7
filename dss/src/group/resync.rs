//! A leg that comes back: what it lacks is copied to it, by the storage leader, while everybody reads and writes.
//!
//! The states are in the catalogue (`dss/proto/src/catalog/mirrors.rs`, MIR-n). Here are the commands, which may only be given
//! at the leader because it alone writes labels (VOL-4), and the leader's task: have writers of some dirty units stop, wait for
//! the barrier, copy, make the copy durable, say so. A new leader goes on with what the catalogue says: the one before is fenced.

use super::error::StorageError;
use super::fill_metadata::FILLER;
use super::heal::HEALER;
use super::in_flight::NOBODY;
use super::mend::MENDER;
use super::moves::{Problem, Progress};
use super::open_volumes::LegId;
use super::replace::OutLeg;
use super::volume_group::VolumeGroup;
use super::volume_label::write_label;
use super::volumes::operation_error;
use super::worker::Worker;
use crate::seam::IoBuffer;
use aquifer_dss_proto::catalog::{Catalog, Mirror, MirrorState, Operation, OperationError, Sync};
use aquifer_dss_proto::membership::MetadataLegs;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Duration;

/// Bytes that are copied while writers of them wait, when units are smaller.
const SYNC_BYTES: u64 = 4 << 20;
/// Runs that are stopped or copied at a time: while one is copied, members stop writing the next.
const AT_ONCE: usize = 2;
/// Bytes of one request to a device.
const PART: u64 = 1 << 20;
/// How often it is looked whether the members have passed.
const LOOK_AGAIN: Duration = Duration::from_millis(1);
/// How long until a copy that failed is tried again.
pub(super) const TRY_AGAIN: Duration = Duration::from_secs(2);

/// What a node knows of its legs besides the catalogue.
#[derive(Default)]
pub(super) struct Syncer {
    running: AtomicBool,
    progress: Mutex<Progress>,
    turn: AtomicU8,
    /// Held while units are held (MIR-13): the end of such a hold looks like that of a copy.
    pub(super) one_at_a_time: tokio::sync::Mutex<()>,
    /// Legs that this node is having detached.
    detaching: Mutex<BTreeSet<LegId>>,
}

impl Syncer {
    /// The legs by turns.
    pub(super) fn turn(&self) -> u8 {
        self.turn.fetch_add(1, Ordering::Relaxed) & 1
    }

    pub(super) fn begin_detach(&self, leg: LegId) -> bool {
        self.detaching.lock().insert(leg)
    }

    pub(super) fn end_detach(&self, leg: LegId) {
        self.detaching.lock().remove(&leg);
    }
}

/// How far the return of a leg is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResyncStatus {
    /// The volume.
    pub volume: u16,
    /// The leg that is not current.
    pub leg: u8,
    /// Whether it comes back; otherwise it is not used.
    pub returning: bool,
    /// Bytes that it lacks.
    pub left: u64,
    /// Bytes that this node copied to returning legs, as the storage leader.
    pub copied: u64,
    /// Bytes in a second, of the last seconds; 0 at nodes that do not lead.
    pub rate: u64,
    /// Why it does not go on.
    pub problem: Option<Problem>,
}

/// What the leader does next.
enum Step {
    Copy(u16, Sync),
    Begin(u16, u32, u32),
    /// The journal has to go on first.
    Wait,
    /// No leg returns.
    Done,
}

fn next_step(catalog: &Catalog) -> Step {
    let returning = |mirror: &Mirror| matches!(mirror.state, MirrorState::Resyncing { since: None, .. });
    let most = u32::try_from(SYNC_BYTES / catalog.au_bytes())
        .unwrap_or(u32::MAX)
        .max(1);
    let mut step = Step::Done;
    for (volume, mirror) in catalog.mirrors() {
        if matches!(mirror.state, MirrorState::Resyncing { since: Some(_), .. }) {
            step = Step::Wait;
        }
        if !returning(mirror) {
            continue;
        }
        step = Step::Wait;
        if mirror.syncs().len() < AT_ONCE
            && let Some((start, count)) = next_dirty(mirror)
        {
            return Step::Begin(volume, start, count.min(most));
        }
        if let Some(sync) = mirror.syncs().iter().find(|sync| sync.since.is_none()) {
            return Step::Copy(volume, *sync);
        }
    }
    step
}

/// Dirty units that are not being copied: the first ones.
fn next_dirty(mirror: &Mirror) -> Option<(u32, u32)> {
    let free = |(start, count): (u32, u32)| {
        let (mut from, mut end) = (start, start + count);
        // Copies take a run from its beginning.
        for sync in mirror.syncs() {
            if sync.start <= from && from < sync.start + sync.count {
                from = sync.start + sync.count;
            } else if from < sync.start && sync.start < end {
                end = sync.start;
            }
        }
        (from < end).then(|| (from, end - from))
    };
    mirror.dirty().runs().find_map(free)
}

/// Runs when a leg returns.
static SYNCER: Worker<()> = Worker {
    name: "resynchronise legs",
    running: |group| &group.syncer.running,
    is_needed: |group| group.with_catalog(|catalog| !matches!(next_step(catalog), Step::Done)),
    step: |group, ()| Box::pin(group.sync_step()),
};

impl VolumeGroup {
    /// What the catalogue says of legs changed.
    pub(super) fn legs_changed(&self) {
        if self.with_catalog(|catalog| !catalog.is_mirrored()) {
            return;
        }
        self.wake(&FILLER);
        self.wake(&HEALER);
        self.wake(&SYNCER);
        self.wake(&MENDER);
        self.detach_unusable();
    }

    /// One step; false when there is none, or this node does not lead.
    async fn sync_step(&self) -> bool {
        let _one = self.syncer.one_at_a_time.lock().await;
        if self.leading().is_none() {
            return false;
        }
        match self.with_catalog(next_step) {
            Step::Done => return false,
            Step::Wait => self.runtime.sleep(LOOK_AGAIN).await,
            Step::Begin(volume, start, count) => {
                let begin = Operation::BeginSync { volume, start, count };
                if self.append_as_leader(begin).await.is_err() {
                    // The leg went again, or this node leads no more.
                    self.runtime.sleep(LOOK_AGAIN).await;
                }
            }
            Step::Copy(volume, sync) => self.finish_sync(volume, sync).await,
        }
        true
    }

    async fn finish_sync(&self, volume: u16, sync: Sync) {
        let copied = self.copy_dirty(volume, sync).await;
        if self.leading().is_none() {
            return;
        }
        match copied {
            Ok(true) => {
                let Sync { start, count, .. } = sync;
                let end = Operation::EndSync { volume, start, count };
                if self.append_as_leader(end).await.is_ok() {
                    let bytes = u64::from(count) * self.label.au_bytes;
                    let mut progress = self.syncer.progress.lock();
                    progress.add(self.runtime.now(), bytes);
                    progress.problem = None;
                }
            }
            Ok(false) => self.runtime.sleep(LOOK_AGAIN).await,
            Err(error) => {
                tracing::error!(%error, volume, "units cannot be copied to a returning leg; it is tried again");
                self.syncer.progress.lock().problem = Some(Problem::Device);
                self.runtime.sleep(TRY_AGAIN).await;
            }
        }
    }

    /// Copies dirty units to the returning leg, durably; false when that is not wanted any more.
    async fn copy_dirty(&self, volume: u16, sync: Sync) -> Result<bool, StorageError> {
        let (leg, offset, generation) = {
            let known = self.known.read();
            let catalog = &known.catalog;
            let mirror = catalog
                .mirror(volume)
                .filter(|mirror| mirror.syncs().contains(&sync));
            let Some(leg) = mirror.and_then(Mirror::stale) else {
                return Ok(false);
            };
            let offset = catalog.offset_of_unit(volume, sync.start);
            (leg, offset, self.in_flight.begin(NOBODY))
        };
        let copied = self.copy_to_leg((volume, leg), offset, sync.count).await;
        let copied = copied.map(|()| true);
        let units = (sync.start, sync.count);
        self.end_on_legs(volume, units, generation, copied, |failed| failed == leg)
            .await
    }

    /// On failure: which leg it was.
    async fn copy_to_leg(
        &self,
        (volume, leg): LegId,
        offset: u64,
        units: u32,
    ) -> Result<(), (u8, StorageError)> {
        let (bytes, other) = (u64::from(units) * self.label.au_bytes, 1 - leg);
        let source = self.leg((volume, other)).await.map_err(|error| (other, error))?;
        let target = self.leg((volume, leg)).await.map_err(|error| (leg, error))?;
        let mut done = 0;
        while done < bytes {
            let length = PART.min(bytes - done);
            let buffer = IoBuffer::zeroed(length as usize);
            let read = source.read(offset + done, buffer).await;
            let buffer = read.map_err(|error| (other, error))?;
            let written = target.write(offset + done, buffer).await;
            written.map_err(|error| (leg, error))?;
            done += length;
        }
        target.flush().await.map_err(|error| (leg, error))
    }

    /// Stops using a leg of a mirrored volume, whatever the reason; every member knows it when this returns.
    pub async fn detach_leg(&self, volume: u16, leg: u8) -> Result<(), StorageError> {
        self.catch_up().await?;
        if volume == 0 && self.metadata.legs() == MetadataLegs::Only(leg) && self.label.legs == 2 {
            return Err(operation_error(volume, OperationError::LastLeg));
        }
        let generation = self.with_catalog(|catalog| {
            let mirror = catalog.mirror(volume)?;
            mirror.generations.get(usize::from(leg)).copied()
        });
        let generation = generation.ok_or_else(|| operation_error(volume, OperationError::NotMirrored))?;
        self.ask_to_detach((volume, leg), generation, Vec::new()).await?;
        self.drop_metadata_of((volume, leg)).await
    }

    /// Has the metadata on a leg of volume 0 dropped, whose device goes.
    pub(super) async fn drop_metadata_of(&self, (volume, leg): LegId) -> Result<(), StorageError> {
        if volume == 0 {
            self.metadata.drop_leg(leg).await?;
        }
        Ok(())
    }

    /// Lets the leg of a volume in again that is out, at the storage leader: what it lacks is copied while nodes serve. Which
    /// leg it is.
    pub async fn resync_leg(&self, volume: u16) -> Result<u8, StorageError> {
        let _labels = self.opening.labels.lock().await;
        self.require_leader()?;
        self.catch_up().await?;
        let OutLeg {
            id: (_, leg),
            volume: entry,
            generation,
        } = self.out_leg(volume)?;
        let refused = |reason: String| StorageError::RefusedVolume {
            uuid: entry.leg(leg).map(|named| named.0).unwrap_or_default(),
            reason,
        };
        let opened = self.open_leg((volume, leg), &entry).await;
        let (mut label, device) = opened.map_err(&refused)?;
        if label.leg_generation < generation {
            let found = label.leg_generation;
            return Err(refused(format!(
                "it is an old copy (generation {found} and not {generation}): what it lacks is not known"
            )));
        }
        label.leg_generation += 1;
        label.generation += 1;
        write_label(&*device, &label).await?;
        let resync = Operation::Resync {
            volume,
            leg,
            generation: label.leg_generation,
        };
        self.append_as_leader(resync).await?;
        Ok(leg)
    }

    /// Legs that are not current, as far as this node knows.
    pub fn resync_status(&self) -> Vec<ResyncStatus> {
        let progress = *self.syncer.progress.lock();
        let leads = self.leading().is_some();
        self.with_catalog(|catalog| {
            let stale = catalog
                .mirrors()
                .filter_map(|(id, mirror)| Some((id, mirror, mirror.stale()?)));
            let status = stale.map(|(volume, mirror, leg)| ResyncStatus {
                volume,
                leg,
                returning: mirror.out().is_none(),
                left: mirror.dirty().units() * catalog.au_bytes(),
                copied: progress.moved,
                rate: if leads { progress.before } else { 0 },
                problem: progress.problem,
            });
            status.collect()
        })
    }
}
