//! Opening and closing files, and what is known of those that are open.

use crate::abi::{
    AQ_CREATE, AQ_EXCLUSIVE, AQ_SEEK_CURRENT, AQ_SEEK_END, AQ_SEEK_SET, AQ_TRUNCATE, aq_address, aq_error,
    aq_event, aq_file, aq_kind, aq_pool, aq_stat,
};
use crate::border::{Answer, Failure, entry, fill_text, give, text, wanted};
use crate::handles::Table;
use crate::pool::{POOLS, Pool};
use aquifer_dss::group::{File, FileStat, FileType, OpenOptions, Owner, VolumeGroup};
use aquifer_dss_proto::catalog::extents;
use parking_lot::Mutex;
use std::ffi::c_char;
use std::sync::Arc;

/// The open files.
pub static FILES: Table<OpenFile> = Table::new(2);

/// A file that the program has open.
pub struct OpenFile {
    /// Its pool.
    pub pool: Arc<Pool>,
    /// The file.
    pub file: File,
    /// Where the next read or write without an offset begins. Held over those, so that two threads follow each other.
    pub position: Mutex<u64>,
}

/// What is made belongs to the user of this process.
pub fn owner(mode: u32) -> Answer<Owner> {
    let bits = u16::try_from(mode).ok().filter(|mode| *mode <= 0o7777);
    Ok(Owner {
        mode: bits.ok_or_else(|| Failure::invalid(format!("mode {mode:o} has more than twelve bits")))?,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
    })
}

/// What the program is told of a file.
pub fn stat(group: &VolumeGroup, stat: &FileStat) -> aq_stat {
    aq_stat {
        id: stat.id.0,
        size: stat.size,
        allocated: extents::units(&stat.extents) * group.label().au_bytes,
        modified_ns: stat.attributes.modified,
        changed_ns: stat.attributes.changed,
        kind: kind(stat.what) as u32,
        mode: stat.attributes.mode.into(),
        uid: stat.attributes.uid,
        gid: stat.attributes.gid,
        links: stat.links,
    }
}

/// What the program calls it.
pub const fn kind(what: FileType) -> aq_kind {
    match what {
        FileType::File => aq_kind::AQ_KIND_FILE,
        FileType::Directory => aq_kind::AQ_KIND_DIRECTORY,
        FileType::Symlink => aq_kind::AQ_KIND_LINK,
    }
}

/// A size or offset as a call gives it.
pub fn number(bytes: u64) -> Answer<i64> {
    i64::try_from(bytes).map_err(|_| Failure::new(aq_error::AQ_TOO_LARGE, format!("{bytes} is too large")))
}

/// Opens the file at an absolute path. `flags` are AQ_CREATE, AQ_EXCLUSIVE and AQ_TRUNCATE; `mode` is for a file that is made.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aq_file_open(
    pool: aq_pool,
    path: *const c_char,
    flags: u32,
    mode: u32,
    file: *mut aq_file,
) -> i64 {
    entry(aq_event::AQ_EVENT_OPEN, || {
        let pool = POOLS.get(pool)?;
        // SAFETY: as the header says.
        let path = unsafe { text(path, "path")? }.to_owned();
        wanted(file, "file")?;
        if flags & !(AQ_CREATE | AQ_EXCLUSIVE | AQ_TRUNCATE) != 0 {
            return Err(Failure::invalid(format!("flags {flags:#x} are not known")));
        }
        let options = OpenOptions {
            create: flags & AQ_CREATE != 0,
            exclusive: flags & AQ_EXCLUSIVE != 0,
            truncate: flags & AQ_TRUNCATE != 0,
            owner: owner(mode)?,
        };
        let group = pool.group().clone();
        let opened = pool.wait(async move { Ok(group.open_path(&path, options).await?) })?;
        let handle = FILES.open(Arc::new(OpenFile {
            pool,
            file: opened,
            position: Mutex::new(0),
        }))?;
        // SAFETY: as the header says.
        unsafe { give(file, handle, "file") }.map(|()| 0)
    })
}

