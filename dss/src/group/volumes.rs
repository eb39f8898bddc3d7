//! Volumes of an open group: found by their labels, opened when another node adds one.
//!
//! Rules:
//! - VOL-1 a label is written and durable before the catalogue names its volume; a device whose label the catalogue does
//!   not name, or names as removed, is refused;
//! - VOL-2 every member has opened a new volume, or said why it cannot, before a unit of it is given to a file: so
//!   whoever must be fenced holds its lock on each volume that it may write (HZ-17).

use super::error::StorageError;
use super::legs::is_of_leg;
use super::moves::MOVER;
use super::open_volumes::{FIRST, LegId, OpenVolume};
use super::volume_group::{VolumeGroup, total_units};
use super::volume_label::{read_label, too_small};
use crate::seam::{BlockDevice, VolumeOpener};
use aquifer_dss_proto::catalog::{Catalog, Extent, Mirror, OperationError, Volume, VolumeState};
use aquifer_dss_proto::defect::{Defect, planted};
use aquifer_dss_proto::label::{Label, Uuid};
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
/// Used space, in percent, from which on the log warns.
const WATERMARKS: [u64; 2] = [80, 95];
/// What the label of a device says that it is, and the device.
type Parked = (Uuid, Arc<dyn BlockDevice>);

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
    parked: Mutex<BTreeMap<LegId, Parked>>,
    /// Where the devices of legs are, as the catalogue said when they were opened: a leg may become another device.
    paths: Mutex<BTreeMap<LegId, String>>,
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
            paths: Mutex::default(),
        }
    }
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
        match read_label(&*device).await {
            Ok(label) => labelled.push((label, device)),
            Err(error) if is_of_leg(&error) => unreadable = unreadable.or(Some(error)),
            Err(error) => return Err(error),
        }
    }
    labelled.sort_by_key(|(label, _)| (label.volume, label.leg));
    let has_metadata = labelled.first().is_some_and(|(label, _)| label.volume == 0);
    if let Some(error) = unreadable.take_if(|_| !has_metadata) {
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
        for (mut label, device) in labelled {
            if self.is_old_copy(&label).is_some() {
                // Let in again since the label was read, before the catalogue was.
                label = match read_label(&*device).await {
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
                let mut parked = self.opening.parked.lock();
                parked.insert(leg, (label.volume_uuid, device));
            } else if self.volumes.get(leg).is_none() {
                let path = self.with_catalog(|catalog| {
                    let named = catalog.volume(leg.0).and_then(|volume| volume.leg(leg.1));
                    named.map(|(_, path)| path.to_owned())
                });
                self.use_leg(leg, label.volume_uuid, &path.unwrap_or_default(), device);
            }
        }
        self.metadata.follow(&self.volumes);
        let missing = self.open_all().await?;
        self.opening.running.store(false, Ordering::Release);
        match missing {
            Some(leg) => Err(self.missing_volume(leg)),
            None => Ok(()),
        }
    }

    /// Uses a device as a leg from now on.
    pub(super) fn use_leg(&self, leg: LegId, uuid: Uuid, path: &str, device: Arc<dyn BlockDevice>) {
        let opened = OpenVolume::new(uuid, device);
        self.opening.paths.lock().insert(leg, path.into());
        self.volumes.further.write().insert(leg, opened);
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
                    self.use_leg(leg, uuid, path, device);
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
        if let Some(open) = self.volumes.first.as_ref().filter(|_| leg == FIRST) {
            let device = open.device.clone();
            return Ok((self.check_label(leg, volume, &*device).await?, device));
        }
        let (uuid, path) = volume.leg(leg.1).ok_or("it is not mirrored")?;
        let parked = self.opening.parked.lock().get(&leg).cloned();
        if let Some((_, device)) = parked.filter(|(known, _)| *known == uuid) {
            return Ok((self.check_label(leg, volume, &*device).await?, device));
        }
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
        let label = read_label(device).await.map_err(|error| error.to_string())?;
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
    fn close_leg(&self, leg: LegId) {
        self.opening.missing.lock().remove(&leg);
        let Some((closed, path)) = self.take_open(leg) else {
            return;
        };
        match self.opening.opener.as_ref().filter(|_| !path.is_empty()) {
            Some(opener) => opener.close(&path),
            None => {
                let mut parked = self.opening.parked.lock();
                parked.insert(leg, (closed.uuid, closed.device.clone()));
            }
        }
    }

    /// A leg that is not used any more, and the path that it was opened by.
    fn take_open(&self, leg: LegId) -> Option<(Arc<OpenVolume>, String)> {
        let closed = self.volumes.further.write().remove(&leg)?;
        let path = self.opening.paths.lock().remove(&leg).unwrap_or_default();
        Some((closed, path))
    }

    /// Lets go of devices in whose place there is another one by now. A member saw the leg go before, and closed it; who was none may
    /// have it open still (MIR-17). So this is called under the lock under which it learns that: nobody finds the new leg on the old device.
    pub(super) fn forget_replaced(&self, catalog: &Catalog) {
        if !catalog.is_mirrored() || planted(Defect::KeepReplacedOpen) {
            return;
        }
        let is_other = |leg: LegId, uuid: Uuid| {
            let named = catalog.volume(leg.0).and_then(|volume| volume.leg(leg.1));
            named.is_some_and(|(known, _)| known != uuid)
        };
        self.opening
            .parked
            .lock()
            .retain(|leg, (uuid, _)| !is_other(*leg, *uuid));
        let open = self.volumes.others().into_iter();
        for (leg, _) in open.filter(|(leg, open)| is_other(*leg, open.uuid)) {
            let Some((_, path)) = self.take_open(leg) else {
                continue;
            };
            tracing::warn!(
                volume = leg.0,
                leg = leg.1,
                path,
                "another device is this side by now"
            );
            if let Some(opener) = &self.opening.opener {
                opener.close(&path);
            }
        }
    }

    /// Follows what the catalogue says of volumes now: lets go of removed ones, opens new ones.
    pub(super) fn volumes_changed(&self) {
        let gone: Vec<LegId> = self.with_catalog(|catalog| {
            self.forget_replaced(catalog);
            let legs = catalog
                .volumes()
                .flat_map(|(id, volume)| volume.legs().map(move |leg| ((id, leg), volume)));
            let is_gone = |leg: LegId, volume: &Volume| {
                !volume.exists() || catalog.mirror(leg.0).and_then(Mirror::out) == Some(leg.1)
            };
            let gone = legs.filter(|(leg, volume)| is_gone(*leg, volume));
            gone.map(|(leg, _)| leg).collect()
        });
        for leg in gone {
            self.close_leg(leg);
        }
        self.watch_space();
        self.wake(&MOVER);
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
}
