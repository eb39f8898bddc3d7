//! What a redo stream needs of its file; tests put memory behind it.

use aquifer_dss::group::VolumeGroup;
use aquifer_dss::seam::{BoxFuture, IoBuffer};
use aquifer_dss_proto::FileId;
use std::sync::Arc;

/// Positioned I/O on the file of one redo stream. Offsets and lengths are multiples of 4 KiB.
pub trait RedoFile: Send + Sync + 'static {
    /// Bytes of the file.
    fn size(&self) -> u64;
    /// Fills `buffer` from `offset`.
    fn read_at(&self, offset: u64, buffer: IoBuffer) -> BoxFuture<'_, Result<IoBuffer, String>>;
    /// Writes `buffer` at `offset`.
    fn write_at(&self, offset: u64, buffer: IoBuffer) -> BoxFuture<'_, Result<IoBuffer, String>>;
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
    fn flush(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move { self.group.flush().await.map_err(|e| e.to_string()) })
    }
}
