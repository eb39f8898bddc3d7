//! A TPC-B-like load over the PostgreSQL protocol, and local clusters to run it on: shared by `demo` and `bench`.
//!
//! Rules: transfers of all nodes go to the same rows; each has an id made by its client, which is the key of its history
//! row; an outcome is "acknowledged", "unknown" (the connection was lost while the commit was under way), or the
//! transfer is tried again under the same id.

mod audit;
mod bank;
mod local;
mod takeover;
mod worker;

pub use audit::{Audit, audit};
pub use bank::{Scale, describe, prepare};
pub use local::{LocalCluster, LocalOptions, interruptible};
pub use takeover::{Takeover, Timeline};
pub use worker::{Board, Load, LoadOptions, LoadResult, connect};
