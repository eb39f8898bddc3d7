//! Waiting for another transaction's end, and deadlocks.
//!
//! A top transaction waits for at most one other at a time. Whoever waits follows the edges node by node from time to
//! time; when they lead back to itself twice in the same way, the transaction with the highest id of the cycle is the
//! victim, and it finds that out by its own search. A wait that nothing else ends ends at the lock timeout.

use super::manager::{Intent, TransactionManager, wake};
use crate::Error;
use crate::rpc::{EngineRequest, EngineResponse, Reply};
use aquifer_dss_proto::defect::{Defect, planted};
use aquifer_engine_proto::{TxnId, TxnStatus};
use std::sync::Arc;
use tokio::sync::oneshot;

/// Edges followed in one search.
const LONGEST_CYCLE: usize = 64;

/// Takes the waits-for edge away when the wait ends, however it ends.
struct Edge<'a>(&'a TransactionManager, TxnId);

impl Drop for Edge<'_> {
    fn drop(&mut self) {
        if let Some(entry) = self.0.state.lock().active.get_mut(&self.1) {
            entry.waits_for = None;
        }
    }
}

impl TransactionManager {
    /// Waits until `holder` may have ended; the caller looks again in any case (TXN-4). `waiter` is the waiting top
    /// transaction; a reader that waits for a commit's outcome may have none.
    pub async fn wait_for(self: &Arc<Self>, waiter: Option<TxnId>, holder: TxnId) -> Result<(), Error> {
        self.wait(waiter, holder, None).await
    }

    /// As `wait_for`; with an intent, until `holder` may have withdrawn that.
    pub(super) async fn wait(
        self: &Arc<Self>,
        waiter: Option<TxnId>,
        holder: TxnId,
        intent: Option<&Intent>,
    ) -> Result<(), Error> {
        let _edge = waiter.map(|waiter| {
            let mut state = self.state.lock();
            let entry = state
                .active
                .get_mut(&waiter)
                .expect("a transaction that waits is active");
            assert!(entry.root == waiter, "{waiter} waits as a top transaction");
            entry.waits_for = Some(holder);
            Edge(self, waiter)
        });
        let mut view = self.epoch.subscribe();
        let mut ended = Box::pin(self.ended(holder, intent));
        let begun = self.rt.now();
        loop {
            tokio::select! {
                biased;
                outcome = &mut ended => return outcome,
                // HZ-16: every view change wakes every waiter.
                _ = view.changed() => return Ok(()),
                victim = self.search(waiter) => if victim {
                    return Err(Error::Deadlock);
                },
            }
            if self
                .config
                .lock_timeout
                .is_some_and(|limit| self.rt.now().since(begun) >= limit)
            {
                return Err(Error::LockTimeout);
            }
        }
    }

    /// Until `holder` has ended, or its node has left the view.
    async fn ended(self: &Arc<Self>, holder: TxnId, intent: Option<&Intent>) -> Result<(), Error> {
        let node = holder
            .node()
            .ok_or(Error::State("a row names a transaction of no node"))?;
        if node == self.me {
            if let Some(end) = self.register(holder, intent) {
                // A closed channel is an end too.
                let _ = end.await;
            }
            return Ok(());
        }
        let member = self.state.lock().view.contains(node);
        if !member {
            self.stored_status(holder).await?;
            return Ok(());
        }
        let request = intent.map_or(EngineRequest::Wait(holder), |(tree, key)| {
            EngineRequest::WaitIntent(holder, *tree, key.clone())
        });
        match self.rpc.call(node, request).await {
            // Whoever waited asks for the outcome next.
            Ok(EngineResponse::Ended(Some(status))) if status.is_final() => {
                self.state.lock().cache.hear(holder, status);
            }
            Ok(_) => {}
            // Its node has left the rpc's view, which is installed a moment before this one's: not at once.
            Err(_) => self.rt.sleep(std::time::Duration::from_millis(5)).await,
        }
        Ok(())
    }

