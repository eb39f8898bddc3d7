//! Reading and writing.

use crate::abi::{AQ_BLOCK, aq_error, aq_event, aq_file, iovec};
use crate::border::{Answer, Failure, bounded, entry, fill, slice};
use crate::file::{FILES, OpenFile, number};
use aquifer_dss::group::FileBytes;
use aquifer_dss::seam::IoBuffer;
use std::ffi::c_void;

/// Up to `length` bytes from `offset`.
fn read(open: &OpenFile, offset: u64, length: usize) -> Answer<FileBytes> {
    bounded(length)?;
    let file = open.file.clone();
    open.pool
        .wait(async move { Ok(file.read_at(offset, length).await?) })
}

/// Writes what `gather` copies into a buffer of `length` bytes. Whole blocks are copied once, other bytes once more.
fn write(open: &OpenFile, offset: u64, length: usize, gather: impl FnOnce(&mut [u8])) -> Answer<()> {
    bounded(length)?;
    if length == 0 {
        return Ok(());
    }
    let file = open.file.clone();
    let block = AQ_BLOCK as usize;
    let mut buffer = IoBuffer::zeroed(length.next_multiple_of(block));
    gather(&mut buffer[..length]);
    let whole = offset.is_multiple_of(block as u64) && length.is_multiple_of(block);
    open.pool.wait(async move {
        if whole {
            file.write_blocks(offset, buffer).await?;
        } else {
            file.write_at(offset, &buffer[..length]).await?;
        }
        Ok(())
    })
}

/// The pieces of memory of a call, and their bytes together.
///
/// # Safety
/// The pointer is null or points to `count` pieces.
unsafe fn pieces<'a>(pointer: *const iovec, count: i32) -> Answer<(&'a [iovec], usize)> {
    let count = usize::try_from(count).map_err(|_| Failure::invalid("a negative number of pieces"))?;
    // SAFETY: as the caller promises.
    let pieces = unsafe { slice(pointer, count, "pieces")? };
    let sum = pieces
        .iter()
        .try_fold(0usize, |sum, piece| sum.checked_add(piece.iov_len));
    let sum = sum.ok_or_else(|| Failure::new(aq_error::AQ_TOO_LARGE, "the pieces are too long"))?;
    Ok((pieces, bounded(sum)?))
}

/// Reads up to `length` bytes at the handle's position, which moves; gives how many, 0 at the end of the file.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aq_file_read(file: aq_file, buffer: *mut c_void, length: usize) -> i64 {
    entry(aq_event::AQ_EVENT_READ, || {
        let open = FILES.get(file)?;
        let mut position = open.position.lock();
        let bytes = read(&open, *position, length)?;
        // SAFETY: as the header says; not more than `length` bytes come.
        unsafe { fill(buffer.cast(), &bytes, "buffer")? };
        *position += bytes.len() as u64;
        Ok(bytes.len() as i64)
    })
}

/// Reads up to `length` bytes from `offset`; gives how many: fewer at the end of the file, 0 past it. Holes are zeros.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aq_file_pread(
    file: aq_file,
    buffer: *mut c_void,
    length: usize,
    offset: u64,
) -> i64 {
    entry(aq_event::AQ_EVENT_READ, || {
        let bytes = read(&*FILES.get(file)?, offset, length)?;
        // SAFETY: as the header says; not more than `length` bytes come.
        unsafe { fill(buffer.cast(), &bytes, "buffer")? };
        Ok(bytes.len() as i64)
    })
}

/// Reads into `count` pieces of memory one after another, in one operation; otherwise as aq_file_pread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aq_file_preadv(
    file: aq_file,
    pieces_of_memory: *const iovec,
    count: i32,
    offset: u64,
) -> i64 {
    entry(aq_event::AQ_EVENT_READ, || {
        let open = FILES.get(file)?;
        // SAFETY: as the header says.
        let (pieces, length) = unsafe { pieces(pieces_of_memory, count)? };
        let bytes = read(&open, offset, length)?;
        let mut rest: &[u8] = &bytes;
        for piece in pieces {
            let (part, after) = rest.split_at(piece.iov_len.min(rest.len()));
            // SAFETY: as the header says; the part is not longer than the piece.
            unsafe { fill(piece.iov_base.cast(), part, "a piece")? };
            rest = after;
        }
        Ok(bytes.len() as i64)
    })
}

