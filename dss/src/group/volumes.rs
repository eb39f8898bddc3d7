//! Volumes of an open group: found by their labels, opened when another node adds one, grown, drained and removed
//! while nodes serve.
//!
//! Rules:
//! - VOL-1 a label is written and durable before the catalogue names its volume; a device whose label the catalogue does
//!   not name, or names as removed, is refused;
//! - VOL-2 every member has opened a new volume, or said why it cannot, before a unit of it is given to a file: so
//!   whoever must be fenced holds its lock on each volume that it may write (HZ-17);
//! - VOL-3 a flush that skips a volume found that an earlier one, begun after its last write was done, had covered it;
//! - VOL-4 the storage leader alone writes labels, one change at a time: who led before is fenced, so none is written late.

use super::error::StorageError;
use super::format;
use super::volume_group::{Role, VolumeGroup, total_units};
use crate::seam::{BLOCK, BlockDevice, DeviceError, IoBuffer, VolumeOpener};
use aquifer_dss_proto::catalog::{
    Extent, NewVolume, Operation, OperationError, Reply, UNITS_MAX, Volume, VolumeState,
};
use aquifer_dss_proto::label::{LABEL_OFFSETS, Label, Uuid};
use parking_lot::{Mutex, RwLock};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// How long until a volume that cannot be opened is tried again.
const OPEN_AGAIN: Duration = Duration::from_secs(5);
/// How often, and after what time, a node that starts tries volumes that it misses.
const OPEN_TRIES: u32 = 3;
const OPEN_PAUSE: Duration = Duration::from_millis(20);
/// How long the members may take to open a new volume before its adder stops waiting.
const JOIN_PATIENCE: Duration = Duration::from_secs(5);
/// Configuration key: `off` when what is not needed any more is not discarded on the device.
pub const DISCARD_KEY: &str = "volumes.discard";
/// Bytes of one discard.
const DISCARD_BYTES: u64 = 1 << 30;
/// Used space, in percent, from which on the log warns.
const WATERMARKS: [u64; 2] = [80, 95];
/// How often an id that somebody else took meanwhile is tried again.
const RACES: u32 = 4;

/// A volume that this node has open.
pub(super) struct OpenVolume {
    device: Arc<dyn BlockDevice>,
    uuid: Uuid,
    /// Writes that are done, and how many of them a flush made durable.
    completed: AtomicU64,
    durable: AtomicU64,
}

impl OpenVolume {
    fn new(uuid: Uuid, device: Arc<dyn BlockDevice>) -> Arc<Self> {
        Arc::new(Self {
            device,
            uuid,
            completed: AtomicU64::new(0),
            durable: AtomicU64::new(0),
        })
    }

    pub(super) async fn read(&self, offset: u64, buffer: IoBuffer) -> Result<IoBuffer, StorageError> {
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
}

/// The volumes that a node has open.
pub struct OpenVolumes {
    first: Arc<OpenVolume>,
    further: RwLock<BTreeMap<u16, Arc<OpenVolume>>>,
}

impl OpenVolumes {
    pub(super) fn new(uuid: Uuid, first: Arc<dyn BlockDevice>) -> Arc<Self> {
        Arc::new(Self {
            first: OpenVolume::new(uuid, first),
            further: RwLock::default(),
        })
    }

    fn get(&self, volume: u16) -> Option<Arc<OpenVolume>> {
        if volume == 0 {
            return Some(self.first.clone());
        }
        self.further.read().get(&volume).cloned()
    }

    /// The devices besides the first one.
    pub fn further(&self) -> Vec<Arc<dyn BlockDevice>> {
        let further = self.further.read();
        further.values().map(|volume| volume.device.clone()).collect()
    }

