//! Labels, checkpoints, the journal and the catalogue.

use super::{Pass, Repair, Report};
use crate::group::image::{read_journal, replay};
use crate::group::{CheckpointImage, GroupImage, LabelCopies, StorageError, read_label_copies};
use crate::seam::{BLOCK, BoxFuture, IoBuffer};
use aquifer_dss_proto::envelope::EnvelopeError;
use aquifer_dss_proto::journal::{encode_checkpoint, sequence_of};
use aquifer_dss_proto::label::{LABEL_OFFSETS, Label};
use std::sync::Arc;

const UNREADABLE: &str = "the device cannot be read: look at its errors in the system's log";
const DAMAGED: &str = "start no node: `aquifer fs cp` still copies out what the catalogue names; restore the device from a backup, or make a fresh \
     group and copy the files over";

/// Both copies of the label of every volume, and that its device has room for its units.
pub(super) struct Labels;

impl Pass for Labels {
    fn run<'a>(&'a self, image: &'a Arc<GroupImage>, report: &'a mut Report) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            for (volume, device) in image.devices() {
                let copies = if volume == 0 {
                    Ok(image.labels.clone())
                } else {
                    read_label_copies(&**device).await
                };
                match copies {
                    Ok(copies) => check_copies(volume, &copies, report),
                    Err(error) => report.wrong(
                        format!("labels of volume {volume}"),
                        error.to_string(),
                        UNREADABLE,
                    ),
                }
                check_size(image, volume, device.geometry().size, report);
            }
            for (volume, found) in &image.further {
                if let Err(reason) = found {
                    let advice = "make its device reachable under this path, and check again";
                    report.wrong(format!("volume {volume}"), reason, advice);
                }
            }
        })
    }
}

fn check_copies(volume: u16, copies: &LabelCopies, report: &mut Report) {
    let good = copies.iter().flatten().max_by_key(|label| label.generation);
    for (copy, found) in copies.iter().enumerate() {
        let what = format!("label of volume {volume}, copy {copy}");
        let stale = |label: &Label| good.is_some_and(|good| good.generation > label.generation);
        let trouble = match found {
            Ok(label) if stale(label) => format!("old: generation {}", label.generation),
            Ok(label) => {
                report.sound(what, format!("generation {}", label.generation));
                continue;
            }
            Err(error) => error.to_string(),
        };
        match good {
            // Written by a later version: not ours to touch.
            _ if matches!(found, Err(EnvelopeError::Version(_))) => {
                report.wrong(what, trouble, "use the version of aquifer that wrote it");
            }
            Some(good) => {
                let repair = Repair {
                    volume,
                    offset: LABEL_OFFSETS[copy],
                    bytes: good.encode(),
                    plan: format!("write copy {copy} of the label of volume {volume} from the other"),
                };
                report.repairable(what, trouble, repair);
            }
            None => report.wrong(what, trouble, DAMAGED),
        }
    }
}

fn check_size(image: &GroupImage, volume: u16, size: u64, report: &mut Report) {
    let Some(known) = image.catalog.volume(volume) else {
        return;
    };
    let units = image.catalog.units_of(volume).0;
    let needed = known.au_offset + u64::from(units) * image.catalog.au_bytes();
    let detail = format!("{units} units, {size} bytes of {needed}");
    let what = format!("size of volume {volume}");
    if size >= needed {
        report.sound(what, detail);
    } else {
        report.wrong(
            what,
            detail,
            "give the device its size back, or restore it from a backup",
        );
    }
}

/// Both checkpoints.
pub(super) struct Checkpoints;

impl Pass for Checkpoints {
    fn run<'a>(&'a self, image: &'a Arc<GroupImage>, report: &'a mut Report) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let past = past_end(image).await.unwrap_or(Some(0));
            for (which, found) in image.checkpoints.iter().enumerate() {
                let what = format!("checkpoint {which}");
                match found {
                    Ok(checkpoint) => {
                        let tail = checkpoint.head.tail;
                        report.sound(
                            what,
                            format!(
                                "up to entry {}, {} bytes",
                                tail.sequence - 1,
                                checkpoint.head.length
                            ),
                        );
                    }
                    // The second one is blank until the first is full.
                    Err(EnvelopeError::Absent) if which == 1 => report.sound(what, "not written yet"),
                    Err(error) if past.is_none() => {
                        report.repairable(what, error.to_string(), fresh_checkpoint(image, which))
                    }
                    Err(error) => report.wrong(what, error.to_string(), DAMAGED),
                }
            }
        })
    }
}

