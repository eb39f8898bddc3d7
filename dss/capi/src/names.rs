//! Names: making, linking, moving and removing, and what is known by a path.

use crate::abi::{aq_event, aq_pool, aq_stat};
use crate::border::{Answer, Failure, entry, fill_text, give, text};
use crate::file::{number, owner, stat};
use crate::pool::POOLS;
use aquifer_dss::group::{File, OpenOptions, VolumeGroup};
use aquifer_dss_proto::catalog::{NewNode, OperationError};
use std::ffi::c_char;
use std::sync::Arc;

/// Bytes that a copy moves at a time.
const COPY_BYTES: usize = 1 << 20;

/// Does something with a path of a pool.
///
/// # Safety
/// The path is null or a C string.
unsafe fn with_path<T, W>(
    pool: aq_pool,
    path: *const c_char,
    work: impl FnOnce(Arc<VolumeGroup>, String) -> W,
) -> Answer<T>
where
    T: Send + 'static,
    W: Future<Output = Answer<T>> + Send + 'static,
{
    let pool = POOLS.get(pool)?;
    // SAFETY: as the caller promises.
    let path = unsafe { text(path, "path")? };
    let done = pool.wait(work(pool.group().clone(), path.to_owned()));
    done.map_err(|failure| failure.about(path))
}

async fn make(group: &VolumeGroup, path: &str, node: NewNode, mode: u32) -> Answer<()> {
    let entry = group.entry(path).await?;
    group.make(entry, node, owner(mode)?, true).await?;
    Ok(())
}

/// Makes a directory at an absolute path.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aq_dir_make(pool: aq_pool, path: *const c_char, mode: u32) -> i64 {
    entry(aq_event::AQ_EVENT_NAMES, || {
        // SAFETY: as the header says.
        let made = unsafe {
            with_path(pool, path, move |group, path| async move {
                make(&group, &path, NewNode::Directory, mode).await
            })
        };
        made.map(|()| 0)
    })
}

/// Removes an empty directory.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aq_dir_remove(pool: aq_pool, path: *const c_char) -> i64 {
    entry(aq_event::AQ_EVENT_NAMES, || {
        // SAFETY: as the header says.
        let removed = unsafe {
            with_path(pool, path, |group, path| async move {
                let entry = group.entry(&path).await?;
                Ok(group.remove_directory(entry).await?)
            })
        };
        removed.map(|()| 0)
    })
}

/// Takes a name of a file or link away. Who has the file open, on any node, goes on with it; its space is free when nobody has.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aq_file_unlink(pool: aq_pool, path: *const c_char) -> i64 {
    entry(aq_event::AQ_EVENT_NAMES, || {
        // SAFETY: as the header says.
        let removed = unsafe {
            with_path(pool, path, |group, path| async move {
                let entry = group.entry(&path).await?;
                Ok(group.unlink(entry).await?)
            })
        };
        removed.map(|()| 0)
    })
}

/// Makes a symbolic link at `path` that stands for `target`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aq_file_symlink(pool: aq_pool, target: *const c_char, path: *const c_char) -> i64 {
    entry(aq_event::AQ_EVENT_NAMES, || {
        // SAFETY: as the header says.
        let target = unsafe { text(target, "target")? }.to_owned();
        // SAFETY: as the header says.
        let made = unsafe {
            with_path(pool, path, |group, path| async move {
                make(&group, &path, NewNode::Symlink { target }, 0o777).await
            })
        };
        made.map(|()| 0)
    })
}

/// Gives the file at `existing` one more name, which must be free.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aq_file_link(pool: aq_pool, existing: *const c_char, path: *const c_char) -> i64 {
    entry(aq_event::AQ_EVENT_NAMES, || {
        // SAFETY: as the header says.
        let existing = unsafe { text(existing, "existing")? }.to_owned();
        // SAFETY: as the header says.
        let linked = unsafe {
            with_path(pool, path, |group, path| async move {
                let file = group.stat_link(&existing).await?.id;
                let entry = group.entry(&path).await?;
                Ok(group.link(file, entry).await?)
            })
        };
        linked.map(|()| 0)
    })
}

