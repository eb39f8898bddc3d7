//! The devices that a node has open: one for each leg of each volume.
//!
//! Rules:
//! - VOL-3 a flush that skips a device found that an earlier one, begun after its last write was done, had covered it;
//! - after a fence every leg is flushed (HZ-10). Of two legs one may fail: then it is not read here, and detached.

use crate::seam::{BlockDevice, DeviceError, IoBuffer};
use aquifer_dss_proto::label::Uuid;
use parking_lot::RwLock;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::error::StorageError;

/// A leg of a volume.
pub(super) type LegId = (u16, u8);

/// The first leg of the first volume.
pub(super) const FIRST: LegId = (0, 0);

/// A leg that this node has open.
pub(super) struct OpenVolume {
    pub(super) device: Arc<dyn BlockDevice>,
    pub(super) uuid: Uuid,
    /// Writes that are done, and how many of them a flush made durable.
    completed: AtomicU64,
    durable: AtomicU64,
    /// Reads that are under way.
    reading: AtomicU64,
    /// It failed here, and the catalogue does not say so yet.
    failed: AtomicBool,
    /// It said that it cannot discard: it is not asked again.
    keeps_all: AtomicBool,
}

impl OpenVolume {
    pub(super) fn new(uuid: Uuid, device: Arc<dyn BlockDevice>) -> Arc<Self> {
        Arc::new(Self {
            device,
            uuid,
            completed: AtomicU64::new(0),
            durable: AtomicU64::new(0),
            reading: AtomicU64::new(0),
            failed: AtomicBool::new(false),
            keeps_all: AtomicBool::new(false),
        })
    }

    pub(super) async fn read(&self, offset: u64, buffer: IoBuffer) -> Result<IoBuffer, StorageError> {
        let _reading = Reading::begin(&self.reading);
        Ok(self.device.read(offset, buffer).await?)
    }

    pub(super) async fn write(&self, offset: u64, buffer: IoBuffer) -> Result<IoBuffer, StorageError> {
        let written = self.device.write(offset, buffer).await;
        self.completed.fetch_add(1, Ordering::AcqRel);
        Ok(written?)
    }

    pub(super) async fn write_zeroes(&self, offset: u64, length: u64) -> Result<(), StorageError> {
        let written = self.device.write_zeroes(offset, length).await;
        self.completed.fetch_add(1, Ordering::AcqRel);
        Ok(written?)
    }

    /// Whether the device can be told what nobody needs; of a leg of two it has to read as zeros then.
    pub(super) fn takes_discards(&self, of_two: bool) -> bool {
        !self.keeps_all.load(Ordering::Relaxed) && (!of_two || self.device.discards_to_zeros())
    }

    /// Tells the device that nobody needs a range.
    pub(super) async fn discard(&self, offset: u64, length: u64) -> Result<(), StorageError> {
        let discarded = self.device.discard(offset, length).await;
        self.completed.fetch_add(1, Ordering::AcqRel);
        if discarded.as_ref().is_err_and(DeviceError::is_unsupported) {
            self.keeps_all.store(true, Ordering::Relaxed);
        }
        Ok(discarded?)
    }

    /// The device, for I/O that a program does itself.
    pub(super) const fn device(&self) -> &Arc<dyn BlockDevice> {
        &self.device
    }

    /// A program wrote there itself, or may have (VOL-3).
    pub(super) fn written_by_program(&self) {
        self.completed.fetch_add(1, Ordering::AcqRel);
    }

    /// Makes the writes that are done durable, when some may not be (VOL-3).
    pub(super) async fn flush(&self) -> Result<(), StorageError> {
        let completed = self.completed.load(Ordering::Acquire);
        if self.durable.load(Ordering::Acquire) < completed {
            self.device.flush().await?;
            self.durable.fetch_max(completed, Ordering::AcqRel);
        }
        Ok(())
    }

    /// How good it is to read from it: less is better.
    pub(super) fn burden(&self) -> u64 {
        if self.has_failed() {
            return u64::MAX;
        }
        self.reading.load(Ordering::Relaxed)
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// Gives what it was before.
    pub(super) fn set_failed(&self, failed: bool) -> bool {
        self.failed.swap(failed, Ordering::AcqRel)
    }
}

/// A read that is counted.
struct Reading<'a>(&'a AtomicU64);

impl<'a> Reading<'a> {
    fn begin(count: &'a AtomicU64) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The volumes that a node has open.
pub struct OpenVolumes {
    /// The first volume, when it is not mirrored: it is always there.
    pub(super) first: Option<Arc<OpenVolume>>,
    pub(super) further: RwLock<BTreeMap<LegId, Arc<OpenVolume>>>,
}

impl OpenVolumes {
    /// Nothing open but the first volume, when that is not mirrored.
    pub(super) fn new(first: Option<(Uuid, Arc<dyn BlockDevice>)>) -> Arc<Self> {
        Arc::new(Self {
            first: first.map(|(uuid, device)| OpenVolume::new(uuid, device)),
            further: RwLock::default(),
        })
    }

    pub(super) fn get(&self, leg: LegId) -> Option<Arc<OpenVolume>> {
        if let Some(first) = self.first.as_ref().filter(|_| leg == FIRST) {
            return Some(first.clone());
        }
        self.further.read().get(&leg).cloned()
    }

    /// Every leg besides a first volume that is not mirrored.
    pub(super) fn others(&self) -> Vec<(LegId, Arc<OpenVolume>)> {
        let further = self.further.read();
        further.iter().map(|(id, open)| (*id, open.clone())).collect()
    }

    /// Whether there are devices besides a first volume that is not mirrored.
    pub fn has_further(&self) -> bool {
        !self.further.read().is_empty()
    }

    /// Makes durable what others wrote before they were fenced (HZ-10), on every device besides a first volume that is not
    /// mirrored, which has been flushed. Fails when a volume has no leg on which that worked.
    pub async fn flush_after_fence(&self) -> Result<(), DeviceError> {
        let others = self.others();
        let flushes = others.iter().map(|(_, open)| open.device.flush());
        let flushed = futures_util::future::join_all(flushes).await;
        let mut failed = None;
        let whole = |volume: u16| {
            let mut legs = others.iter().zip(&flushed);
            legs.any(|((id, _), result)| id.0 == volume && result.is_ok())
        };
        for ((id, open), result) in others.iter().zip(&flushed) {
            match result {
                Err(DeviceError::Io { .. }) if whole(id.0) => {
                    open.set_failed(true);
                }
                Err(error) => failed = Some(error.clone()),
                Ok(()) => {}
            }
        }
        failed.map_or(Ok(()), Err)
    }
}
