//! Volumes of an open group: found by their labels, opened when another node adds one, grown, drained and removed
//! while nodes serve.
//!
//! Rules:
//! - VOL-1 a label is written and durable before the catalogue names its volume; a device whose label the catalogue does
//!   not name, or names as removed, is refused;
//! - VOL-2 every member has opened a new volume, or said why it cannot, before a unit of it is given to a file: so
//!   whoever must be fenced holds its lock on each volume that it may write (HZ-17);
//! - VOL-4 the storage leader alone writes labels, one change at a time: who led before is fenced, so none is written late.

use super::error::StorageError;
use super::format;
use super::legs::is_of_leg;
use super::open_volumes::{FIRST, LegId, OpenVolume};
use super::volume_group::{Role, VolumeGroup, total_units};
use crate::seam::{BLOCK, BlockDevice, DeviceError, IoBuffer, VolumeOpener};
use aquifer_dss_proto::catalog::{
    Extent, Mirror, NewVolume, Operation, OperationError, Reply, UNITS_MAX, Volume, VolumeState,
};
use aquifer_dss_proto::label::{LABEL_OFFSETS, Label, Uuid};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
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

/// Opening volumes that others added.
pub(super) struct Opening {
    pub(super) opener: Option<Arc<dyn VolumeOpener>>,
    one_at_a_time: tokio::sync::Mutex<()>,
    /// Held while labels change (VOL-4).
    pub(super) labels: tokio::sync::Mutex<()>,
    /// Whether a task opens what is missing.
    running: AtomicBool,
    /// Whether kept units are being given back.
    returning: AtomicBool,
    /// How many of the watermarks the used space is past.
    space_level: AtomicUsize,
    /// Why volumes are not open.
    missing: Mutex<BTreeMap<LegId, String>>,
    /// Devices of legs that do not count and that nobody could find again.
    parked: Mutex<BTreeMap<LegId, Arc<dyn BlockDevice>>>,
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
            parked: Mutex::default(),
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
    /// The legs of a mirrored volume.
    pub mirror: Option<Mirror>,
    /// Why this node cannot use a leg of a mirrored volume, when it cannot.
    pub missing_legs: [Option<String>; 2],
}

/// Devices with their labels, and why another one has none.
type Labelled = (Vec<(Label, Arc<dyn BlockDevice>)>, Option<StorageError>);

