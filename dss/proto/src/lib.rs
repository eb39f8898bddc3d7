//! Sans-IO cores of shared storage: ids, time, views, catalogue, ballots, membership.
//!
//! Nothing here has a clock, a thread, a socket or a device. A core takes `handle_*(now, input)` and
//! gives `poll_*` outputs; drivers live in `aquifer-dss`.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;

pub mod ballot;
mod ids;
mod time;
mod view;

pub use ids::{Epoch, FileId, Incarnation, NodeId, NodeSet};
pub use time::Instant;
pub use view::{HOME_SLOTS, Member, View};