    /// Makes what this node wrote durable. The first volume is always flushed, the others when they were written.
    pub(super) async fn flush_written(&self) -> Result<(), StorageError> {
        let further: Vec<_> = self.further.read().values().cloned().collect();
        let others = futures_util::future::join_all(further.iter().map(|volume| volume.flush()));
        let (first, others) = futures_util::future::join(self.first.device.flush(), others).await;
        first?;
        others.into_iter().collect()
    }
}

/// Opening volumes that others added.
pub(super) struct Opening {
    opener: Option<Arc<dyn VolumeOpener>>,
    one_at_a_time: tokio::sync::Mutex<()>,
    /// Held while labels change (VOL-4).
    labels: tokio::sync::Mutex<()>,
    /// Whether a task opens what is missing.
    running: AtomicBool,
    /// Whether kept units are being given back.
    returning: AtomicBool,
    /// How many of the watermarks the used space is past.
    space_level: AtomicUsize,
    /// Why volumes are not open.
    missing: Mutex<BTreeMap<u16, String>>,
}

impl Opening {
    pub(super) fn new(opener: Option<Arc<dyn VolumeOpener>>) -> Self {
        Self {
            opener,
            one_at_a_time: tokio::sync::Mutex::new(()),
            labels: tokio::sync::Mutex::new(()),
            // No task before the group is open as a whole.
            running: AtomicBool::new(true),
            returning: AtomicBool::new(false),
            space_level: AtomicUsize::new(0),
            missing: Mutex::default(),
        }
    }
}

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

/// A volume as this node sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeStatus {
    /// Its id.
    pub id: u16,
    /// What the catalogue says of it.
    pub volume: Volume,
    /// Its allocation units.
    pub units: u32,
    /// Units that nobody has.
    pub free: u32,
    /// Why this node cannot use it, when it cannot.
    pub missing: Option<String>,
}

/// The labels of the devices, that of volume 0 first. All are of its group, and no volume is there twice.
pub(super) async fn read_labels(
    devices: Vec<Arc<dyn BlockDevice>>,
) -> Result<Vec<(Label, Arc<dyn BlockDevice>)>, StorageError> {
    let mut labelled: Vec<(Label, Arc<dyn BlockDevice>)> = Vec::new();
    for device in devices {
        labelled.push((format::read_label(&*device).await?, device));
    }
    labelled.sort_by_key(|(label, _)| label.volume);
    let Some((first, _)) = labelled.first() else {
        return Err(StorageError::Invalid("name at least one device".into()));
    };
    if first.volume != 0 {
        return Err(StorageError::Invalid(format!(
            "volume 0 of group {} is not among the devices: it has the metadata, name it too",
            first.group
        )));
    }
    if let Some((other, _)) = labelled.iter().find(|(label, _)| label.group != first.group) {
        return Err(StorageError::OtherGroup {
            volume: other.volume_uuid,
            found: other.group,
            expected: first.group,
        });
    }
    if let Some(pair) = labelled
        .windows(2)
        .find(|pair| pair[0].0.volume == pair[1].0.volume)
    {
        return Err(StorageError::RefusedVolume {
            uuid: pair[1].0.volume_uuid,
            reason: format!("two devices have the label of volume {}", pair[1].0.volume),
        });
    }
    Ok(labelled)
}

/// Why a label is not that of the volume that the catalogue has under its id.
fn disagreement(label: &Label, known: Option<&Volume>) -> Option<String> {
    let Some(volume) = known.filter(|volume| volume.uuid == label.volume_uuid) else {
        return Some("the catalogue of its group does not name it".into());
    };
    if !volume.exists() {
        return Some(format!("volume {} was removed from its group", label.volume));
    }
    let fits = volume.au_offset == label.au_offset;
    (!fits).then(|| "its label and the catalogue disagree on where its units are".into())
}

fn operation_error(volume: impl std::fmt::Display, error: OperationError) -> StorageError {
    StorageError::Operation {
        path: format!("volume {volume}"),
        error,
    }
}

impl VolumeGroup {
    /// Takes the devices that were named at the start; what the catalogue names besides is opened by its path.
    pub(super) async fn adopt(
        &self,
        labelled: Vec<(Label, Arc<dyn BlockDevice>)>,
    ) -> Result<(), StorageError> {
        let first = (self.label.clone(), self.volumes.first.device.clone());
        for (label, device) in std::iter::once(first).chain(labelled) {
            let refused = self.with_catalog(|catalog| {
                let volume = catalog.volume(label.volume);
                disagreement(&label, volume).or_else(|| {
                    too_small(
                        &*device,
                        volume?.au_offset,
                        catalog.units_of(label.volume).0,
                        catalog.au_bytes(),
                    )
                })
            });
            if let Some(reason) = refused {
                let uuid = label.volume_uuid;
                return Err(StorageError::RefusedVolume { uuid, reason });
            }
            if label.volume > 0 {
                let volume = OpenVolume::new(label.volume_uuid, device);
                self.volumes.further.write().insert(label.volume, volume);
            }
        }
        let missing = self.open_all().await?;
        self.opening.running.store(false, Ordering::Release);
        match missing {
            Some(id) => Err(self.missing_volume(id)),
            None => Ok(()),
        }
    }

