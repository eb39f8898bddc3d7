//! A volume group as its devices describe it, read by somebody who is no node: labels, checkpoints, and the journal to its
//! end. Nothing is written, no lock is taken.
//!
//! Beside running nodes this is the group as of the last durable journal entry.

use super::error::StorageError;
use super::metadata_area::{CHECKPOINT_ATTEMPTS, read_after, read_body, read_heads};
use super::open_metadata::leg_to_read;
use super::volume_label::{LabelCopies, newer_label, read_label_copies};
use crate::seam::{BlockDevice, IoBuffer, VolumeOpener};
use aquifer_dss_proto::FileId;
use aquifer_dss_proto::catalog::{Catalog, Extent, Mirror, Node, Volume, extents};
use aquifer_dss_proto::envelope::EnvelopeError;
use aquifer_dss_proto::journal::{CheckpointHead, Entry, Tail};
use aquifer_dss_proto::label::Label;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Bytes of one read.
const PIECE: usize = 4 << 20;

/// A checkpoint as it is on the device.
#[derive(Clone, Debug)]
pub struct CheckpointImage {
    /// Where the journal goes on.
    pub head: CheckpointHead,
    /// What it has.
    pub catalog: Catalog,
}

/// A volume group opened without being a node.
pub struct GroupImage {
    /// What the device that was named says of itself.
    pub label: Label,
    /// Both copies of that.
    pub labels: LabelCopies,
    /// The first volume; of a mirrored one the side whose metadata counts.
    pub first: Arc<dyn BlockDevice>,
    /// The other volumes, or why they cannot be read. Of a mirrored volume it is a leg that lacks nothing, of volume 0 too when its
    /// first leg does.
    pub further: BTreeMap<u16, Result<Arc<dyn BlockDevice>, String>>,
    /// The other legs of mirrored volumes of which both count, or why they cannot be read.
    pub twins: BTreeMap<u16, Result<Arc<dyn BlockDevice>, String>>,
    /// What each place of a checkpoint has.
    pub checkpoints: [Result<CheckpointImage, EnvelopeError>; 2],
    /// The entries since the newer checkpoint.
    pub entries: Vec<Entry>,
    /// The end of the journal.
    pub tail: Tail,
    /// The metadata there.
    pub catalog: Catalog,
}

impl GroupImage {
    /// Reads the group whose first volume, or a side of it, is `named`; the others come from `opener`, by their path in the catalogue.
    pub async fn read(named: Arc<dyn BlockDevice>, opener: &dyn VolumeOpener) -> Result<Self, StorageError> {
        let labels = read_label_copies(&*named).await?;
        let label = newer_label(&labels)?;
        if label.volume != 0 {
            return Err(StorageError::Invalid(format!(
                "this is volume {} of the group; name volume 0",
                label.volume
            )));
        }
        let (named_label, mut first) = (label, named);
        let mut label = named_label.clone();
        if label.legs == 2 {
            (label, first) = leg_to_read(&(label, first), opener).await?;
        }
        let mut checkpoints = read_checkpoints(&*first, &label).await?;
        for _ in 1..CHECKPOINT_ATTEMPTS {
            if checkpoints.iter().any(Result::is_ok) {
                break;
            }
            checkpoints = read_checkpoints(&*first, &label).await?;
        }
        let good = checkpoints.iter().flatten();
        let newest = good.max_by_key(|checkpoint| checkpoint.head.tail.sequence);
        let newest = newest.ok_or_else(|| StorageError::Damaged("no good checkpoint".into()))?;
        let (tail, mut catalog) = (newest.head.tail, newest.catalog.clone());
        let entries = read_journal(&*first, &label, tail).await?;
        replay(&mut catalog, &entries);
        let further = open_further(&label, &catalog, opener).await;
        let twins = open_twins(&label, &catalog, opener).await;
        Ok(Self {
            tail: entries.last().map_or(tail, |entry| entry.after),
            label: named_label,
            labels,
            first,
            further,
            twins,
            checkpoints,
            entries,
            catalog,
        })
    }

    /// The device of a volume, or why it cannot be read.
    pub fn device(&self, volume: u16) -> Result<&Arc<dyn BlockDevice>, String> {
        match self.further.get(&volume) {
            Some(found) => found.as_ref().map_err(Clone::clone),
            None if volume == 0 => Ok(&self.first),
            None => Err(format!("the catalogue has no volume {volume}")),
        }
    }

    /// Where the catalogue says that the device of a volume is that is read.
    pub fn path(&self, volume: u16) -> Option<&str> {
        let leg = current_leg(&self.catalog, volume);
        let (_, path) = self.catalog.volume(volume)?.leg(leg)?;
        Some(path)
    }

    /// The devices that can be read, by volume.
    pub fn devices(&self) -> impl Iterator<Item = (u16, &Arc<dyn BlockDevice>)> {
        let further = self.further.iter().filter(|(id, _)| **id > 0);
        let further = further.filter_map(|(id, device)| Some((*id, device.as_ref().ok()?)));
        std::iter::once((0, &self.first)).chain(further)
    }

