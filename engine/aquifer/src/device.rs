//! The device without a node: making, formatting, reading slots and files, fencing. The only file, beside
//! `daemon::assemble`, that knows how storage is opened.

use crate::admin::NodeReport;
use crate::failure::Failure;
use aquifer_dss_proto::NodeId;
use serde::Serialize;
use std::path::Path;

/// What `format` made.
pub struct Formatted {
    /// UUID of the volume group.
    pub uuid: String,
    /// Size of the device in bytes.
    pub size: u64,
}

/// A volume group in a few figures.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub uuid: String,
    /// Path of its device.
    pub device: String,
    /// Size of the device.
    pub size_bytes: u64,
    /// Allocation unit.
    pub au_bytes: u64,
    /// Bytes that belong to files.
    pub used_bytes: u64,
    /// Number of files.
    pub files: u64,
}

/// One thing that was checked.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// What.
    pub what: String,
    /// Whether it is as it must be.
    pub ok: bool,
    /// What was found.
    pub detail: String,
}

/// A file or directory.
#[derive(Clone, Debug, Serialize)]
pub struct FileEntry {
    /// Name in its directory.
    pub name: String,
    /// "file" or "directory".
    pub kind: String,
    /// File id.
    pub id: u64,
    /// Size in bytes.
    pub size: u64,
    /// Extents as text.
    pub extents: Vec<String>,
}

/// A volume group opened without being a node: nothing is written.
pub struct OfflineGroup {}

fn missing() -> Failure {
    Failure::unavailable("storage is not part of this build")
}

/// Makes a sparse file.
pub fn create(_path: &Path, _size: u64) -> Result<(), Failure> {
    Err(missing())
}

/// Writes a volume group on a device.
pub async fn format(_path: &Path, _name: &str, _au: u64, _force: bool) -> Result<Formatted, Failure> {
    Err(missing())
}

/// What the slots say.
pub async fn read_slots(_path: &Path) -> Result<Vec<NodeReport>, Failure> {
    Err(missing())
}

/// Kills a node of this machine and proves it.
pub async fn fence(_path: &Path, _id: NodeId) -> Result<(), Failure> {
    Err(missing())
}

/// Checks labels, journal and catalogue.
pub async fn check(_path: &Path) -> Result<Vec<Finding>, Failure> {
    Err(missing())
}

impl OfflineGroup {
    /// Opens the group on `path`.
    pub async fn open(_path: &Path) -> Result<Self, Failure> {
        Err(missing())
    }

    /// Its figures.
    pub fn summary(&self) -> Summary {
        unreachable!("never opened")
    }

    /// Entries of a directory.
    pub async fn list(&self, _path: &str) -> Result<Vec<FileEntry>, Failure> {
        Err(missing())
    }

    /// One entry.
    pub async fn stat(&self, _path: &str) -> Result<FileEntry, Failure> {
        Err(missing())
    }

    /// Bytes of a file.
    pub async fn read(&self, _entry: &FileEntry, _offset: u64, _length: u64) -> Result<Vec<u8>, Failure> {
        Err(missing())
    }
}