    /// Opens what the catalogue names; a volume that cannot be used, if there is one. It may be one that is just being
    /// removed, with its label gone: then the journal says so.
    async fn open_all(&self) -> Result<Option<u16>, StorageError> {
        let mut missing = None;
        for _ in 0..OPEN_TRIES {
            self.open_volumes().await;
            let mut status = self.volume_status().into_iter();
            missing = status
                .find(|status| status.missing.is_some())
                .map(|status| status.id);
            if missing.is_none() {
                break;
            }
            self.runtime.sleep(OPEN_PAUSE).await;
            self.catch_up().await?;
        }
        Ok(missing)
    }

    fn missing_volume(&self, id: u16) -> StorageError {
        let volume = self.with_catalog(|catalog| catalog.volume(id).cloned());
        let reason = self.opening.missing.lock().get(&id).cloned();
        let (uuid, path) = volume.map_or_else(Default::default, |volume| (volume.uuid, volume.path));
        StorageError::MissingVolume {
            volume: id,
            uuid,
            path,
            reason: reason.unwrap_or_else(|| "it is not among the devices of this node".into()),
        }
    }

    /// A volume for I/O; one that is not open is tried once more.
    pub(super) async fn volume(&self, id: u16) -> Result<Arc<OpenVolume>, StorageError> {
        if let Some(volume) = self.volumes.get(id) {
            return Ok(volume);
        }
        self.open_volumes().await;
        self.volumes.get(id).ok_or_else(|| self.missing_volume(id))
    }

    /// The volumes of the catalogue that this node has not open.
    fn unopened(&self) -> Vec<(u16, Volume)> {
        let further = self.volumes.further.read();
        self.with_catalog(|catalog| {
            let missing = catalog
                .volumes()
                .filter(|(id, volume)| *id > 0 && volume.exists() && !further.contains_key(id));
            missing.map(|(id, volume)| (id, volume.clone())).collect()
        })
    }

    /// Opens what the catalogue names and is not open; what cannot be opened is remembered with the reason.
    pub(super) async fn open_volumes(&self) {
        let _one = self.opening.one_at_a_time.lock().await;
        for (id, volume) in self.unopened() {
            match self.open_by_path(id, &volume).await {
                Ok(device) => {
                    tracing::info!(volume = id, uuid = %volume.uuid, path = volume.path, "volume opened");
                    self.opening.missing.lock().remove(&id);
                    let opened = OpenVolume::new(volume.uuid, device);
                    self.volumes.further.write().insert(id, opened);
                }
                Err(reason) => {
                    let before = self.opening.missing.lock().insert(id, reason.clone());
                    if before.as_ref() != Some(&reason) {
                        tracing::error!(volume = id, uuid = %volume.uuid, path = volume.path, reason, "a volume cannot be used here");
                    }
                }
            }
        }
    }

    async fn open_by_path(&self, id: u16, volume: &Volume) -> Result<Arc<dyn BlockDevice>, String> {
        let opener = self.opening.opener.as_ref();
        let opener = opener.filter(|_| !volume.path.is_empty());
        let opener = opener.ok_or("it is not among the devices of this node")?;
        let device = opener
            .open(&volume.path)
            .await
            .map_err(|error| error.to_string())?;
        let checked = self.check_label(id, volume, &*device).await;
        if checked.is_err() {
            opener.close(&volume.path);
        }
        checked.map(|()| device)
    }

