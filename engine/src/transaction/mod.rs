//! Transactions of one node: SCNs, status, commit, row waits.
//!
//! Rules (TXN-n in the crate's README):
//! - TXN-1 a transaction is published as committing before it asks for its SCN (HZ-13), and as committed only when
//!   its status record is durable;
//! - TXN-2 an answer "active" holds only for snapshots taken before it was given: it is never cached beyond a statement;
//! - TXN-3 a node answers for its own transactions; for a node outside the view its status pages answer, which cannot be
//!   read before its redo is done;
//! - TXN-4 a row wait is registered where the holder runs; it ends with the holder, at a view change, at a deadlock or
//!   at its time limit (HZ-16);
//! - TXN-5 a view is installed here before the pool serves pages of its epoch, so that a row of a node that joined is never
//!   taken for one of a dead node;
//! - TXN-8 who goes on from a row without a lock registers an intent and then reads the row; who changes it locks it and then waits
//!   for the intents of every member (`intent`);
//! - TXN-9 a tree is removed only when the horizon has come to the commit that gave it up.

mod cache;
mod commit;
mod intent;
mod manager;
mod scn;
#[cfg(test)]
mod tests;
mod wait;

pub use commit::StatusStore;
pub use manager::{Resolutions, TransactionConfig, TransactionManager};
pub use scn::{CeilingStore, ScnService, Snapshot};
