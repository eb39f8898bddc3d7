//! Bytes that are wrong on one leg, and right on the other by their checksum, are written again by the storage leader.
//!
//! Rules (MIR-n, README of this crate):
//! - MIR-13 nobody writes the units meanwhile: they are held as if they were copied to a returning leg, and it begins when that is
//!   Passed. Both legs are read then, and nothing is written when one of them has something else than whoever asked had read: then
//!   somebody wrote there, and he wrote both;
//! - torn units are healed first, which makes both legs alike too;
//! - what a leader held is let go of by the next one, which knows no reason for it.

use super::error::StorageError;
use super::in_flight::NOBODY;
use super::volume_group::{Role, VolumeGroup};
use super::worker::Worker;
use crate::seam::{BLOCK, IoBuffer};
use aquifer_dss_proto::catalog::{Catalog, Operation, OperationError};
use aquifer_dss_proto::defect::{Defect, planted};
use aquifer_dss_proto::envelope::crc32c;
use aquifer_dss_proto::storage_message::{Mend, StorageMessage};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Requests that wait; what is dropped is found again by the next read.
const WANTED_MAX: usize = 1024;
/// Bytes of a request at most.
const BYTES_MAX: u64 = 2 << 20;
/// How often it is looked whether the members have passed.
const LOOK_AGAIN: Duration = Duration::from_millis(1);
/// How long until something that failed is tried again.
const TRY_AGAIN: Duration = Duration::from_millis(200);

/// What a node knows of wrong bytes.
#[derive(Default)]
pub(super) struct Mender {
    running: AtomicBool,
    wanted: Mutex<VecDeque<Mend>>,
    pub(super) wrong: AtomicU64,
    pub(super) mended_bytes: AtomicU64,
}

/// Units that nobody writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hold {
    pub(super) volume: u16,
    pub(super) start: u32,
    pub(super) count: u32,
}

/// A hold that nobody works under: its leader is gone, or could not end it.
fn stray_hold(catalog: &Catalog) -> Option<Hold> {
    catalog.mirrors().find_map(|(volume, mirror)| {
        let sync = mirror.holds().first()?;
        Some(Hold {
            volume,
            start: sync.start,
            count: sync.count,
        })
    })
}

/// The units of a request that can be.
fn hold_of(catalog: &Catalog, mend: &Mend) -> Option<Hold> {
    let (units, au) = (catalog.units_of(mend.volume).0, catalog.au_bytes());
    let mirror = catalog.mirror(mend.volume)?;
    let begin = mend.offset.checked_sub(catalog.volume(mend.volume)?.au_offset)?;
    let end = begin.checked_add(u64::from(mend.length))?;
    let is_whole = mend.offset.is_multiple_of(BLOCK as u64) && mend.length.is_multiple_of(BLOCK as u32);
    let fits = mend.leg < 2
        && mend.length > 0
        && u64::from(mend.length) <= BYTES_MAX
        && is_whole
        && end <= u64::from(units) * au
        && mirror.stale().is_none();
    let start = u32::try_from(begin / au).ok()?;
    fits.then(|| Hold {
        volume: mend.volume,
        start,
        count: end.div_ceil(au) as u32 - start,
    })
}

/// Runs when somebody read wrong bytes, or a hold was left.
pub(super) static MENDER: Worker<()> = Worker {
    name: "mend a leg",
    running: |group| &group.mender.running,
    is_needed: |group| {
        !group.mender.wanted.lock().is_empty() || group.with_catalog(|catalog| stray_hold(catalog).is_some())
    },
    step: |group, ()| Box::pin(group.mend_step()),
};

impl VolumeGroup {
    /// Has the leader write bytes again.
    pub(super) fn ask_to_mend(&self, mend: Mend) {
        let role = *self.role.borrow();
        match role {
            Role::Leader { .. } => self.mend_later(mend),
            Role::Follower { leader: Some(leader) } => self.send(leader, &StorageMessage::Mend(mend)),
            // The next read finds it again.
            Role::Follower { leader: None } => {}
        }
    }

    /// Somebody read wrong bytes.
    pub(super) fn mend_later(&self, mend: Mend) {
        if self.leading().is_none() {
            return;
        }
        let mut wanted = self.mender.wanted.lock();
        if wanted.len() < WANTED_MAX && !wanted.contains(&mend) {
            wanted.push_back(mend);
        }
        drop(wanted);
        self.wake(&MENDER);
    }