/// Writes `length` bytes at the handle's position, which moves; gives `length`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aq_file_write(file: aq_file, buffer: *const c_void, length: usize) -> i64 {
    entry(aq_event::AQ_EVENT_WRITE, || {
        let open = FILES.get(file)?;
        let mut position = open.position.lock();
        // SAFETY: as the header says.
        let bytes: &[u8] = unsafe { slice(buffer.cast(), length, "buffer")? };
        write(&open, *position, length, |memory| memory.copy_from_slice(bytes))?;
        *position += length as u64;
        Ok(length as i64)
    })
}

/// Writes `length` bytes at `offset`; gives `length`. They are on the device and seen by every node when this returns, and durable after
/// aq_file_sync. A file that is shorter grows. After a failure any part of the range may have its new content. Two nodes have to agree who
/// writes which block of AQ_BLOCK bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aq_file_pwrite(
    file: aq_file,
    buffer: *const c_void,
    length: usize,
    offset: u64,
) -> i64 {
    entry(aq_event::AQ_EVENT_WRITE, || {
        let open = FILES.get(file)?;
        // SAFETY: as the header says.
        let bytes: &[u8] = unsafe { slice(buffer.cast(), length, "buffer")? };
        write(&open, offset, length, |memory| memory.copy_from_slice(bytes))?;
        Ok(length as i64)
    })
}

/// Writes `count` pieces of memory one after another, in one operation; otherwise as aq_file_pwrite. Gives their length together.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aq_file_pwritev(
    file: aq_file,
    pieces_of_memory: *const iovec,
    count: i32,
    offset: u64,
) -> i64 {
    entry(aq_event::AQ_EVENT_WRITE, || {
        let open = FILES.get(file)?;
        // SAFETY: as the header says.
        let (pieces, length) = unsafe { pieces(pieces_of_memory, count)? };
        let mut parts = Vec::with_capacity(pieces.len());
        for piece in pieces {
            // SAFETY: as the header says.
            parts.push(unsafe { slice::<u8>(piece.iov_base.cast(), piece.iov_len, "a piece")? });
        }
        write(&open, offset, length, |mut memory| {
            for part in parts {
                let (here, after) = memory.split_at_mut(part.len());
                here.copy_from_slice(part);
                memory = after;
            }
        })?;
        Ok(length as i64)
    })
}

/// Writes at the end of the file, wherever that is when its turn comes: several nodes may append to one file, and each gets a range of its
/// own. Gives the offset.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aq_file_append(file: aq_file, buffer: *const c_void, length: usize) -> i64 {
    entry(aq_event::AQ_EVENT_APPEND, || {
        let open = FILES.get(file)?;
        // SAFETY: as the header says.
        let bytes: &[u8] = unsafe { slice(buffer.cast(), length, "buffer")? };
        let (file, bytes) = (open.file.clone(), bytes.to_vec());
        let offset = open.pool.wait(async move { Ok(file.append(&bytes).await?) })?;
        number(offset)
    })
}

/// Makes everything that was written before durable, size and times too, and shows them to all nodes.
#[unsafe(no_mangle)]
pub extern "C" fn aq_file_sync(file: aq_file) -> i64 {
    entry(aq_event::AQ_EVENT_SYNC, || {
        let open = FILES.get(file)?;
        let file = open.file.clone();
        open.pool.wait(async move { Ok(file.sync().await?) })?;
        Ok(0)
    })
}

/// Cuts the file to `size` bytes, or makes it longer by a hole.
#[unsafe(no_mangle)]
pub extern "C" fn aq_file_truncate(file: aq_file, size: u64) -> i64 {
    entry(aq_event::AQ_EVENT_SIZE, || {
        let open = FILES.get(file)?;
        let file = open.file.clone();
        open.pool.wait(async move { Ok(file.set_len(size).await?) })?;
        Ok(0)
    })
}

/// Gets units for a range, so that writing it later finds space; the file grows to its end unless `keep_size` is not 0.
#[unsafe(no_mangle)]
pub extern "C" fn aq_file_allocate(file: aq_file, offset: u64, length: u64, keep_size: i32) -> i64 {
    entry(aq_event::AQ_EVENT_SIZE, || {
        let open = FILES.get(file)?;
        let file = open.file.clone();
        open.pool
            .wait(async move { Ok(file.allocate(offset, length, keep_size != 0).await?) })?;
        Ok(0)
    })
}
