//! The block device seam.

use super::{BoxFuture, IoBuffer};
use std::os::fd::BorrowedFd;

/// Bytes of zeros that are written at once where the device cannot zero a range itself.
const ZEROS: u64 = 1 << 20;

/// What a device is like. Both figures in bytes; the block is what the device says, never assumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Size of the device.
    pub size: u64,
    /// Smallest unit and alignment of a read or write: a power of two from 512 to 4096.
    pub block: u32,
}

/// Why a device operation did not happen. After any error of a write or flush, what is on the device is unknown.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DeviceError {
    /// The kernel or the device refused; `errno` as in errno(3).
    #[error("{operation} of {length} bytes at {offset} failed: {message}")]
    Io {
        /// "read", "write", "flush", "discard" or "open".
        operation: &'static str,
        /// Byte offset on the device.
        offset: u64,
        /// Length in bytes.
        length: usize,
        /// errno, 0 when there is none.
        errno: i32,
        /// The system's text.
        message: String,
    },
    /// This node's access was fenced off (EBADE, or the write gate is closed).
    #[error("this node is fenced: {0}")]
    Fenced(String),
    /// A caller's mistake: not aligned, or past the end.
    #[error("{operation} at {offset}+{length} is not inside the device or not aligned")]
    OutOfRange {
        /// What was tried.
        operation: &'static str,
        /// Byte offset.
        offset: u64,
        /// Length in bytes.
        length: usize,
    },
}

impl DeviceError {
    /// Whether the device does not know the operation at all.
    pub const fn is_unsupported(&self) -> bool {
        matches!(
            self,
            Self::Io {
                errno: libc::EOPNOTSUPP,
                ..
            }
        )
    }
}

/// Positioned, asynchronous I/O on aligned blocks. A write is durable after a [`flush`](Self::flush) that was
/// called after the write completed, and not before. Writes in flight at a crash may be torn at 512 bytes.
/// Every returned future does its work only when polled, and must be driven to its end: dropping it leaves the
/// outcome unknown, but is safe.
pub trait BlockDevice: Send + Sync + 'static {
    /// Size and block of the device.
    fn geometry(&self) -> Geometry;
    /// Fills `buffer` from `offset`.
    fn read(&self, offset: u64, buffer: IoBuffer) -> BoxFuture<'_, Result<IoBuffer, DeviceError>>;
    /// Writes `buffer` at `offset` and gives it back.
    fn write(&self, offset: u64, buffer: IoBuffer) -> BoxFuture<'_, Result<IoBuffer, DeviceError>>;
    /// Makes every write that completed before this call durable.
    fn flush(&self) -> BoxFuture<'_, Result<(), DeviceError>>;
    /// Tells the device that a range is not needed; its content is undefined afterwards, unless it
    /// [`discards_to_zeros`](Self::discards_to_zeros). EOPNOTSUPP where the device cannot.
    fn discard(&self, offset: u64, length: u64) -> BoxFuture<'_, Result<(), DeviceError>>;
    /// Whether what was discarded reads as zeros.
    fn discards_to_zeros(&self) -> bool {
        false
    }
    /// The open file description of its I/O, for I/O that a program does itself; none where there is no such thing.
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }
    /// Makes a range read as zeros; durable after a [`flush`](Self::flush), like a write. Offset and length are multiples
    /// of the block. By plain writes, unless the device knows a quicker way.
    fn write_zeroes(&self, offset: u64, length: u64) -> BoxFuture<'_, Result<(), DeviceError>> {
        Box::pin(write_zeros(self, offset, length))
    }
}

/// Writes zeros to a range of a device, piece by piece.
pub async fn write_zeros<D: BlockDevice + ?Sized>(
    device: &D,
    offset: u64,
    length: u64,
) -> Result<(), DeviceError> {
    let (mut at, end) = (offset, offset.saturating_add(length));
    let mut zeros: Option<IoBuffer> = None;
    while at < end {
        let piece = (end - at).min(ZEROS) as usize;
        let buffer = zeros.take().filter(|buffer| buffer.len() == piece);
        let buffer = buffer.unwrap_or_else(|| IoBuffer::zeroed(piece));
        zeros = Some(device.write(at, buffer).await?);
        at += piece as u64;
    }
    Ok(())
}
