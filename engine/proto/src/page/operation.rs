//! What can be done to a page, and its encoding in redo (postcard).

use super::PageError;
use crate::TxnId;
use alloc::vec::Vec;
use aquifer_buffer_pool_proto::Scn;
use serde::{Deserialize, Serialize};

/// A version of a row to be put.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Version {
    /// Who wrote it.
    pub txn: TxnId,
    /// Its commit timestamp, 0 while not known.
    pub scn: Scn,
    /// `DELETED`, `LOCK_ONLY`, or 0.
    pub flags: u8,
    /// The row's value; empty when deleted or lock-only.
    #[serde(with = "raw_bytes")]
    pub value: Vec<u8>,
}

/// Names a version of a row: its position (0 is the newest) before the operation, and who wrote it, as a check.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PruneVersion {
    /// Position, newest first.
    pub position: u16,
    /// Who wrote it.
    pub txn: TxnId,
}

/// A row with all its versions.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RowContent {
    /// The key.
    #[serde(with = "raw_bytes")]
    pub key: Vec<u8>,
    /// Snapshots below this SCN may miss versions that were dropped for room; 0 when none was.
    pub truncated_below: Scn,
    /// Newest first.
    pub versions: Vec<Version>,
}

/// A child of an inner page.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ChildEntry {
    /// The child's low fence.
    #[serde(with = "raw_bytes")]
    pub key: Vec<u8>,
    /// The child's page number.
    pub child: u32,
}

/// The whole content of a page.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum PageContent {
    /// A tree leaf.
    Leaf {
        /// Keys are at or above this.
        low: Vec<u8>,
        /// Keys are below this; `None` is no bound.
        high: Option<Vec<u8>>,
        /// Right sibling, 0 when there is none.
        right: u32,
        /// In key order.
        rows: Vec<RowContent>,
    },
    /// A tree page above the leaves.
    Inner {
        /// Distance from the leaves, at least 1.
        level: u8,
        /// Keys are at or above this.
        low: Vec<u8>,
        /// Keys are below this; `None` is no bound.
        high: Option<Vec<u8>>,
        /// Right sibling, 0 when there is none.
        right: u32,
        /// In key order; the first key is `low`.
        children: Vec<ChildEntry>,
    },
    /// An empty space map.
    SpaceMap,
    /// A status page where no transaction has an outcome.
    Status,
    /// A sequence page.
    Sequence {
        /// The first number not given away.
        next: u64,
    },
}

/// A change of one page.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum PageOperation {
    /// Gives the page a new content, whatever it was: needs no base (HZ-6: its PSN goes on).
    Format(PageContent),
    /// Puts a version in front of a row's others, making the row when there is none. When the newest version is of the same
    /// transaction it is replaced, except that a lock-only version never replaces it.
    PutVersion {
        /// The row's key.
        #[serde(with = "raw_bytes")]
        key: Vec<u8>,
        /// The version.
        version: Version,
    },
    /// Removes versions of a row, in rising position; the row goes with its last version.
    Prune {
        /// The row's key.
        #[serde(with = "raw_bytes")]
        key: Vec<u8>,
        /// What goes.
        versions: Vec<PruneVersion>,
        /// When something that a snapshot may still need goes: no snapshot below this may trust the rest. Otherwise 0.
        truncated_below: Scn,
    },
    /// Removes a row with all its versions.
    RemoveKey {
        /// The row's key.
        #[serde(with = "raw_bytes")]
        key: Vec<u8>,
    },
    /// Adds a child to an inner page.
    InsertChild(ChildEntry),
    /// The left half of a split: everything at or above `separator` goes.
    TruncateRight {
        /// The new high fence.
        #[serde(with = "raw_bytes")]
        separator: Vec<u8>,
        /// The new right sibling.
        right: u32,
    },
    /// Takes a chunk for a node and marks one page of it used.
    SetSpace {
        /// Chunk of this map.
        chunk: u16,
        /// The node (1 to 64) that allocates from it; must own it already or find it free.
        owner: u8,
        /// Page of the chunk, 0 to 63.
        page: u8,
    },
    /// Records the outcome of a transaction.
    SetStatus {
        /// Position in the page.
        index: u16,
        /// Its commit SCN, or `STATUS_ABORTED`.
        scn: Scn,
    },
    /// Moves the sequence on; it never falls.
    SetSequence {
        /// The first number not given away.
        next: u64,
    },
}

/// As it stands in a redo record.
pub fn encode_operation(operation: &PageOperation) -> Vec<u8> {
    postcard::to_allocvec(operation).expect("writing to memory does not fail")
}

/// The inverse of [`encode_operation`]; any bytes are safe.
pub fn decode_operation(bytes: &[u8]) -> Result<PageOperation, PageError> {
    match postcard::take_from_bytes(bytes) {
        Ok((operation, [])) => Ok(operation),
        _ => Err(PageError::Corrupt("undecodable operation")),
    }
}

/// Bytes as one run instead of one call per byte; the encoding is the same.
mod raw_bytes {
    use alloc::vec::Vec;
    use serde::de::{Deserializer, Error, Visitor};
    use serde::ser::Serializer;

    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Vec<u8>;
            fn expecting(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                formatter.write_str("bytes")
            }
            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
                Ok(bytes.to_vec())
            }
        }
        deserializer.deserialize_bytes(Bytes)
    }
}
