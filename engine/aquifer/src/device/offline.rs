//! A volume group as its device describes it: label, the newer good checkpoint, and the journal after it.

use super::plain::PlainDevice;
use crate::failure::Failure;
use crate::volume::GroupReport;
use aquifer_dss::group::StorageError;
use aquifer_dss::seam::{BLOCK, BlockDevice, IoBuffer};
use aquifer_dss_proto::catalog::{Catalog, Mirror, Volume};
use aquifer_dss_proto::envelope::EnvelopeError;
use aquifer_dss_proto::journal::{
    CheckpointHead, Entry, Tail, decode_checkpoint_body, decode_checkpoint_head, decode_entry, expected_bytes,
};
use aquifer_dss_proto::label::{FORMAT_VERSION, JOURNAL_OFFSET_LEAST, LABEL_OFFSETS, Label};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// One thing that was checked.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// What.
    pub what: String,
    /// Whether it is as it must be.
    pub ok: bool,
    /// What was found.
    pub detail: String,
}

/// A volume group opened without being a node.
pub struct OfflineGroup {
    /// Where it was found.
    pub path: PathBuf,
    /// Its device, read-only.
    pub device: PlainDevice,
    /// The other volumes, read-only, or why they cannot be read.
    pub further: BTreeMap<u16, Result<PlainDevice, String>>,
    /// What the device says of itself.
    pub label: Label,
    /// The metadata at the end of the journal.
    pub catalog: Catalog,
    /// The entries since the checkpoint.
    pub entries: Vec<Entry>,
    /// What each checkpoint slot has.
    pub checkpoints: [Result<CheckpointHead, EnvelopeError>; 2],
}

/// Both copies of the label, as decoded.
pub async fn read_labels(device: &PlainDevice) -> Result<[Result<Label, EnvelopeError>; 2], StorageError> {
    if device.geometry().size < JOURNAL_OFFSET_LEAST {
        return Ok([Err(EnvelopeError::Absent), Err(EnvelopeError::Absent)]);
    }
    let a = device.read(LABEL_OFFSETS[0], IoBuffer::zeroed(BLOCK)).await?;
    let b = device.read(LABEL_OFFSETS[1], IoBuffer::zeroed(BLOCK)).await?;
    Ok([Label::decode(&a), Label::decode(&b)])
}

/// The label that counts, nothing repaired.
fn choose(labels: [Result<Label, EnvelopeError>; 2]) -> Result<Label, StorageError> {
    let [a, b] = labels;
    match (a, b) {
        (Ok(a), Ok(b)) => Ok(if b.generation > a.generation { b } else { a }),
        (Ok(label), Err(_)) | (Err(_), Ok(label)) => Ok(label),
        (Err(EnvelopeError::Version(found)), Err(_)) | (Err(_), Err(EnvelopeError::Version(found))) => {
            Err(StorageError::OtherVersion {
                found,
                expected: FORMAT_VERSION,
            })
        }
        (Err(EnvelopeError::Absent), Err(EnvelopeError::Absent)) => Err(StorageError::NoLabel),
        _ => Err(StorageError::DamagedLabel),
    }
}

impl OfflineGroup {
    /// Opens the group on `path`.
    pub async fn open(path: &Path) -> Result<Self, Failure> {
        let device = PlainDevice::open(path, false)?;
        Self::load(path, device)
            .await
            .map_err(|e| super::make::storage_failure(path, &e))
    }

    async fn load(path: &Path, device: PlainDevice) -> Result<Self, StorageError> {
        let label = choose(read_labels(&device).await?)?;
        if (label.volume, label.leg) == (0, 1) {
            return Err(StorageError::Invalid(
                "this is the second side of volume 0: the metadata is on the first one alone; name that"
                    .into(),
            ));
        }
        if label.volume != 0 {
            return Err(StorageError::Invalid(format!(
                "this is volume {} of the group; name volume 0",
                label.volume
            )));
        }
        let mut checkpoints = [Err(EnvelopeError::Absent), Err(EnvelopeError::Absent)];
        let mut best: Option<(Tail, Catalog)> = None;
        for (which, found) in checkpoints.iter_mut().enumerate() {
            let (head, catalog) = read_checkpoint(&device, &label, which).await?;
            *found = head;
            if let Some((tail, catalog)) = catalog
                && best
                    .as_ref()
                    .is_none_or(|(known, _)| tail.sequence > known.sequence)
            {
                best = Some((tail, catalog));
            }
        }
        let (tail, mut catalog) = best.ok_or_else(|| StorageError::Damaged("no good checkpoint".into()))?;
        let entries = read_journal(&device, &label, tail).await?;
        for entry in &entries {
            for record in &entry.records {
                let _ = catalog.apply(entry.sequence, record);
            }
        }
        let further = open_further(&label, &catalog).await;
        Ok(Self {
            path: path.to_owned(),
            device,
            further,
            label,
            catalog,
            entries,
            checkpoints,
        })
    }

