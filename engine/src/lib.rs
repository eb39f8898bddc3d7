//! Transactions over shared pages: WAL, B-link tree, recovery, node.

mod blocked;
mod error;
pub mod mtr;
pub mod node;
pub mod rpc;
pub mod transaction;
pub mod wal;
pub mod tree;

pub use blocked::Blocked;
pub use error::Error;