/// A checkpoint of the end of the journal, which is known to be the end. The other one stays as it is.
fn fresh_checkpoint(image: &GroupImage, which: usize) -> Repair {
    Repair {
        volume: 0,
        offset: image.label.checkpoint_offset(which),
        bytes: encode_checkpoint(image.label.group, image.tail, &image.catalog),
        plan: format!(
            "write checkpoint {which} as of journal entry {}; the other one stays",
            image.tail.sequence - 1
        ),
    }
}

/// The chain of the journal, and that the two checkpoints and the entries between them agree.
pub(super) struct Journal;

impl Pass for Journal {
    fn run<'a>(&'a self, image: &'a Arc<GroupImage>, report: &'a mut Report) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let last = image.tail.sequence - 1;
            match past_end(image).await {
                Ok(None) => report.sound(
                    "journal",
                    format!(
                        "{} entries since the newer checkpoint, the last is {last}",
                        image.entries.len()
                    ),
                ),
                Ok(Some(found)) => report.wrong(
                    "journal",
                    format!("entry {} is unreadable, {found} is there", last + 1),
                    DAMAGED,
                ),
                Err(error) => report.wrong("journal", error.to_string(), UNREADABLE),
            }
            if let [Ok(a), Ok(b)] = &image.checkpoints {
                let (older, newer) = if a.head.tail.sequence <= b.head.tail.sequence {
                    (a, b)
                } else {
                    (b, a)
                };
                compare(image, older, newer, report).await;
            }
        })
    }
}

/// The sequence of a whole entry past the end of the journal: then something in between is damaged. A node that runs
/// appends meanwhile, so the end is looked for again first.
async fn past_end(image: &GroupImage) -> Result<Option<u64>, StorageError> {
    let label = &image.label;
    let mut found = None;
    for offset in (0..label.journal_bytes).step_by(label.segment_bytes as usize) {
        let length = label.segment_bytes as usize;
        let at = label.journal_offset() + offset;
        let bytes = image.first.read(at, IoBuffer::zeroed(length)).await?;
        let blocks = (0..length).step_by(BLOCK);
        let newest = blocks
            .filter_map(|at| sequence_of(&bytes[at..], label.group))
            .max();
        found = found.max(newest);
    }
    let Some(newest) = found.filter(|newest| *newest > image.tail.sequence) else {
        return Ok(None);
    };
    let since = read_journal(&*image.first, label, image.tail).await?;
    let end = since
        .last()
        .map_or(image.tail.sequence, |entry| entry.after.sequence);
    Ok((newest > end).then_some(newest))
}

/// The older checkpoint and the entries up to the newer one make the newer one, as far as they are still there.
async fn compare(image: &GroupImage, older: &CheckpointImage, newer: &CheckpointImage, report: &mut Report) {
    let what = "older checkpoint and journal";
    let entries = match read_journal(&*image.first, &image.label, older.head.tail).await {
        Ok(entries) => entries,
        Err(error) => return report.wrong(what, error.to_string(), UNREADABLE),
    };
    let between = newer.head.tail.sequence - older.head.tail.sequence;
    let between = entries.get(..between as usize);
    let reached = between.is_some_and(|between| {
        let end = between.last().map_or(older.head.tail, |entry| entry.after);
        end.sequence == newer.head.tail.sequence && end.previous == newer.head.tail.previous
    });
    let Some(between) = between.filter(|_| reached) else {
        report.sound(
            what,
            "the entries between the checkpoints are written over by now",
        );
        return;
    };
    let mut catalog = older.catalog.clone();
    replay(&mut catalog, between);
    if catalog == newer.catalog {
        report.sound(
            what,
            format!("lead to the newer one by {} entries", between.len()),
        );
    } else {
        report.wrong(
            what,
            "they lead to another catalogue than the newer checkpoint has",
            DAMAGED,
        );
    }
}

/// That the catalogue agrees with itself, and that a checkpoint of it is the same.
pub(super) struct Catalogue;

impl Pass for Catalogue {
    fn run<'a>(&'a self, image: &'a Arc<GroupImage>, report: &'a mut Report) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let catalog = &image.catalog;
            match catalog.audit() {
                Ok(units) => report.sound(
                    "allocation units",
                    format!(
                        "{} in all: {} free, {} of files, {} waiting, {} set aside, {} moving; none is owned twice",
                        units.total, units.free, units.files, units.limbo, units.reserved, units.moving
                    ),
                ),
                Err(faults) => {
                    for fault in faults {
                        report.wrong("catalogue", fault, DAMAGED);
                    }
                }
            }
            let again = aquifer_dss_proto::catalog::Catalog::decode(&catalog.encode());
            match again {
                Ok(again) if again == *catalog => {
                    report.sound("names and claims", format!("{} inodes", catalog.inode_count()));
                }
                _ => report.wrong(
                    "names and claims",
                    "a checkpoint of them could not be read",
                    DAMAGED,
                ),
            }
        })
    }
}
