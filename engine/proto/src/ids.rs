//! Names of the engine: transactions, trees; and the redo record that parts of the engine pass to each other.

use alloc::vec::Vec;
use aquifer_buffer_pool_proto::{PageId, Psn};
use aquifer_dss_proto::{FileId, NodeId};
use core::fmt;
use serde::{Deserialize, Serialize};

/// A transaction (or sub-transaction): the node that runs it in the upper 16 bits, a number never used twice by that
/// node in the lower 48.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct TxnId(pub u64);

impl TxnId {
    /// Bits of the sequence.
    pub const SEQUENCE_BITS: u32 = 48;

    /// The transaction `sequence` (below 2^48, or this panics) of `node`.
    pub const fn new(node: NodeId, sequence: u64) -> Self {
        assert!(
            sequence >> Self::SEQUENCE_BITS == 0,
            "a transaction sequence has 48 bits"
        );
        Self((node.get() as u64) << Self::SEQUENCE_BITS | sequence)
    }

    /// The node that runs it; `None` when the bits (read from a page) name no node.
    pub const fn node(self) -> Option<NodeId> {
        let id = self.0 >> Self::SEQUENCE_BITS;
        if id <= NodeId::MAX as u64 {
            NodeId::new(id as u8)
        } else {
            None
        }
    }

    /// Its number at that node.
    pub const fn sequence(self) -> u64 {
        self.0 & ((1 << Self::SEQUENCE_BITS) - 1)
    }
}

impl fmt::Display for TxnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0 >> Self::SEQUENCE_BITS, self.sequence())
    }
}

/// A tree: named by the file it lives in.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct TreeId(pub FileId);

impl TreeId {
    /// The page `number` of this tree.
    pub const fn page(self, number: u32) -> PageId {
        PageId { file: self.0, number }
    }
}

impl fmt::Display for TreeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.0)
    }
}

/// One change of one page as it stands in a redo stream. Applied exactly when the page's PSN is `prev_psn`; the page
/// then has `prev_psn + 1`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RedoRecord {
    /// The page changed.
    pub page: PageId,
    /// Its PSN before the change.
    pub prev_psn: Psn,
    /// An encoded `PageOperation`.
    pub operation: Vec<u8>,
}
