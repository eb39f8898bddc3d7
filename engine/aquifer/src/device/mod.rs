//! The device without a node: making, formatting, reading slots and files, fencing.
//!
//! Rules: what only looks opens the device read-only and takes no lock, so that it works beside running nodes and can
//! change nothing; it sees the metadata as of the last durable journal entry.

mod files;
mod make;
mod offline;
mod plain;
mod slots;

pub use make::{Formatted, create, format, storage_failure};
pub use offline::{HeldDevices, OfflineGroup};
pub use plain::PlainDevice;
pub use slots::{anybody_runs, fence, read_slots, report};
