//! Changes of the volumes of an open group, at the storage leader: added, grown, drained, removed while nodes serve.
//!
//! Rules:
//! - VOL-4 the storage leader alone writes labels, one change at a time: who led before is fenced, so none is written late.

use super::error::StorageError;
use super::format;
use super::open_volumes::OpenVolume;
use super::volume_group::{Role, VolumeGroup};
use super::volume_label::{further_label, read_label, units_in, write_label};
use super::volumes::{disagreement, operation_error};
use crate::seam::{BLOCK, BlockDevice, DeviceError, IoBuffer};
use aquifer_dss_proto::catalog::{NewVolume, Operation, OperationError, Reply, Volume, VolumeState};
use aquifer_dss_proto::label::{LABEL_OFFSETS, Label, Uuid};
use std::sync::Arc;
use std::time::Duration;

/// How long the members may take to open a new volume before its adder stops waiting.
const JOIN_PATIENCE: Duration = Duration::from_secs(5);
/// Configuration key: `off` when what is not needed any more is not discarded on the device.
pub const DISCARD_KEY: &str = "volumes.discard";
/// Bytes of one discard.
const DISCARD_BYTES: u64 = 1 << 30;
/// How often an id that somebody else took meanwhile is tried again.
const RACES: u32 = 4;

/// How a volume is added.
#[derive(Clone, Debug, Default)]
pub struct AddVolumeOptions {
    /// Volumes of one failure group fail together.
    pub failure_group: u8,
    /// Overwrite what is on the device.
    pub force: bool,
    /// Use only so many bytes; `None`: the whole device.
    pub size: Option<u64>,
}

impl VolumeGroup {
    /// Only the storage leader may change labels (VOL-4).
    pub(super) fn require_leader(&self) -> Result<(), StorageError> {
        match *self.role.borrow() {
            Role::Leader { .. } => Ok(()),
            Role::Follower { leader } => Err(StorageError::NotLeader(leader)),
        }
    }

    /// Adds the device at `path` as a volume, at the storage leader. Members open it, and then files get units on it.
    /// Its id.
    pub async fn add_volume(&self, path: &str, options: &AddVolumeOptions) -> Result<u16, StorageError> {
        let labels = self.opening.labels.lock().await;
        self.require_leader()?;
        if self.with_catalog(|catalog| catalog.is_mirrored()) {
            let text = "every volume of a mirrored group has two legs from the start: none can be added yet";
            return Err(StorageError::Invalid(text.into()));
        }
        let no_opener = || StorageError::Invalid("this node cannot open devices by path".into());
        let opener = self.opening.opener.clone().ok_or_else(no_opener)?;
        self.catch_up().await?;
        let taken = |(_, volume): &(u16, &Volume)| volume.exists() && volume.path == path;
        if self.with_catalog(|catalog| catalog.volumes().any(|entry| taken(&entry))) {
            return Err(operation_error(path, OperationError::AlreadyExists));
        }
        let device = opener.open(path).await?;
        let added = self.label_and_name(path, device, options).await;
        match &added {
            Ok(_) => {}
            // It may have been done: then the device stays open.
            Err(StorageError::Unavailable) => {}
            Err(_) => opener.close(path),
        }
        let id = added?;
        drop(labels);
        self.wait_until_joined(id).await?;
        Ok(id)
    }

    async fn label_and_name(
        &self,
        path: &str,
        device: Arc<dyn BlockDevice>,
        options: &AddVolumeOptions,
    ) -> Result<u16, StorageError> {
        if !options.force {
            self.require_unused(&*device).await?;
        }
        let mut uuid = [0; 16];
        uuid[..8].copy_from_slice(&self.runtime.random().to_le_bytes());
        uuid[8..].copy_from_slice(&self.runtime.random().to_le_bytes());
        let size = device.geometry().size;
        let size = options.size.map_or(size, |bytes| bytes.min(size));
        let mut label = further_label(&self.label, Uuid(uuid), size)?;
        for _ in 0..RACES {
            self.catch_up().await?;
            label.volume = self.with_catalog(|catalog| catalog.next_volume());
            label.generation += 1;
            write_label(&*device, &label).await?;
            let new = NewVolume {
                volume: label.volume,
                uuid: label.volume_uuid,
                units: label.au_count,
                au_offset: label.au_offset,
                failure_group: options.failure_group,
                path: path.into(),
                twin: None,
            };
            // Open before anybody names it, so that nobody here opens it twice.
            let open = OpenVolume::new(label.volume_uuid, device.clone());
            self.volumes.further.write().insert((label.volume, 0), open);
            let added = self.submit(path, Operation::AddVolume(new)).await;
            match added {
                Ok(Reply::Volume(id)) => return Ok(id),
                Ok(_) => {
                    return Err(StorageError::Damaged(format!(
                        "the leader named no volume for {path}"
                    )));
                }
                Err(error) => {
                    self.close_if_not_named(&label);
                    if !error.is(OperationError::VolumeRaced) {
                        return Err(error);
                    }
                }
            }
        }
        Err(operation_error(path, OperationError::VolumeRaced))
    }

    fn close_if_not_named(&self, label: &Label) {
        let named = self.with_catalog(|catalog| disagreement(label, catalog.volume(label.volume)).is_none());
        let mut further = self.volumes.further.write();
        let ours = further
            .get(&(label.volume, 0))
            .is_some_and(|open| open.uuid == label.volume_uuid);
        if ours && !named {
            further.remove(&(label.volume, 0));
        }
    }

