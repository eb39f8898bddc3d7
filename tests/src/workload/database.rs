//! What the workloads need of a database.

use aquifer_dss::seam::BoxFuture;
use std::ops::Bound;

/// Why an operation did not happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DatabaseError {
    /// Roll back and try again: conflict, deadlock, no view, snapshot too old.
    Retry(String),
    /// A row with this key exists.
    Duplicate,
    /// The commit's outcome is not known.
    Unknown(String),
    /// Never to be seen in a run: corruption, a broken rule.
    Wrong(String),
}

/// Keys and values in order of the keys.
pub type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// What a change function makes of the newest value; `None` leaves it.
pub type Change<'a> = &'a mut (dyn FnMut(&[u8]) -> Option<Vec<u8>> + Send);

/// A database at one node.
pub trait Database: Send + Sync + 'static {
    /// Makes a tree and answers its number.
    fn create_tree(&self) -> BoxFuture<'_, Result<u64, DatabaseError>>;
    /// Removes a tree that a transaction gave up, or that no transaction took, when nobody can read it any more.
    fn retire_tree(&self, tree: u64);
    /// Begins a transaction: one snapshot for all its reads, or one per statement.
    fn begin(&self, one_snapshot: bool) -> BoxFuture<'_, Result<Box<dyn TransactionHandle>, DatabaseError>>;
}

/// A transaction. Dropping it rolls it back.
pub trait TransactionHandle: Send {
    /// The value of `key`.
    fn get<'a>(
        &'a mut self,
        tree: u64,
        key: &'a [u8],
    ) -> BoxFuture<'a, Result<Option<Vec<u8>>, DatabaseError>>;
    /// The value of `key`, which stays so until the transaction ends.
    fn intend<'a>(
        &'a mut self,
        tree: u64,
        key: &'a [u8],
    ) -> BoxFuture<'a, Result<Option<Vec<u8>>, DatabaseError>>;
    /// Locks the row and waits for those that have an intent on it; answers its newest value.
    fn take_over<'a>(
        &'a mut self,
        tree: u64,
        key: &'a [u8],
    ) -> BoxFuture<'a, Result<Option<Vec<u8>>, DatabaseError>>;
    /// Up to `limit` pairs from `from` on.
    fn scan(
        &mut self,
        tree: u64,
        from: Bound<Vec<u8>>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Pairs, DatabaseError>>;
    /// A new row.
    fn insert<'a>(
        &'a mut self,
        tree: u64,
        key: &'a [u8],
        value: Vec<u8>,
    ) -> BoxFuture<'a, Result<(), DatabaseError>>;
    /// Locks the row, shows its newest value to `change`, writes what that answers. `None`: there is no row, or no change.
    fn update_with<'a>(
        &'a mut self,
        tree: u64,
        key: &'a [u8],
        change: Change<'a>,
    ) -> BoxFuture<'a, Result<Option<Vec<u8>>, DatabaseError>>;
    /// Deletes the row; false when there is none.
    fn delete<'a>(&'a mut self, tree: u64, key: &'a [u8]) -> BoxFuture<'a, Result<bool, DatabaseError>>;
    /// Commits.
    fn commit(self: Box<Self>) -> BoxFuture<'static, Result<(), DatabaseError>>;
    /// Rolls back.
    fn rollback(self: Box<Self>) -> BoxFuture<'static, Result<(), DatabaseError>>;
}

/// Reads everything of a tree, in batches.
pub async fn scan_all(transaction: &mut dyn TransactionHandle, tree: u64) -> Result<Pairs, DatabaseError> {
    scan_prefix(transaction, tree, &[]).await
}

/// Reads all keys that begin with `prefix`, in batches of a length that makes continuation usual.
pub async fn scan_prefix(
    transaction: &mut dyn TransactionHandle,
    tree: u64,
    prefix: &[u8],
) -> Result<Pairs, DatabaseError> {
    let mut all: Pairs = Vec::new();
    let mut from = Bound::Included(prefix.to_vec());
    loop {
        let batch = transaction.scan(tree, from, 17).await?;
        let Some((last, _)) = batch.last() else {
            return Ok(all);
        };
        if let Some((before, _)) = all.last()
            && batch[0].0 <= *before
        {
            return Err(DatabaseError::Wrong(format!(
                "a scan after {before:?} answers {:?}",
                batch[0].0
            )));
        }
        from = Bound::Excluded(last.clone());
        let whole = batch.len();
        all.extend(batch.into_iter().filter(|(key, _)| key.starts_with(prefix)));
        let beyond = !prefix.is_empty() && all.last().is_none_or(|(key, _)| !key.starts_with(prefix));
        if whole < 17 || beyond {
            return Ok(all);
        }
    }
}
