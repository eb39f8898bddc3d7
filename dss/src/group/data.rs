//! Data of files: straight to the devices, by the extent map.
//!
//! Rules:
//! - an operation is counted from the look at the extent map until the device is done with it, so that a node
//!   can say when it let go of removed units (HZ-7). A write that is dropped goes on without its caller, a read has no
//!   effect any more. Zeroing that is dropped stays counted for ever: it must not go on beside what is written next;
//! - a hole reads as zeros, and is not written: units go into it first;
//! - the parts of an operation that are on several extents are done at once.

use super::drive::Driven;
use super::error::StorageError;
use super::volume_group::{Known, VolumeGroup};
use crate::seam::{BLOCK, IoBuffer};
use aquifer_dss_proto::FileId;
use aquifer_dss_proto::catalog::{Catalog, Extent, FILE_BYTES, Node, extents};
use futures_util::future::join_all;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::Notify;

/// How long until the entry of a view's leader is looked for again.
const NOT_LED: Duration = Duration::from_millis(1);
/// How long until a write looks again whether units have moved.
const FROZEN: Duration = Duration::from_millis(1);

/// Operations on files that the devices are not done with.
#[derive(Default)]
pub(super) struct InFlight {
    flights: Mutex<Flights>,
    fewer: Notify,
}

#[derive(Default)]
struct Flights {
    /// Grows when somebody waits, so that what begins later is not waited for.
    generation: u64,
    /// Per file, and generation in which they began: how many.
    files: BTreeMap<FileId, BTreeMap<u64, u64>>,
}

impl InFlight {
    /// Counts an operation; gives the generation that it belongs to.
    fn begin(&self, file: FileId) -> u64 {
        let mut flights = self.flights.lock();
        let generation = flights.generation;
        *flights
            .files
            .entry(file)
            .or_default()
            .entry(generation)
            .or_default() += 1;
        generation
    }

    pub(super) fn end(&self, file: FileId, generation: u64) {
        let mut flights = self.flights.lock();
        let counts = flights
            .files
            .get_mut(&file)
            .expect("an operation that ends has begun");
        let count = counts
            .get_mut(&generation)
            .expect("an operation that ends has begun");
        *count -= 1;
        if *count > 0 {
            return;
        }
        counts.remove(&generation);
        if counts.is_empty() {
            flights.files.remove(&file);
        }
        drop(flights);
        self.fewer.notify_waiters();
    }

    /// Waits until the operations on `files` that have begun before this call are over.
    pub(super) async fn wait_for(&self, files: &[FileId]) {
        let now = {
            let mut flights = self.flights.lock();
            flights.generation += 1;
            flights.generation
        };
        loop {
            let changed = self.fewer.notified();
            let busy = {
                let flights = self.flights.lock();
                let is_busy = |file: &FileId| {
                    let counts = flights.files.get(file);
                    counts.is_some_and(|counts| counts.range(..now).next().is_some())
                };
                files.iter().any(is_busy)
            };
            if !busy {
                return;
            }
            changed.await;
        }
    }
}

/// A part of an operation: on one extent, or in one hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    /// Volume and byte offset there; `None` in a hole.
    place: Option<(u16, u64)>,
    length: usize,
}

/// An operation that is counted.
struct Flight {
    pieces: Vec<Piece>,
    generation: u64,
}

/// A read that is counted. One that is dropped has no effect any more.
struct Counted<'a> {
    in_flight: &'a InFlight,
    file: FileId,
    generation: u64,
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.in_flight.end(self.file, self.generation);
    }
}

/// Who looks at a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Somebody who knows its id: it must have a name, and the range be inside.
    Named,
    /// A handle: a removed file is there as long as it is open, and the range may go past the end.
    Opened,
}

/// What is done with the bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    Read,
    Write,
}

impl VolumeGroup {
    /// Fills `buffer` from byte `offset` of a file; both are multiples of the device's block. A hole is zeros.
    pub async fn read_at(
        &self,
        file: FileId,
        offset: u64,
        buffer: IoBuffer,
    ) -> Result<IoBuffer, StorageError> {
        self.read_as(Access::Named, file, offset, buffer).await
    }

    /// Writes `buffer` at byte `offset` of a file; both are multiples of the device's block. Durable after
    /// [`flush`](Self::flush). The range must have units: an engine's file has, another gets them by
    /// [`File`](super::File).
    pub async fn write_at(
        &self,
        file: FileId,
        offset: u64,
        buffer: IoBuffer,
    ) -> Result<IoBuffer, StorageError> {
        self.write_as(Access::Named, file, offset, buffer).await
    }

    pub(super) async fn read_as(
        &self,
        access: Access,
        file: FileId,
        offset: u64,
        buffer: IoBuffer,
    ) -> Result<IoBuffer, StorageError> {
        let flight = self
            .begin_io(access, Use::Read, file, offset, buffer.len())
            .await?;
        let _counted = Counted {
            in_flight: &self.in_flight,
            file,
            generation: flight.generation,
        };
        self.read_pieces(&flight.pieces, buffer).await
    }

