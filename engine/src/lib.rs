//! Transactions over shared pages: WAL, B-link tree, recovery, node.

mod blocked;
pub mod check;
mod copies;
pub mod decode;
mod engine;
mod error;
pub mod mtr;
pub mod node;
mod rebuild;
pub mod recovery;
mod restore;
pub mod rpc;
pub mod session;
mod space;
mod status;
mod store;
mod streams;
pub mod transaction;
pub mod tree;
mod waits;
pub mod wal;

pub use aquifer_engine_proto::TreeId;
pub use blocked::Blocked;
pub use engine::Engine;
pub use error::Error;
pub use session::{CommitOutcome, Isolation, Savepoint, Transaction};
pub use waits::{WaitCause, Waits};
