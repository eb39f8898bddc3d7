//! What programs have open on a mount: files, and directories as they were when they were opened.

use aquifer_dss::group::File;
use aquifer_dss_proto::FileId;
use fuser::{FileHandle, FileType};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// An entry of a directory.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// What it leads to.
    pub id: FileId,
    /// What that is.
    pub kind: FileType,
}

/// Open files and directories by the number that the kernel has of them.
#[derive(Default)]
pub struct Handles {
    next: AtomicU64,
    files: Mutex<BTreeMap<u64, File>>,
    directories: Mutex<BTreeMap<u64, Arc<Vec<Listed>>>>,
}

impl Handles {
    fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Keeps an open file.
    pub fn keep(&self, file: File) -> FileHandle {
        let number = self.number();
        self.files.lock().insert(number, file);
        FileHandle(number)
    }

    /// An open file.
    pub fn file(&self, handle: FileHandle) -> Option<File> {
        self.files.lock().get(&handle.0).cloned()
    }

    /// Lets go of a file.
    pub fn release(&self, handle: FileHandle) -> Option<File> {
        self.files.lock().remove(&handle.0)
    }

    /// Keeps what a directory has.
    pub fn keep_directory(&self, entries: Vec<Listed>) -> FileHandle {
        let number = self.number();
        self.directories.lock().insert(number, Arc::new(entries));
        FileHandle(number)
    }

    /// What a directory had when it was opened.
    pub fn directory(&self, handle: FileHandle) -> Option<Arc<Vec<Listed>>> {
        self.directories.lock().get(&handle.0).cloned()
    }

    /// Lets go of a directory.
    pub fn release_directory(&self, handle: FileHandle) {
        self.directories.lock().remove(&handle.0);
    }
}
