//! Sans-IO cores of shared storage: ids, time, views, catalogue, ballots, membership.
//!
//! Nothing here has a clock, a thread, a socket or a device. A core takes `handle_*(now, input)` and
//! gives `poll_*` outputs; drivers live in `aquifer-dss`.
#![cfg_attr(not(feature = "defects"), no_std)]
#![forbid(unsafe_code)]
extern crate alloc;

pub mod ballot;
pub mod catalog;
pub mod defect;
pub mod envelope;
mod ids;
pub mod journal;
pub mod label;
pub mod membership;
mod shape;
pub mod storage_message;
mod time;
mod view;

/// Unit of metadata on the device, in bytes.
pub const BLOCK_BYTES: usize = 4096;

pub use ids::{Epoch, FileId, Incarnation, NodeId, NodeSet};
pub use shape::{HomeSlots, PageSize};
pub use time::Instant;
pub use view::{Member, View};
