//! Checking what the engine keeps in a volume group: pages, redo streams, double-write areas. The passes over what storage keeps
//! and the rules are in `aquifer_dss::check`.

mod pages;
mod redo;

use crate::wal::RedoFile;
use aquifer_dss::check::{Pass, storage_passes};
use aquifer_dss::group::GroupImage;
use aquifer_dss::seam::{BoxFuture, IoBuffer};
use aquifer_dss_proto::catalog::{FileKind, Node};
use aquifer_dss_proto::{FileId, NodeId};
use std::sync::Arc;

/// What can be judged while nodes run and recover: everything but pages, because one that was torn stays so until the node
/// that restored it in memory writes it back.
pub fn passes_beside_nodes() -> Vec<Box<dyn Pass>> {
    let mut passes = storage_passes();
    passes.push(Box::new(redo::Redo));
    passes
}

/// All passes: those of storage, redo streams, pages.
pub fn all_passes() -> Vec<Box<dyn Pass>> {
    let mut passes = passes_beside_nodes();
    passes.push(Box::new(pages::Pages));
    passes
}

/// A file of an image.
#[derive(Clone)]
struct FileOf {
    id: FileId,
    size: u64,
    path: String,
}

impl FileOf {
    /// The node that has this file under its number in a directory of the engine.
    fn node(&self) -> Option<NodeId> {
        let name = self.path.rsplit('/').next()?;
        name.parse().ok().and_then(NodeId::new)
    }
}

/// The files of a kind that have a name.
fn files_of(image: &GroupImage, kinds: &[FileKind]) -> Vec<FileOf> {
    let mut found = Vec::new();
    for (id, inode) in image.catalog.inodes() {
        let Node::File { kind, size, .. } = &inode.node else {
            continue;
        };
        if !inode.is_removed(id) && kinds.contains(kind) {
            found.push(FileOf {
                id,
                size: *size,
                path: image.catalog.path(id).unwrap_or_default(),
            });
        }
    }
    found
}

/// A file of an image as the reader of redo wants it. It cannot be written.
pub struct ImageFile {
    image: Arc<GroupImage>,
    file: FileId,
    size: u64,
}

impl ImageFile {
    /// `file` of `size` bytes.
    pub const fn new(image: Arc<GroupImage>, file: FileId, size: u64) -> Self {
        Self { image, file, size }
    }
}

impl RedoFile for ImageFile {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, mut buffer: IoBuffer) -> BoxFuture<'_, Result<IoBuffer, String>> {
        Box::pin(async move {
            let bytes = self.image.read_file(self.file, offset, buffer.len()).await?;
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
