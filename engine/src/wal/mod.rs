//! The redo stream: one per node, a ring in a file of the shared storage, readable by everybody.
//!
//! Rules (WAL-n in the crate's README):
//! - WAL-1 a position is reported durable only when the write and a flush after it have completed;
//! - WAL-2 a failed write or flush is final: the node stops;
//! - WAL-3 the ring never overwrites what the header on storage calls needed: the new horizon is durable first;
//! - WAL-4 a stream is appended to by one life only, behind the durable seal of the life before (HZ-10).

mod file;
mod header;
mod history;
mod reader;
mod stream;
#[cfg(test)]
mod tests;

pub use file::{GroupFile, RedoFile};
pub use header::{
    RING_OFFSET, Segment, StreamHeader, WalError, format_stream, mark_clean, read_header, seal,
};
pub use history::{PageRedo, read_page_history};
pub use reader::{StreamReader, read_stream};
pub use stream::{Pressure, RedoConfig, RedoStream};
