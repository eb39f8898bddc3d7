//! Data of files: straight to the devices, by the extent map.
//!
//! Rules:
//! - an operation is counted from the look at the extent map until the device is done with it, so that a node
//!   can say when it let go of removed units (HZ-7). A write that is dropped goes on without its caller, zeroing ends with the
//!   request that is at the device, a read has no effect any more;
//! - a hole reads as zeros, and is not written: units go into it first;
//! - the parts of an operation that are on several extents are done at once.

use super::drive::Driven;
use super::error::StorageError;
use super::in_flight::{Counted, NOBODY};
use super::intents::INTENTS_OF_ONE;
use super::legs::LegFailure;
use super::places::{Access, Locate, Piece, Use, intents_of, is_frozen, locate, piece, resolve};
use super::volume_group::VolumeGroup;
use crate::in_place::at_once;
use crate::seam::IoBuffer;
use aquifer_dss_proto::FileId;
use aquifer_dss_proto::catalog::{Catalog, Extent, Operation, OperationError, VolumeUnit};
use aquifer_dss_proto::defect::{Defect, planted};
use futures_util::future::join_all;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How long until the entry of a view's leader is looked for again.
const NOT_LED: Duration = Duration::from_millis(1);
/// How long until a write looks again whether units have moved.
const FROZEN: Duration = Duration::from_millis(1);
/// Bytes that are zeroed in one operation, when units are smaller: what is decided about legs waits for it.
const ZERO_AT_ONCE: u64 = 16 << 20;
/// ... and in one request to a device: zeroing that nobody waits for ends after it.
const ZERO_PART: usize = 4 << 20;

/// An operation that is counted.
pub(super) struct Flight {
    pieces: Vec<Piece>,
    generation: u64,
    /// Intents that it uses.
    units: Vec<VolumeUnit>,
}

impl Flight {
    pub(super) fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    pub(super) const fn generation(&self) -> u64 {
        self.generation
    }
}

