//! Places for the caller's own I/O.
//!
//! Rule CAPI-4: a place is counted as an operation of this node from the look at the file's units until `aq_file_finish`: a unit is neither moved
//! nor given to another file before, because every barrier waits for it. So a place is to be finished soon, and is finished by nobody else.

use crate::abi::{AQ_BLOCK, aq_event, aq_file, aq_place, aq_prepared};
use crate::border::{Answer, Failure, bounded, entry, give, wanted};
use crate::file::FILES;
use crate::handles::Table;
use crate::pool::Pool;
use aquifer_dss::group::{File, Prepared, StorageError};
use parking_lot::Mutex;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use tokio::runtime::Handle;

/// The places that are not finished.
pub static PLACES: Table<Place> = Table::new(4);

/// A place that the program does I/O in.
pub struct Place {
    /// Its pool.
    pub pool: Arc<Pool>,
    prepared: Mutex<Option<Prepared>>,
}

/// A place that the program does not have yet. Nobody does I/O there: it is ended when it never gets to the program, because the call took
/// too long.
struct NotGiven {
    prepared: Option<Prepared>,
    handle: Handle,
}

impl NotGiven {
    fn give(mut self) -> Prepared {
        self.prepared.take().expect("it is given once")
    }
}

impl Drop for NotGiven {
    fn drop(&mut self) {
        if let Some(prepared) = self.prepared.take() {
            drop(self.handle.spawn(prepared.finish(0)));
        }
    }
}

/// Prepares a place and gives it.
///
/// # Safety
/// The pointer is null or valid.
unsafe fn prepare<W>(
    file: aq_file,
    (offset, length): (u64, u64),
    answer: *mut aq_prepared,
    work: impl FnOnce(File, usize) -> W,
) -> Answer<i64>
where
    W: Future<Output = Result<Prepared, StorageError>> + Send + 'static,
{
    let open = FILES.get(file)?;
    wanted(answer, "the prepared place")?;
    let block = u64::from(AQ_BLOCK);
    if length == 0 || !offset.is_multiple_of(block) || !length.is_multiple_of(block) {
        return Err(Failure::invalid(format!(
            "{length} bytes at {offset} are no whole blocks of {block}"
        )));
    }
    let length = bounded(usize::try_from(length).unwrap_or(usize::MAX))?;
    let work = work(open.file.clone(), length);
    let prepared = open.pool.wait(async move {
        Ok(NotGiven {
            prepared: Some(work.await?),
            handle: Handle::current(),
        })
    });
    let prepared = prepared?.give();
    let (descriptor, offset) = match prepared.place() {
        Some(place) => (place.as_raw_fd(), place.offset),
        None => (-1, 0),
    };
    let length = prepared.length() as u64;
    let place = PLACES.open(Arc::new(Place {
        pool: open.pool.clone(),
        prepared: Mutex::new(Some(prepared)),
    }))?;
    let prepared = aq_prepared {
        place,
        descriptor,
        offset,
        length,
    };
    // SAFETY: as the caller promises.
    unsafe { give(answer, prepared, "the prepared place") }.map(|()| 0)
}

/// Prepares a read by the caller itself: up to `length` bytes from `offset` of a file, whole blocks of AQ_BLOCK. They are at the place
/// until aq_file_finish, which has to be called after the I/O, and soon: moving, cutting and removing wait for it on all nodes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aq_file_prepare_read(
    file: aq_file,
    offset: u64,
    length: u64,
    answer: *mut aq_prepared,
) -> i64 {
    entry(aq_event::AQ_EVENT_PREPARE, || {
        // SAFETY: as the header says.
        unsafe {
            prepare(file, (offset, length), answer, move |file, length| async move {
                file.prepare_read(offset, length).await
            })
        }
    })
}

/// Prepares a write by the caller itself, as aq_file_prepare_read. The range gets units before. Other writes of this node to the range that was
/// asked for wait until aq_file_finish; so does a second aq_file_prepare_write, also of the same thread. What is written is durable after
/// aq_file_finish and aq_file_sync.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aq_file_prepare_write(
    file: aq_file,
    offset: u64,
    length: u64,
    answer: *mut aq_prepared,
) -> i64 {
    entry(aq_event::AQ_EVENT_PREPARE, || {
        // SAFETY: as the header says.
        unsafe {
            prepare(file, (offset, length), answer, move |file, length| async move {
                file.prepare_write(offset, length).await
            })
        }
    })
}

/// Ends a prepared place when the caller's I/O has ended. `written` is 0 after a read or a write that failed, otherwise the bytes that were written,
/// whole blocks: the file then reaches at least to their end, and all nodes are told its size. The place is ended also after a failure.
#[unsafe(no_mangle)]
pub extern "C" fn aq_file_finish(place: aq_place, written: u64) -> i64 {
    entry(aq_event::AQ_EVENT_FINISH, || {
        let ended = PLACES.close(place)?;
        let Some(prepared) = ended.prepared.lock().take() else {
            return Err(Failure::invalid("the place is ended"));
        };
        ended
            .pool
            .wait(async move { Ok(prepared.finish(written).await?) })?;
        Ok(0)
    })
}
