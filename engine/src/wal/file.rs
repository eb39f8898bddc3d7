//! What a redo stream needs of its file; tests put memory behind it.

use aquifer_dss::seam::{BoxFuture, IoBuffer};

/// Positioned I/O on the file of one redo stream. Offsets and lengths are multiples of 4 KiB.
pub trait RedoFile: Send + Sync + 'static {
    /// Bytes of the file.
    fn size(&self) -> u64;
    /// Fills `buffer` from `offset`.
    fn read_at(&self, offset: u64, buffer: IoBuffer) -> BoxFuture<'_, Result<IoBuffer, String>>;
    /// Writes `buffer` at `offset`.
    fn write_at(&self, offset: u64, buffer: IoBuffer) -> BoxFuture<'_, Result<IoBuffer, String>>;
    /// Makes every write that completed before this call durable.
    fn flush(&self) -> BoxFuture<'_, Result<(), String>>;
}