    async fn check_label(&self, id: u16, volume: &Volume, device: &dyn BlockDevice) -> Result<(), String> {
        let label = format::read_label(device)
            .await
            .map_err(|error| error.to_string())?;
        if (label.group, label.volume, label.volume_uuid) != (self.label.group, id, volume.uuid) {
            return Err(format!(
                "'{}' has volume {} ({}) of group {}",
                volume.path, label.volume, label.volume_uuid, label.group
            ));
        }
        let (units, au_bytes) = self.with_catalog(|catalog| (catalog.units_of(id).0, catalog.au_bytes()));
        let wrong = disagreement(&label, Some(volume));
        wrong
            .or_else(|| too_small(device, volume.au_offset, units, au_bytes))
            .map_or(Ok(()), Err)
    }

    /// Follows what the catalogue says of volumes now: lets go of removed ones, opens new ones.
    pub(super) fn volumes_changed(&self) {
        let gone: Vec<(u16, String)> = self.with_catalog(|catalog| {
            let removed = catalog.volumes().filter(|(_, volume)| !volume.exists());
            removed.map(|(id, volume)| (id, volume.path.clone())).collect()
        });
        for (id, path) in gone {
            self.opening.missing.lock().remove(&id);
            let closed = self.volumes.further.write().remove(&id);
            if let Some(opener) = self.opening.opener.as_ref().filter(|_| closed.is_some()) {
                opener.close(&path);
            }
        }
        self.watch_space();
        self.wake_mover();
        self.return_kept();
        if self.opening.opener.is_none() || self.unopened().is_empty() {
            return;
        }
        if !self.opening.running.swap(true, Ordering::AcqRel) {
            let (group, runtime) = (self.itself.clone(), self.runtime.clone());
            let open = async move {
                while let Some(group) = group.upgrade() {
                    group.open_volumes().await;
                    if group.unopened().is_empty() {
                        group.opening.running.store(false, Ordering::Release);
                        return;
                    }
                    drop(group);
                    runtime.sleep(OPEN_AGAIN).await;
                }
            };
            self.runtime.spawn("open volumes", Box::pin(open));
        }
    }

    /// Zeroed units that this node keeps on a volume that is drained do not move: it gives them back.
    fn return_kept(&self) {
        let Ok(kept) = self.kept.try_lock() else { return };
        let Some(number) = *kept else { return };
        drop(kept);
        let is_drained = self.with_catalog(|catalog| {
            let drained = |run: &Extent| {
                let volume = catalog.volume(run.volume);
                volume.is_some_and(|volume| volume.state == VolumeState::Draining)
            };
            let reservation = catalog.reservation(number);
            reservation.is_some_and(|reservation| reservation.extents.iter().any(drained))
        });
        let returning = is_drained && !self.opening.returning.swap(true, Ordering::AcqRel);
        if let Some(group) = self.itself.upgrade().filter(|_| returning) {
            let give_back = async move {
                if let Err(error) = group.give_kept_back().await {
                    tracing::warn!(%error, "units of a volume that is drained could not be given back");
                }
                group.opening.returning.store(false, Ordering::Release);
            };
            self.runtime.spawn("give units back", Box::pin(give_back));
        }
    }

    /// The storage leader says when space gets low.
    fn watch_space(&self) {
        // Not `space`, which looks at all that waits: this is done after each entry of the journal.
        let (units, free) = self.with_catalog(|catalog| (total_units(catalog), catalog.free_units()));
        let percent = (units - free.min(units)) * 100 / units.max(1);
        let level = WATERMARKS.iter().filter(|mark| percent >= **mark).count();
        if self.opening.space_level.swap(level, Ordering::AcqRel) < level && self.leading().is_some() {
            tracing::warn!(percent, free, "the volume group is running out of space");
        }
    }

    /// The volumes of the group as this node sees them, without those that were removed.
    pub fn volume_status(&self) -> Vec<VolumeStatus> {
        let missing = self.opening.missing.lock().clone();
        let open = self.volumes.further.read();
        self.with_catalog(|catalog| {
            let existing = catalog.volumes().filter(|(_, volume)| volume.exists());
            let status = existing.map(|(id, volume)| {
                let (units, free) = catalog.units_of(id);
                let here = id == 0 || open.contains_key(&id);
                let reason = || {
                    missing
                        .get(&id)
                        .cloned()
                        .unwrap_or_else(|| "it is not open yet".into())
                };
                VolumeStatus {
                    id,
                    volume: volume.clone(),
                    units,
                    free,
                    missing: (!here).then(reason),
                }
            });
            status.collect()
        })
    }

