//! Units for the holes of files: set aside, zeroed, flushed, and only then put into a file.
//!
//! Rules:
//! - a unit that is in a file holds zeros or what was written there: a crash at any moment shows no bytes of another file;
//! - two nodes may fill one hole at the same time: the catalogue takes the first, the second keeps its units for later;
//! - a node keeps a few zeroed units, so that a small file costs one metadata operation for its space and no flush.

use super::error::StorageError;
use super::names::refused;
use super::volume_group::VolumeGroup;
use aquifer_dss_proto::FileId;
use aquifer_dss_proto::catalog::{FileOperation, Life, Node, OperationError, Reply, extents};
use aquifer_dss_proto::defect::{Defect, planted};

/// Bytes of zeroed units that a node keeps at most ...
const KEPT_BYTES: u64 = 4 << 20;
/// ... and how many units.
const KEPT_UNITS: u64 = 64;
/// A file that grows at its end gets an eighth of what it has on top, and so many bytes at most.
const AHEAD_BYTES: u64 = 16 << 20;
/// Units that one reservation takes at most, so that zeroing it is an operation of bounded length.
const AT_ONCE: u64 = 4096;

/// The zeroed units that this node keeps: the number of their reservation.
pub(super) type Kept = tokio::sync::Mutex<Option<u64>>;

impl VolumeGroup {
    /// This life of the node, as its requests name it.
    pub(super) fn life(&self) -> Life {
        Life {
            node: self.me,
            session: self.requests.session(),
        }
    }

    /// Puts units into every hole of a file between logical units `from` and `to`.
    pub(super) async fn fill(&self, file: FileId, from: u32, to: u32) -> Result<(), StorageError> {
        // One at a time: the second of two tasks that fill one hole finds it filled.
        let mut kept = self.kept.lock().await;
        loop {
            let (missing, ahead) = self.missing(file, from, to)?;
            if missing == 0 {
                return Ok(());
            }
            let reservation = match kept.take().filter(|number| self.reserved(*number) > 0) {
                Some(number) => number,
                None => self.reserve_zeroed(missing, ahead).await?,
            };
            let wanted = missing.saturating_add(ahead).min(self.reserved(reservation));
            let count =
                u32::try_from(u64::from(to - from) + wanted.saturating_sub(missing)).unwrap_or(u32::MAX);
            let attach = FileOperation::Attach {
                file,
                reservation,
                unit: from,
                count: count.min(u32::MAX - from),
            };
            match self.submit_file("", attach).await {
                // Gone with a view that this node was not in: another one is made.
                Err(error) if error.is(OperationError::NotFound) && self.reserved(reservation) == 0 => {}
                Err(error) => {
                    *kept = Some(reservation);
                    return Err(error);
                }
                Ok(_) => *kept = Some(reservation),
            }
        }
    }

    /// Units that are missing in a range, and how many more the file should get when it grows at its end.
    fn missing(&self, file: FileId, from: u32, to: u32) -> Result<(u64, u64), StorageError> {
        self.with_catalog(
            |catalog| match catalog.open_inode(file).map(|inode| &inode.node) {
                Some(Node::File { extents: runs, .. }) => {
                    let holes = extents::holes(runs, from, to);
                    let missing = holes.iter().map(|hole| u64::from(hole.1)).sum();
                    let at_end = runs.last().is_none_or(|last| last.end() <= to);
                    let ahead = (extents::units(runs) / 8).min(AHEAD_BYTES / self.label.au_bytes);
                    Ok((missing, if at_end { ahead } else { 0 }))
                }
                Some(_) => Err(refused("", OperationError::IsADirectory)),
                None => Err(StorageError::NoSuchFile(file)),
            },
        )
    }

    /// Units that are left in a reservation.
    fn reserved(&self, number: u64) -> u64 {
        self.with_catalog(|catalog| {
            catalog
                .reservation(number)
                .map_or(0, |reservation| extents::units(&reservation.extents))
        })
    }

    /// A new reservation with zeroed units: what is missing, and some to keep where there is space.
    async fn reserve_zeroed(&self, missing: u64, ahead: u64) -> Result<u64, StorageError> {
        let keep = (KEPT_BYTES / self.label.au_bytes).clamp(1, KEPT_UNITS);
        let wanted = (missing + ahead).max(keep).min(AT_ONCE);
        let units = |units: u64| FileOperation::Reserve {
            units: u32::try_from(units).unwrap_or(u32::MAX),
        };
        let free = self.with_catalog(|catalog| catalog.free_units());
        let reserved = if free >= wanted {
            self.submit_file("", units(wanted)).await
        } else {
            self.submit_file("", units(missing.min(AT_ONCE))).await
        };
        let Reply::Reservation(number) = reserved? else {
            return Err(StorageError::Damaged("the leader named no reservation".into()));
        };
        let runs = self.with_catalog(|catalog| {
            catalog
                .reservation(number)
                .map(|reservation| reservation.extents.clone())
                .unwrap_or_default()
        });
        if !planted(Defect::AttachUnzeroed) {
            for run in runs {
                self.zero_units(run).await?;
            }
        }
        if !planted(Defect::AttachBeforeFlush) {
            self.flush().await?;
        }
        Ok(number)
    }

    /// Gives the zeroed units back that this node keeps: at a clean stop.
    pub async fn give_kept_back(&self) -> Result<(), StorageError> {
        let Some(reservation) = self.kept.lock().await.take() else {
            return Ok(());
        };
        match self.submit_file("", FileOperation::Return { reservation }).await {
            Err(error) if error.is(OperationError::NotFound) => Ok(()),
            done => done.map(drop),
        }
    }
}
