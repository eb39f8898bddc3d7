//! Transactions over shared pages: WAL, B-link tree, recovery, node.

mod error;

pub use error::Error;
