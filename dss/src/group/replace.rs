//! Another device in the place of a leg that is lost, at the storage leader, while nodes serve.
//!
//! Rules (MIR-17, README of this crate):
//! - the label of the new device, with a UUID that no device had and a higher generation, is durable before the catalogue names it;
//! - the record that names it makes every unit dirty: it is read nowhere before it was copied to, and comes back as a leg that was out;
//! - the UUID decides: the device that was lost is none of the group's any more, wherever it turns up.

use super::error::StorageError;
use super::open_volumes::LegId;
use super::volume_group::VolumeGroup;
use super::volume_label::{read_label, write_label};
use super::volumes::operation_error;
use crate::seam::BlockDevice;
use aquifer_dss_proto::catalog::{MirrorState, NewLeg, Operation, OperationError, Volume};
use aquifer_dss_proto::label::Label;

/// How a device is put in the place of a leg.
#[derive(Clone, Debug, Default)]
pub struct ReplaceLegOptions {
    /// Its failure group; `None`: that of the leg before.
    pub failure_group: Option<u8>,
    /// Overwrite what is on the device.
    pub force: bool,
}

/// A leg that is out.
pub(super) struct OutLeg {
    pub(super) id: LegId,
    /// What the catalogue says of its volume.
    pub(super) volume: Volume,
    /// The stay of it that is over.
    pub(super) generation: u64,
}

impl VolumeGroup {
    /// Puts the device at `path` in the place of the leg of a volume that is out, at the storage leader: everything is copied to it
    /// while nodes serve. Which leg it is.
    pub async fn replace_leg(
        &self,
        volume: u16,
        path: &str,
        options: &ReplaceLegOptions,
    ) -> Result<u8, StorageError> {
        let _labels = self.opening.labels.lock().await;
        self.require_leader()?;
        self.catch_up().await?;
        let lost = self.out_leg(volume)?;
        // The new device has no metadata: it counts when it was filled.
        self.drop_metadata_of(lost.id).await?;
        let opener = self.opener()?;
        let is_own = lost.volume.leg(lost.id.1).is_some_and(|(_, old)| old == path);
        if !is_own {
            self.require_unnamed(path)?;
        }
        if is_own && !path.is_empty() {
            // What may be open is what was at that path before.
            opener.close(path);
        }
        let device = self.open_new(path).await?;
        let replaced = self.label_and_put(&lost, path, &*device, options).await;
        self.close_if_refused(&replaced, &[path]);
        replaced.map(|()| lost.id.1)
    }

    /// The leg of a mirrored volume that is out, and that everybody let go of.
    pub(super) fn out_leg(&self, volume: u16) -> Result<OutLeg, StorageError> {
        let known = self.with_catalog(|catalog| {
            let mirror = catalog.mirror(volume)?;
            Some((catalog.volume(volume)?.clone(), mirror.clone()))
        });
        let (entry, mirror) = known.ok_or_else(|| operation_error(volume, OperationError::NotMirrored))?;
        let MirrorState::Out { leg, since: None } = mirror.state else {
            return Err(operation_error(volume, OperationError::VolumeRaced));
        };
        Ok(OutLeg {
            id: (volume, leg),
            volume: entry,
            generation: mirror.generations[usize::from(leg)],
        })
    }

    async fn label_and_put(
        &self,
        lost: &OutLeg,
        path: &str,
        device: &dyn BlockDevice,
        options: &ReplaceLegOptions,
    ) -> Result<(), StorageError> {
        self.require_unused(device, options.force).await?;
        let label = self.label_in_place_of(lost, device).await?;
        // Nothing of what it was before stays in front of its units.
        device.write_zeroes(0, self.label.journal_offset()).await?;
        device.flush().await?;
        write_label(device, &label).await?;
        let before = lost.volume.failure_group_of(lost.id.1).unwrap_or_default();
        let new = NewLeg {
            volume: label.volume,
            leg: label.leg,
            uuid: label.volume_uuid,
            generation: label.leg_generation,
            failure_group: options.failure_group.unwrap_or(before),
            path: path.into(),
        };
        self.submit(path, Operation::ReplaceLeg(new)).await.map(drop)
    }

    /// That of the other leg, but for what names the device.
    async fn label_in_place_of(
        &self,
        lost: &OutLeg,
        device: &dyn BlockDevice,
    ) -> Result<Label, StorageError> {
        let (volume, leg) = lost.id;
        let other = self.leg((volume, 1 - leg)).await?;
        let model = read_label(&*other.device).await?;
        let units = self.with_catalog(|catalog| catalog.units_of(volume).0);
        let size = device.geometry().size;
        let needed = model.au_offset + u64::from(units) * model.au_bytes;
        if size < needed {
            return Err(StorageError::TooSmall { size, needed });
        }
        Ok(Label {
            volume_uuid: self.draw_uuid(),
            generation: 1,
            size: size.min(model.size),
            au_count: units,
            leg,
            leg_generation: lost.generation + 1,
            ..model
        })
    }
}