/// Moves a name, as rename(2). With `replace` not 0 a file or an empty directory that has the new name goes in the same step; otherwise that is
/// AQ_EXISTS.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aq_file_rename(
    pool: aq_pool,
    from: *const c_char,
    to: *const c_char,
    replace: i32,
) -> i64 {
    entry(aq_event::AQ_EVENT_NAMES, || {
        // SAFETY: as the header says.
        let to = unsafe { text(to, "the new path")? }.to_owned();
        // SAFETY: as the header says.
        let moved = unsafe {
            with_path(pool, from, move |group, from| async move {
                let (from, to) = (group.entry(&from).await?, group.entry(&to).await?);
                Ok(group.move_entry(from, to, replace != 0).await?)
            })
        };
        moved.map(|()| 0)
    })
}

/// Copies what a link stands for, as it was given, into `size` bytes with a zero byte; gives its length without that.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aq_file_readlink(
    pool: aq_pool,
    path: *const c_char,
    buffer: *mut c_char,
    size: usize,
) -> i64 {
    entry(aq_event::AQ_EVENT_STAT, || {
        // SAFETY: as the header says.
        let target = unsafe {
            with_path(pool, path, |group, path| async move {
                let link = group.stat_link(&path).await?.id;
                Ok(group.read_link(link).await?)
            })?
        };
        // SAFETY: as the header says.
        unsafe { fill_text(buffer, size, &target) }
    })
}

/// What is at a path, links followed or not.
///
/// # Safety
/// Both pointers are null or valid.
unsafe fn look(pool: aq_pool, path: *const c_char, answer: *mut aq_stat, follow: bool) -> i64 {
    entry(aq_event::AQ_EVENT_STAT, || {
        // SAFETY: as the caller promises.
        let found = unsafe {
            with_path(pool, path, move |group, path| async move {
                let found = if follow {
                    group.stat_path(&path).await?
                } else {
                    group.stat_link(&path).await?
                };
                Ok(stat(&group, &found))
            })?
        };
        // SAFETY: as the caller promises.
        unsafe { give(answer, found, "stat") }.map(|()| 0)
    })
}

/// What is at a path; links are followed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aq_file_stat(pool: aq_pool, path: *const c_char, answer: *mut aq_stat) -> i64 {
    // SAFETY: the same promises.
    unsafe { look(pool, path, answer, true) }
}

/// What is at a path itself, also when that is a link.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aq_file_lstat(pool: aq_pool, path: *const c_char, answer: *mut aq_stat) -> i64 {
    // SAFETY: the same promises.
    unsafe { look(pool, path, answer, false) }
}

/// Copies all bytes; zeros that fill a whole step stay a hole.
async fn copy(from: &File, to: &File) -> Answer<u64> {
    let size = from.size()?;
    let mut offset = 0;
    while offset < size {
        let bytes = from.read_at(offset, COPY_BYTES).await?;
        if bytes.is_empty() {
            break; // Somebody cuts the source.
        }
        if bytes.iter().any(|byte| *byte != 0) {
            to.write_at(offset, &bytes).await?;
        }
        offset += bytes.len() as u64;
    }
    if to.size()? < offset {
        to.set_len(offset).await?;
    }
    to.sync().await?;
    Ok(offset)
}

/// Copies the file at `from` to `to`, which must be free, durably; gives its bytes. Whoever writes the source meanwhile may be found in the
/// copy or not. A copy that fails is removed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aq_file_copy(pool: aq_pool, from: *const c_char, to: *const c_char) -> i64 {
    entry(aq_event::AQ_EVENT_COPY, || {
        // SAFETY: as the header says.
        let to = unsafe { text(to, "the new path")? }.to_owned();
        // SAFETY: as the header says.
        let copied = unsafe {
            with_path(pool, from, |group, from| async move {
                let source = group.open_path(&from, OpenOptions::default()).await?;
                let mode = source.stat()?.attributes.mode;
                let options = OpenOptions {
                    create: true,
                    exclusive: true,
                    owner: owner(mode.into())?,
                    ..OpenOptions::default()
                };
                let target = group.open_path(&to, options).await?;
                match copy(&source, &target).await {
                    Ok(bytes) => Ok(bytes),
                    Err(failure) => Err(undo(&group, &to, failure).await),
                }
            })?
        };
        number(copied)
    })
}

/// Takes a copy away that failed; why it failed.
async fn undo(group: &VolumeGroup, path: &str, failure: Failure) -> Failure {
    let removed = async { group.unlink(group.entry(path).await?).await };
    match removed.await {
        Err(error) if !error.is(OperationError::NotFound) => {
            failure.about(&format!("{path} is left behind ({error})"))
        }
        _ => failure,
    }
}
