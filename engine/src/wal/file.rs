//! What a redo stream needs of its file; tests put memory behind it.

use aquifer_dss::group::{Sides, VolumeGroup};
use aquifer_dss::seam::{BoxFuture, IoBuffer};
use aquifer_dss_proto::FileId;
use std::ops::Range;
use std::sync::Arc;

/// Positioned I/O on the file of one redo stream. Offsets and lengths are multiples of 4 KiB.
pub trait RedoFile: Send + Sync + 'static {
    /// Bytes of the file.
    fn size(&self) -> u64;
    /// Fills `buffer` from `offset`.
    fn read_at(&self, offset: u64, buffer: IoBuffer) -> BoxFuture<'_, Result<IoBuffer, String>>;
    /// Writes `buffer` at `offset`.
    fn write_at(&self, offset: u64, buffer: IoBuffer) -> BoxFuture<'_, Result<IoBuffer, String>>;
    /// What each side of a mirrored volume has there; `None` when there are no two.
    fn read_sides(&self, _offset: u64, _length: usize) -> BoxFuture<'_, Result<Option<Sides>, String>> {
        Box::pin(async { Ok(None) })
    }
    /// Has a range of what was read written again, in whole blocks, on the side that is not `right`.
    fn mend(&self, _sides: &Sides, _right: u8, _range: Range<usize>) {}
    /// Makes every write that completed before this call durable.
    fn flush(&self) -> BoxFuture<'_, Result<(), String>>;
}

/// A stream's file in the volume group.
pub struct GroupFile {
    group: Arc<VolumeGroup>,
    file: FileId,
    size: u64,
}

impl GroupFile {
    /// `file` of `size` bytes, as its `FileStat` says.
    pub const fn new(group: Arc<VolumeGroup>, file: FileId, size: u64) -> Self {
        Self { group, file, size }
    }
}

impl RedoFile for GroupFile {
    fn size(&self) -> u64 {
        self.size
    }
    fn read_at(&self, offset: u64, buffer: IoBuffer) -> BoxFuture<'_, Result<IoBuffer, String>> {
        Box::pin(async move {
            self.group
                .read_at(self.file, offset, buffer)
                .await
                .map_err(|e| e.to_string())
        })
    }
    fn write_at(&self, offset: u64, buffer: IoBuffer) -> BoxFuture<'_, Result<IoBuffer, String>> {
        Box::pin(async move {
            self.group
                .write_at(self.file, offset, buffer)
                .await
                .map_err(|e| e.to_string())
        })
    }
    fn read_sides(&self, offset: u64, length: usize) -> BoxFuture<'_, Result<Option<Sides>, String>> {
        Box::pin(async move {
            let sides = self.group.read_sides(self.file, offset, length).await;
            sides.map_err(|e| e.to_string())
        })
    }
    fn mend(&self, sides: &Sides, right: u8, range: Range<usize>) {
        self.group.mend(sides, right, range);
    }
    fn flush(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move { self.group.flush().await.map_err(|e| e.to_string()) })
    }
}