    /// Its figures.
    pub fn report(&self) -> GroupReport {
        let mut report = GroupReport::of(&self.label, &self.catalog);
        for volume in &mut report.volumes {
            let missing = self
                .further
                .get(&volume.id)
                .and_then(|found| found.as_ref().err());
            volume.missing = missing.cloned();
        }
        report
    }

    /// The leg of a volume that is read: one that lacks nothing.
    fn leg_of(&self, volume: u16) -> u8 {
        current_leg(&self.catalog, volume)
    }

    /// The device of a volume.
    pub fn device_of(&self, volume: u16) -> Result<&PlainDevice, Failure> {
        if volume == 0 && self.leg_of(0) == 0 {
            return Ok(&self.device);
        }
        match self.further.get(&volume) {
            Some(Ok(device)) => Ok(device),
            Some(Err(reason)) => Err(Failure::unavailable(format!("volume {volume}: {reason}"))),
            None => Err(Failure::failed(format!("the catalogue has no volume {volume}"))),
        }
    }
}

/// The leg of a volume that lacks nothing; the first one when both do.
fn current_leg(catalog: &Catalog, volume: u16) -> u8 {
    let stale = catalog.mirror(volume).and_then(Mirror::stale);
    stale.map_or(0, |stale| 1 - stale)
}

/// The other volumes by their path in the catalogue, or why they cannot be read.
async fn open_further(label: &Label, catalog: &Catalog) -> BTreeMap<u16, Result<PlainDevice, String>> {
    let mut further = BTreeMap::new();
    for (id, volume) in catalog.volumes().filter(|(_, volume)| volume.exists()) {
        let leg = current_leg(catalog, id);
        if (id, leg) != (0, 0) {
            further.insert(id, open_volume(label, volume, leg).await);
        }
    }
    further
}

async fn open_volume(label: &Label, volume: &Volume, leg: u8) -> Result<PlainDevice, String> {
    let (uuid, path) = volume.leg(leg).ok_or("the catalogue does not name it")?;
    let device = PlainDevice::open(Path::new(path), false).map_err(|e| e.message)?;
    let found = read_labels(&device)
        .await
        .and_then(choose)
        .map_err(|e| e.to_string())?;
    if (found.group, found.volume_uuid) == (label.group, uuid) {
        Ok(device)
    } else {
        Err(format!(
            "{path} has volume {} of group {}",
            found.volume_uuid, found.group
        ))
    }
}

type Checkpoint = (Result<CheckpointHead, EnvelopeError>, Option<(Tail, Catalog)>);

async fn read_checkpoint(
    device: &PlainDevice,
    label: &Label,
    which: usize,
) -> Result<Checkpoint, StorageError> {
    let offset = label.checkpoint_offset(which);
    let block = device.read(offset, IoBuffer::zeroed(BLOCK)).await?;
    let head = match decode_checkpoint_head(&block, label.group, label.checkpoint_bytes) {
        Ok(head) => head,
        Err(error) => return Ok((Err(error), None)),
    };
    let length =
        usize::try_from(head.length).map_err(|_| StorageError::Damaged("checkpoint length".into()))?;
    let body = device
        .read(
            offset + BLOCK as u64,
            IoBuffer::zeroed(length.max(1).next_multiple_of(BLOCK)),
        )
        .await?;
    Ok(match decode_checkpoint_body(&head, &body) {
        Ok(catalog) => (Ok(head), Some((head.tail, catalog))),
        Err(error) => (Err(error), None),
    })
}

/// Every entry from `tail` on; an epoch's first entry may stand at the next segment (HZ-18).
async fn read_journal(device: &PlainDevice, label: &Label, tail: Tail) -> Result<Vec<Entry>, StorageError> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut tail = tail;
    loop {
        let places = [tail.position, tail.next_segment(label.segment_bytes)];
        let mut found = None;
        for position in places {
            found = read_entry(device, label, &tail, position).await?;
            if found.is_some() {
                break;
            }
        }
        let Some(entry) = found else { return Ok(entries) };
        tail = entry.after;
        entries.push(entry);
    }
}

