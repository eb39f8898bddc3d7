//! What a synchronous step of the engine lacks. The session loop awaits exactly that, then runs the step again.
//!
//! Rule: a step that answers `Blocked` has changed nothing that its repetition would change once more.

use crate::Error;
use aquifer_buffer_pool_proto::{Mode, PageId};
use aquifer_engine_proto::{TreeId, TxnId};

/// Why a step could not finish.
#[derive(Debug, Clone)]
pub enum Blocked {
    /// The page is not possessed in this mode: acquire it.
    Page(PageId, Mode),
    /// A leaf is not possessed: acquire it Shared. For a reader under a snapshot a copy of it is as good (HZ-8).
    Leaf(PageId),
    /// A row is locked by this transaction: wait for its end.
    Transaction(TxnId),
    /// The status of this transaction is not known here: ask for it.
    Status(TxnId),
    /// The tree's file has no free page for this node: allocate more.
    Space(TreeId),
    /// The page's bytes make no sense although its checksum may be good.
    Corrupt(PageId),
    /// Waiting does not help: the statement fails with this.
    Failed(Error),
}

impl From<Error> for Blocked {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}
