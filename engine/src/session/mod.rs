//! Transactions as the SQL layer and other clients use them.

mod ahead;
mod intent;
mod read;
mod transaction;
mod write;

pub use transaction::{CommitOutcome, Isolation, Savepoint, Transaction};