    pub(super) async fn write_as(
        &self,
        access: Access,
        file: FileId,
        offset: u64,
        buffer: IoBuffer,
    ) -> Result<IoBuffer, StorageError> {
        let length = buffer.len();
        let flight = self.begin_io(access, Use::Write, file, offset, length).await?;
        if flight.pieces.iter().any(|piece| piece.place.is_none()) {
            self.in_flight.end(file, flight.generation);
            return Err(StorageError::Hole { file, offset, length });
        }
        let group = self.itself.upgrade().expect("whoever writes holds the group");
        let write = async move {
            let result = group.write_pieces(&flight.pieces, buffer).await;
            group.in_flight.end(file, flight.generation);
            result
        };
        Driven::new(self.runtime.clone(), write).await
    }

    /// Zeroes a range of a file that has units.
    pub(super) async fn zero_as(
        &self,
        access: Access,
        file: FileId,
        offset: u64,
        length: usize,
    ) -> Result<(), StorageError> {
        let flight = self.begin_io(access, Use::Write, file, offset, length).await?;
        let mut result = Ok(());
        for piece in &flight.pieces {
            if let Some((volume, offset)) = piece.place
                && result.is_ok()
            {
                result = self.zero_piece(volume, offset, piece.length as u64).await;
            }
        }
        self.in_flight.end(file, flight.generation);
        result
    }

    /// Zeroes units that are in no file.
    pub(super) async fn zero_units(&self, run: Extent) -> Result<(), StorageError> {
        let (offset, au_bytes) = self.with_catalog(|catalog| (catalog.offset_of(&run), catalog.au_bytes()));
        self.zero_piece(run.volume, offset, u64::from(run.count) * au_bytes)
            .await
    }

    async fn zero_piece(&self, volume: u16, offset: u64, length: u64) -> Result<(), StorageError> {
        self.volume(volume).await?.write_zeroes(offset, length).await
    }

    /// Makes what was written durable, on every volume.
    pub async fn flush(&self) -> Result<(), StorageError> {
        self.volumes.flush_written().await
    }

    /// Looks the range up and counts the operation. A miss reads the journal first; a write waits while units of the
    /// range move (MOV-1).
    async fn begin_io(
        &self,
        access: Access,
        what: Use,
        file: FileId,
        offset: u64,
        length: usize,
    ) -> Result<Flight, StorageError> {
        self.follow_view().await?;
        if let Ok(Some(flight)) = self.try_begin(access, what, file, offset, length) {
            return Ok(flight);
        }
        loop {
            self.catch_up().await?;
            if let Some(flight) = self.try_begin(access, what, file, offset, length)? {
                return Ok(flight);
            }
            self.runtime.sleep(FROZEN).await;
        }
    }

    /// Counts an operation that somebody else does, until [`InFlight::end`]. Gives its generation, and the first piece: its volume and offset there,
    /// none in a hole, and its length.
    pub(super) async fn begin_alone(
        &self,
        access: Access,
        what: Use,
        file: FileId,
        offset: u64,
        length: usize,
    ) -> Result<(u64, Option<(u16, u64)>, usize), StorageError> {
        let flight = self.begin_io(access, what, file, offset, length).await?;
        let first = flight
            .pieces
            .first()
            .expect("a range that is not empty has a piece");
        Ok((flight.generation, first.place, first.length))
    }

    /// Reads the journal, after a change of views, until its leader's entry is there: what was passed and released
    /// before it did not wait for this node (DSS-9).
    async fn follow_view(&self) -> Result<(), StorageError> {
        loop {
            let views = self.views_followed.load(Ordering::Acquire);
            if self.views_caught_up.load(Ordering::Acquire) >= views {
                return Ok(());
            }
            let epoch = self.epoch_followed.load(Ordering::Acquire);
            self.catch_up().await?;
            let led = self.with_catalog(|catalog| catalog.history().last().map_or(0, |entry| entry.epoch.0));
            if led >= epoch || self.leading().is_some() {
                self.views_caught_up.fetch_max(views, Ordering::AcqRel);
            } else {
                self.runtime.sleep(NOT_LED).await;
            }
        }
    }

    /// `None` when nobody may write there now.
    fn try_begin(
        &self,
        access: Access,
        what: Use,
        file: FileId,
        offset: u64,
        length: usize,
    ) -> Result<Option<Flight>, StorageError> {
        // Counted under the same lock as the look: a removal is applied before it or waits for it.
        let known = self.known.read();
        let pieces = self.locate(&known, access, file, offset, length)?;
        if what == Use::Write && pieces.iter().any(|piece| is_frozen(&known.catalog, piece)) {
            return Ok(None);
        }
        let generation = self.in_flight.begin(file);
        Ok(Some(Flight { pieces, generation }))
    }

