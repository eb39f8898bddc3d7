//! Going on from a row without a lock on it, and changing a row that others go on from (TXN-8).

use super::read::heads;
use super::transaction::{Isolation, Transaction};
use crate::Error;
use crate::engine::Runner;
use crate::waits::WaitCause;
use aquifer_engine_proto::page::RowView;
use aquifer_engine_proto::{TreeId, TxnId, Visible, Writable, visible, writable};

/// How the version of the statement's snapshot stands to the newest one.
enum Newest {
    /// It is the newest.
    Seen(Vec<u8>),
    /// The snapshot sees no row.
    Nothing,
    /// Somebody committed a change after the snapshot.
    Changed,
    /// A running transaction has the row locked or changed.
    HeldBy(TxnId),
}

impl Transaction {
    /// The row as this statement sees it, which is also its newest version, and stays so until this transaction ends: who
    /// changes the row and then calls [`wait_for_intents`](Self::wait_for_intents) waits for that. Waits for a transaction that
    /// has the row locked or changed. If it was changed after the snapshot, read committed begins the statement again with a
    /// new snapshot, and snapshot isolation fails. Takes a transaction id; costs one read of the row, at the first call and at later ones.
    pub async fn intend(&mut self, tree: TreeId, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        self.open()?;
        let top = self.top().await?;
        if self.engine.txns.has_intent(top, tree, key) {
            return self.get(tree, key).await;
        }
        let engine = self.engine.clone();
        loop {
            let intent = engine.txns.register_intent(top, tree, key);
            match self.newest(tree, key).await? {
                Newest::Seen(value) => {
                    intent.confirm();
                    engine.check()?;
                    return Ok(Some(value));
                }
                Newest::Nothing => {
                    engine.check()?;
                    return Ok(None);
                }
                Newest::Changed if self.isolation == Isolation::Snapshot => {
                    return Err(Error::SerializationFailure);
                }
                Newest::Changed => {
                    drop(intent);
                    self.statement().await?;
                }
                Newest::HeldBy(holder) => {
                    drop(intent);
                    let wait = engine.txns.wait_for(Some(top), holder);
                    engine.charge(WaitCause::Row, wait).await?;
                    self.learned.forget(holder);
                }
            }
        }
    }

    async fn newest(&mut self, tree: TreeId, key: &[u8]) -> Result<Newest, Error> {
        let snapshot = self.snapshot_scn()?;
        let own = self.own();
        let engine = self.engine.clone();
        let mut runner = Runner {
            txn: self.id,
            learned: &mut self.learned,
        };
        engine
            .run(&mut runner, false, |learned| {
                engine.tree(tree).read(key, |row: RowView<'_>| {
                    let status = |txn| engine.txns.status(txn, learned);
                    let mine = |txn| own.contains(txn);
                    let index = match visible(heads(&row), snapshot, mine, status)? {
                        Visible::Version(index) => index,
                        Visible::Nothing(None) if row.truncated_below() > snapshot => {
                            return Ok(Newest::Changed);
                        }
                        Visible::Nothing(_) => return Ok(Newest::Nothing),
                        Visible::WaitFor(txn) => return Ok(Newest::HeldBy(txn)),
                    };
                    Ok(match writable(heads(&row), None, mine, status)? {
                        Writable::WaitFor(holder) => Newest::HeldBy(holder),
                        Writable::Free(newest) if newest == Some(index) => {
                            let version = row.versions().nth(index);
                            version.map_or(Newest::Nothing, |version| Newest::Seen(version.value.to_vec()))
                        }
                        _ => Newest::Changed,
                    })
                })
            })
            .await
    }

    /// For a row that this transaction has locked or changed: waits until every other transaction that goes on from an older version of
    /// it has ended. Until the next statement begins, reads see what those committed, at either isolation.
    pub async fn wait_for_intents(&mut self, tree: TreeId, key: &[u8]) -> Result<(), Error> {
        self.open()?;
        let top = self.id.ok_or(Error::State("the row was not locked before"))?;
        let engine = self.engine.clone();
        let wait = engine.txns.wait_for_intents(top, tree, key);
        engine.charge(WaitCause::Row, wait).await?;
        self.latest = Some(engine.charge(WaitCause::Snapshot, engine.txns.snapshot()).await);
        self.learned.clear();
        engine.check()
    }
}
