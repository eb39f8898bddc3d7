//! Writing rows: who may, what is put, and what is cleared away on the occasion.

use super::read::heads;
use super::transaction::{Isolation, Own, Transaction};
use crate::engine::Runner;
use crate::transaction::{Resolutions, TransactionManager};
use crate::tree::{Decision, Room, check_lengths};
use crate::{Blocked, Error};
use aquifer_buffer_pool::Scn;
use aquifer_engine_proto::page::{DELETED, LOCK_ONLY, Limits, RowView, Version};
use aquifer_engine_proto::{TreeId, TxnId, TxnStatus, Writable, prunable, writable};

/// What a writer makes of the row it may write: `None` when there is none.
type Change<'a> = dyn FnMut(Option<&[u8]>) -> Result<Option<(u8, Vec<u8>)>, Error> + Send + 'a;

impl Transaction {
    fn limits(&self) -> Limits {
        Limits::of(self.engine.pool.page_size())
    }

    /// Adds a row. [`Error::DuplicateKey`] when a committed one (or an own one) exists; waits for one that is being written.
    pub async fn insert(&mut self, tree: TreeId, key: &[u8], value: &[u8]) -> Result<(), Error> {
        check_lengths(self.limits(), key, value)?;
        let mut put = |row: Option<&[u8]>| match row {
            Some(_) => Err(Error::DuplicateKey),
            None => Ok(Some((0, value.to_vec()))),
        };
        // A row committed after the snapshot is a duplicate too, not a conflict.
        self.change(tree, key, false, &mut put).await.map(|_| ())
    }

    /// Replaces a row's value; false when there is no row.
    pub async fn update(&mut self, tree: TreeId, key: &[u8], value: &[u8]) -> Result<bool, Error> {
        check_lengths(self.limits(), key, value)?;
        self.change(tree, key, true, &mut |row| Ok(row.map(|_| (0, value.to_vec()))))
            .await
    }

    /// Shows `f` the row version that would be replaced and writes what it answers. `None`, from `f` or because there is no row:
    /// nothing was written. `f` may be called several times.
    pub async fn update_with(
        &mut self,
        tree: TreeId,
        key: &[u8],
        mut f: impl FnMut(&[u8]) -> Option<Vec<u8>> + Send,
    ) -> Result<Option<Vec<u8>>, Error> {
        let mut written = None;
        let limits = self.limits();
        let mut put = |row: Option<&[u8]>| {
            written = row.and_then(&mut f);
            if let Some(value) = &written {
                check_lengths(limits, &[], value)?;
            }
            Ok(written.clone().map(|value| (0, value)))
        };
        let done = self.change(tree, key, true, &mut put).await?;
        Ok(if done { written } else { None })
    }

    /// Removes a row; false when there is none.
    pub async fn delete(&mut self, tree: TreeId, key: &[u8]) -> Result<bool, Error> {
        self.change(tree, key, true, &mut |row| Ok(row.map(|_| (DELETED, Vec::new()))))
            .await
    }

    /// The newest committed (or own) version of a row, locked until the transaction ends.
    pub async fn get_for_update(&mut self, tree: TreeId, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let mut found = None;
        let mut lock = |row: Option<&[u8]>| {
            found = row.map(<[u8]>::to_vec);
            Ok(row.map(|_| (LOCK_ONLY, Vec::new())))
        };
        self.change(tree, key, true, &mut lock).await?;
        Ok(found)
    }

    /// Does `change` to the row of `key` once it may be written. `conflicts`: under snapshot isolation a version committed after
    /// the snapshot is an error.
    async fn change(
        &mut self,
        tree: TreeId,
        key: &[u8],
        conflicts: bool,
        change: &mut Change<'_>,
    ) -> Result<bool, Error> {
        self.open()?;
        let snapshot = self.snapshot_scn()?;
        let covers = (conflicts && self.isolation == Isolation::Snapshot).then_some(snapshot);
        let writer = self.writer().await?;
        let own = self.own();
        let engine = self.engine.clone();
        let mut runner = Runner {
            txn: self.id,
            learned: &mut self.learned,
        };
        let mut put = false;
        engine
            .run(&mut runner, true, |learned| {
                let known = Known {
                    own: &own,
                    txns: &engine.txns,
                    learned,
                };
                engine.tree(tree).modify(
                    key,
                    &mut |row| {
                        let decision = known.decide(&row, writer, covers, change)?;
                        put = decision.put.is_some();
                        Ok(decision)
                    },
                    &mut |row| known.prunable(&row),
                )
            })
            .await?;
        if put {
            self.remember(tree, key, writer);
        }
        engine.check()?;
        Ok(put)
    }
}

/// What a writer knows of transactions.
struct Known<'a> {
    own: &'a Own,
    txns: &'a TransactionManager,
    learned: &'a Resolutions,
}

impl Known<'_> {
    fn decide(
        &self,
        row: &RowView<'_>,
        writer: TxnId,
        snapshot: Option<Scn>,
        change: &mut Change<'_>,
    ) -> Result<Decision, Blocked> {
        let status = |txn| self.txns.status(txn, self.learned);
        let replaced = match writable(heads(row), snapshot, |txn| self.own.contains(txn), status)? {
            Writable::Free(replaced) => replaced,
            Writable::WaitFor(holder) => return Err(Blocked::Transaction(holder)),
            Writable::Conflict(_) => return Err(Error::SerializationFailure.into()),
        };
        let value = replaced
            .and_then(|index| row.versions().nth(index))
            .map(|version| version.value);
        let Some((flags, value)) = change(value)? else {
            return Ok(Decision::nothing());
        };
        Ok(Decision {
            put: Some(Version {
                txn: writer,
                scn: Scn(0),
                flags,
                value,
            }),
            prune: self.prunable(row),
            stamps: self.stamps(row),
            room: Some(self.room(row)),
        })
    }

    /// Positions of versions that nobody can see any more.
    fn prunable(&self, row: &RowView<'_>) -> Vec<u16> {
        let gone = prunable(heads(row), self.txns.scns().horizon(), |txn| {
            self.txns.status(txn, self.learned)
        });
        gone.into_iter().map(|position| position as u16).collect()
    }

    /// Commits known here and not yet written into the row.
    fn stamps(&self, row: &RowView<'_>) -> Vec<(TxnId, Scn)> {
        heads(row)
            .filter(|version| version.scn == Scn(0))
            .filter_map(|version| match self.txns.status(version.txn, self.learned) {
                Ok(TxnStatus::Committed(scn)) => Some((version.txn, scn)),
                _ => None,
            })
            .collect()
    }

    /// What may be given up when the row's versions do not fit: all behind the newest committed one.
    fn room(&self, row: &RowView<'_>) -> Room {
        for (index, version) in heads(row).enumerate() {
            let scn = match (version.scn, self.txns.status(version.txn, self.learned)) {
                (Scn(0), Ok(TxnStatus::Committed(scn))) => scn,
                (Scn(0), _) => continue,
                (scn, _) => scn,
            };
            if !version.lock_only {
                return Room {
                    keep: index + 1,
                    truncated_below: scn,
                };
            }
        }
        Room {
            keep: usize::MAX,
            truncated_below: Scn(0),
        }
    }
}
