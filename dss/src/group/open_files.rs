//! Files that programs on this node have open: kept here alone, so that opening one is no metadata operation.
//!
//! Rules:
//! - a file is opened while it has a name, or while it is open here already; this is looked at under the same lock as
//!   the catalogue, so that a removal that is applied sees who has the file open;
//! - a removed file that is open keeps its units: the leader is told when it asks (HZ-7). A dead node holds nothing.

use super::range_lock::RangeLock;
use aquifer_dss_proto::FileId;
use aquifer_dss_proto::catalog::Catalog;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

/// What all handles of a file on this node share.
pub(super) struct OpenFile {
    pub(super) id: FileId,
    /// Writes and cuts, so that bytes of one block that several write meet one after another.
    pub(super) ranges: RangeLock,
    pub(super) progress: Mutex<Progress>,
    /// One task of this node at a time appends.
    pub(super) appending: tokio::sync::Mutex<()>,
    files: Weak<OpenFiles>,
}

/// What was written here and is not yet in the catalogue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// End of the furthest write; 0 when none was past the size that the catalogue has.
    pub(super) end: u64,
    /// When the last write was; 0 when the catalogue knows.
    pub(super) modified: u64,
}

/// The open files of a node.
#[derive(Default)]
pub(super) struct OpenFiles {
    files: Mutex<BTreeMap<FileId, Weak<OpenFile>>>,
}

impl OpenFiles {
    /// Opens a file; `None` when it is gone.
    pub(super) fn open(self: &Arc<Self>, catalog: &Catalog, id: FileId) -> Option<Arc<OpenFile>> {
        let mut files = self.files.lock();
        if let Some(open) = files.get(&id).and_then(Weak::upgrade) {
            return Some(open);
        }
        catalog.inode(id)?;
        let open = Arc::new(OpenFile {
            id,
            ranges: RangeLock::default(),
            progress: Mutex::default(),
            appending: tokio::sync::Mutex::default(),
            files: Arc::downgrade(self),
        });
        files.insert(id, Arc::downgrade(&open));
        Some(open)
    }

    /// The file, when it is open here.
    pub(super) fn get(&self, id: FileId) -> Option<Arc<OpenFile>> {
        self.files.lock().get(&id).and_then(Weak::upgrade)
    }

    /// Those of `removed` that are open here.
    pub(super) fn held(&self, removed: &[FileId]) -> Vec<FileId> {
        let files = self.files.lock();
        let is_open = |id: &FileId| files.get(id).is_some_and(|open| open.strong_count() > 0);
        removed.iter().copied().filter(is_open).collect()
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        let Some(files) = self.files.upgrade() else { return };
        let mut files = files.files.lock();
        // Another handle may have opened it again meanwhile: then the entry is that one's.
        if files.get(&self.id).is_some_and(|open| open.strong_count() == 0) {
            files.remove(&self.id);
        }
    }
}
