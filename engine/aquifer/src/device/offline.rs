//! A volume group as its device describes it: label, the newer good checkpoint, and the journal after it.

use super::plain::PlainDevice;
use crate::failure::Failure;
use aquifer_dss::group::StorageError;
use aquifer_dss::seam::{BLOCK, BlockDevice, IoBuffer};
use aquifer_dss_proto::catalog::Catalog;
use aquifer_dss_proto::envelope::EnvelopeError;
use aquifer_dss_proto::journal::{
    CheckpointHead, Entry, Tail, decode_checkpoint_body, decode_checkpoint_head, decode_entry, expected_bytes,
};
use aquifer_dss_proto::label::{FORMAT_VERSION, JOURNAL_OFFSET_LEAST, LABEL_OFFSETS, Label};
use serde::Serialize;
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

/// A volume group in a few figures.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub uuid: String,
    /// Path of its device.
    pub device: String,
    /// Size of the device.
    pub size_bytes: u64,
    /// Allocation unit.
    pub au_bytes: u64,
    /// Page.
    pub page_bytes: u32,
    /// Slots of the directory.
    pub home_slots: u32,
    /// Bytes that belong to files.
    pub used_bytes: u64,
    /// Bytes that are free for files.
    pub free_bytes: u64,
    /// Number of files.
    pub files: u64,
}

/// A volume group opened without being a node.
pub struct OfflineGroup {
    /// Where it was found.
    pub path: PathBuf,
    /// Its device, read-only.
    pub device: PlainDevice,
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
        Ok(Self {
            path: path.to_owned(),
            device,
            label,
            catalog,
            entries,
            checkpoints,
        })
    }

    /// Its figures.
    pub fn summary(&self) -> Summary {
        let units = u64::from(self.label.au_count);
        let free = self.catalog.free_units();
        Summary {
            name: self.label.name.clone(),
            uuid: self.label.group.to_string(),
            device: self.path.display().to_string(),
            size_bytes: self.device.geometry().size,
            au_bytes: self.label.au_bytes,
            page_bytes: self.label.page_bytes,
            home_slots: self.label.home_slots,
            used_bytes: (units - free.min(units)) * self.label.au_bytes,
            free_bytes: free * self.label.au_bytes,
            files: self
                .catalog
                .inodes()
                .filter(|(id, inode)| {
                    matches!(inode.node, aquifer_dss_proto::catalog::Node::File { .. })
                        && !inode.is_removed(*id)
                })
                .count() as u64,
        }
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
    findings.push(check_extents(&group));
    Ok(findings)
}

/// No allocation unit belongs to two files, and all are inside the volume.
fn check_extents(group: &OfflineGroup) -> Finding {
    use aquifer_dss_proto::catalog::Node;
    let mut runs: Vec<(u32, u32, u64)> = Vec::new();
    for (id, inode) in group.catalog.inodes() {
        if let Node::File { extents, .. } = &inode.node {
            runs.extend(
                extents
                    .iter()
                    .map(|e| (e.start, e.start.saturating_add(e.count), id.0)),
            );
        }
    }
    runs.sort_unstable();
    let overlap = runs.windows(2).find(|pair| pair[0].1 > pair[1].0);
    let outside = runs.iter().find(|run| run.1 > group.label.au_count);
    let detail = match (overlap, outside) {
        (Some(pair), _) => format!("files {} and {} share unit {}", pair[0].2, pair[1].2, pair[1].0),
        (_, Some(run)) => format!("file {} reaches past the end of the volume", run.2),
        _ => format!("{} extents, none shared, all inside", runs.len()),
    };
    Finding {
        what: "extents".into(),
        ok: overlap.is_none() && outside.is_none(),
        detail,
    }
}
