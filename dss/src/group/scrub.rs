//! Scrubbing: all units of files on mirrored volumes are read from both legs and compared, by the storage leader, while everybody reads
//! and writes.
//!
//! Rules (MIR-n, README of this crate):
//! - MIR-15 what differs is looked at again while nobody writes the unit (as in MIR-13): then it may not differ at all. Where a
//!   checksum says which leg is right the other is written again; where nothing tells, nothing is written, and it is reported;
//! - it keeps to the rate of moves.
//!
//! It is the leader's alone and not in the catalogue: whoever asked for it asks the next leader again.

use super::error::StorageError;
use super::heal::Pair;
use super::in_flight::NOBODY;
use super::mend::Hold;
use super::moves::Progress;
use super::volume_group::VolumeGroup;
use aquifer_dss_proto::FileId;
use aquifer_dss_proto::catalog::{Catalog, FileKind, Mirror, Node, VolumeUnit};
use parking_lot::Mutex;
use std::sync::atomic::Ordering;

/// Bytes that are compared at a time.
const PART: u64 = 1 << 20;
/// Places that differ and that are named; the rest is counted.
const NAMED: usize = 32;

/// Bytes that the legs have differently, and nothing tells which is right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Which volume.
    pub volume: u16,
    /// Byte offset on its devices.
    pub offset: u64,
    /// The file that has them, and where in it.
    pub file: FileId,
    /// Byte offset in the file.
    pub in_file: u64,
    /// The file's path.
    pub path: String,
    /// What it is for.
    pub kind: FileKind,
}

/// How far scrubbing is, or what the last one found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScrubStatus {
    /// Which one, drawn at random; 0 when this node has done none.
    pub run: u64,
    /// Whether it goes on.
    pub running: bool,
    /// Bytes of one leg.
    pub total: u64,
    /// ... that were compared.
    pub done: u64,
    /// Bytes in a second, of the last seconds.
    pub rate: u64,
    /// Bytes that were wrong on one leg and were written again.
    pub mended: u64,
    /// Places of a block or more that differ and stay so.
    pub different: u64,
    /// Some of them.
    pub differences: Vec<Difference>,
    /// Why it ended early.
    pub problem: Option<String>,
}

/// What the leader knows of it.
#[derive(Default)]
pub(super) struct Scrubber {
    status: Mutex<ScrubStatus>,
}

fn units_of_files(catalog: &Catalog) -> Vec<VolumeUnit> {
    let mut units = Vec::new();
    for (_, inode) in catalog.inodes() {
        if let Node::File { extents, .. } = &inode.node {
            let mirrored = extents.iter().filter(|run| catalog.mirror(run.volume).is_some());
            units.extend(mirrored.flat_map(|run| {
                let run = *run;
                (run.start..run.start + run.count).map(move |unit| (run.volume, unit))
            }));
        }
    }
    units.sort_unstable();
    units
}

impl VolumeGroup {
    /// Begins to compare both legs of all mirrored volumes, at the storage leader; the number of the run, of that which goes on
    /// already when one does.
    pub fn scrub(&self) -> Result<u64, StorageError> {
        self.require_leader()?;
        let units = self.with_catalog(units_of_files);
        let mut status = self.scrubber.status.lock();
        if status.running {
            return Ok(status.run);
        }
        let run = self.runtime.random() | 1;
        *status = ScrubStatus {
            run,
            running: true,
            total: units.len() as u64 * self.label.au_bytes,
            ..ScrubStatus::default()
        };
        drop(status);
        let group = self.itself.clone();
        let work = async move {
            let mut progress = Progress::default();
            for unit in units {
                let Some(group) = group.upgrade() else { return };
                if let Err(problem) = group.scrub_unit(unit, &mut progress).await {
                    tracing::warn!(%problem, "scrubbing ends early");
                    group.scrubber.status.lock().problem = Some(problem.to_string());
                    break;
                }
            }
            if let Some(group) = group.upgrade() {
                group.scrubber.status.lock().running = false;
            }
        };
        self.runtime.spawn("scrub", Box::pin(work));
        Ok(run)
    }

    /// See [`ScrubStatus`].
    pub fn scrub_status(&self) -> ScrubStatus {
        self.scrubber.status.lock().clone()
    }

