//! Transactions over shared pages: WAL, B-link tree, recovery, node.

mod error;
pub mod node;

pub use error::Error;
