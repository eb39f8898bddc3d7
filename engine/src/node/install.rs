//! Installing a view, and what its leader does afterwards: recovery.

use super::Node;
use super::status::Unclean;
use crate::recovery::{Recovery, RecoveryError, RetentionSource};
use crate::rpc::{EngineRequest, EngineResponse, Rpc};
use crate::space::storage;
use crate::store::DOUBLE_WRITE_BYTES;
use crate::streams::double_write_path;
use aquifer_buffer_pool::Scn;
use aquifer_dss::group::{CreateOptions, StorageError};
use aquifer_dss::seam::BoxFuture;
use aquifer_dss_proto::catalog::FileKind;
use aquifer_dss_proto::{Epoch, Member, NodeId, NodeSet, View};
use aquifer_engine_proto::RetentionEntry;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// A recovery that failed is tried again after this long, while its view lasts.
const RECOVERY_RETRY: Duration = Duration::from_millis(200);

impl Node {
    /// Installs a view whose losers are proven dead (NOD-1).
    pub(super) async fn install(
        self: &Arc<Self>,
        view: Arc<View>,
        previous: &View,
        dead: &[Member],
    ) -> Result<(), super::NodeError> {
        let me = self.config.id;
        let leads = view.leader == me;
        tracing::info!(epoch = view.epoch.0, members = ?view.nodes(), leader = view.leader.get(), "installing view");
        self.epoch.send_replace(view.epoch);
        self.redo.forget(leads);
        *self.unclean.lock() = Unclean::NotKnown;
        if let Some(stream) = self.redo.stream() {
            stream.set_epoch(view.epoch);
        }
        self.group.set_lives(&view.members);
        let mut ceiling = Scn(0);
        if leads {
            self.group.lead(view.epoch).await?;
            ceiling = Scn(self.membership.highest_scn_ceiling().await?);
        } else {
            self.group.follow(view.epoch, view.leader);
        }
        let first = !view.members.iter().any(|m| previous.members.contains(m));
        let joined: NodeSet = view
            .members
            .iter()
            .filter(|m| !previous.members.contains(m))
            .map(|m| m.node)
            .collect();
        self.rpc.install_view(view.clone());
        self.txns.install_view(view.clone(), joined, ceiling);
        let dead: NodeSet = dead.iter().map(|m| m.node).collect();
        self.pool
            .install_view(view.clone(), dead.without(view.nodes()), true);
        *self.installed.lock() = view.clone();
        self.membership.installed(view.epoch);
        self.engine.reform.lock().begin(view.epoch, self.runtime.now());
        if leads {
            self.runtime
                .spawn("recovery", Box::pin(self.clone().recover(view, first)));
        }
        if !self.brought_up.swap(true, Ordering::AcqRel) {
            self.runtime
                .spawn("cleaner", Box::pin(self.clone().clean_pages()));
            self.runtime.spawn("bring up", Box::pin(self.clone().bring_up()));
        }
        Ok(())
    }

    /// The leader's recovery of one view; ends with it.
    async fn recover(self: Arc<Self>, view: Arc<View>, first: bool) {
        let mut epoch = self.epoch.subscribe();
        let mine = view.epoch;
        tokio::select! {
            biased;
            _ = epoch.wait_for(|epoch| *epoch != mine) => {}
            () = self.recover_until_clean(view, first) => {}
        }
    }

    async fn recover_until_clean(self: &Arc<Self>, view: Arc<View>, first: bool) {
        loop {
            match self.recover_once(&view, first).await {
                Ok(()) => return,
                Err(RecoveryError::Superseded) => tracing::info!("a member left during the recovery"),
                Err(error) => tracing::error!(%error, "recovery failed; it is tried again"),
            }
            self.runtime.sleep(RECOVERY_RETRY).await;
        }
    }

    async fn recover_once(self: &Arc<Self>, view: &Arc<View>, first: bool) -> Result<(), RecoveryError> {
        let recovery = Recovery {
            runtime: self.runtime.clone(),
            group: self.group.clone(),
            pool: self.pool.clone(),
            store: self.store.clone(),
            redo: self.redo.clone(),
            peers: Arc::new(Peers(self.rpc.clone())),
            view: view.clone(),
        };
        if first && !self.store.can_write() {
            recovery.restore_torn().await?;
        }
        self.open_double_write().await?;
        let report = recovery
            .run(|streams| *self.unclean.lock() = Unclean::Known(streams.iter().copied().collect()))
            .await?;
        self.engine
            .reform
            .lock()
            .recovered(view.epoch, self.runtime.now());
        tracing::info!(
            epoch = view.epoch.0,
            streams = report.streams.len(),
            pages = report.pages,
            records = report.records,
            "redo finished"
        );
        self.membership.look_again();
        recovery
            .clean(&report, |node| {
                self.unclean.lock().clean(node);
                self.membership.look_again();
            })
            .await
    }

    /// Makes this node's double-write file if it has none, and lets the store write.
    pub(super) async fn open_double_write(&self) -> Result<(), StorageError> {
        let options = CreateOptions {
            size: DOUBLE_WRITE_BYTES,
            kind: FileKind::DoubleWrite,
            exclusive: false,
        };
        let file = self
            .group
            .create(&double_write_path(self.config.id), options)
            .await?;
        self.store.enable_writes(file);
        Ok(())
    }
}

/// Retention of members, by request.
struct Peers(Arc<Rpc>);

impl RetentionSource for Peers {
    fn retention(&self, member: NodeId, epoch: Epoch) -> BoxFuture<'_, Option<Vec<RetentionEntry>>> {
        Box::pin(async move {
            match self.0.call(member, EngineRequest::Retention).await {
                Ok(EngineResponse::Retention(entries)) if self.0.view().epoch == epoch => Some(entries),
                _ => None,
            }
        })
    }
}

impl From<StorageError> for crate::Error {
    fn from(error: StorageError) -> Self {
        storage(error)
    }
}