    /// A registration for the end of one of this node's transactions; `None` when it has ended (HZ-16), or has withdrawn the intent
    /// that is waited for: whoever withdraws one wakes only those that are registered by then.
    fn register(&self, holder: TxnId, intent: Option<&Intent>) -> Option<oneshot::Receiver<()>> {
        let mut state = self.state.lock();
        if self.local_status(&state, holder).is_none_or(TxnStatus::is_final) {
            return None;
        }
        let (end, ended) = oneshot::channel();
        let entry = state
            .active
            .get_mut(&holder)
            .expect("only active ones are not final");
        if intent.is_some_and(|intent| !entry.intents.contains(intent)) {
            return None;
        }
        entry.waiters.retain(|waiter| !waiter.is_closed());
        entry.waiters.push(end);
        Some(ended)
    }

    pub(super) fn answer_wait(self: &Arc<Self>, holder: TxnId, intent: Option<&Intent>) -> Reply {
        match self.register(holder, intent) {
            None if planted(Defect::WaitForTheEnded) => Reply::Later(Box::pin(std::future::pending())),
            None => Reply::Now(EngineResponse::Ended(self.outcome(holder))),
            Some(end) => {
                let this = self.clone();
                Reply::Later(Box::pin(async move {
                    let _ = end.await;
                    EngineResponse::Ended(this.outcome(holder))
                }))
            }
        }
    }

    /// The final status of one of this node's transactions, if it has one and it is remembered.
    fn outcome(&self, txn: TxnId) -> Option<TxnStatus> {
        let state = self.state.lock();
        self.local_status(&state, txn).filter(|status| status.is_final())
    }

    /// Wakes everybody who waits for `txn` although it goes on: they look again.
    pub fn wake_waiters(&self, txn: TxnId) {
        let waiters = match self.state.lock().active.get_mut(&txn) {
            Some(entry) => std::mem::take(&mut entry.waiters),
            None => return,
        };
        wake(waiters);
    }

    /// The top transaction of `txn`, and what that waits for.
    pub(super) fn waits_for(&self, txn: TxnId) -> (TxnId, Option<TxnId>) {
        let state = self.state.lock();
        let Some(entry) = state.active.get(&txn) else {
            return (txn, None);
        };
        // A sub-transaction that was rolled back holds nothing any more.
        if entry.status == TxnStatus::Aborted {
            return (txn, None);
        }
        (entry.root, state.active[&entry.root].waits_for)
    }

    pub(super) fn answer_waits_for(self: &Arc<Self>, txn: TxnId) -> Reply {
        let (root, waits_for) = self.waits_for(txn);
        if self.waits_for_intents(root).is_none() {
            return Reply::Now(EngineResponse::WaitsFor(root, waits_for));
        }
        let this = self.clone();
        Reply::Later(Box::pin(async move {
            let (root, waits_for) = this.still_waits_for(txn).await;
            EngineResponse::WaitsFor(root, waits_for)
        }))
    }

    /// One search for a deadlock, after a while.
    async fn search(&self, waiter: Option<TxnId>) -> bool {
        self.rt.sleep(self.config.deadlock_check).await;
        match waiter {
            Some(waiter) => self.is_victim(waiter).await,
            None => false,
        }
    }

    /// Whether `waiter` is on a cycle of waits, seen twice, and has the highest id of it.
    async fn is_victim(&self, waiter: TxnId) -> bool {
        let Some(cycle) = self.cycle(waiter).await else {
            return false;
        };
        if cycle.iter().max() != Some(&waiter) {
            return false;
        }
        self.cycle(waiter).await.as_ref() == Some(&cycle)
    }

    /// The top transactions on the cycle of waits through `waiter`, from itself on.
    async fn cycle(&self, waiter: TxnId) -> Option<Vec<TxnId>> {
        let (_, mut next) = self.still_waits_for(waiter).await;
        let mut path = vec![waiter];
        while let Some(txn) = next {
            let (root, waits_for) = self.edge(txn).await?;
            if root == waiter {
                return Some(path);
            }
            if path.contains(&root) || path.len() == LONGEST_CYCLE {
                return None;
            }
            path.push(root);
            next = waits_for;
        }
        None
    }

    async fn edge(&self, txn: TxnId) -> Option<(TxnId, Option<TxnId>)> {
        let node = txn.node()?;
        if node == self.me {
            return Some(self.still_waits_for(txn).await);
        }
        match self.rpc.call(node, EngineRequest::WaitsFor(txn)).await {
            Ok(EngineResponse::WaitsFor(root, waits_for)) => Some((root, waits_for)),
            _ => None,
        }
    }
}
