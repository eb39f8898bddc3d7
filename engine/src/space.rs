//! Sizes of trees' files: what a synchronous step may use, and how files are made, grown and removed.

use crate::Error;
use crate::tree::FileSpace;
use aquifer_dss::group::{CreateOptions, StorageError, VolumeGroup};
use aquifer_dss_proto::catalog::{FileKind, OperationError};
use aquifer_engine_proto::TreeId;
use parking_lot::RwLock;
use std::collections::BTreeMap;

/// Bytes a tree's file has at first: one allocation unit of the default size.
const FIRST_BYTES: u64 = 4 << 20;

/// Most bytes by which a file grows at a time.
const GROWTH_BYTES: u64 = 128 << 20;

/// Known sizes of files, in pages. A file only grows while it exists, so a size known once stays usable.
#[derive(Default)]
pub struct FileSizes {
    pages: RwLock<BTreeMap<TreeId, u32>>,
}

impl FileSpace for FileSizes {
    fn pages(&self, tree: TreeId) -> u32 {
        self.pages.read().get(&tree).copied().unwrap_or(0)
    }
}

impl FileSizes {
    /// Makes (or finds) the file of a tree.
    pub async fn create(&self, group: &VolumeGroup, path: &str, kind: FileKind) -> Result<TreeId, Error> {
        let options = CreateOptions {
            size: FIRST_BYTES,
            kind,
            exclusive: false,
        };
        let tree = TreeId(group.create(path, options).await.map_err(storage)?);
        self.learn(group, tree).await?;
        Ok(tree)
    }

    /// After `Blocked::Space`: takes note of what others allocated, or else allocates more.
    pub async fn grow(&self, group: &VolumeGroup, tree: TreeId) -> Result<(), Error> {
        let known = self.pages(tree);
        let now = self.learn(group, tree).await?;
        if now > known {
            return Ok(());
        }
        let size = group.page_size().offset(now);
        group
            .allocate(tree.0, size + size.clamp(FIRST_BYTES, GROWTH_BYTES))
            .await
            .map_err(storage)?;
        self.learn(group, tree).await?;
        Ok(())
    }

    /// Removes the file of a tree.
    pub async fn remove(&self, group: &VolumeGroup, tree: TreeId) -> Result<(), Error> {
        let stat = group.stat(tree.0).await.map_err(storage)?;
        self.pages.write().remove(&tree);
        group.remove(&stat.path).await.map_err(storage)
    }

    pub(crate) async fn learn(&self, group: &VolumeGroup, tree: TreeId) -> Result<u32, Error> {
        let size = group.stat(tree.0).await.map_err(storage)?.size;
        let pages = u32::try_from(group.page_size().pages(size)).unwrap_or(u32::MAX);
        self.pages.write().insert(tree, pages);
        Ok(pages)
    }
}

/// What an error of storage means to a statement.
pub fn storage(error: StorageError) -> Error {
    match error {
        StorageError::NoSuchFile(_) => Error::NoSuchTree,
        error if error.is(OperationError::NoSpace) => Error::NoSpace,
        error => Error::Unavailable(error.to_string()),
    }
}
