//! Changes of the volumes of an open group, at the storage leader: added, grown, drained, removed while nodes serve.
//!
//! Rules:
//! - VOL-4 the storage leader alone writes labels, one change at a time: who led before is fenced, so none is written late.

use super::error::StorageError;
use super::format;
use super::volume_group::{Role, VolumeGroup};
use super::volume_label::{further_label, read_label, units_in, write_label};
use super::volumes::{disagreement, operation_error};
use crate::seam::{BLOCK, BlockDevice, DeviceError, IoBuffer, VolumeOpener};
use aquifer_dss_proto::catalog::{
    Catalog, Mirror, NewVolume, Operation, OperationError, Reply, Twin, Volume, VolumeState,
};
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
    /// The second leg: a mirrored group has volumes of two, and no other.
    pub twin: Option<SecondDevice>,
}

/// The device that becomes the second leg of a volume.
#[derive(Clone, Debug)]
pub struct SecondDevice {
    /// Where every node finds it.
    pub path: String,
    /// Another one than that of the first leg.
    pub failure_group: u8,
}

/// The devices of a new volume, one for each leg, with their labels.
struct NewLegs<'a> {
    paths: Vec<&'a str>,
    devices: Vec<Arc<dyn BlockDevice>>,
    labels: Vec<Label>,
}

impl NewLegs<'_> {
    /// Writes the labels, that of the first leg last, as volume `id`.
    async fn write_labels(&mut self, id: u16) -> Result<(), StorageError> {
        for (device, label) in self.devices.iter().zip(&mut self.labels).rev() {
            (label.volume, label.generation) = (id, label.generation + 1);
            write_label(&**device, label).await?;
        }
        for (device, label) in self.devices.iter().zip(&self.labels) {
            if read_label(&**device).await?.volume_uuid != label.volume_uuid {
                let text = "both paths lead to the same device: a mirrored volume needs two";
                return Err(StorageError::Invalid(text.into()));
            }
        }
        Ok(())
    }

    /// What the catalogue is told.
    fn record(&self, options: &AddVolumeOptions) -> NewVolume {
        let (label, second) = (&self.labels[0], self.labels.get(1));
        NewVolume {
            volume: label.volume,
            uuid: label.volume_uuid,
            units: label.au_count,
            au_offset: label.au_offset,
            failure_group: options.failure_group,
            path: self.paths[0].into(),
            twin: second.zip(options.twin.as_ref()).map(|(label, twin)| Twin {
                uuid: label.volume_uuid,
                failure_group: twin.failure_group,
                path: twin.path.clone(),
            }),
        }
    }
}

/// Whether a label of this group is that of a leg that is not out.
fn is_used(catalog: &Catalog, label: &Label) -> bool {
    let is_out = |id: u16| catalog.mirror(id).and_then(Mirror::out) == Some(label.leg);
    let uses =
        |(id, volume): (u16, &Volume)| volume.exists() && volume.has_leg(label.volume_uuid) && !is_out(id);
    catalog.volumes().any(uses)
}

/// Whether a label of this group is one that was written for the catalogue to name it, and never was named.
fn was_never_used(catalog: &Catalog, label: &Label) -> bool {
    let known = catalog.mirror(label.volume);
    let known = known.and_then(|mirror| mirror.generations.get(usize::from(label.leg)));
    // Of an earlier stay of the leg: it may be the one that was lost.
    let was_leg = known.is_some_and(|known| label.leg_generation <= *known);
    !was_leg
        && catalog
            .volumes()
            .all(|(_, volume)| !volume.has_leg(label.volume_uuid))
}

impl VolumeGroup {
    /// Only the storage leader may change labels (VOL-4).
    pub(super) fn require_leader(&self) -> Result<(), StorageError> {
        match *self.role.borrow() {
            Role::Leader { .. } => Ok(()),
            Role::Follower { leader } => Err(StorageError::NotLeader(leader)),
        }
    }

    /// Adds the device at `path` as a volume, at the storage leader; on a mirrored group with a second one. Members open it, and then
    /// files get units on it. Its id.
    pub async fn add_volume(&self, path: &str, options: &AddVolumeOptions) -> Result<u16, StorageError> {
        let labels = self.opening.labels.lock().await;
        self.require_leader()?;
        self.require_legs(options)?;
        self.catch_up().await?;
        let paths: Vec<&str> = std::iter::once(path)
            .chain(options.twin.as_ref().map(|twin| twin.path.as_str()))
            .collect();
        let devices = self.open_all_new(&paths).await?;
        let added = self.label_and_name(paths.clone(), devices, options).await;
        self.close_if_refused(&added, &paths);
        let id = added?;
        drop(labels);
        self.wait_until_joined(id).await?;
        Ok(id)
    }

    pub(super) fn opener(&self) -> Result<Arc<dyn VolumeOpener>, StorageError> {
        let opener = self.opening.opener.clone();
        opener.ok_or_else(|| StorageError::Invalid("this node cannot open devices by path".into()))
    }

    /// All volumes of a group have two legs, or none has.
    fn require_legs(&self, options: &AddVolumeOptions) -> Result<(), StorageError> {
        let refused = match (self.with_catalog(Catalog::is_mirrored), &options.twin) {
            (true, None) => "every volume of a mirrored group has two sides: name two devices",
            (false, Some(_)) => "this group is not mirrored: add its devices one by one",
            (true, Some(twin)) if twin.failure_group == options.failure_group => {
                "the two devices of a mirrored volume are of different failure groups"
            }
            _ => return Ok(()),
        };
        Err(StorageError::Invalid(refused.into()))
    }

