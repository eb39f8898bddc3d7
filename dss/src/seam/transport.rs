//! The network seam: datagram-like messages between nodes, which may be lost but not altered.
//!
//! A message is a head, which is small, and sometimes a tail behind it, a page. A tail is sent from where it is, and received where it
//! is to stay: the receiver sees the head first and says where.

use super::IoBuffer;
use aquifer_dss_proto::{Incarnation, NodeId};
use std::sync::Arc;

/// Which part of a node a message is for. A byte of each frame's header on the wire.
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

/// What travels behind the head of a message without being copied on the way out: a page.
pub type Tail = Arc<IoBuffer>;

/// Sends messages to peers. At most once, in order per service while a connection lasts; loss is silent.
/// A message to oneself is delivered too.
pub trait Transport: Send + Sync + 'static {
    /// Queues `head`, and behind it `tail`, for `to`; never blocks. Dropped when there is no connection.
    fn send(&self, to: NodeId, service: Service, head: &[u8], tail: Option<Tail>);
}

/// Receives what peers send.
pub trait Inbound: Send + Sync + 'static {
    /// One life of a peer can send from now on, through a connection of its own. It takes the place of an earlier one.
    fn connected(self: Arc<Self>, peer: NodeId, incarnation: Incarnation) -> Box<dyn Receiver>;
    /// The connection with a peer was closed: a hint that it may have died.
    fn disconnected(&self, peer: NodeId, incarnation: Incarnation);
}

/// One end of a connection: takes messages one after the other. Called by the transport's tasks; must not block.
pub trait Receiver: Send + 'static {
    /// Where the tail goes that follows this head: memory of exactly `length` bytes, or `None` when nobody wants the message; then it
    /// is skipped. Nothing of the message is to be believed yet. Its tail may be altered, or end in the middle with the connection:
    /// then `receive` does not follow, and what was given goes back when the receiver is asked or told something else, or is dropped.
    fn tail(&mut self, service: Service, head: &[u8], length: usize) -> Option<&mut [u8]>;
    /// A message. When it has a tail, `tail` was called before with the same head, and its memory is filled and checked.
    fn receive(&mut self, service: Service, head: &[u8]);
}

/// Gives a receiver a message that is in memory already.
pub fn hand_over(receiver: &mut dyn Receiver, service: Service, head: &[u8], tail: Option<&[u8]>) {
    if let Some(tail) = tail {
        let Some(memory) = receiver.tail(service, head, tail.len()) else {
            return;
        };
        memory.copy_from_slice(tail);
    }
    receiver.receive(service, head);
}
