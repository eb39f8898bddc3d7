//! The network seam: datagram-like messages between nodes, which may be lost but not altered.

use aquifer_dss_proto::{Incarnation, NodeId};

/// Which part of a node a message is for. First byte of a frame's body on the wire.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
#[repr(u8)]
pub enum Service {
    /// Heartbeats, hellos, view announcements.
    Membership = 1,
    /// Metadata requests to the storage leader.
    Storage = 2,
    /// Page ownership and page transfer.
    Pages = 3,
    /// Transactions: SCN, status, row waits, recovery, administration between nodes.
    Engine = 4,
}

impl Service {
    /// The service of a wire byte, or `None`.
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Membership),
            2 => Some(Self::Storage),
            3 => Some(Self::Pages),
            4 => Some(Self::Engine),
            _ => None,
        }
    }
}

/// Sends messages to peers. At most once, in order per service while a connection lasts; loss is silent.
/// A message to oneself is delivered too.
pub trait Transport: Send + Sync + 'static {
    /// Queues `body` for `to`; never blocks. Dropped when there is no connection.
    fn send(&self, to: NodeId, service: Service, body: Vec<u8>);
}

/// Receives what peers send. Called by the transport's tasks; must not block.
pub trait Inbound: Send + Sync + 'static {
    /// A message of one life of a peer.
    fn receive(&self, from: NodeId, incarnation: Incarnation, service: Service, body: Vec<u8>);
    /// The connection with a peer was closed: a hint that it may have died.
    fn disconnected(&self, peer: NodeId, incarnation: Incarnation);
}
