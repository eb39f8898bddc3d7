//! OFD locks on one block of a device.

use crate::seam::{BLOCK, LockState};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

fn range(kind: libc::c_int, offset: u64) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: offset as libc::off_t,
        l_len: BLOCK as libc::off_t,
        l_pid: 0,
    }
}

/// Takes the lock; false when another open file description has it.
pub(super) fn take(descriptor: BorrowedFd<'_>, offset: u64) -> io::Result<bool> {
    let lock = range(libc::F_WRLCK, offset);
    // SAFETY: F_OFD_SETLK reads one `flock` through the pointer, which outlives the call.
    if unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) } == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EACCES) => Ok(false),
        _ => Err(error),
    }
}

/// Looks whether another open file description has the lock.
pub(super) fn look(descriptor: BorrowedFd<'_>, offset: u64) -> io::Result<LockState> {
    let mut lock = range(libc::F_WRLCK, offset);
    // SAFETY: F_OFD_GETLK reads and writes one `flock` through the pointer, which outlives the call.
    if unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(if lock.l_type == libc::F_UNLCK as libc::c_short {
        LockState::Free
    } else {
        LockState::Held
    })
}
