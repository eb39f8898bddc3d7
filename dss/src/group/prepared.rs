//! Places on devices for I/O that a program does itself, and blocks in several buffers.
//!
//! Rules:
//! - a prepared place is counted as an operation from the look at the extent map until [`Prepared::finish`], as every other is
//!   (HZ-7): no unit of it is moved, and none that was removed is given to another file, before. One that is dropped stays counted for ever,
//!   because nobody knows whether its I/O is over;
//! - a place for writing has its range locked, so that writes that share a block, and cuts, follow it;
//! - there is none on a mirrored volume: a byte of it is at two places, and who writes them must be able to see to what failed.

use super::error::StorageError;
use super::file::File;
use super::names::refused;
use super::open_volumes::OpenVolume;
use super::places::{Access, Use};
use crate::seam::{BLOCK, IoBuffer};
use aquifer_dss_proto::catalog::OperationError;
use futures_util::future::join_all;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;

/// A descriptor of a device and a byte offset there, while the place is prepared.
pub struct DevicePlace<'a> {
    descriptor: BorrowedFd<'a>,
    /// Byte offset on the device.
    pub offset: u64,
}

impl AsRawFd for DevicePlace<'_> {
    fn as_raw_fd(&self) -> RawFd {
        self.descriptor.as_raw_fd()
    }
}

/// Where a byte of a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileAddress {
    /// Volume and byte offset on its device; `None` in a hole.
    pub place: Option<(u16, u64)>,
    /// So many bytes from there on are contiguous, or in the hole.
    pub length: u64,
}

/// A place on a device for the caller's own I/O.
pub struct Prepared {
    file: File,
    offset: u64,
    length: usize,
    device: Option<(Arc<OpenVolume>, u64)>,
    generation: u64,
    /// The range that is locked, of a place for writing.
    locked: Option<(u64, u64)>,
}

impl Prepared {
    /// The device's descriptor and the offset there; `None` in a hole, which reads as zeros.
    pub fn place(&self) -> Option<DevicePlace<'_>> {
        let (volume, offset) = self.device.as_ref()?;
        let descriptor = volume
            .device()
            .descriptor()
            .expect("looked at when it was prepared");
        Some(DevicePlace {
            descriptor,
            offset: *offset,
        })
    }

    /// Bytes that may be read or written there: a run of contiguous blocks, perhaps fewer than were asked for.
    pub const fn length(&self) -> usize {
        self.length
    }

    /// The caller's I/O is over. `written` bytes, whole blocks, have new content: the file reaches at least to their end, and all nodes are
    /// told its size; 0 after a read, or after a write that failed.
    ///
    /// # Errors
    /// `Invalid` when that cannot be; what the leader answers. The place is ended in any case.
    pub async fn finish(self, written: u64) -> Result<(), StorageError> {
        let sound = written <= self.length as u64 && written.is_multiple_of(BLOCK as u64);
        let wrote = sound && written > 0 && self.locked.is_some();
        if wrote {
            self.file.advance(self.offset + written);
        }
        // Also after a write that failed: some of it may be there.
        if let (Some((volume, _)), Some(_)) = (&self.device, self.locked) {
            volume.written_by_program();
        }
        let file = &self.file;
        file.group().in_flight.end(file.id(), self.generation);
        if let Some(range) = self.locked {
            file.shared().ranges.unlock(range);
        }
        if !sound || (written > 0 && self.locked.is_none()) {
            return Err(refused("", OperationError::Invalid));
        }
        if wrote { file.report_size().await } else { Ok(()) }
    }
}

/// Refuses what is not whole blocks.
fn aligned(offset: u64, length: usize) -> Result<(), StorageError> {
    if length == 0 || !offset.is_multiple_of(BLOCK as u64) || !length.is_multiple_of(BLOCK) {
        return Err(refused("", OperationError::Invalid));
    }
    Ok(())
}

impl File {
    /// Prepares a read of up to `length` bytes from byte `offset`, whole blocks, for the caller's own I/O.
    ///
    /// # Errors
    /// `Invalid` when it is not aligned or the device has no descriptor, `NoSuchFile`.
    pub async fn prepare_read(&self, offset: u64, length: usize) -> Result<Prepared, StorageError> {
        aligned(offset, length)?;
        self.prepared(Use::Read, offset, length).await
    }

    /// Prepares a write of up to `length` bytes at byte `offset`, whole blocks, for the caller's own I/O. The range gets units, and stays locked
    /// for other writes of this node until [`Prepared::finish`].
    ///
    /// # Errors
    /// As [`write_at`](Self::write_at), and as [`prepare_read`](Self::prepare_read).
    pub async fn prepare_write(&self, offset: u64, length: usize) -> Result<Prepared, StorageError> {
        aligned(offset, length)?;
        let end = self.end_of(offset, length)?;
        self.prepare_growth(end).await?;
        let range = self.shared().ranges.lock(offset, end).await;
        self.fill(offset, end).await?;
        let mut prepared = self.prepared(Use::Write, offset, length).await?;
        prepared.locked = Some(range.keep());
        Ok(prepared)
    }