    /// Only the storage leader may change labels (VOL-4).
    fn require_leader(&self) -> Result<(), StorageError> {
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
            };
            // Open before anybody names it, so that nobody here opens it twice.
            let open = OpenVolume::new(label.volume_uuid, device.clone());
            self.volumes.further.write().insert(label.volume, open);
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
            .get(&label.volume)
            .is_some_and(|open| open.uuid == label.volume_uuid);
        if ours && !named {
            further.remove(&label.volume);
        }
    }

    /// Refuses a device that something is on, other than the label of an addition that was cut off.
    async fn require_unused(&self, device: &dyn BlockDevice) -> Result<(), StorageError> {
        if let Ok(label) = format::read_label(device).await
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
        let open = self.volume(id).await?;
        let (au_offset, au_bytes, before) = self
            .with_catalog(|catalog| {
                let volume = catalog.volume(id).filter(|volume| volume.exists())?;
                Some((volume.au_offset, catalog.au_bytes(), catalog.units_of(id).0))
            })
            .ok_or_else(|| operation_error(id, OperationError::NoSuchVolume))?;
        let size = open.device.geometry().size;
        let wanted = bytes.unwrap_or(size);
        if wanted > size || wanted < au_offset + au_bytes {
            let needed = wanted.max(au_offset + au_bytes);
            return Err(StorageError::TooSmall { size, needed });
        }
        let units = units_in(wanted, au_offset, au_bytes);
        let mut label = format::read_label(&*open.device).await?;
        (label.generation, label.size, label.au_count) = (label.generation + 1, wanted, units);
        // The label never promises less than the catalogue.
        if units > before {
            write_label(&*open.device, &label).await?;
        }
        let resize = Operation::ResizeVolume { volume: id, units };
        self.submit(&format!("volume {id}"), resize).await?;
        if units < before {
            write_label(&*open.device, &label).await?;
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
        let open = self.volumes.get(id);
        let operation = Operation::RemoveVolume { volume: id };
        self.submit(&format!("volume {id}"), operation).await?;
        // The catalogue refuses it whatever its label says; an empty device can be used for something else at once.
        if let Some(open) = open.filter(|_| id > 0)
            && let Err(error) = self.erase(&*open.device).await
        {
            tracing::warn!(volume = id, %error, "the label of a removed volume is still on its device, or its content");
        }
        Ok(())
    }
}

impl VolumeGroup {
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
            device.discard(offset, length).await?;
            offset += length;
        }
        Ok(())
    }
}

/// Allocation units that fit.
pub(super) const fn units_in(size: u64, au_offset: u64, au_bytes: u64) -> u32 {
    let units = (size - au_offset) / au_bytes;
    if units > UNITS_MAX as u64 {
        UNITS_MAX
    } else {
        units as u32
    }
}

/// Why a device does not hold all units of its volume.
fn too_small(device: &dyn BlockDevice, au_offset: u64, units: u32, au_bytes: u64) -> Option<String> {
    let (size, needed) = (device.geometry().size, au_offset + u64::from(units) * au_bytes);
    (size < needed).then(|| format!("its device has {size} bytes and the volume needs {needed}"))
}

/// The label of a volume besides the first: allocation units only.
pub(super) fn further_label(first: &Label, uuid: Uuid, size: u64) -> Result<Label, StorageError> {
    let au_offset = first.journal_offset().next_multiple_of(first.au_bytes);
    let needed = au_offset + first.au_bytes;
    if size < needed {
        return Err(StorageError::TooSmall { size, needed });
    }
    Ok(Label {
        volume_uuid: uuid,
        generation: 0,
        size,
        au_offset,
        au_count: units_in(size, au_offset, first.au_bytes),
        journal_bytes: 0,
        segment_bytes: 0,
        checkpoint_bytes: 0,
        ..first.clone()
    })
}

/// Writes both copies of a label, one after the other, each durable.
pub(super) async fn write_label(device: &dyn BlockDevice, label: &Label) -> Result<(), DeviceError> {
    for offset in LABEL_OFFSETS {
        device
            .write(offset, IoBuffer::copy_padded(&label.encode()))
            .await?;
        device.flush().await?;
    }
    Ok(())
}
