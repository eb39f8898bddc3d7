//! Sans-IO cores of the engine: ids, page layouts and operations, redo records, visibility, recovery plan.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;

pub mod group;
mod ids;
pub mod page;
pub mod rebuild;
pub mod recovery;
mod retention;
mod scn;
mod status;
mod visibility;

pub use ids::{RedoRecord, TreeId, TxnId};
pub use retention::{Retention, RetentionEntry};
pub use scn::{ScnFetch, ScnFetcher, ScnIssuer, ScnReply, ScnWant};
pub use status::{StatusPlace, status_place};
pub use visibility::{TxnStatus, VersionHead, Visible, Writable, prunable, visible, writable};