    /// Refuses a device that something is on, other than the label of an addition that was cut off.
    async fn require_unused(&self, device: &dyn BlockDevice) -> Result<(), StorageError> {
        if let Ok(label) = read_label(device).await
            && label.group == self.label.group
            && self.with_catalog(|catalog| {
                catalog
                    .volumes()
                    .all(|(_, volume)| volume.uuid != label.volume_uuid)
            })
        {
            return Ok(());
        }
        format::require_blank(device).await
    }

    async fn wait_until_joined(&self, id: u16) -> Result<(), StorageError> {
        let deadline = self.runtime.now() + JOIN_PATIENCE;
        while self.runtime.now() < deadline {
            self.catch_up().await?;
            let state = self.with_catalog(|catalog| catalog.volume(id).map(|volume| volume.state));
            if !matches!(state, Some(VolumeState::Joining { .. })) {
                return Ok(());
            }
            self.runtime.sleep(Duration::from_millis(5)).await;
        }
        tracing::warn!(
            volume = id,
            "some member has not opened the new volume yet; it is used when all have"
        );
        Ok(())
    }

    /// Gives a volume the size of its device, or `bytes`, at the storage leader. It shrinks only when what goes is free. Its
    /// units.
    pub async fn resize_volume(&self, id: u16, bytes: Option<u64>) -> Result<u32, StorageError> {
        let _labels = self.opening.labels.lock().await;
        self.require_leader()?;
        self.catch_up().await?;
        let (au_offset, au_bytes, before, legs) = self
            .with_catalog(|catalog| {
                let volume = catalog.volume(id).filter(|volume| volume.exists())?;
                let before = catalog.units_of(id).0;
                Some((volume.au_offset, catalog.au_bytes(), before, volume.legs()))
            })
            .ok_or_else(|| operation_error(id, OperationError::NoSuchVolume))?;
        let mut devices = Vec::new();
        for leg in legs {
            if self.with_catalog(|catalog| catalog.mirror(id).is_some_and(|mirror| mirror.stale().is_some()))
            {
                let text = "a side of the mirror is out of use: resynchronise it first";
                return Err(StorageError::Invalid(text.into()));
            }
            devices.push(self.leg((id, leg)).await?);
        }
        let sizes = devices.iter().map(|open| open.device.geometry().size);
        let size = sizes.min().expect("a volume has a leg");
        let wanted = bytes.unwrap_or(size);
        if wanted > size || wanted < au_offset + au_bytes {
            let needed = wanted.max(au_offset + au_bytes);
            return Err(StorageError::TooSmall { size, needed });
        }
        let units = units_in(wanted, au_offset, au_bytes);
        let mut labels = Vec::new();
        for open in &devices {
            let mut label = read_label(&*open.device).await?;
            (label.generation, label.size, label.au_count) = (label.generation + 1, wanted, units);
            labels.push((open, label));
        }
        // A label never promises less than the catalogue.
        if units > before {
            for (open, label) in &labels {
                write_label(&*open.device, label).await?;
            }
        }
        let resize = Operation::ResizeVolume { volume: id, units };
        self.submit(&format!("volume {id}"), resize).await?;
        if units < before {
            for (open, label) in &labels {
                write_label(&*open.device, label).await?;
            }
        }
        Ok(units)
    }

    /// Takes no new units from a volume and moves its units away, or uses it again.
    pub async fn drain_volume(&self, id: u16, drain: bool) -> Result<(), StorageError> {
        let operation = Operation::DrainVolume { volume: id, drain };
        self.submit(&format!("volume {id}"), operation).await.map(drop)
    }

    /// Takes a drained, empty volume out of the group, and its label off its device, at the storage leader.
    pub async fn remove_volume(&self, id: u16) -> Result<(), StorageError> {
        let _labels = self.opening.labels.lock().await;
        self.require_leader()?;
        let open: Vec<_> = (0..2).filter_map(|leg| self.volumes.get((id, leg))).collect();
        let operation = Operation::RemoveVolume { volume: id };
        self.submit(&format!("volume {id}"), operation).await?;
        // The catalogue refuses it whatever its label says; an empty device can be used for something else at once.
        for open in open.iter().filter(|_| id > 0) {
            if let Err(error) = self.erase(&*open.device).await {
                tracing::warn!(volume = id, %error, "the label of a removed volume is still on its device, or its content");
            }
        }
        Ok(())
    }

    /// Takes the labels of a removed volume away, and gives its space back to the device. Nobody has a unit of it.
    async fn erase(&self, device: &dyn BlockDevice) -> Result<(), DeviceError> {
        for offset in LABEL_OFFSETS {
            device.write(offset, IoBuffer::zeroed(BLOCK)).await?;
        }
        device.flush().await?;
        let discards = self.with_catalog(|catalog| catalog.config(DISCARD_KEY) != Some("off"));
        let size = device.geometry().size;
        let mut offset = self.label.journal_offset();
        while discards && offset < size {
            let length = DISCARD_BYTES.min(size - offset);
            match device.discard(offset, length).await {
                Err(error) if error.is_unsupported() => return Ok(()),
                discarded => discarded?,
            }
            offset += length;
        }
        Ok(())
    }
}