    /// One step; false when there is none, or this node does not lead.
    async fn mend_step(&self) -> bool {
        let _one = self.syncer.one_at_a_time.lock().await;
        if self.leading().is_none() {
            self.mender.wanted.lock().clear();
            return false;
        }
        if let Some(stray) = self.with_catalog(stray_hold) {
            if self.let_go(stray).await.is_err() {
                self.runtime.sleep(TRY_AGAIN).await;
            }
            return true;
        }
        let Some(mend) = self.mender.wanted.lock().pop_front() else {
            return false;
        };
        let Some(hold) = self.with_catalog(|catalog| hold_of(catalog, &mend)) else {
            return true;
        };
        let mended = async {
            if !self.hold(hold).await? {
                return Ok(false);
            }
            let mended = self.write_again(hold, &mend).await;
            self.let_go(hold).await?;
            mended
        };
        let Mend {
            volume, leg, offset, ..
        } = mend;
        match mended.await {
            Ok(true) => tracing::warn!(
                volume,
                side = leg,
                offset,
                "wrong bytes of a side are written again"
            ),
            Ok(false) => tracing::info!(
                volume,
                side = leg,
                offset,
                "wrong bytes of a side were written meanwhile"
            ),
            Err(error) => {
                tracing::error!(%error, volume, side = leg, offset, "wrong bytes of a side cannot be written again");
                self.runtime.sleep(TRY_AGAIN).await;
            }
        }
        true
    }

    /// Has everybody stop writing units of a volume whose legs both count; false when that cannot be now. The caller has the lock
    /// `one_at_a_time`, and ends it by [`let_go`](Self::let_go).
    pub(super) async fn hold(&self, hold: Hold) -> Result<bool, StorageError> {
        if planted(Defect::MendBesideWriters) {
            return Ok(true);
        }
        let Hold { volume, start, count } = hold;
        match self
            .append_as_leader(Operation::BeginSync { volume, start, count })
            .await
        {
            Err(error) if error.is(OperationError::VolumeRaced) => return Ok(false),
            begun => begun?,
        }
        loop {
            if self.leading().is_none() {
                return Err(StorageError::Unavailable);
            }
            match self.with_catalog(|catalog| hold_state(catalog, hold)) {
                HoldState::Gone => return Ok(false),
                HoldState::Held => return Ok(true),
                HoldState::Waits => self.runtime.sleep(LOOK_AGAIN).await,
            }
        }
    }

    /// Lets everybody write again.
    pub(super) async fn let_go(&self, hold: Hold) -> Result<(), StorageError> {
        let Hold { volume, start, count } = hold;
        match self
            .append_as_leader(Operation::EndSync { volume, start, count })
            .await
        {
            // The leg was detached meanwhile.
            Err(error) if error.is(OperationError::VolumeRaced) => Ok(()),
            done => done,
        }
    }

    /// Counts work under a hold; `None` when it is over.
    pub(super) fn begin_held(&self, hold: Hold) -> Option<u64> {
        let known = self.known.read();
        let is_held = hold_state(&known.catalog, hold) == HoldState::Held;
        (is_held || planted(Defect::MendBesideWriters)).then(|| self.in_flight.begin(NOBODY))
    }

    /// Writes what one leg has right to the other, durably; false when something else is there by now.
    async fn write_again(&self, hold: Hold, mend: &Mend) -> Result<bool, StorageError> {
        let Some(generation) = self.begin_held(hold) else {
            return Ok(false);
        };
        let written = self.write_right_bytes(mend).await;
        let units = (hold.start, hold.count);
        self.end_on_legs(hold.volume, units, generation, written, |failed| {
            failed == mend.leg
        })
        .await
    }

    /// On failure: which leg it was.
    async fn write_right_bytes(&self, mend: &Mend) -> Result<bool, (u8, StorageError)> {
        let length = mend.length as usize;
        let found = self.read_both(mend.volume, mend.offset, length).await?;
        if found.each_ref().map(|bytes| crc32c(&[bytes])) != mend.found {
            return Ok(false);
        }
        let [first, second] = found;
        let right = if mend.leg == 0 { second } else { first };
        self.write_leg_durably(mend.volume, mend.leg, mend.offset, right)
            .await
            .map_err(|error| (mend.leg, error))?;
        let bytes = u64::from(mend.length);
        self.mender.mended_bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(true)
    }

    async fn write_leg_durably(
        &self,
        volume: u16,
        leg: u8,
        offset: u64,
        bytes: IoBuffer,
    ) -> Result<(), StorageError> {
        self.write_leg((volume, leg), offset, bytes).await?;
        Ok(self.leg((volume, leg)).await?.device.flush().await?)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum HoldState {
    /// Members may still write there, or torn units are compared first.
    Waits,
    Held,
    Gone,
}

fn hold_state(catalog: &Catalog, hold: Hold) -> HoldState {
    let Hold { volume, start, count } = hold;
    let mirror = catalog.mirror(volume);
    let found = mirror.and_then(|mirror| {
        let mut holds = mirror.holds().iter();
        holds.find(|sync| (sync.start, sync.count) == (start, count))
    });
    match found {
        None => HoldState::Gone,
        Some(sync) if sync.since.is_some() => HoldState::Waits,
        Some(_) if (start..start + count).any(|unit| catalog.is_torn(volume, unit)) => HoldState::Waits,
        Some(_) => HoldState::Held,
    }
}
