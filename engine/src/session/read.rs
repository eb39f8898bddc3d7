//! Reading rows under the statement's snapshot.

use super::transaction::{Own, Transaction};
use crate::engine::Runner;
use crate::transaction::{Resolutions, TransactionManager};
use crate::tree::ScanEnd;
use crate::{Blocked, Error};
use aquifer_buffer_pool::Scn;
use aquifer_engine_proto::page::{DELETED, LOCK_ONLY, RowView};
use aquifer_engine_proto::{TreeId, VersionHead, Visible, visible};
use std::ops::{Bound, ControlFlow};

/// A range of keys.
pub type KeyRange = (Bound<Vec<u8>>, Bound<Vec<u8>>);

/// A key and its value.
pub type Row = (Vec<u8>, Vec<u8>);

impl Transaction {
    /// The row of `key` as this statement sees it.
    pub async fn get(&mut self, tree: TreeId, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        self.open()?;
        let snapshot = self.snapshot_scn()?;
        let own = self.own();
        let engine = self.engine.clone();
        let mut runner = Runner {
            txn: self.id,
            learned: &mut self.learned,
        };
        let found = engine
            .run_under_snapshot(&mut runner, tree, |tree, learned| {
                tree.read(key, |row| {
                    Ok(seen(&row, snapshot, &own, &engine.txns, learned)?.map(<[u8]>::to_vec))
                })
            })
            .await?;
        engine.check()?;
        Ok(found)
    }

    /// Up to `limit` rows of the range in key order (from the end when `reverse`), as this statement sees them. Fewer than
    /// `limit` means that there are no more; otherwise go on behind the last key.
    pub async fn scan(
        &mut self,
        tree: TreeId,
        range: KeyRange,
        reverse: bool,
        limit: usize,
    ) -> Result<Vec<Row>, Error> {
        self.open()?;
        let snapshot = self.snapshot_scn()?;
        let own = self.own();
        let engine = self.engine.clone();
        let mut runner = Runner {
            txn: self.id,
            learned: &mut self.learned,
        };
        let mut ahead = std::mem::take(&mut self.read_ahead).going_on(tree, &range, reverse);
        let (mut lower, mut upper) = range;
        let mut rows: Vec<Row> = Vec::new();
        while rows.len() < limit {
            // Progress survives a step that blocks: the bounds move with every row that was decided.
            let end = engine
                .run_under_snapshot(&mut runner, tree, |tree, learned| {
                    let mut passed: Option<Vec<u8>> = None;
                    let result = tree.scan(as_slice(&lower), as_slice(&upper), reverse, &mut |row| {
                        if let Some(value) = seen(&row, snapshot, &own, &engine.txns, learned)? {
                            rows.push((row.key().to_vec(), value.to_vec()));
                        }
                        passed = Some(row.key().to_vec());
                        Ok(if rows.len() >= limit {
                            ControlFlow::Break(())
                        } else {
                            ControlFlow::Continue(())
                        })
                    });
                    if let Some(key) = passed {
                        *(if reverse { &mut upper } else { &mut lower }) = Bound::Excluded(key);
                    }
                    result
                })
                .await?;
            match end {
                ScanEnd::Done | ScanEnd::Stopped => break,
                ScanEnd::Next(bound) => *(if reverse { &mut upper } else { &mut lower }) = bound,
            }
            ahead.turn(&engine, as_slice(&lower), as_slice(&upper));
        }
        self.read_ahead = ahead.stopped_at(if reverse { upper } else { lower });
        engine.check()?;
        Ok(rows)
    }
}

/// The value of `row` that the snapshot sees.
pub(super) fn seen<'a>(
    row: &RowView<'a>,
    snapshot: Scn,
    own: &Own,
    txns: &TransactionManager,
    learned: &Resolutions,
) -> Result<Option<&'a [u8]>, Blocked> {
    match visible(
        heads(row),
        snapshot,
        |txn| own.contains(txn),
        |txn| txns.status(txn, learned),
    )? {
        Visible::Version(index) => Ok(row.versions().nth(index).map(|version| version.value)),
        Visible::Nothing(None) if row.truncated_below() > snapshot => Err(Error::SnapshotTooOld.into()),
        Visible::Nothing(_) => Ok(None),
        Visible::WaitFor(txn) => Err(Blocked::Transaction(txn)),
    }
}

/// What decides about the versions of a row, newest first.
pub(super) fn heads<'a>(row: &RowView<'a>) -> impl Iterator<Item = VersionHead> + use<'a> {
    row.versions().map(|version| VersionHead {
        txn: version.txn,
        scn: version.scn,
        deleted: version.flags & DELETED != 0,
        lock_only: version.flags & LOCK_ONLY != 0,
    })
}

const fn as_slice(bound: &Bound<Vec<u8>>) -> Bound<&[u8]> {
    match bound {
        Bound::Included(key) => Bound::Included(key.as_slice()),
        Bound::Excluded(key) => Bound::Excluded(key.as_slice()),
        Bound::Unbounded => Bound::Unbounded,
    }
}
