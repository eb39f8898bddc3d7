//! A leg of volume 0 gets the metadata back that it missed, and counts again (META-6).
//!
//! It happens when the leg has all data of the volume again. The leader does it, beside its appends: pieces are copied while no append is
//! under way, and every append goes to both meanwhile.

use super::error::StorageError;
use super::open_volumes::OpenVolume;
use super::resync::TRY_AGAIN;
use super::volume_group::VolumeGroup;
use super::worker::Worker;
use crate::seam::IoBuffer;
use aquifer_dss_proto::catalog::Mirror;
use aquifer_dss_proto::label::SLOTS_OFFSET;
use aquifer_dss_proto::membership::MetadataLegs;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Bytes that are copied while appends wait.
const PIECE: u64 = 1 << 20;

/// Runs when a leg of volume 0 has all data and not the metadata.
pub(super) static FILLER: Worker<()> = Worker {
    name: "fill a side with the metadata",
    running: |group| &group.filling,
    is_needed: |group| group.leg_to_fill().is_some(),
    step: |group, ()| Box::pin(group.fill_metadata_step()),
};

/// Whether its task is there.
pub(super) type Filling = AtomicBool;

impl VolumeGroup {
    /// The leg of volume 0 that has all data again, and whose metadata does not count.
    fn leg_to_fill(&self) -> Option<(u8, Arc<OpenVolume>)> {
        let MetadataLegs::Only(counts) = self.metadata.legs() else {
            return None;
        };
        let leg = 1 - counts;
        let has_data = self.with_catalog(|catalog| catalog.mirror(0).map(Mirror::stale)) == Some(None);
        let open = self.volumes.get((0, leg)).filter(|open| !open.has_failed());
        open.filter(|_| has_data).map(|open| (leg, open))
    }

    /// One step; false when there is none, or this node does not lead.
    async fn fill_metadata_step(&self) -> bool {
        let Some((leg, open)) = self.leg_to_fill() else {
            return false;
        };
        if self.leading().is_none() {
            return false;
        }
        match self.fill_metadata(leg, &open).await {
            Ok(()) => {
                self.metadata.until_settled().await;
                let counts = self.metadata.legs() == MetadataLegs::Both;
                tracing::info!(leg, counts, "a side of volume 0 has the metadata again");
            }
            Err(error) => {
                self.metadata.abandon_fill();
                tracing::warn!(leg, %error, "the metadata could not be copied to a side of volume 0");
                open.set_failed(true);
                self.detach_unusable();
                self.runtime.sleep(TRY_AGAIN).await;
            }
        }
        true
    }

    /// Copies everything before the allocation units but the label, which is the leg's own.
    async fn fill_metadata(&self, leg: u8, open: &OpenVolume) -> Result<(), StorageError> {
        let source = self.metadata.device(1 - leg)?;
        self.metadata.begin_fill(leg);
        let end = self.label.checkpoint_offset(1) + self.label.checkpoint_bytes;
        let mut offset = SLOTS_OFFSET;
        while offset < end {
            let length = PIECE.min(end - offset);
            let journal = self.journal.lock().await;
            if self.leading().is_none() {
                return Err(StorageError::NotLeader(None));
            }
            let piece = source.read(offset, IoBuffer::zeroed(length as usize)).await?;
            open.write(offset, piece).await?;
            drop(journal);
            offset += length;
        }
        let _journal = self.journal.lock().await;
        open.device().flush().await?;
        match self.metadata.end_fill(leg) {
            true => Ok(()),
            false => Err(StorageError::Damaged("it failed meanwhile".into())),
        }
    }
}
