//! The catalogue's words in the kernel's, and errors as errno.

use aquifer_dss::group::{FileStat, FileType, StorageError};
use aquifer_dss_proto::catalog::{OperationError, extents};
use fuser::{Errno, FileAttr, INodeNo};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Block that programs should use, in bytes: what the device writes at once.
pub const BLOCK: u32 = 4096;
/// Unit of `st_blocks`.
const SECTOR: u64 = 512;

/// Attributes of an inode. Times of access are those of modification.
pub fn attributes(stat: &FileStat, unit_bytes: u64) -> FileAttr {
    let time = |nanoseconds: u64| UNIX_EPOCH + Duration::from_nanos(nanoseconds);
    let modified = time(stat.attributes.modified);
    FileAttr {
        ino: INodeNo(stat.id.0),
        size: stat.size,
        blocks: extents::units(&stat.extents) * (unit_bytes / SECTOR),
        atime: modified,
        mtime: modified,
        ctime: time(stat.attributes.changed),
        crtime: UNIX_EPOCH,
        kind: match stat.what {
            FileType::Directory => fuser::FileType::Directory,
            FileType::File => fuser::FileType::RegularFile,
            FileType::Symlink => fuser::FileType::Symlink,
        },
        perm: stat.attributes.mode,
        // One of a directory says that its subdirectories are not counted.
        nlink: if stat.what == FileType::Directory {
            1
        } else {
            stat.links
        },
        uid: stat.attributes.uid,
        gid: stat.attributes.gid,
        rdev: 0,
        blksize: BLOCK,
        flags: 0,
    }
}

/// Nanoseconds since 1970.
pub fn nanoseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// What the program is told.
pub fn errno(error: &StorageError) -> Errno {
    match error {
        StorageError::Operation { error, .. } => match error {
            OperationError::NotFound => Errno::ENOENT,
            OperationError::AlreadyExists => Errno::EEXIST,
            OperationError::NotEmpty => Errno::ENOTEMPTY,
            OperationError::NotADirectory => Errno::ENOTDIR,
            OperationError::IsADirectory => Errno::EISDIR,
            OperationError::NoSpace | OperationError::NoMetadataSpace => Errno::ENOSPC,
            OperationError::Protected => Errno::EPERM,
            OperationError::TooManyLinks => Errno::ELOOP,
            OperationError::TooLarge => Errno::EFBIG,
            OperationError::Busy | OperationError::VolumeInUse | OperationError::VolumeRaced => Errno::EBUSY,
            OperationError::NoSuchVolume | OperationError::TooManyVolumes | OperationError::NotMirrored => {
                Errno::EINVAL
            }
            OperationError::LastLeg => Errno::EIO,
            OperationError::Invalid | OperationError::Settled => Errno::EINVAL,
        },
        StorageError::NoSuchFile(_) => Errno::ESTALE,
        other => {
            tracing::error!(error = %other, "a file operation failed");
            Errno::EIO
        }
    }
}
