//! Reading directories.

use crate::abi::{AQ_NAME_SIZE, aq_dir, aq_dirent, aq_event, aq_pool};
use crate::border::{entry, give, text, wanted};
use crate::file::kind;
use crate::handles::Table;
use crate::pool::{POOLS, Pool};
use parking_lot::Mutex;
use std::ffi::c_char;
use std::sync::Arc;
use std::vec::IntoIter;

/// The open directories.
pub static DIRECTORIES: Table<OpenDirectory> = Table::new(3);

/// A directory as it was when it was opened.
pub struct OpenDirectory {
    /// Its pool.
    pub pool: Arc<Pool>,
    entries: Mutex<IntoIter<aq_dirent>>,
}

fn dirent(name: &str, id: u64, kind: u32) -> aq_dirent {
    let mut named = aq_dirent {
        id,
        kind,
        name: [0; AQ_NAME_SIZE],
    };
    for (place, byte) in named.name.iter_mut().zip(name.bytes().take(AQ_NAME_SIZE - 1)) {
        *place = byte.cast_signed() as c_char;
    }
    named
}

/// Opens the directory at an absolute path, with the entries that it has now.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aq_dir_open(pool: aq_pool, path: *const c_char, directory: *mut aq_dir) -> i64 {
    entry(aq_event::AQ_EVENT_DIRECTORY, || {
        let pool = POOLS.get(pool)?;
        // SAFETY: as the header says.
        let path = unsafe { text(path, "path")? }.to_owned();
        wanted(directory, "directory")?;
        let group = pool.group().clone();
        let entries = pool.wait(async move {
            let listed = group.list(&path).await?;
            // What went meanwhile is not listed.
            let known = listed.into_iter().filter_map(|(name, id)| {
                let what = group.stat_open(id)?.what;
                Some(dirent(&name, id.0, kind(what) as u32))
            });
            Ok(known.collect::<Vec<_>>())
        })?;
        let handle = DIRECTORIES.open(Arc::new(OpenDirectory {
            pool,
            entries: Mutex::new(entries.into_iter()),
        }))?;
        // SAFETY: as the header says.
        unsafe { give(directory, handle, "directory") }.map(|()| 0)
    })
}

/// Writes the next entry; gives 1, or 0 when there is none any more. Entries are in the order of their names.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aq_dir_read(directory: aq_dir, answer: *mut aq_dirent) -> i64 {
    entry(aq_event::AQ_EVENT_DIRECTORY, || {
        let open = DIRECTORIES.get(directory)?;
        wanted(answer, "entry")?;
        let Some(next) = open.entries.lock().next() else {
            return Ok(0);
        };
        // SAFETY: as the header says.
        unsafe { give(answer, next, "entry") }.map(|()| 1)
    })
}

/// Closes a directory.
#[unsafe(no_mangle)]
pub extern "C" fn aq_dir_close(directory: aq_dir) -> i64 {
    entry(aq_event::AQ_EVENT_DIRECTORY, || {
        DIRECTORIES.close(directory).map(|_| 0)
    })
}