/// What an operation finds that wants to begin.
pub(super) enum Begin {
    Ready(Flight),
    /// Nobody may do that there now.
    Wait,
    /// The legs are compared first.
    Torn(Vec<VolumeUnit>),
    /// To be marked as dirty first.
    Unmarked(u16, Vec<(u32, u32)>),
    /// To be made intents first.
    Unintended(Vec<VolumeUnit>),
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
        let length = buffer.len();
        let locate = |catalog: &Catalog| locate(catalog, access, file, offset, length);
        self.read_located(file, &locate, buffer).await
    }

    pub(super) async fn write_as(
        &self,
        access: Access,
        file: FileId,
        offset: u64,
        buffer: IoBuffer,
    ) -> Result<IoBuffer, StorageError> {
        let (length, most) = (buffer.len(), INTENTS_OF_ONE * self.label.au_bytes);
        if length as u64 > most && self.with_catalog(Catalog::is_mirrored) {
            return self
                .write_in_parts(access, file, offset, buffer, most as usize)
                .await;
        }
        let locate = |catalog: &Catalog| locate(catalog, access, file, offset, length);
        let flight = self.begin_io(Use::Write, file, &locate).await?;
        if flight.pieces.iter().any(|piece| piece.place.is_none()) {
            self.end_io(file, flight, Vec::new()).await?;
            return Err(StorageError::Hole { file, offset, length });
        }
        self.write_flight(file, flight, buffer).await
    }

    /// Reads what `locate` finds, counted until the devices are done with it or nobody waits for it any more.
    async fn read_located(
        &self,
        file: FileId,
        locate: &Locate<'_>,
        buffer: IoBuffer,
    ) -> Result<IoBuffer, StorageError> {
        let flight = self.begin_io(Use::Read, file, locate).await?;
        let _counted = Counted {
            in_flight: &self.in_flight,
            file,
            generation: flight.generation,
        };
        self.read_pieces(&flight.pieces, buffer).await
    }

    /// Writes more than a life may have as intents at a time.
    async fn write_in_parts(
        &self,
        access: Access,
        file: FileId,
        offset: u64,
        buffer: IoBuffer,
        most: usize,
    ) -> Result<IoBuffer, StorageError> {
        let mut done = 0;
        while done < buffer.len() {
            let length = most.min(buffer.len() - done);
            let mut part = IoBuffer::zeroed(length);
            part.copy_from_slice(&buffer[done..done + length]);
            Box::pin(self.write_as(access, file, offset + done as u64, part)).await?;
            done += length;
        }
        Ok(buffer)
    }

    /// Writes what has begun, also when nobody waits for it any more.
    async fn write_flight(
        &self,
        file: FileId,
        flight: Flight,
        buffer: IoBuffer,
    ) -> Result<IoBuffer, StorageError> {
        let group = self.itself.upgrade().expect("whoever writes holds the group");
        let write = async move {
            let (result, failures) = group.write_pieces(&flight.pieces, buffer).await;
            let ended = group.end_io(file, flight, failures).await;
            result.and_then(|buffer| ended.map(|()| buffer))
        };
        Driven::new(self.runtime.clone(), write).await
    }

    /// Counts an operation out, and has the legs detached that failed under it.
    async fn end_io(
        &self,
        file: FileId,
        flight: Flight,
        failures: Vec<LegFailure>,
    ) -> Result<(), StorageError> {
        // First: members are waited for, this one too, before a leg is detached.
        self.in_flight.end(file, flight.generation);
        let detached = self.detach_failed(failures).await;
        // Last: until the catalogue knows it, the intent says that the legs may differ.
        if !flight.units.is_empty() {
            self.intents.leave(&flight.units);
        }
        detached
    }

    /// Zeroes a range of a file that has units.
    pub(super) async fn zero_as(
        &self,
        access: Access,
        file: FileId,
        offset: u64,
        length: usize,
    ) -> Result<(), StorageError> {
        let locate = |catalog: &Catalog| locate(catalog, access, file, offset, length);
        let flight = self.begin_io(Use::Write, file, &locate).await?;
        self.zero_flight(file, flight).await
    }

    /// Zeroes units that are in no file.
    pub(super) async fn zero_units(&self, run: Extent) -> Result<(), StorageError> {
        let (offset, au_bytes) = self.with_catalog(|catalog| (catalog.offset_of(&run), catalog.au_bytes()));
        let (mut at, end) = (offset, offset + u64::from(run.count) * au_bytes);
        while at < end {
            let length = (end - at).min(ZERO_AT_ONCE.max(au_bytes));
            let locate = |catalog: &Catalog| Ok(vec![piece(catalog, run.volume, at, length as usize)]);
            let flight = self.begin_io(Use::Fresh, NOBODY, &locate).await?;
            self.zero_flight(NOBODY, flight).await?;
            at += length;
        }
        Ok(())
    }

    /// Zeroes what has begun. When nobody waits for it any more it ends as soon as the device is done with what it has: it must
    /// not go on beside what is written next.
    async fn zero_flight(&self, file: FileId, flight: Flight) -> Result<(), StorageError> {
        let group = self.itself.upgrade().expect("whoever writes holds the group");
        let given_up = GivenUp::default();
        let stop = given_up.0.clone();
        let zero = async move {
            let (mut result, mut failures) = (Ok(()), Vec::new());
            let places = flight.pieces.iter().filter_map(|piece| piece.place);
            for part in places.flat_map(|place| place.parts(ZERO_PART)) {
                if result.is_ok() && !stop.load(Ordering::Acquire) {
                    let (zeroed, failed) = group.zero_legs(&part).await;
                    result = zeroed;
                    failures.extend(failed);
                }
            }
            let ended = group.end_io(file, flight, failures).await;
            result.and(ended)
        };
        let zeroed = Driven::new(self.runtime.clone(), zero).await;
        drop(given_up);
        zeroed
    }

    /// Discards what `locate` finds, counted like a write, when `may` says so once it is counted; how many bytes.
    pub(super) async fn discard_located(
        &self,
        file: FileId,
        locate: &Locate<'_>,
        may: &(dyn Fn() -> bool + Sync),
    ) -> Result<u64, StorageError> {
        let flight = self.begin_io(Use::Write, file, locate).await?;
        let (mut bytes, mut failures) = (0, Vec::new());
        let mut places = flight.pieces.iter().filter_map(|piece| piece.place);
        while let Some(place) = places.next().filter(|_| may()) {
            let (discarded, failed) = self.discard_legs(&place).await;
            bytes += discarded;
            failures.extend(failed);
        }
        self.end_io(file, flight, failures).await?;
        Ok(bytes)
    }

    /// Reads bytes of a volume, whoever's they are.
    pub(super) async fn read_place(
        &self,
        volume: u16,
        offset: u64,
        buffer: IoBuffer,
    ) -> Result<IoBuffer, StorageError> {
        let length = buffer.len();
        let locate = |catalog: &Catalog| Ok(vec![piece(catalog, volume, offset, length)]);
        self.read_located(NOBODY, &locate, buffer).await
    }

    /// Writes bytes of units that are nobody's.
    pub(super) async fn write_fresh(
        &self,
        volume: u16,
        offset: u64,
        buffer: IoBuffer,
    ) -> Result<IoBuffer, StorageError> {
        let length = buffer.len();
        let locate = |catalog: &Catalog| Ok(vec![piece(catalog, volume, offset, length)]);
        let flight = self.begin_io(Use::Fresh, NOBODY, &locate).await?;
        self.write_flight(NOBODY, flight, buffer).await
    }

    /// Makes what was written durable, on every leg of every volume.
    pub async fn flush(&self) -> Result<(), StorageError> {
        let clock = self.intents.clock();
        self.flush_legs(None).await?;
        self.intents.flushed(clock);
        Ok(())
    }

    /// Makes what was written to one volume durable.
    pub(super) async fn flush_volume(&self, volume: u16) -> Result<(), StorageError> {
        self.flush_legs(Some(volume)).await
    }

    /// Looks the range up and counts the operation. A miss reads the journal first; it waits while nobody may do that
    /// there, and sees to intents and dirty units.
    pub(super) async fn begin_io(
        &self,
        what: Use,
        file: FileId,
        locate: &Locate<'_>,
    ) -> Result<Flight, StorageError> {
        let (mut is_fresh, mut held) = (false, None);
        loop {
            self.follow_view().await?;
            match self.try_begin(what, file, locate) {
                Ok(Begin::Ready(flight)) => return Ok(flight),
                Ok(Begin::Unintended(units)) => {
                    // What is held for this one must not be in its own way.
                    drop(held.take());
                    held = self.intend(&units).await?;
                    if held.is_some() {
                        continue;
                    }
                }
                Ok(Begin::Unmarked(volume, units)) => {
                    self.mark_dirty(volume, units).await?;
                    continue;
                }
                Ok(Begin::Torn(units)) => self.want_healed(units),
                Err(error) if is_fresh => return Err(error),
                Ok(Begin::Wait) | Err(_) => {}
            }
            if is_fresh {
                self.runtime.sleep(FROZEN).await;
            }
            self.catch_up().await?;
            is_fresh = true;
        }
    }

    /// Units that one leg alone gets from now on.
    async fn mark_dirty(&self, volume: u16, units: Vec<(u32, u32)>) -> Result<(), StorageError> {
        let mark = Operation::MarkDirty { volume, units };
        match self.submit(&format!("volume {volume}"), mark).await {
            // The other leg comes back.
            Err(error) if error.is(OperationError::VolumeRaced) => Ok(()),
            done => done.map(drop),
        }
    }

    /// Counts an operation that somebody else does, until [`InFlight::end`]. Gives its generation, and the first piece: its volume and offset there,
    /// none in a hole, and its length. `Invalid` on a mirrored group, where a byte is at two places.
    pub(super) async fn begin_alone(
        &self,
        access: Access,
        what: Use,
        file: FileId,
        offset: u64,
        length: usize,
    ) -> Result<(u64, Option<(u16, u64)>, usize), StorageError> {
        if self.with_catalog(Catalog::is_mirrored) {
            return Err(super::names::refused("", OperationError::Invalid));
        }
        let locate = |catalog: &Catalog| locate(catalog, access, file, offset, length);
        let flight = self.begin_io(what, file, &locate).await?;
        let first = flight
            .pieces
            .first()
            .expect("a range that is not empty has a piece");
        let place = first.place.map(|place| (place.volume, place.offset));
        Ok((flight.generation, place, first.length))
    }

    /// Reads the journal, after a change of views, until its leader's entry is there: what was passed and released
    /// before it did not wait for this node (DSS-9).
    async fn follow_view(&self) -> Result<(), StorageError> {
        loop {
            if planted(Defect::TrustMapBeforeLead) {
                return Ok(());
            }
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

    fn try_begin(&self, what: Use, file: FileId, locate: &Locate<'_>) -> Result<Begin, StorageError> {
        // Counted under the same lock as the look: a removal is applied before it or waits for it.
        let known = self.known.read();
        let catalog = &known.catalog;
        let mut pieces = locate(catalog)?;
        if what == Use::Write && pieces.iter().any(|piece| is_frozen(catalog, piece)) {
            return Ok(Begin::Wait);
        }
        let mut units = Vec::new();
        if catalog.is_mirrored() {
            match resolve(catalog, what, &pieces) {
                Ok(resolved) => pieces = resolved,
                Err(first) => return Ok(first),
            }
            if what == Use::Write {
                units = intents_of(catalog, &pieces);
                if !units.is_empty() && !self.intents.enter(catalog, self.writer(), &units) {
                    return Ok(Begin::Unintended(units));
                }
            }
        }
        let generation = self.in_flight.begin(file);
        Ok(Begin::Ready(Flight {
            pieces,
            generation,
            units,
        }))
    }

    async fn read_pieces(&self, pieces: &[Piece], mut buffer: IoBuffer) -> Result<IoBuffer, StorageError> {
        if let [piece] = pieces {
            return match piece.place {
                Some(place) => self.read_legs(&place, buffer).await,
                None => {
                    buffer.fill(0);
                    Ok(buffer)
                }
            };
        }
        let reads = pieces.iter().map(|piece| async move {
            match piece.place {
                Some(place) => {
                    let part = IoBuffer::zeroed(piece.length);
                    self.read_legs(&place, part).await.map(Some)
                }
                None => Ok(None),
            }
        });
        let parts = at_once(join_all(reads)).await;
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

    async fn write_pieces(
        &self,
        pieces: &[Piece],
        buffer: IoBuffer,
    ) -> (Result<IoBuffer, StorageError>, Vec<LegFailure>) {
        if let [
            Piece {
                place: Some(place), ..
            },
        ] = pieces
        {
            let (written, failed) = self.write_legs(place, buffer).await;
            return (written, failed.into_iter().collect());
        }
        let (mut writes, mut done) = (Vec::with_capacity(pieces.len()), 0);
        for piece in pieces {
            let place = piece.place.expect("a hole is refused before");
            let mut part = IoBuffer::zeroed(piece.length);
            part.copy_from_slice(&buffer[done..done + piece.length]);
            writes.push(async move { self.write_legs(&place, part).await });
            done += piece.length;
        }
        // All to their end, also when one fails: a write that is dropped may still land.
        let (written, failed): (Vec<_>, Vec<_>) = at_once(join_all(writes)).await.into_iter().unzip();
        let written = written.into_iter().collect::<Result<Vec<_>, _>>();
        (written.map(|_| buffer), failed.into_iter().flatten().collect())
    }
}

/// Set when nobody waits for some work any more.
#[derive(Default)]
struct GivenUp(Arc<AtomicBool>);

impl Drop for GivenUp {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}