    fn locate(
        &self,
        known: &Known,
        access: Access,
        file: FileId,
        offset: u64,
        length: usize,
    ) -> Result<Vec<Piece>, StorageError> {
        let (size, extents) = content(&known.catalog, access, file).ok_or(StorageError::NoSuchFile(file))?;
        let limit = match access {
            Access::Named => size.next_multiple_of(BLOCK as u64),
            Access::Opened => FILE_BYTES,
        };
        let end = offset
            .checked_add(length as u64)
            .filter(|end| *end <= limit)
            .ok_or(StorageError::OutsideFile {
                file,
                offset,
                length,
                size,
            })?;
        Ok(pieces(&known.catalog, extents, offset, end))
    }

    async fn read_pieces(&self, pieces: &[Piece], mut buffer: IoBuffer) -> Result<IoBuffer, StorageError> {
        if let [piece] = pieces {
            return match piece.place {
                Some((volume, offset)) => self.volume(volume).await?.read(offset, buffer).await,
                None => {
                    buffer.fill(0);
                    Ok(buffer)
                }
            };
        }
        let reads = pieces.iter().map(|piece| async move {
            match piece.place {
                Some((volume, offset)) => {
                    let part = IoBuffer::zeroed(piece.length);
                    self.volume(volume).await?.read(offset, part).await.map(Some)
                }
                None => Ok(None),
            }
        });
        let parts = join_all(reads).await;
        let mut done = 0;
        for (piece, part) in pieces.iter().zip(parts) {
            let target = &mut buffer[done..done + piece.length];
            match part? {
                Some(part) => target.copy_from_slice(&part),
                None => target.fill(0),
            }
            done += piece.length;
        }
        Ok(buffer)
    }

    async fn write_pieces(&self, pieces: &[Piece], buffer: IoBuffer) -> Result<IoBuffer, StorageError> {
        if let [
            Piece {
                place: Some((volume, offset)),
                ..
            },
        ] = pieces
        {
            return self.volume(*volume).await?.write(*offset, buffer).await;
        }
        let (mut writes, mut done) = (Vec::with_capacity(pieces.len()), 0);
        for piece in pieces {
            let (volume, offset) = piece.place.expect("a hole is refused before");
            let mut part = IoBuffer::zeroed(piece.length);
            part.copy_from_slice(&buffer[done..done + piece.length]);
            writes.push(async move { self.volume(volume).await?.write(offset, part).await });
            done += piece.length;
        }
        // All to their end, also when one fails: a write that is dropped may still land.
        join_all(writes)
            .await
            .into_iter()
            .collect::<Result<Vec<_>, _>>()?;
        Ok(buffer)
    }
}

/// Size and extents of a file, when `access` may see it.
fn content(catalog: &Catalog, access: Access, file: FileId) -> Option<(u64, &[Extent])> {
    let inode = match access {
        Access::Named => catalog.inode(file),
        Access::Opened => catalog.open_inode(file),
    };
    match &inode?.node {
        Node::File { size, extents, .. } => Some((*size, extents)),
        _ => None,
    }
}

/// The bytes from `offset` up to `end` in pieces.
fn pieces(catalog: &Catalog, extents: &[Extent], offset: u64, end: u64) -> Vec<Piece> {
    let au_bytes = catalog.au_bytes();
    let (mut pieces, mut at) = (Vec::with_capacity(1), offset);
    let first =
        u32::try_from(offset / au_bytes).map_or(extents.len(), |unit| extents::position(extents, unit));
    let hole = |from: u64, to: u64| Piece {
        place: None,
        length: (to - from) as usize,
    };
    for extent in &extents[first..] {
        let start = u64::from(extent.unit) * au_bytes;
        let until = (u64::from(extent.end()) * au_bytes).min(end);
        if start >= end {
            break;
        }
        if at < start {
            pieces.push(hole(at, start));
            at = start;
        }
        pieces.push(Piece {
            place: Some((extent.volume, catalog.offset_of(extent) + (at - start))),
            length: (until - at) as usize,
        });
        at = until;
    }
    if at < end {
        pieces.push(hole(at, end));
    }
    pieces
}

/// Whether units of this piece move now.
fn is_frozen(catalog: &Catalog, piece: &Piece) -> bool {
    let Some((volume, offset)) = piece.place.filter(|_| catalog.moves().next().is_some()) else {
        return false;
    };
    let from = offset - catalog.volume(volume).expect("units are on a volume").au_offset;
    let unit =
        |offset: u64| u32::try_from(offset / catalog.au_bytes()).expect("a volume has at most 2^26 units");
    let (start, last) = (unit(from), unit(from + piece.length as u64 - 1));
    catalog.is_frozen(volume, start, last - start + 1)
}