    /// Whole blocks of a file from `offset`: zeros where it has no units.
    pub async fn read_file(&self, file: FileId, offset: u64, length: usize) -> Result<Vec<u8>, String> {
        let inode = self.catalog.open_inode(file).ok_or("there is no such file")?;
        let Node::File { extents, .. } = &inode.node else {
            return Err("it is no file".into());
        };
        let mut bytes = Vec::with_capacity(length);
        while bytes.len() < length {
            let (place, contiguous) = self.locate(extents, offset + bytes.len() as u64);
            let piece = contiguous.min((length - bytes.len()).min(PIECE) as u64) as usize;
            match place {
                None => bytes.resize(bytes.len() + piece, 0),
                Some((volume, place)) => {
                    let read = self.device(volume)?.read(place, IoBuffer::zeroed(piece)).await;
                    bytes.extend_from_slice(&read.map_err(|error| error.to_string())?);
                }
            }
        }
        Ok(bytes)
    }

    /// Volume and device offset of a byte of a file, none in a hole, and how many bytes follow it there.
    pub fn locate(&self, runs: &[Extent], offset: u64) -> (Option<(u16, u64)>, u64) {
        let au = self.label.au_bytes;
        let unit = u32::try_from(offset / au).unwrap_or(u32::MAX);
        let Some(run) = runs.get(extents::position(runs, unit)) else {
            return (None, u64::MAX);
        };
        let (from, to) = (u64::from(run.unit) * au, u64::from(run.end()) * au);
        if offset < from {
            return (None, from - offset);
        }
        let place = self.catalog.offset_of(run) + (offset - from);
        (Some((run.volume, place)), to - offset)
    }
}

/// Applies entries in order.
pub(crate) fn replay(catalog: &mut Catalog, entries: &[Entry]) {
    for entry in entries {
        for record in &entry.records {
            // Who asked was answered by the leader of then.
            let _outcome = catalog.apply(entry.sequence, record);
        }
    }
}

/// The leg of a volume that lacks nothing; the first one when both do.
fn current_leg(catalog: &Catalog, volume: u16) -> u8 {
    let stale = catalog.mirror(volume).and_then(Mirror::stale);
    stale.map_or(0, |stale| 1 - stale)
}

async fn open_further(
    label: &Label,
    catalog: &Catalog,
    opener: &dyn VolumeOpener,
) -> BTreeMap<u16, Result<Arc<dyn BlockDevice>, String>> {
    let mut further = BTreeMap::new();
    for (id, volume) in catalog.volumes().filter(|(_, volume)| volume.exists()) {
        let leg = current_leg(catalog, id);
        if (id, leg) != (0, 0) {
            further.insert(id, open_volume(label, volume, leg, opener).await);
        }
    }
    further
}

async fn open_twins(
    label: &Label,
    catalog: &Catalog,
    opener: &dyn VolumeOpener,
) -> BTreeMap<u16, Result<Arc<dyn BlockDevice>, String>> {
    let mut twins = BTreeMap::new();
    for (id, _) in catalog.mirrors().filter(|(_, mirror)| mirror.stale().is_none()) {
        if let Some(volume) = catalog.volume(id) {
            twins.insert(id, open_volume(label, volume, 1, opener).await);
        }
    }
    twins
}

async fn open_volume(
    label: &Label,
    volume: &Volume,
    leg: u8,
    opener: &dyn VolumeOpener,
) -> Result<Arc<dyn BlockDevice>, String> {
    let (uuid, path) = volume.leg(leg).ok_or("the catalogue does not name it")?;
    let device = opener.open(path).await.map_err(|e| e.to_string())?;
    let copies = read_label_copies(&*device).await.map_err(|e| e.to_string())?;
    let found = newer_label(&copies).map_err(|e| e.to_string())?;
    if (found.group, found.volume_uuid) == (label.group, uuid) {
        Ok(device)
    } else {
        Err(format!(
            "{path} has volume {} of group {}",
            found.volume_uuid, found.group
        ))
    }
}

type Checkpoints = [Result<CheckpointImage, EnvelopeError>; 2];

async fn read_checkpoints(device: &dyn BlockDevice, label: &Label) -> Result<Checkpoints, StorageError> {
    let mut checkpoints = [Err(EnvelopeError::Absent), Err(EnvelopeError::Absent)];
    for (which, head) in read_heads(device, label).await?.into_iter().enumerate() {
        checkpoints[which] = match head {
            Ok(head) => {
                let catalog = read_body(device, label, which, &head).await?;
                catalog.map(|catalog| CheckpointImage { head, catalog })
            }
            Err(error) => Err(error),
        };
    }
    Ok(checkpoints)
}

/// Every entry from `tail` on.
pub(crate) async fn read_journal(
    device: &dyn BlockDevice,
    label: &Label,
    mut tail: Tail,
) -> Result<Vec<Entry>, StorageError> {
    let mut entries = Vec::new();
    while let Some(entry) = read_after(device, label, &tail).await? {
        tail = entry.after;
        entries.push(entry);
    }
    Ok(entries)
}
