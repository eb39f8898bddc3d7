//! The commit sequence: committing, SCN, status record, durable, committed, acknowledged.

use super::manager::TransactionManager;
use crate::Error;
use aquifer_buffer_pool_proto::{Lsn, Scn};
use aquifer_dss::seam::BoxFuture;
use aquifer_dss_proto::defect::{Defect, planted};
use aquifer_engine_proto::{TxnId, TxnStatus};
use std::sync::Arc;
use tokio::sync::oneshot;

/// The status pages, through the buffer pool.
pub trait StatusStore: Send + Sync + 'static {
    /// The commit SCN in the entry of `txn`, if it has one. Waits while the page is frozen for redo (TXN-3). A page
    /// or file that does not exist has no entries.
    fn read(&self, txn: TxnId) -> BoxFuture<'_, Result<Option<Scn>, Error>>;
    /// Writes the entries of one commit in one mini-transaction and gives the end of its redo group. When it fails,
    /// nothing was appended.
    fn write(&self, commits: Vec<(TxnId, Scn)>) -> BoxFuture<'_, Result<Lsn, Error>>;
}

impl TransactionManager {
    /// Publishes a top transaction as committing, and gives the ids that need a status record: itself and its
    /// sub-transactions that were not rolled back (TXN-1).
    fn publish_committing(&self, txn: TxnId) -> Vec<TxnId> {
        let mut state = self.state.lock();
        let entry = state.active.get_mut(&txn).expect("an active transaction commits");
        assert!(
            entry.status == TxnStatus::Active && entry.root == txn,
            "{txn} cannot commit"
        );
        entry.status = TxnStatus::Committing;
        let children = entry.children.clone();
        let kept = |child: &TxnId| state.active[child].status != TxnStatus::Aborted;
        std::iter::once(txn)
            .chain(children.into_iter().filter(kept))
            .collect()
    }

    /// Commits a top transaction. When this returns `Ok`, the commit is durable and every snapshot taken from now on,
    /// on any node, sees it; on `Err` the transaction is aborted. It runs to its end also when the caller goes
    /// away.
    pub async fn commit(self: &Arc<Self>, txn: TxnId) -> Result<Scn, Error> {
        let (done, outcome) = oneshot::channel();
        let this = self.clone();
        self.rt.spawn(
            "commit",
            Box::pin(async move {
                // A caller that has gone learns nothing.
                let _ = done.send(this.run_commit(txn).await);
            }),
        );
        let lost = || Error::OutcomeUnknown("the node stopped during the commit".to_owned());
        outcome.await.unwrap_or_else(|_| Err(lost()))
    }

    async fn run_commit(&self, txn: TxnId) -> Result<Scn, Error> {
        let early = match planted(Defect::ScnBeforeCommitting) {
            true => Some(self.scns.commit_scn().await),
            false => None,
        };
        let ids = self.publish_committing(txn);
        let scn = match early {
            Some(scn) => scn,
            None => self.scns.commit_scn().await,
        };
        let commits = ids.into_iter().map(|id| (id, scn)).collect();
        match self.store.write(commits).await {
            Ok(end) => {
                if !planted(Defect::AcknowledgeBeforeFlush) {
                    self.redo.wait(end).await;
                }
                self.finish(txn, TxnStatus::Committed(scn));
                Ok(scn)
            }
            Err(error) => {
                self.finish(txn, TxnStatus::Aborted);
                Err(error)
            }
        }
    }
}
