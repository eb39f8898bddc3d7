//! Redo streams as files of the volume group: `/redo/N`.

use crate::wal::RedoFile;
use aquifer_dss::group::VolumeGroup;
use aquifer_dss::seam::{BoxFuture, IoBuffer};
use aquifer_dss_proto::{FileId, NodeId};
use std::sync::Arc;

/// Path of the redo stream of `node`.
pub fn redo_path(node: NodeId) -> String {
    format!("/redo/{node}")
}

/// A redo stream's file.
pub struct GroupFile {
    group: Arc<VolumeGroup>,
    file: FileId,
    size: u64,
}

impl GroupFile {
    /// The file `file` of `size` bytes.
    pub const fn new(group: Arc<VolumeGroup>, file: FileId, size: u64) -> Self {
        Self { group, file, size }
    }
}

impl RedoFile for GroupFile {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, buffer: IoBuffer) -> BoxFuture<'_, Result<IoBuffer, String>> {
        Box::pin(async move { self.group.read_at(self.file, offset, buffer).await.map_err(|e| e.to_string()) })
    }

    fn write_at(&self, offset: u64, buffer: IoBuffer) -> BoxFuture<'_, Result<IoBuffer, String>> {
        Box::pin(async move { self.group.write_at(self.file, offset, buffer).await.map_err(|e| e.to_string()) })
    }

    fn flush(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move { self.group.flush().await.map_err(|e| e.to_string()) })
    }
}
