//! What a node is made of and how it is sized.

use super::Router;
use crate::transaction::TransactionConfig;
use crate::wal::RedoConfig;
use aquifer_buffer_pool::PoolConfig;
use aquifer_dss::membership::{Addresses, SlotView};
use aquifer_dss::seam::{BlockDevice, Fencer, Runtime, Transport, VolumeOpener};
use aquifer_dss_proto::membership::Timing;
use aquifer_dss_proto::{Incarnation, NodeId};
use std::sync::Arc;
use std::time::Duration;

/// Least pages of memory of a node: a step holds five pages at most (a split of the root: the root, two fresh pages and space maps), and there
/// must be room for a page of another step, which is on its way meanwhile.
pub const LEAST_FRAMES: usize = 8;

/// Sizes and times of a node.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Which node.
    pub id: NodeId,
    /// Heartbeat, lease, grace, longest I/O; the same on all nodes.
    pub timing: Timing,
    /// Where this node listens; published in its slot.
    pub addresses: Addresses,
    /// The page cache. The size of its pages is the volume group's, whatever is said here.
    pub pool: PoolConfig,
    /// Bytes of the redo stream's file, when it has to be made.
    pub redo_bytes: u64,
    /// The redo stream.
    pub redo: RedoConfig,
    /// Transactions.
    pub transactions: TransactionConfig,
    /// The cleaner looks this often whether there are pages to write, and rests at most this long after a batch.
    pub clean_every: Duration,
    /// Sequence numbers taken at a time.
    pub sequence_range: u64,
}

impl NodeConfig {
    /// The usual sizes for node `id` with `frames` pages of memory.
    pub fn new(id: NodeId, frames: usize) -> Self {
        Self {
            id,
            timing: Timing::default(),
            addresses: Addresses::default(),
            pool: PoolConfig::new(id, frames),
            redo_bytes: 64 << 20,
            redo: RedoConfig::default(),
            transactions: TransactionConfig::default(),
            clean_every: Duration::from_millis(50),
            sequence_range: 8192,
        }
    }
}

/// What the transport must be told: which life this is, and where the others listen.
pub trait Links: Send + Sync + 'static {
    /// Connections are made and taken in the name of this life from now on.
    fn start(&self, incarnation: Incarnation);
    /// The slots as last read.
    fn peers(&self, slots: &[SlotView]);
}

/// The outside of a node.
pub struct Seams {
    /// Clock, tasks, randomness.
    pub runtime: Arc<dyn Runtime>,
    /// Volumes of the group, in any order; volume 0 is among them.
    pub devices: Vec<Arc<dyn BlockDevice>>,
    /// Opens the other volumes, by their path in the catalogue.
    pub opener: Option<Arc<dyn VolumeOpener>>,
    /// Side of volume 0 that is lost for good, as its operator says.
    pub lost_side: Option<u8>,
    /// Messages to peers.
    pub transport: Arc<dyn Transport>,
    /// Connections of the transport.
    pub links: Arc<dyn Links>,
    /// Locks on slots.
    pub fencer: Arc<dyn Fencer>,
    /// What the transport gives received messages to.
    pub router: Arc<Router>,
}