    /// Opens a device that is none of the group's.
    pub(super) async fn open_new(&self, path: &str) -> Result<Arc<dyn BlockDevice>, StorageError> {
        let device = self.opener()?.open(path).await?;
        let is_same =
            |known: &Arc<dyn BlockDevice>| std::ptr::addr_eq(Arc::as_ptr(known), Arc::as_ptr(&device));
        let others = self.volumes.others();
        let is_first = self
            .volumes
            .first
            .as_ref()
            .is_some_and(|open| is_same(&open.device));
        if is_first || others.iter().any(|(_, open)| is_same(&open.device)) {
            // By another path, and in use: so it stays open.
            return Err(operation_error(path, OperationError::AlreadyExists));
        }
        Ok(device)
    }

    async fn open_all_new(&self, paths: &[&str]) -> Result<Vec<Arc<dyn BlockDevice>>, StorageError> {
        let mut devices = Vec::new();
        for path in paths {
            let opened = match self.require_unnamed(path) {
                Ok(()) => self.open_new(path).await,
                Err(named) => Err(named),
            };
            match opened {
                Ok(device) => devices.push(device),
                Err(error) => {
                    self.close_all(&paths[..devices.len()]);
                    return Err(error);
                }
            }
        }
        Ok(devices)
    }

    fn close_all(&self, paths: &[&str]) {
        if let Some(opener) = &self.opening.opener {
            paths.iter().for_each(|path| opener.close(path));
        }
    }

    /// Closes new devices that the catalogue does not name now. When nobody answered it may: then they stay open.
    pub(super) fn close_if_refused<T>(&self, done: &Result<T, StorageError>, paths: &[&str]) {
        if !matches!(done, Ok(_) | Err(StorageError::Unavailable)) {
            self.close_all(paths);
        }
    }

    /// Refuses a path under which the catalogue has a volume.
    pub(super) fn require_unnamed(&self, path: &str) -> Result<(), StorageError> {
        let is_named = self.with_catalog(|catalog| catalog.volumes().any(|(_, volume)| volume.is_at(path)));
        match is_named {
            true => Err(operation_error(path, OperationError::AlreadyExists)),
            false => Ok(()),
        }
    }

    /// Checks that devices are free, and plans their labels.
    async fn new_legs<'a>(
        &self,
        paths: Vec<&'a str>,
        devices: Vec<Arc<dyn BlockDevice>>,
        options: &AddVolumeOptions,
    ) -> Result<NewLegs<'a>, StorageError> {
        for device in &devices {
            self.require_unused(&**device, options.force).await?;
        }
        let sizes = devices.iter().map(|device| device.geometry().size);
        let size = sizes.min().expect("a volume has a device");
        let size = options.size.map_or(size, |bytes| bytes.min(size));
        let mut labels = Vec::new();
        for leg in (0..).take(devices.len()) {
            let planned = further_label(&self.label, self.draw_uuid(), size)?;
            labels.push(Label {
                leg,
                leg_generation: 1,
                ..planned
            });
        }
        Ok(NewLegs {
            paths,
            devices,
            labels,
        })
    }

    pub(super) fn draw_uuid(&self) -> Uuid {
        let mut uuid = [0; 16];
        uuid[..8].copy_from_slice(&self.runtime.random().to_le_bytes());
        uuid[8..].copy_from_slice(&self.runtime.random().to_le_bytes());
        Uuid(uuid)
    }

    async fn label_and_name(
        &self,
        paths: Vec<&str>,
        devices: Vec<Arc<dyn BlockDevice>>,
        options: &AddVolumeOptions,
    ) -> Result<u16, StorageError> {
        let mut new = self.new_legs(paths, devices, options).await?;
        let path = new.paths[0];
        for _ in 0..RACES {
            self.catch_up().await?;
            let id = self.with_catalog(|catalog| catalog.next_volume());
            new.write_labels(id).await?;
            // Open before anybody names it, so that nobody here opens it twice.
            for ((leg, path), (device, label)) in
                (0..).zip(&new.paths).zip(new.devices.iter().zip(&new.labels))
            {
                self.use_leg((id, leg), label.volume_uuid, path, device.clone());
            }
            let added = self.submit(path, Operation::AddVolume(new.record(options))).await;
            match added {
                Ok(Reply::Volume(id)) => return Ok(id),
                Ok(_) => {
                    return Err(StorageError::Damaged(format!(
                        "the leader named no volume for {path}"
                    )));
                }
                Err(error) => {
                    new.labels.iter().for_each(|label| self.close_if_not_named(label));
                    if !error.is(OperationError::VolumeRaced) {
                        return Err(error);
                    }
                }
            }
        }
        Err(operation_error(path, OperationError::VolumeRaced))
    }

    fn close_if_not_named(&self, label: &Label) {
        let leg = (label.volume, label.leg);
        let named = self.with_catalog(|catalog| disagreement(label, catalog.volume(label.volume)).is_none());
        let mut further = self.volumes.further.write();
        let ours = further
            .get(&leg)
            .is_some_and(|open| open.uuid == label.volume_uuid);
        if ours && !named {
            further.remove(&leg);
        }
    }

    /// Refuses a device that something is on, other than the label of an addition that was cut off; one that the group uses also with `force`.
    pub(super) async fn require_unused(
        &self,
        device: &dyn BlockDevice,
        force: bool,
    ) -> Result<(), StorageError> {
        let label = read_label(device).await.ok();
        if let Some(label) = label.filter(|label| label.group == self.label.group) {
            if self.with_catalog(|catalog| is_used(catalog, &label)) {
                let (uuid, reason) = (label.volume_uuid, "the group uses it already".into());
                return Err(StorageError::RefusedVolume { uuid, reason });
            }
            if self.with_catalog(|catalog| was_never_used(catalog, &label)) {
                return Ok(());
            }
        }
        match force {
            true => Ok(()),
            false => format::require_blank(device).await,
        }
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