/// Makes an empty file at an absolute path, which must be free, and opens it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aq_file_create(
    pool: aq_pool,
    path: *const c_char,
    mode: u32,
    file: *mut aq_file,
) -> i64 {
    // SAFETY: the same promises.
    unsafe { aq_file_open(pool, path, AQ_CREATE | AQ_EXCLUSIVE, mode, file) }
}

/// Closes a file: size and time are seen by whoever opens it afterwards, on any node. The handle is closed also after a failure.
#[unsafe(no_mangle)]
pub extern "C" fn aq_file_close(file: aq_file) -> i64 {
    entry(aq_event::AQ_EVENT_CLOSE, || {
        let closed = FILES.close(file)?;
        let file = closed.file.clone();
        closed.pool.wait(async move { Ok(file.close().await?) })?;
        Ok(0)
    })
}

/// Moves the position of a handle: `from` is AQ_SEEK_SET, AQ_SEEK_CURRENT or AQ_SEEK_END. Gives the new position.
#[unsafe(no_mangle)]
pub extern "C" fn aq_file_seek(file: aq_file, offset: i64, from: i32) -> i64 {
    entry(aq_event::AQ_EVENT_STAT, || {
        let open = FILES.get(file)?;
        let mut position = open.position.lock();
        let origin = match from {
            AQ_SEEK_SET => 0,
            AQ_SEEK_CURRENT => *position,
            AQ_SEEK_END => open.file.size()?,
            _ => return Err(Failure::invalid(format!("{from} is no place to seek from"))),
        };
        let moved = origin.checked_add_signed(offset);
        let moved = moved.ok_or_else(|| Failure::invalid("the position would be before the beginning"))?;
        let answer = number(moved)?;
        *position = moved;
        Ok(answer)
    })
}

/// Bytes of the file, what was written by this node included.
#[unsafe(no_mangle)]
pub extern "C" fn aq_file_size(file: aq_file) -> i64 {
    entry(aq_event::AQ_EVENT_STAT, || number(FILES.get(file)?.file.size()?))
}

/// Bytes that every node knows of: what was written after the last sync or close is not in it.
#[unsafe(no_mangle)]
pub extern "C" fn aq_file_known_size(file: aq_file) -> i64 {
    entry(aq_event::AQ_EVENT_STAT, || {
        let open = FILES.get(file)?;
        let size = open.file.known_size();
        number(size)
    })
}

/// Bytes of the file's allocation units.
#[unsafe(no_mangle)]
pub extern "C" fn aq_file_allocated(file: aq_file) -> i64 {
    entry(aq_event::AQ_EVENT_STAT, || {
        let open = FILES.get(file)?;
        number(stat(open.pool.group(), &open.file.stat()?).allocated)
    })
}

/// What is known of an open file.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aq_file_fstat(file: aq_file, answer: *mut aq_stat) -> i64 {
    entry(aq_event::AQ_EVENT_STAT, || {
        let open = FILES.get(file)?;
        let found = stat(open.pool.group(), &open.file.stat()?);
        // SAFETY: as the header says.
        unsafe { give(answer, found, "stat") }.map(|()| 0)
    })
}

/// Copies the path of an open file, by the oldest of its names, into `size` bytes with a zero byte; gives its length without that, 0
/// when it has no name any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aq_file_name(file: aq_file, buffer: *mut c_char, size: usize) -> i64 {
    entry(aq_event::AQ_EVENT_STAT, || {
        let path = FILES.get(file)?.file.stat()?.path;
        // SAFETY: as the header says.
        unsafe { fill_text(buffer, size, &path) }
    })
}

/// Where the byte at `offset` of a file is now. A unit may be moved at any time: aq_file_prepare_read and aq_file_prepare_write are for I/O.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aq_file_address(file: aq_file, offset: u64, address: *mut aq_address) -> i64 {
    entry(aq_event::AQ_EVENT_STAT, || {
        let open = FILES.get(file)?;
        let found = open.file.address(offset)?;
        let (volume, place) = found.place.unwrap_or_default();
        let answer = aq_address {
            hole: found.place.is_none().into(),
            volume: volume.into(),
            offset: place,
            length: found.length,
        };
        // SAFETY: as the header says.
        unsafe { give(address, answer, "address") }.map(|()| 0)
    })
}