    async fn prepared(&self, what: Use, offset: u64, length: usize) -> Result<Prepared, StorageError> {
        let (group, id) = (self.group(), self.id());
        let (generation, place, run) = group
            .begin_alone(Access::Opened, what, id, offset, length)
            .await?;
        let device = match place {
            Some((volume, at)) => group.leg((volume, 0)).await.map(|volume| Some((volume, at))),
            None if what == Use::Write => Err(StorageError::Hole {
                file: id,
                offset,
                length,
            }),
            None => Ok(None),
        };
        let usable = device.and_then(|device| match &device {
            Some((volume, _)) if volume.device().descriptor().is_none() => {
                Err(refused("", OperationError::Invalid))
            }
            _ => Ok(device),
        });
        match usable {
            Ok(device) => Ok(Prepared {
                file: self.clone(),
                offset,
                length: run,
                device,
                generation,
                locked: None,
            }),
            Err(error) => {
                group.in_flight.end(id, generation);
                Err(error)
            }
        }
    }

    /// Where the byte at `offset` is now. It may be moved at any time.
    pub fn address(&self, offset: u64) -> Result<FileAddress, StorageError> {
        let (extents, group) = (self.stat()?.extents, self.group());
        let au_bytes = group.label().au_bytes;
        let unit = u32::try_from(offset / au_bytes).map_err(|_| refused("", OperationError::TooLarge))?;
        let next = extents.iter().find(|extent| extent.end() > unit);
        Ok(match next {
            Some(extent) if extent.unit <= unit => {
                let skip = offset - u64::from(extent.unit) * au_bytes;
                let start = group.with_catalog(|catalog| catalog.offset_of(extent));
                FileAddress {
                    place: Some((extent.volume, start + skip)),
                    length: u64::from(extent.end()) * au_bytes - offset,
                }
            }
            next => FileAddress {
                place: None,
                length: next.map_or(u64::MAX, |extent| u64::from(extent.unit) * au_bytes) - offset,
            },
        })
    }

    /// Fills whole blocks of several buffers, one after another from a block's offset, without a copy; gives the buffers back, and how many
    /// bytes of them are inside the file. Past its end, and in holes, they are zeros. Each buffer is an operation of the device, all are submitted
    /// together, and one that goes over the end of an extent is two.
    ///
    /// # Errors
    /// `Invalid` when offset or a length is not whole blocks; `NoSuchFile`; device errors.
    pub async fn read_blocks_vectored(
        &self,
        offset: u64,
        buffers: Vec<IoBuffer>,
    ) -> Result<(Vec<IoBuffer>, usize), StorageError> {
        let (placed, end) = placed(offset, buffers)?;
        let inside = self.size()?.clamp(offset, end) - offset;
        let reads = placed
            .into_iter()
            .map(|(at, buffer)| self.group().read_as(Access::Opened, self.id(), at, buffer));
        let read: Result<Vec<_>, _> = join_all(reads).await.into_iter().collect();
        Ok((read?, inside as usize))
    }

    /// Writes whole blocks of several buffers, one after another at a block's offset, without a copy; gives the buffers back. Submitted as those of
    /// [`read_blocks_vectored`](Self::read_blocks_vectored).
    ///
    /// # Errors
    /// As [`write_at`](Self::write_at), and `Invalid` when offset or a length is not whole blocks. After an error any part of the range may
    /// have its new content.
    pub async fn write_blocks_vectored(
        &self,
        offset: u64,
        buffers: Vec<IoBuffer>,
    ) -> Result<Vec<IoBuffer>, StorageError> {
        let (placed, end) = placed(offset, buffers)?;
        if end == offset {
            return Ok(Vec::new());
        }
        self.end_of(offset, (end - offset) as usize)?;
        self.prepare_growth(end).await?;
        let _range = self.shared().ranges.lock(offset, end).await;
        self.fill(offset, end).await?;
        let writes = placed
            .into_iter()
            .map(|(at, buffer)| self.group().write_as(Access::Opened, self.id(), at, buffer));
        // All to their end, also when one fails: the range stays locked until then.
        let written: Result<Vec<_>, _> = join_all(writes).await.into_iter().collect();
        let written = written?;
        self.advance(end);
        Ok(written)
    }
}

/// The buffers with their offsets, and where the last one ends.
fn placed(offset: u64, buffers: Vec<IoBuffer>) -> Result<(Vec<(u64, IoBuffer)>, u64), StorageError> {
    let (mut at, mut placed) = (offset, Vec::with_capacity(buffers.len()));
    for buffer in buffers {
        aligned(at, buffer.len())?;
        let next = at.checked_add(buffer.len() as u64);
        placed.push((at, buffer));
        at = next.ok_or_else(|| refused("", OperationError::TooLarge))?;
    }
    Ok((placed, at))
}
