//! Finding the metadata of a group: the legs of volume 0, and which of them count.
//!
//! Rule META-5: of two legs, one that is alone is believed when it says that it counts alone, or when somebody answers for the other one being lost.
//! What it says may be old otherwise: the members may have dropped it and gone on.

use super::control::ControlBlocks;
use super::error::StorageError;
use super::journal::Journal;
use super::metadata_area::CHECKPOINT_ATTEMPTS;
use super::metadata_devices::MetadataDevices;
use super::volume_label::read_label;
use crate::membership::{MembershipError, decode_ballot, decode_body, learn_decided};
use crate::seam::{BlockDevice, DeviceError, Runtime, VolumeOpener};
use aquifer_dss_proto::catalog::Catalog;
use aquifer_dss_proto::label::Label;
use aquifer_dss_proto::membership::{Decree, MetadataLegs};
use std::sync::Arc;

/// A label and the device that it is on.
pub(super) type Labelled = (Label, Arc<dyn BlockDevice>);

/// How a group is opened.
pub(super) struct Finding<'a> {
    pub(super) runtime: &'a dyn Runtime,
    pub(super) opener: Option<&'a dyn VolumeOpener>,
    /// The leg of volume 0 that is lost for good, as its operator says.
    pub(super) lost: Option<u8>,
}

fn both_open(devices: &[Labelled]) -> bool {
    devices.len() == 2
}

impl Finding<'_> {
    /// The metadata on the legs of volume 0 in `labelled`, to which the other leg is added when it is not there and can be opened.
    pub(super) async fn metadata(
        &self,
        labelled: &mut Vec<Labelled>,
    ) -> Result<Arc<MetadataDevices>, StorageError> {
        let mut legs: Vec<Labelled> = labelled
            .iter()
            .filter(|(label, _)| label.volume == 0)
            .cloned()
            .collect();
        let label = legs[0].0.clone();
        let mut why = String::from("it is not among the devices of this node");
        if label.legs == 2 && !both_open(&legs) && self.lost != Some(1 - label.leg) {
            match other_leg(self.opener, &legs[0]).await {
                Ok(other) => {
                    labelled.push(other.clone());
                    legs.push(other);
                }
                Err(reason) => why = reason,
            }
        }
        let device = |leg: u8| {
            let mut of_leg = legs.iter().filter(|(label, _)| label.leg == leg);
            let found = of_leg.next().map(|(_, device)| device.clone());
            found.filter(|_| self.lost != Some(leg))
        };
        let devices = [device(0), device(1)];
        let is_there = [devices[0].is_some(), devices[1].is_some()];
        let metadata = MetadataDevices::new(devices, label.metadata_legs(), label.slots());
        if label.legs == 1 {
            return Ok(metadata);
        }
        let decree = learn_decided(self.runtime, &metadata).await;
        let decided = decree.map_err(damaged)?.metadata;
        let missing = decided.legs().find(|leg| !is_there[usize::from(*leg)]);
        match missing {
            None => metadata.set_legs(decided),
            Some(leg) if decided == MetadataLegs::Both && self.lost == Some(leg) => metadata.give_up(leg),
            Some(side) => return Err(StorageError::OneSide { side, reason: why }),
        }
        Ok(metadata)
    }
}

fn damaged(error: MembershipError) -> StorageError {
    match error {
        MembershipError::Device(error) => error.into(),
        other => StorageError::Damaged(other.to_string()),
    }
}

/// The catalogue as one leg has it, current or not.
async fn catalog_on(label: &Label, device: &Arc<dyn BlockDevice>) -> Result<Catalog, StorageError> {
    let mut devices = [None, None];
    devices[usize::from(label.leg)] = Some(device.clone());
    let alone = MetadataDevices::new(devices, MetadataLegs::Only(label.leg), label.slots());
    let (journal, mut catalog) = Journal::load(alone, label.clone()).await?;
    let mut tail = journal.tail;
    while let Some(entry) = journal.read_after(&tail).await? {
        tail = entry.after;
        super::image::replay(&mut catalog, std::slice::from_ref(&entry));
    }
    Ok(catalog)
}

/// The other leg of volume 0, by its path in the catalogue as this one has it, which may be old.
async fn other_leg(
    opener: Option<&dyn VolumeOpener>,
    (label, device): &Labelled,
) -> Result<Labelled, String> {
    let leg = 1 - label.leg;
    let opener = opener.ok_or("it is not among the devices of this node")?;
    let (uuid, path) = catalog_on(label, device)
        .await
        .map_err(|error| error.to_string())?
        .volume(0)
        .and_then(|volume| volume.leg(leg).map(|(uuid, path)| (uuid, path.to_owned())))
        .ok_or("the catalogue does not name it")?;
    let device = opener.open(&path).await.map_err(|error| error.to_string())?;
    let found = read_label(&*device).await.map_err(|error| error.to_string());
    match found {
        Ok(found) if (found.group, found.volume_uuid, found.leg) == (label.group, uuid, leg) => {
            Ok((found, device))
        }
        found => {
            opener.close(&path);
            Err(found
                .err()
                .unwrap_or_else(|| format!("'{path}' is another device")))
        }
    }
}

/// The leg of volume 0 that has the metadata, for somebody who only reads: `named`, unless the other one counts alone.
pub(super) async fn leg_to_read(
    named: &Labelled,
    opener: &dyn VolumeOpener,
) -> Result<Labelled, StorageError> {
    let other = other_leg(Some(opener), named).await;
    let mut last: Option<Decree> = None;
    for (label, device) in std::iter::once(named).chain(other.as_ref().ok()) {
        let control = ControlBlocks::new(device.clone(), label.slots());
        // A leg that cannot be read says nothing.
        let decided = last_decree(&control).await.unwrap_or_default();
        let decrees = [last, decided].into_iter().flatten();
        last = decrees.max_by_key(|decree| decree.view.epoch);
    }
    match (last.map(|decree| decree.metadata), other) {
        (Some(MetadataLegs::Only(side)), Ok(other)) if side != named.0.leg => Ok(other),
        (Some(MetadataLegs::Only(side)), Err(reason)) if side != named.0.leg => {
            Err(StorageError::OneSide { side, reason })
        }
        _ => Ok(named.clone()),
    }
}

/// The last decree on a leg.
async fn last_decree(control: &ControlBlocks) -> Result<Option<Decree>, DeviceError> {
    for _ in 0..CHECKPOINT_ATTEMPTS {
        let blocks = control.read_all_ballot_blocks().await?;
        let decoded = blocks
            .iter()
            .filter_map(|(node, block)| Some((node, decode_ballot(block).ok()?)));
        let Some((node, block)) = decoded.max_by_key(|(_, block)| block.decided) else {
            return Ok(None);
        };
        let (epoch, hash) = (block.decided, block.decided_value);
        let place = control.read_body(node, (epoch.0 % 2) as usize).await?;
        if let Some((_, decree)) = decode_body(&place, control.home_slots(), epoch, hash) {
            return Ok(Some(decree));
        }
    }
    Ok(None)
}