/// The labels of the devices, that of volume 0 first. All are of its group, and no volume is there twice.
///
/// A device that cannot be read may be a leg whose twin can: its error comes beside the others.
pub(super) async fn read_labels(devices: Vec<Arc<dyn BlockDevice>>) -> Result<Labelled, StorageError> {
    let (mut labelled, mut unreadable): (Vec<(Label, Arc<dyn BlockDevice>)>, _) = (Vec::new(), None);
    for device in devices {
        match format::read_label(&*device).await {
            Ok(label) => labelled.push((label, device)),
            Err(error) if is_of_leg(&error) => unreadable = unreadable.or(Some(error)),
            Err(error) => return Err(error),
        }
    }
    labelled.sort_by_key(|(label, _)| (label.volume, label.leg));
    let is_first = |(label, _): &&(Label, _)| (label.volume, label.leg) == FIRST;
    if labelled.first().filter(is_first).is_none()
        && let Some(error) = unreadable
    {
        return Err(error);
    }
    let Some((first, _)) = labelled.first() else {
        return Err(StorageError::Invalid("name at least one device".into()));
    };
    if first.volume != 0 {
        return Err(StorageError::Invalid(format!(
            "volume 0 of group {} is not among the devices: it has the metadata, name it too",
            first.group
        )));
    }
    if first.leg != 0 {
        return Err(StorageError::Invalid(format!(
            "this is the second leg of volume 0 of group {}: the metadata is on the first leg alone, and the group does not start without it; name it too",
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
        .find(|pair| (pair[0].0.volume, pair[0].0.leg) == (pair[1].0.volume, pair[1].0.leg))
    {
        return Err(StorageError::RefusedVolume {
            uuid: pair[1].0.volume_uuid,
            reason: format!("two devices have the label of volume {}", pair[1].0.volume),
        });
    }
    Ok((labelled, unreadable))
}

/// Why a label is not that of the volume that the catalogue has under its id.
pub(super) fn disagreement(label: &Label, known: Option<&Volume>) -> Option<String> {
    let is_its = |volume: &&Volume| {
        volume
            .leg(label.leg)
            .is_some_and(|leg| leg.0 == label.volume_uuid)
    };
    let Some(volume) = known.filter(is_its) else {
        return Some("the catalogue of its group does not name it".into());
    };
    if !volume.exists() {
        return Some(format!("volume {} was removed from its group", label.volume));
    }
    let fits = volume.au_offset == label.au_offset;
    (!fits).then(|| "its label and the catalogue disagree on where its units are".into())
}

pub(super) fn operation_error(volume: impl std::fmt::Display, error: OperationError) -> StorageError {
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
        for (mut label, device) in std::iter::once(first).chain(labelled) {
            if self.is_old_copy(&label).is_some() {
                // Let in again since the label was read, before the catalogue was.
                label = match format::read_label(&*device).await {
                    Err(error) if is_of_leg(&error) && self.is_leg_of_two((label.volume, label.leg)) => {
                        continue;
                    }
                    read => read?,
                };
            }
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
            let leg = (label.volume, label.leg);
            if let Some(reason) = self.is_old_copy(&label) {
                let uuid = label.volume_uuid;
                return Err(StorageError::RefusedVolume { uuid, reason });
            }
            if self.is_out(leg) {
                self.opening.parked.lock().insert(leg, device);
            } else if leg != FIRST {
                let volume = OpenVolume::new(label.volume_uuid, device);
                self.volumes.further.write().insert(leg, volume);
            }
        }
        let missing = self.open_all().await?;
        self.opening.running.store(false, Ordering::Release);
        match missing {
            Some(leg) => Err(self.missing_volume(leg)),
            None => Ok(()),
        }
    }

    /// Whether the catalogue says that a leg does not count.
    pub(super) fn is_out(&self, leg: LegId) -> bool {
        self.with_catalog(|catalog| catalog.mirror(leg.0).and_then(Mirror::out) == Some(leg.1))
    }

    /// Why the content of a leg that counts cannot be what the catalogue thinks.
    fn is_old_copy(&self, label: &Label) -> Option<String> {
        let known = self.with_catalog(|catalog| {
            let mirror = catalog.mirror(label.volume)?;
            (mirror.out() != Some(label.leg)).then(|| mirror.generations[usize::from(label.leg)])
        })?;
        (label.leg_generation < known).then(|| {
            format!(
                "it is an old copy of a leg of volume {}: generation {} and not {known}",
                label.volume, label.leg_generation
            )
        })
    }

    /// Opens what the catalogue names; a volume that cannot be used, if there is one. It may be one that is just being
    /// removed, with its label gone: then the journal says so.
    async fn open_all(&self) -> Result<Option<LegId>, StorageError> {
        let mut missing = None;
        for _ in 0..OPEN_TRIES {
            self.open_volumes().await;
            missing = self
                .needed()
                .into_iter()
                .find(|leg| self.volumes.get(*leg).is_none());
            if missing.is_none() {
                break;
            }
            self.runtime.sleep(OPEN_PAUSE).await;
            self.catch_up().await?;
        }
        Ok(missing)
    }

    /// The legs without which this node cannot serve: of two that have everything one is enough.
    fn needed(&self) -> Vec<LegId> {
        let is_open = |leg| self.volumes.get(leg).is_some();
        self.with_catalog(|catalog| {
            let existing = catalog.volumes().filter(|(_, volume)| volume.exists());
            let needed = existing.map(|(id, _)| match catalog.mirror(id).map(Mirror::stale) {
                Some(Some(stale)) => (id, 1 - stale),
                Some(None) if is_open((id, 1)) => (id, 1),
                Some(None) | None => (id, 0),
            });
            needed.collect()
        })
    }

    /// Whether it was tried to open any leg, in vain.
    pub(super) fn is_anything_missing(&self) -> bool {
        !self.opening.missing.lock().is_empty()
    }

    /// Whether it was tried to open a leg, in vain.
    pub(super) fn is_known_missing(&self, leg: LegId) -> bool {
        self.opening.missing.lock().contains_key(&leg)
    }

    fn missing_volume(&self, leg: LegId) -> StorageError {
        let volume = self.with_catalog(|catalog| catalog.volume(leg.0).cloned());
        let reason = self.opening.missing.lock().get(&leg).cloned();
        let named = volume.as_ref().and_then(|volume| volume.leg(leg.1));
        let (uuid, path) = named.map_or_else(Default::default, |(uuid, path)| (uuid, path.to_owned()));
        StorageError::MissingVolume {
            volume: leg.0,
            uuid,
            path,
            reason: reason.unwrap_or_else(|| "it is not among the devices of this node".into()),
        }
    }

    /// A leg for I/O; one that is not open is tried once more.
    pub(super) async fn leg(&self, leg: LegId) -> Result<Arc<OpenVolume>, StorageError> {
        if let Some(open) = self.volumes.get(leg) {
            return Ok(open);
        }
        self.open_volumes().await;
        self.volumes.get(leg).ok_or_else(|| self.missing_volume(leg))
    }

    /// The legs of the catalogue that count and that this node has not open.
    fn unopened(&self) -> Vec<(LegId, Volume)> {
        self.with_catalog(|catalog| {
            let existing = catalog.volumes().filter(|(_, volume)| volume.exists());
            let legs = existing.flat_map(|(id, volume)| volume.legs().map(move |leg| ((id, leg), volume)));
            let counts = |leg: LegId| catalog.mirror(leg.0).and_then(Mirror::out) != Some(leg.1);
            let missing = legs.filter(|(leg, _)| counts(*leg) && self.volumes.get(*leg).is_none());
            missing.map(|(leg, volume)| (leg, volume.clone())).collect()
        })
    }

    /// Opens what the catalogue names and is not open; what cannot be opened is remembered with the reason.
    pub(super) async fn open_volumes(&self) {
        let _one = self.opening.one_at_a_time.lock().await;
        for (leg, volume) in self.unopened() {
            let (id, (uuid, path)) = (leg.0, volume.leg(leg.1).expect("the catalogue names it"));
            match self.open_leg(leg, &volume).await {
                Ok((_, device)) => {
                    tracing::info!(volume = id, leg = leg.1, %uuid, path, "volume opened");
                    self.opening.missing.lock().remove(&leg);
                    let opened = OpenVolume::new(uuid, device);
                    self.volumes.further.write().insert(leg, opened);
                }
                Err(reason) => {
                    let before = self.opening.missing.lock().insert(leg, reason.clone());
                    if before.as_ref() != Some(&reason) {
                        tracing::error!(volume = id, leg = leg.1, %uuid, path, reason, "a volume cannot be used here");
                    }
                }
            }
        }
    }

    /// The device of a leg, with the label that it has; the reason why it cannot be used.
    pub(super) async fn open_leg(
        &self,
        leg: LegId,
        volume: &Volume,
    ) -> Result<(Label, Arc<dyn BlockDevice>), String> {
        if leg == FIRST {
            let device = self.volumes.first.device.clone();
            return Ok((self.check_label(leg, volume, &*device).await?, device));
        }
        let parked = self.opening.parked.lock().get(&leg).cloned();
        if let Some(device) = parked {
            return Ok((self.check_label(leg, volume, &*device).await?, device));
        }
        let (_, path) = volume.leg(leg.1).ok_or("it is not mirrored")?;
        let opener = self.opening.opener.as_ref();
        let opener = opener.filter(|_| !path.is_empty());
        let opener = opener.ok_or("it is not among the devices of this node")?;
        let device = opener.open(path).await.map_err(|error| error.to_string())?;
        let checked = self.check_label(leg, volume, &*device).await;
        if checked.is_err() {
            opener.close(path);
        }
        checked.map(|label| (label, device))
    }

    async fn check_label(
        &self,
        leg: LegId,
        volume: &Volume,
        device: &dyn BlockDevice,
    ) -> Result<Label, String> {
        let label = format::read_label(device)
            .await
            .map_err(|error| error.to_string())?;
        let (uuid, path) = volume.leg(leg.1).ok_or("it is not mirrored")?;
        if (label.group, label.volume, label.leg, label.volume_uuid) != (self.label.group, leg.0, leg.1, uuid)
        {
            return Err(format!(
                "'{path}' has volume {} ({}) of group {}",
                label.volume, label.volume_uuid, label.group
            ));
        }
        let (units, au_bytes) = self.with_catalog(|catalog| (catalog.units_of(leg.0).0, catalog.au_bytes()));
        let wrong = disagreement(&label, Some(volume));
        wrong
            .or_else(|| self.is_old_copy(&label))
            .or_else(|| too_small(device, volume.au_offset, units, au_bytes))
            .map_or(Ok(label), Err)
    }

    /// Closes a leg that does not count any more, or whose volume is gone.
    fn close_leg(&self, leg: LegId, path: &str) {
        self.opening.missing.lock().remove(&leg);
        let Some(closed) = self.volumes.further.write().remove(&leg) else {
            return;
        };
        match self.opening.opener.as_ref().filter(|_| !path.is_empty()) {
            Some(opener) => opener.close(path),
            None => {
                self.opening.parked.lock().insert(leg, closed.device.clone());
            }
        }
    }

    /// Follows what the catalogue says of volumes now: lets go of removed ones, opens new ones.
    pub(super) fn volumes_changed(&self) {
        let gone: Vec<(LegId, String)> = self.with_catalog(|catalog| {
            let legs = catalog
                .volumes()
                .flat_map(|(id, volume)| volume.legs().map(move |leg| ((id, leg), volume)));
            let is_gone = |leg: LegId, volume: &Volume| {
                !volume.exists() || catalog.mirror(leg.0).and_then(Mirror::out) == Some(leg.1)
            };
            let gone = legs.filter(|(leg, volume)| is_gone(*leg, volume));
            let path = |leg: LegId, volume: &Volume| volume.leg(leg.1).map(|(_, path)| path.to_owned());
            gone.map(|(leg, volume)| (leg, path(leg, volume).unwrap_or_default()))
                .collect()
        });
        for (leg, path) in gone {
            if leg == FIRST {
                self.volumes.first.set_failed(false);
            } else {
                self.close_leg(leg, &path);
            }
        }
        self.watch_space();
        self.wake_mover();
        self.legs_changed();
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
        self.with_catalog(|catalog| {
            let existing = catalog.volumes().filter(|(_, volume)| volume.exists());
            let status = existing.map(|(id, volume)| {
                let (units, free) = catalog.units_of(id);
                let mirror = catalog.mirror(id);
                let is_out = |leg: u8| mirror.and_then(Mirror::out) == Some(leg);
                let missing_leg = |leg: u8| {
                    let unusable = !is_out(leg) && self.volumes.get((id, leg)).is_none();
                    let reason = missing.get(&(id, leg)).cloned();
                    unusable.then(|| reason.unwrap_or_else(|| "it is not open yet".into()))
                };
                let missing_legs = match mirror {
                    Some(_) => [missing_leg(0), missing_leg(1)],
                    None => [missing_leg(0), None],
                };
                let serves = |leg: u8| !is_out(leg) && missing_legs[usize::from(leg)].is_none();
                let is_missing = !volume.legs().any(serves);
                VolumeStatus {
                    id,
                    volume: volume.clone(),
                    units,
                    free,
                    missing: is_missing
                        .then(|| missing_legs.iter().flatten().next().cloned())
                        .flatten(),
                    mirror: mirror.cloned(),
                    missing_legs,
                }
            });
            status.collect()
        })
    }

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
            let mut label = format::read_label(&*open.device).await?;
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
pub(super) fn too_small(
    device: &dyn BlockDevice,
    au_offset: u64,
    units: u32,
    au_bytes: u64,
) -> Option<String> {
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