    async fn scrub_unit(&self, unit: VolumeUnit, progress: &mut Progress) -> Result<(), StorageError> {
        let begun = self.runtime.now();
        self.require_leader()?;
        if !self.is_alike(unit).await? {
            self.settle(unit).await?;
        }
        progress.add(self.runtime.now(), self.label.au_bytes);
        self.tell_progress(progress);
        self.rest(begun, self.label.au_bytes).await;
        Ok(())
    }

    fn tell_progress(&self, progress: &Progress) {
        let mut status = self.scrubber.status.lock();
        status.done = progress.moved;
        status.rate = progress.before;
    }

    fn not_two(&self, volume: u16) -> StorageError {
        let stale = self.with_catalog(|catalog| catalog.mirror(volume).and_then(Mirror::stale));
        StorageError::Invalid(match stale {
            Some(leg) => format!(
                "side {leg} of volume {volume} is not current: let it in again first (`aquifer vg resync`)"
            ),
            None => format!("a side of volume {volume} cannot be read; see the log and `aquifer vg status`"),
        })
    }

    /// Whether both legs have the same bytes in a unit, as a look beside writers shows it.
    async fn is_alike(&self, (volume, unit): VolumeUnit) -> Result<bool, StorageError> {
        let au_bytes = self.label.au_bytes;
        let offset = self.with_catalog(|catalog| catalog.offset_of_unit(volume, unit));
        let mut done = 0;
        while done < au_bytes {
            let length = PART.min(au_bytes - done);
            let sides = self
                .sides_of_place(volume, offset + done, length as usize)
                .await?;
            let sides = sides.ok_or_else(|| self.not_two(volume))?;
            let [one, other] = sides.bytes();
            if one != other {
                return Ok(false);
            }
            done += length;
        }
        Ok(true)
    }

    /// Makes the legs of a unit alike as far as checksums tell, while nobody writes there.
    async fn settle(&self, (volume, unit): VolumeUnit) -> Result<(), StorageError> {
        let _one = self.syncer.one_at_a_time.lock().await;
        let hold = Hold {
            volume,
            start: unit,
            count: 1,
        };
        if !self.hold(hold).await? {
            return Err(self.not_two(volume));
        }
        let settled = self.settle_held(hold).await;
        self.let_go(hold).await?;
        settled
    }

    async fn settle_held(&self, hold: Hold) -> Result<(), StorageError> {
        let unit = (hold.volume, hold.start);
        let Some(generation) = self.begin_held(hold) else {
            return Err(self.not_two(hold.volume));
        };
        let Some((file, in_file)) = self.file_of_unit(unit) else {
            // It was removed meanwhile.
            self.in_flight.end(NOBODY, generation);
            return Ok(());
        };
        let pair = self.with_catalog(|catalog| Pair::of_settled(catalog, unit));
        let alike = self.make_alike(&pair).await.map(|()| true);
        let units = (hold.start, hold.count);
        let done = self.end_on_legs(hold.volume, units, generation, alike, |_| true);
        let done = done.await;
        self.scrubber.status.lock().mended += pair.written.load(Ordering::Relaxed);
        for offset in pair.undecided.lock().drain(..) {
            self.tell_difference(hold.volume, offset, file, in_file + (offset - pair.offset));
        }
        match done? {
            true => Ok(()),
            false => Err(self.not_two(hold.volume)),
        }
    }

    fn tell_difference(&self, volume: u16, offset: u64, file: FileId, in_file: u64) {
        let found = self.with_catalog(|catalog| {
            let inode = catalog.open_inode(file)?;
            let stat = super::volume_group::stat_inode(catalog, file, inode);
            Some((stat.path, stat.kind.unwrap_or_default()))
        });
        let (path, kind) = found.unwrap_or_default();
        tracing::error!(
            volume,
            offset,
            path,
            in_file,
            "the sides of a mirror differ, and nothing tells which is right"
        );
        let mut status = self.scrubber.status.lock();
        status.different += 1;
        if status.differences.len() < NAMED {
            status.differences.push(Difference {
                volume,
                offset,
                file,
                in_file,
                path,
                kind,
            });
        }
    }
}