async fn read_entry(
    device: &PlainDevice,
    label: &Label,
    tail: &Tail,
    position: u64,
) -> Result<Option<Entry>, StorageError> {
    let limit = label.segment_bytes - position % label.segment_bytes;
    let offset = label.journal_offset() + position % label.journal_bytes;
    let block = device.read(offset, IoBuffer::zeroed(BLOCK)).await?;
    let Some(length) = expected_bytes(&block, label.group, tail, position, limit) else {
        return Ok(None);
    };
    let bytes = device.read(offset, IoBuffer::zeroed(length)).await?;
    Ok(decode_entry(&bytes, label.group, tail, position))
}

/// Checks labels, checkpoints, journal and catalogue.
pub async fn check(path: &Path) -> Result<Vec<Finding>, Failure> {
    let failed = |e: StorageError| super::make::storage_failure(path, &e);
    let device = PlainDevice::open(path, false)?;
    let mut findings = Vec::new();
    let labels = read_labels(&device).await.map_err(failed)?;
    for (copy, label) in labels.iter().enumerate() {
        let detail = match label {
            Ok(label) => format!("generation {}", label.generation),
            Err(error) => error.to_string(),
        };
        findings.push(Finding {
            what: format!("label copy {copy}"),
            ok: label.is_ok(),
            detail,
        });
    }
    let group = OfflineGroup::load(path, device).await.map_err(failed)?;
    for (which, head) in group.checkpoints.iter().enumerate() {
        // The second checkpoint is blank until the first switch; only a damaged one is wrong.
        let (ok, detail) = match head {
            Ok(head) => (true, format!("up to entry {}", head.tail.sequence - 1)),
            Err(EnvelopeError::Absent) => (true, "not written yet".into()),
            Err(error) => (false, error.to_string()),
        };
        findings.push(Finding {
            what: format!("checkpoint {which}"),
            ok,
            detail,
        });
    }
    let last = group.entries.last().map_or(0, |e| e.sequence);
    let detail = format!(
        "{} entries since the checkpoint, the last is {last}",
        group.entries.len()
    );
    findings.push(Finding {
        what: "journal".into(),
        ok: true,
        detail,
    });
    findings.extend(check_volumes(&group).await.map_err(failed)?);
    findings.push(check_extents(&group));
    Ok(findings)
}

/// No allocation unit belongs to two files, and all are inside their volume.
fn check_extents(group: &OfflineGroup) -> Finding {
    use aquifer_dss_proto::catalog::Node;
    let mut runs: Vec<(u16, u32, u32, u64)> = Vec::new();
    for (id, inode) in group.catalog.inodes() {
        if let Node::File { extents, .. } = &inode.node {
            runs.extend(
                extents
                    .iter()
                    .map(|e| (e.volume, e.start, e.start.saturating_add(e.count), id.0)),
            );
        }
    }
    runs.sort_unstable();
    let overlap = runs
        .windows(2)
        .find(|pair| pair[0].0 == pair[1].0 && pair[0].2 > pair[1].1);
    let outside = runs.iter().find(|run| run.2 > group.catalog.units_of(run.0).0);
    let detail = match (overlap, outside) {
        (Some(pair), _) => format!(
            "files {} and {} share unit {} of volume {}",
            pair[0].3, pair[1].3, pair[1].1, pair[1].0
        ),
        (_, Some(run)) => format!("file {} reaches past the end of volume {}", run.3, run.0),
        _ => format!("{} extents, none shared, all inside", runs.len()),
    };
    Finding {
        what: "extents".into(),
        ok: overlap.is_none() && outside.is_none(),
        detail,
    }
}

/// Every other volume is there, has the label that the catalogue names in two good copies, and room for its units.
async fn check_volumes(group: &OfflineGroup) -> Result<Vec<Finding>, StorageError> {
    let mut findings = Vec::new();
    for (id, found) in &group.further {
        let (ok, detail) = match found {
            Ok(device) => check_volume(group, *id, device).await?,
            Err(reason) => (false, reason.clone()),
        };
        findings.push(Finding {
            what: format!("volume {id}"),
            ok,
            detail,
        });
    }
    Ok(findings)
}

async fn check_volume(
    group: &OfflineGroup,
    id: u16,
    device: &PlainDevice,
) -> Result<(bool, String), StorageError> {
    for (copy, label) in read_labels(device).await?.iter().enumerate() {
        if let Err(error) = label {
            return Ok((false, format!("label copy {copy}: {error}")));
        }
    }
    let (size, units) = (device.geometry().size, group.catalog.units_of(id).0);
    let au_offset = group.catalog.volume(id).map_or(0, |volume| volume.au_offset);
    let needed = au_offset + u64::from(units) * group.catalog.au_bytes();
    let detail = format!("two good labels, {units} units, {size} bytes of {needed}");
    Ok((size >= needed, detail))
}
