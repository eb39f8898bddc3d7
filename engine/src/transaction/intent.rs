//! Intents: a transaction goes on from one version of a row until it ends, without a lock on the row. The SQL layer's rows
//! with intents are descriptors of tables: whoever writes rows of a table has one.
//!
//! Rules (TXN-8):
//! - an intent is registered at the transaction's own node first, and only then is the row read; when the row turns out to be
//!   locked or changed by somebody else, the intent is withdrawn before that transaction is waited for;
//! - who changes the row locks it first, and only then asks every member for the intents on it, and waits until those
//!   transactions have ended or have withdrawn.
//!
//! So of a transaction with an intent and one that changes the row at least one sees the other: if the intent was not in its
//! node's answer, it was registered after that answer, so its row was read after the lock, and possession of the page is coherent.
//! Both may see each other; then the intent is withdrawn, and that is no deadlock. An intent that was confirmed is not looked at again
//! by its transaction: the change waits for it. A node that leaves the view is proven dead: what its transactions
//! committed is found by their status, and the others are aborted. Lives that join register after the lock.

use super::manager::TransactionManager;
use crate::Error;
use crate::rpc::{EngineRequest, EngineResponse};
use aquifer_dss_proto::NodeId;
use aquifer_dss_proto::defect::{Defect, planted};
use aquifer_engine_proto::{TreeId, TxnId};
use std::sync::Arc;

/// An intent that is not confirmed: dropped, it is withdrawn.
pub struct Unconfirmed<'a> {
    manager: &'a TransactionManager,
    txn: TxnId,
    tree: TreeId,
    key: &'a [u8],
}

impl Unconfirmed<'_> {
    /// The row is as the transaction takes it to be: the intent stands until the transaction ends.
    pub fn confirm(self) {
        std::mem::forget(self);
    }
}

impl Drop for Unconfirmed<'_> {
    fn drop(&mut self) {
        if let Some(entry) = self.manager.state.lock().active.get_mut(&self.txn) {
            entry
                .intents
                .retain(|(tree, key)| *tree != self.tree || key != self.key);
        }
        // Who waits for the transaction because of this intent looks again.
        self.manager.wake_waiters(self.txn);
    }
}

/// For whose intents a transaction waits, while it does.
struct Waits<'a>(&'a TransactionManager, TxnId);

impl<'a> Waits<'a> {
    fn begin(manager: &'a TransactionManager, waiter: TxnId, tree: TreeId, key: &[u8]) -> Self {
        if let Some(entry) = manager.state.lock().active.get_mut(&waiter) {
            entry.waits_for_intents = Some((tree, key.to_vec()));
        }
        Self(manager, waiter)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        if let Some(entry) = self.0.state.lock().active.get_mut(&self.1) {
            entry.waits_for_intents = None;
        }
    }
}

impl TransactionManager {
    /// Whether the top transaction has a confirmed intent on the row.
    pub fn has_intent(&self, txn: TxnId, tree: TreeId, key: &[u8]) -> bool {
        let state = self.state.lock();
        let intents = state.active.get(&txn).map(|entry| &entry.intents);
        intents.is_some_and(|intents| intents.iter().any(|(t, k)| *t == tree && k == key))
    }

    /// Registers an intent of an active top transaction that has none on this row. Before the row is read (TXN-8).
    pub fn register_intent<'a>(&'a self, txn: TxnId, tree: TreeId, key: &'a [u8]) -> Unconfirmed<'a> {
        let mut state = self.state.lock();
        let entry = state
            .active
            .get_mut(&txn)
            .expect("an active transaction registers an intent");
        assert!(entry.root == txn, "{txn} registers as a top transaction");
        entry.intents.push((tree, key.to_vec()));
        Unconfirmed {
            manager: self,
            txn,
            tree,
            key,
        }
    }

    /// The transactions of this node with an intent on the row.
    pub(super) fn intents(&self, tree: TreeId, key: &[u8]) -> Vec<TxnId> {
        let state = self.state.lock();
        let on_row = |intents: &[(TreeId, Vec<u8>)]| intents.iter().any(|(t, k)| *t == tree && k == key);
        state
            .active
            .iter()
            .filter(|(_, entry)| on_row(&entry.intents))
            .map(|(txn, _)| *txn)
            .collect()
    }

    /// Waits until no other transaction of the cluster goes on from what the row was before the top transaction `waiter` locked it.
    pub async fn wait_for_intents(
        self: &Arc<Self>,
        waiter: TxnId,
        tree: TreeId,
        key: &[u8],
    ) -> Result<(), Error> {
        if planted(Defect::ChangeBesideIntents) {
            return Ok(());
        }
        let _waits = Waits::begin(self, waiter, tree, key);
        let intent = (tree, key.to_vec());
        for node in self.rpc.view().nodes().iter() {
            let mut holders = self.intents_at(node, tree, key).await?;
            holders.retain(|holder| *holder != waiter);
            while let Some(holder) = holders.last() {
                self.wait(Some(waiter), *holder, Some(&intent)).await?;
                // Those that registered meanwhile have seen the lock, or will.
                let left = self.intents_at(node, tree, key).await?;
                holders.retain(|holder| left.contains(holder));
            }
        }
        Ok(())
    }

    /// The row for whose intents a top transaction waits.
    pub(super) fn waits_for_intents(&self, txn: TxnId) -> Option<(TreeId, Vec<u8>)> {
        let state = self.state.lock();
        state.active.get(&txn)?.waits_for_intents.clone()
    }

    /// As [`waits_for`](Self::waits_for). An intent may have been withdrawn just now, by who waits for this very transaction, and the
    /// news be on its way: then there is no edge, or two that only take turns would look like a deadlock.
    pub(super) async fn still_waits_for(&self, txn: TxnId) -> (TxnId, Option<TxnId>) {
        let (root, waits_for) = self.waits_for(txn);
        let Some((tree, key)) = self.waits_for_intents(root) else {
            return (root, waits_for);
        };
        let Some((holder, node)) = waits_for.and_then(|holder| Some((holder, holder.node()?))) else {
            return (root, None);
        };
        let holders = self.intents_at(node, tree, &key).await.unwrap_or_default();
        (root, holders.contains(&holder).then_some(holder))
    }

    /// None when the node has left the view: its transactions have ended.
    async fn intents_at(&self, node: NodeId, tree: TreeId, key: &[u8]) -> Result<Vec<TxnId>, Error> {
        match self
            .rpc
            .call(node, EngineRequest::Intents(tree, key.to_vec()))
            .await
        {
            Ok(EngineResponse::Intents(txns)) => Ok(txns),
            Ok(_) => Err(Error::Unavailable(format!(
                "node {node} does not say who writes the table"
            ))),
            Err(_) => Ok(Vec::new()),
        }
    }
}
