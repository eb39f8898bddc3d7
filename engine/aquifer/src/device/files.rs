//! Files of an offline group: look-up, extents, bytes.

use super::offline::OfflineGroup;
use crate::failure::Failure;
use aquifer_dss::seam::{BLOCK, BlockDevice, BoxFuture, IoBuffer};
use aquifer_dss_proto::FileId;
use aquifer_dss_proto::catalog::Node;
use aquifer_engine::wal::RedoFile;
use serde::Serialize;
use std::sync::Arc;

/// A file or directory.
#[derive(Clone, Debug, Serialize)]
pub struct FileEntry {
    /// Name in its directory.
    pub name: String,
    /// "directory", or what the file is for.
    pub kind: String,
    /// File id.
    pub id: u64,
    /// Size in bytes.
    pub size: u64,
    /// Its space: first unit of the file, volume, first unit there, number of units.
    pub extents: Vec<(u32, u16, u32, u32)>,
}

impl OfflineGroup {
    fn entry(&self, name: String, id: FileId) -> Result<FileEntry, Failure> {
        let inode = self
            .catalog
            .inode(id)
            .ok_or_else(|| Failure::failed(format!("file {} is named but not there", id.0)))?;
        let (kind, size, extents) = match &inode.node {
            Node::Directory { .. } => ("directory".into(), 0, Vec::new()),
            Node::File { kind, size, extents } => {
                (format!("{kind:?}").to_lowercase(), *size, extents.clone())
            }
            Node::Symlink { target } => ("link".into(), target.len() as u64, Vec::new()),
        };
        Ok(FileEntry {
            name,
            kind,
            id: id.0,
            size,
            extents: extents
                .iter()
                .map(|e| (e.unit, e.volume, e.start, e.count))
                .collect(),
        })
    }

    /// One file or directory.
    pub fn stat(&self, path: &str) -> Result<FileEntry, Failure> {
        let id = self
            .catalog
            .lookup(path)
            .map_err(|e| Failure::usage(format!("{path}: {e}")))?;
        self.entry(path.to_owned(), id)
    }

    /// A file by id, with its path.
    pub fn file(&self, id: u64) -> Result<FileEntry, Failure> {
        let path = self
            .catalog
            .path(FileId(id))
            .ok_or_else(|| Failure::usage(format!("there is no file {id}")))?;
        self.entry(path, FileId(id))
    }

    /// `length` bytes of a file from `offset`.
    pub async fn read(&self, entry: &FileEntry, offset: u64, length: u64) -> Result<Vec<u8>, Failure> {
        let first = offset / BLOCK as u64 * BLOCK as u64;
        let end = (offset + length).next_multiple_of(BLOCK as u64);
        let blocks = self.read_blocks(entry, first, (end - first) as usize).await?;
        let skip = (offset - first) as usize;
        Ok(blocks[skip..skip + length as usize].to_vec())
    }

    /// Whole blocks of a file.
    async fn read_blocks(&self, entry: &FileEntry, offset: u64, length: usize) -> Result<Vec<u8>, Failure> {
        let mut bytes = Vec::with_capacity(length);
        while bytes.len() < length {
            let at = offset + bytes.len() as u64;
            let (place, contiguous) = self.locate(entry, at);
            let piece = contiguous.min((length - bytes.len()) as u64) as usize;
            let Some((volume, place)) = place else {
                bytes.resize(bytes.len() + piece, 0);
                continue;
            };
            let read = self.device_of(volume)?.read(place, IoBuffer::zeroed(piece)).await;
            bytes.extend_from_slice(
                &read.map_err(|e| Failure::unavailable(format!("{}: {e}", self.path.display())))?,
            );
        }
        Ok(bytes)
    }

    /// Volume and device offset of a byte of a file, none in a hole, and how many bytes follow it there.
    fn locate(&self, entry: &FileEntry, offset: u64) -> (Option<(u16, u64)>, u64) {
        let au = self.label.au_bytes;
        for (unit, volume, start, count) in &entry.extents {
            let (from, to) = (u64::from(*unit) * au, u64::from(unit + count) * au);
            if offset < from {
                return (None, from - offset);
            }
            if offset < to {
                let unit_zero = self.catalog.volume(*volume).map_or(0, |volume| volume.au_offset);
                let place = unit_zero + u64::from(*start) * au + (offset - from);
                return (Some((*volume, place)), to - offset);
            }
        }
        (None, u64::MAX)
    }
}

/// A file of an offline group as the redo reader wants it.
pub struct OfflineFile {
    /// The group.
    pub group: Arc<OfflineGroup>,
    /// The file.
    pub entry: FileEntry,
}

impl RedoFile for OfflineFile {
    fn size(&self) -> u64 {
        self.entry.size
    }

    fn read_at(&self, offset: u64, mut buffer: IoBuffer) -> BoxFuture<'_, Result<IoBuffer, String>> {
        Box::pin(async move {
            let bytes = self
                .group
                .read_blocks(&self.entry, offset, buffer.len())
                .await
                .map_err(|e| e.message)?;
            buffer.copy_from_slice(&bytes);
            Ok(buffer)
        })
    }

    fn write_at(&self, _offset: u64, _buffer: IoBuffer) -> BoxFuture<'_, Result<IoBuffer, String>> {
        Box::pin(async { Err("opened for reading only".into()) })
    }

    fn flush(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async { Ok(()) })
    }
}
