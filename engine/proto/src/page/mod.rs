//! Pages of the engine: their layouts and the operations that change them. Pure functions over `&mut [u8]`.
//!
//! Rules
//! - BT-1 one function, [`apply()`], performs an operation, at run time and at redo.
//! - BT-2 operations address rows by key and versions by (position, transaction), never by offset: the layout inside a
//!   page may differ between run time and redo, its logical content may not (HZ-12).
//! - BT-3 whether an operation fits depends on the logical content alone, so what fitted at run time fits at redo.
//! - BT-4 bytes are untrusted: every accessor is bounds-checked and answers [`PageError::Corrupt`], never a panic.
//! - BT-5 stamping an SCN into a version changes no length, no PSN and is not logged.
//!
//! The common header (48 bytes) belongs to the buffer pool; PSN, CRC and epoch are written by it. `Format` writes kind,
//! file, number and tree, and goes on from the PSN and the stamp it finds (HZ-6).

mod apply;
mod audit;
mod header;
mod inner;
mod leaf;
mod limits;
mod operation;
mod slotted;
mod space;
mod status;

#[cfg(test)]
mod tests;

pub use apply::{Redone, apply, fits, redo};
pub use audit::audit;
pub use header::{HEADER_BYTES, PageKind, file_of, kind_of, psn_of, set_psn, set_stamp, stamp_of};
pub use inner::{InnerView, inner_entry_bytes};
pub use leaf::{
    DELETED, LOCK_ONLY, LeafView, RowView, VERSION_OVERHEAD, VersionView, put_bytes, row_bytes_with, stamp,
};
pub use limits::Limits;
pub use operation::{
    ChildEntry, PageContent, PageOperation, PruneVersion, RowContent, Version, decode_operation,
    encode_operation,
};
pub use slotted::{NodeView, capacity, node_bytes};
pub use space::{CHUNK_PAGES, ChunkView, SpaceMapView, pages_per_map};
pub use status::{STATUS_ABORTED, sequence_of, status_of, status_per_page};

/// Why a page could not be read or changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PageError {
    /// The bytes make no sense; the text says where.
    #[error("page content: {0}")]
    Corrupt(&'static str),
    /// The operation needs more room than the page has. Nothing was changed.
    #[error("the operation does not fit in the page")]
    DoesNotFit,
    /// The operation does not belong on this page (wrong kind, no such row or version). Nothing was changed.
    #[error("the operation does not match the page: {0}")]
    Mismatch(&'static str),
}
