//! Files of an offline group: look-up, extents, bytes.

use super::offline::OfflineGroup;
use crate::failure::Failure;
use aquifer_dss::seam::BLOCK;
use aquifer_dss_proto::FileId;
use aquifer_dss_proto::catalog::Node;
use serde::Serialize;

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
        let blocks = self
            .read_file(FileId(entry.id), first, (end - first) as usize)
            .await;
        let blocks = blocks.map_err(|e| Failure::unavailable(format!("{}: {e}", self.path.display())))?;
        let skip = (offset - first) as usize;
        Ok(blocks[skip..skip + length as usize].to_vec())
    }
}
