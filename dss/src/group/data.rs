//! Data of files: straight to the devices, by the extent map.
//!
//! Rule: an operation is counted from the look at the extent map until the device is done with it, so that a node
//! can say when it let go of a removed file (HZ-7). One that is dropped before stays counted for ever: the units of
//! that file are then not reused in this life of the node, which is safe.

use super::error::StorageError;
use super::volume_group::{Known, VolumeGroup};
use crate::seam::{BLOCK, IoBuffer};
use aquifer_dss_proto::FileId;
use aquifer_dss_proto::catalog::Node;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use tokio::sync::Notify;

/// Operations on files that the devices are not done with.
#[derive(Default)]
pub(super) struct InFlight {
    files: Mutex<BTreeMap<FileId, u64>>,
    fewer: Notify,
}

impl InFlight {
    fn begin(&self, file: FileId) {
        *self.files.lock().entry(file).or_default() += 1;
    }

    fn end(&self, file: FileId) {
        let mut files = self.files.lock();
        let count = files.get_mut(&file).expect("an operation that ends has begun");
        *count -= 1;
        if *count == 0 {
            files.remove(&file);
            self.fewer.notify_waiters();
        }
    }

    /// Waits until none of `files` has an operation.
    pub(super) async fn wait_for(&self, files: &[FileId]) {
        loop {
            let changed = self.fewer.notified();
            let busy = {
                let counts = self.files.lock();
                files.iter().any(|file| counts.contains_key(file))
            };
            if !busy {
                return;
            }
            changed.await;
        }
    }
}

/// A part of an operation that is on one extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    volume: u16,
    offset: u64,
    length: usize,
}

impl VolumeGroup {
    /// Fills `buffer` from byte `offset` of a file; both are multiples of the device's block.
    pub async fn read_at(
        &self,
        file: FileId,
        offset: u64,
        buffer: IoBuffer,
    ) -> Result<IoBuffer, StorageError> {
        let pieces = self.begin_io(file, offset, buffer.len()).await?;
        let result = self.read_pieces(&pieces, buffer).await;
        self.in_flight.end(file);
        result
    }

    /// Writes `buffer` at byte `offset` of a file; both are multiples of the device's block. Durable after
    /// [`flush`](Self::flush).
    pub async fn write_at(
        &self,
        file: FileId,
        offset: u64,
        buffer: IoBuffer,
    ) -> Result<IoBuffer, StorageError> {
        let pieces = self.begin_io(file, offset, buffer.len()).await?;
        let result = self.write_pieces(&pieces, buffer).await;
        self.in_flight.end(file);
        result
    }

    /// Makes what was written durable, on every volume.
    pub async fn flush(&self) -> Result<(), StorageError> {
        for device in &self.devices {
            device.flush().await?;
        }
        Ok(())
    }

    /// Looks the range up and counts the operation. A miss reads the journal first.
    async fn begin_io(&self, file: FileId, offset: u64, length: usize) -> Result<Vec<Piece>, StorageError> {
        let views = self.views_followed.load(Ordering::Acquire);
        if self.views_caught_up.load(Ordering::Acquire) < views {
            self.catch_up().await?;
            self.views_caught_up.fetch_max(views, Ordering::AcqRel);
        }
        if let Ok(pieces) = self.try_begin(file, offset, length) {
            return Ok(pieces);
        }
        self.catch_up().await?;
        self.try_begin(file, offset, length)
    }

    fn try_begin(&self, file: FileId, offset: u64, length: usize) -> Result<Vec<Piece>, StorageError> {
        // Counted under the same lock as the look: a removal is applied before it or waits for it.
        let known = self.known.read();
        let pieces = self.locate(&known, file, offset, length)?;
        self.in_flight.begin(file);
        Ok(pieces)
    }

    fn locate(
        &self,
        known: &Known,
        file: FileId,
        offset: u64,
        length: usize,
    ) -> Result<Vec<Piece>, StorageError> {
        let inode = known.catalog.inode(file).ok_or(StorageError::NoSuchFile(file))?;
        let Node::File { size, extents, .. } = &inode.node else {
            return Err(StorageError::NoSuchFile(file));
        };
        let outside = StorageError::OutsideFile {
            file,
            offset,
            length,
            size: *size,
        };
        let end = offset
            .checked_add(length as u64)
            .filter(|end| *end <= size.next_multiple_of(BLOCK as u64));
        let Some(end) = end else { return Err(outside) };
        let au_bytes = known.catalog.au_bytes();
        let (mut pieces, mut start, mut at) = (Vec::with_capacity(1), 0, offset);
        for extent in extents {
            let extent_end = start + u64::from(extent.count) * au_bytes;
            if at < extent_end && at < end {
                let until = end.min(extent_end);
                let unit_zero = self.au_offsets[usize::from(extent.volume)];
                let base = unit_zero + u64::from(extent.start) * au_bytes;
                let offset = base + (at - start);
                pieces.push(Piece {
                    volume: extent.volume,
                    offset,
                    length: (until - at) as usize,
                });
                at = until;
            }
            start = extent_end;
        }
        if at == end { Ok(pieces) } else { Err(outside) }
    }

    async fn read_pieces(&self, pieces: &[Piece], mut buffer: IoBuffer) -> Result<IoBuffer, StorageError> {
        if let [piece] = pieces {
            return Ok(self.device(piece.volume).read(piece.offset, buffer).await?);
        }
        let mut done = 0;
        for piece in pieces {
            let part = IoBuffer::zeroed(piece.length);
            let part = self.device(piece.volume).read(piece.offset, part).await?;
            buffer[done..done + piece.length].copy_from_slice(&part);
            done += piece.length;
        }
        Ok(buffer)
    }

    async fn write_pieces(&self, pieces: &[Piece], buffer: IoBuffer) -> Result<IoBuffer, StorageError> {
        if let [piece] = pieces {
            return Ok(self.device(piece.volume).write(piece.offset, buffer).await?);
        }
        let mut done = 0;
        for piece in pieces {
            let mut part = IoBuffer::zeroed(piece.length);
            part.copy_from_slice(&buffer[done..done + piece.length]);
            self.device(piece.volume).write(piece.offset, part).await?;
            done += piece.length;
        }
        Ok(buffer)
    }
}
