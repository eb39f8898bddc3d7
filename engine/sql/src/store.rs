//! What a session needs of the engine: transactions over ordered trees. One trait, static dispatch, two implementations: the engine
//! (`engine_store`) and memory (`testing`).

use aquifer_engine_proto::TreeId;
use std::future::Future;
use std::ops::Bound;

/// Errors of the store are the engine's, each with its SQLSTATE.
pub use aquifer_engine::Error as StoreError;

/// Isolation of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// A new snapshot at each statement; writers go on from the newest committed version.
    ReadCommitted,
    /// One snapshot; the first updater wins.
    Snapshot,
}

/// How a commit ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Committed {
    /// Durable.
    Yes,
    /// The transaction had already been rolled back.
    RolledBack,
}

/// A range of keys.
pub type KeyRange = (Bound<Vec<u8>>, Bound<Vec<u8>>);
/// Keys with their values, in order.
pub type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// Something that keeps trees and begins transactions.
pub trait Store: Send + Sync + 'static {
    /// Its transactions.
    type Transaction: StoreTransaction;

    /// Begins a transaction; it takes its snapshot at the first statement.
    fn begin(&self, isolation: Isolation) -> Self::Transaction;
    /// Makes an empty tree. Not transactional: the caller drops it again if its transaction does not commit.
    fn create_tree(&self) -> impl Future<Output = Result<TreeId, StoreError>> + Send;
    /// Removes for good, and now, a tree that nobody else knows of.
    fn drop_tree(&self, tree: TreeId) -> impl Future<Output = Result<(), StoreError>> + Send;
    /// Removes a tree that a committed transaction gave up, once no snapshot is left that may read it. Returns at once.
    fn retire_tree(&self, tree: TreeId);
    /// The tree that keeps table descriptors.
    fn catalog_tree(&self) -> TreeId;
}

/// A transaction. Dropping it without `commit` rolls it back.
pub trait StoreTransaction: Send + 'static {
    /// A point to come back to.
    type Savepoint: Copy + Send + 'static;

    /// Begins a statement: a new snapshot under read committed.
    fn statement(&mut self) -> impl Future<Output = Result<(), StoreError>> + Send;
    /// The value the snapshot sees.
    fn get(
        &mut self,
        tree: TreeId,
        key: &[u8],
    ) -> impl Future<Output = Result<Option<Vec<u8>>, StoreError>> + Send;
    /// The value the snapshot sees, which is also the newest and stays so until the transaction ends: waits for who has the row locked,
    /// takes a newer snapshot if need be (read committed), or fails (snapshot isolation).
    fn intend(
        &mut self,
        tree: TreeId,
        key: &[u8],
    ) -> impl Future<Output = Result<Option<Vec<u8>>, StoreError>> + Send;
    /// For a row that this transaction has locked: waits until no other transaction goes on from it by `intend`. Until the next
    /// statement begins, reads see everything that those committed.
    fn wait_for_intents(
        &mut self,
        tree: TreeId,
        key: &[u8],
    ) -> impl Future<Output = Result<(), StoreError>> + Send;
    /// Locks the row and gives its newest value.
    fn get_for_update(
        &mut self,
        tree: TreeId,
        key: &[u8],
    ) -> impl Future<Output = Result<Option<Vec<u8>>, StoreError>> + Send;
    /// One batch of at most `limit` rows that the snapshot sees; fewer than `limit` means that the range is exhausted.
    fn scan(
        &mut self,
        tree: TreeId,
        range: KeyRange,
        reverse: bool,
        limit: usize,
    ) -> impl Future<Output = Result<Pairs, StoreError>> + Send;
    /// Adds a row, or fails with `DuplicateKey` (which leaves the transaction usable).
    fn insert(
        &mut self,
        tree: TreeId,
        key: &[u8],
        value: Vec<u8>,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;
    /// Replaces a row; false when there is none.
    fn update(
        &mut self,
        tree: TreeId,
        key: &[u8],
        value: Vec<u8>,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send;
    /// Locks the newest version and replaces it by what `change` makes of it; `None` leaves it. May call `change` more than
    /// once, the last call counts. True when the row was written.
    fn update_with<F>(
        &mut self,
        tree: TreeId,
        key: &[u8],
        change: F,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send
    where
        F: FnMut(&[u8]) -> Option<Vec<u8>> + Send;
    /// Removes a row; false when there is none.
    fn delete(&mut self, tree: TreeId, key: &[u8]) -> impl Future<Output = Result<bool, StoreError>> + Send;
    /// Marks a point to come back to.
    fn savepoint(&mut self) -> Self::Savepoint;
    /// Undoes everything after the savepoint, which stays valid.
    fn rollback_to(
        &mut self,
        savepoint: Self::Savepoint,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;
    /// Forgets the savepoint and those after it; what was written since stays.
    fn release(&mut self, savepoint: Self::Savepoint) -> Result<(), StoreError>;
    /// Commits.
    fn commit(self) -> impl Future<Output = Result<Committed, StoreError>> + Send;
    /// Rolls back.
    fn rollback(self) -> impl Future<Output = Result<(), StoreError>> + Send;
}
