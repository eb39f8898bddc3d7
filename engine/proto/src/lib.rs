//! Sans-IO cores of the engine: ids, page layouts and operations, redo records, visibility, recovery plan.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;

mod ids;
pub mod recovery;

pub use ids::{RedoRecord, TreeId, TxnId};
