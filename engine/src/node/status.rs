//! What a node tells about itself.

use super::Node;
use aquifer_buffer_pool::PoolCounters;
use aquifer_dss::membership::Timeline;
use aquifer_dss_proto::{Epoch, Incarnation, Instant, NodeId, View};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Redo streams that are not clean, as far as the leader knows.
#[derive(Clone, Debug, Default)]
pub(crate) enum Unclean {
    /// Not looked yet in this view: nobody is admitted.
    #[default]
    NotKnown,
    /// These nodes may not join yet.
    Known(BTreeSet<NodeId>),
}

impl Unclean {
    /// Whether `node` may join.
    pub fn admits(&self, node: NodeId) -> bool {
        matches!(self, Self::Known(nodes) if !nodes.contains(&node))
    }

    /// The stream of `node` is clean now.
    pub fn clean(&mut self, node: NodeId) {
        if let Self::Known(nodes) = self {
            nodes.remove(&node);
        }
    }
}

/// Instants of the last view change, by this node's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reform {
    /// The view.
    pub epoch: Epoch,
    /// The node has installed it.
    pub installed: Option<Instant>,
    /// The first commit here after that.
    pub first_commit: Option<Instant>,
    /// Leader: every page of dead nodes can be read again.
    pub recovered: Option<Instant>,
}

impl Reform {
    pub(crate) const fn begin(&mut self, epoch: Epoch, now: Instant) {
        *self = Self {
            epoch,
            installed: Some(now),
            first_commit: None,
            recovered: None,
        };
    }

    pub(crate) fn committed(&mut self, now: impl FnOnce() -> Instant) {
        if self.first_commit.is_none() {
            self.first_commit = Some(now());
        }
    }

    pub(crate) fn recovered(&mut self, epoch: Epoch, now: Instant) {
        if self.epoch == epoch && self.recovered.is_none() {
            self.recovered = Some(now);
        }
    }
}

/// A snapshot of a node for operators.
#[derive(Clone, Debug)]
pub struct NodeStatus {
    /// Which node.
    pub node: NodeId,
    /// Which life.
    pub incarnation: Incarnation,
    /// The view in force here.
    pub view: Arc<View>,
    /// Statements are served.
    pub serving: bool,
    /// The lease is valid.
    pub lease_valid: bool,
    /// Why a decided view cannot be installed, while that is so.
    pub alarm: Option<String>,
    /// The last view change: membership's part.
    pub timeline: Timeline,
    /// The last view change: the engine's part.
    pub reform: Reform,
    /// Page cache.
    pub pool: PoolCounters,
    /// Bytes of redo that recovery would read, and bytes of the ring.
    pub redo: Option<(u64, u64)>,
    /// Transactions that are open.
    pub transactions: usize,
}

impl Node {
    /// What this node knows of itself now.
    pub fn status(&self) -> NodeStatus {
        NodeStatus {
            node: self.config.id,
            incarnation: self.membership.incarnation(),
            view: self.installed.lock().clone(),
            serving: self.engine.is_serving(),
            lease_valid: self.membership.lease_valid(self.runtime.now()),
            alarm: self.membership.alarm(),
            timeline: self.membership.timeline(),
            reform: *self.engine.reform.lock(),
            pool: self.pool.counters(),
            redo: self.redo.stream().map(|stream| stream.usage()),
            transactions: self.txns.active_transactions(),
        }
    }
}
