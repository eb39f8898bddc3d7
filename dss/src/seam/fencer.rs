//! The fencing seam: proof that a node can write no more.

use super::BoxFuture;
use aquifer_dss_proto::{Incarnation, Instant, NodeId};
use serde::{Deserialize, Serialize};

/// What a node writes of itself into its slot, so that others can fence it exactly.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ProcessIdentity {
    /// Process id in `pid_namespace`.
    pub pid: u32,
    /// Start time of the process in clock ticks since boot (field 22 of /proc/PID/stat).
    pub start_ticks: u64,
    /// Inode number of /proc/self/ns/pid.
    pub pid_namespace: u64,
    /// /proc/sys/kernel/random/boot_id.
    pub boot_id: [u8; 16],
}

/// What this node sees of a peer's lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockState {
    /// A living open file description holds it.
    Held,
    /// Nobody holds it. Proof of death only when this node saw it held in that incarnation (HZ-17).
    Free,
}

/// Why a fence is not proven.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FenceError {
    /// The victim still held its lock at the deadline.
    #[error("node {0} still holds its lock")]
    StillAlive(NodeId),
    /// The lock was never seen held, so that seeing it free proves nothing.
    #[error("node {0} cannot be fenced from here: its lock was never seen held")]
    NoProof(NodeId),
    /// The system refused.
    #[error("fencing node {node} failed: {message}")]
    System {
        /// The victim.
        node: NodeId,
        /// Why.
        message: String,
    },
    /// Another process has this node's slot.
    #[error("slot of node {0} is held by another process")]
    SlotBusy(NodeId),
}

/// Locks on slots and the power to kill.
pub trait Fencer: Send + Sync + 'static {
    /// Takes this node's own slot lock, through the open file description of its I/O.
    fn hold(&self, node: NodeId) -> Result<(), FenceError>;
    /// This process, for the slot.
    fn identity(&self) -> ProcessIdentity;
    /// Looks at a peer's lock; remembers that it was seen held in `incarnation`.
    fn observe(&self, node: NodeId, incarnation: Incarnation) -> Result<LockState, FenceError>;
    /// Makes sure that `victim` can write no more: kills it and waits for its lock, until `deadline`.
    /// The caller flushes the device afterwards (HZ-10).
    fn fence(
        &self,
        victim: NodeId,
        incarnation: Incarnation,
        identity: ProcessIdentity,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<(), FenceError>>;
}
