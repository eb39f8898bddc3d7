//! What goes in and out of [`Membership`](super::Membership).

use super::slot::Addresses;
use crate::group::OpenVolumes;
use crate::seam::{DeviceError, FenceError};
use aquifer_dss_proto::membership::{Decree, LifeState, Timing};
use aquifer_dss_proto::{Epoch, Instant, Member, NodeId, View};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// How membership is to run.
pub struct MembershipConfig {
    /// This node.
    pub me: NodeId,
    /// The four times; must be the same on all nodes.
    pub timing: Timing,
    /// Published in the slot; each at most 120 bytes.
    pub addresses: Addresses,
    /// The volumes; those besides that of the control blocks are flushed after a fence (HZ-10).
    pub volumes: Option<Arc<OpenVolumes>>,
    /// Take a lease that is over for proof of death where nothing better exists (no lock, no reservations). It
    /// assumes that a node without storage stops in time and that no I/O outlives `longest_io` (HZ-20).
    pub lease_is_proof: bool,
}

impl MembershipConfig {
    /// Defaults for node `me`.
    pub fn new(me: NodeId) -> Self {
        let (timing, addresses) = (Timing::default(), Addresses::default());
        Self {
            me,
            timing,
            addresses,
            volumes: None,
            lease_is_proof: false,
        }
    }
}

/// What the node must react to.
#[derive(Clone, Debug)]
pub enum MembershipEvent {
    /// Chosen by ballot; everybody who was in `previous` and is not in `view` is proven dead or has left cleanly,
    /// and the devices were flushed after that.
    Install {
        /// The view to install.
        view: Arc<View>,
        /// The view before, as this node knew it (that of the last run when this life has installed none).
        previous: Arc<View>,
        /// Lives that ended without leaving, in rising order. May name lives of earlier views: look whether their
        /// redo stream is clean.
        dead: Vec<Member>,
    },
    /// Storage or lease lost, or excluded: stop. The process aborts soon by itself.
    Stop {
        /// One line.
        reason: String,
    },
}

/// When the steps of the last reform happened, by this node's clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeline {
    /// The view it led to.
    pub epoch: Epoch,
    /// The first sign of a death that led to it, when this node saw one.
    pub detected: Option<Instant>,
    /// The view was decided, or this node learned that it was.
    pub decided: Option<Instant>,
    /// All dead were proven dead and the devices flushed.
    pub fenced: Option<Instant>,
    /// The `Install` event was given out.
    pub announced: Option<Instant>,
    /// The node reported that it had installed the view.
    pub installed: Option<Instant>,
}

/// Members that were excluded by views that this node brought about, by what spoke against them. Who left is not among them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exclusions {
    /// They were dead already, with proof.
    pub dead: u64,
    /// Their slots were silent for longer than their lease.
    pub silent: u64,
    /// They were alive on the device, and not mutually heard over the network for a lease.
    pub apart: u64,
}

impl Exclusions {
    /// One more that stands so.
    pub(super) fn count(&mut self, state: LifeState) {
        match state {
            LifeState::Dead | LifeState::Left => self.dead += 1,
            LifeState::Silent => self.silent += 1,
            LifeState::Alive | LifeState::Unlocked => self.apart += 1,
        }
    }
}

/// Why membership cannot start or go on.
#[derive(Debug, Clone, thiserror::Error)]
pub enum MembershipError {
    /// Another process has this node's slot.
    #[error("node {0} is already running: its slot is held by another process")]
    SlotBusy(NodeId),
    /// The lock could not be taken.
    #[error(transparent)]
    Fence(FenceError),
    /// The device failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A block that only one node writes, in one sector, is not sound.
    #[error("the {what} of node {node} on the device is damaged")]
    Damaged {
        /// "slot", "ballot block" or "view".
        what: &'static str,
        /// Whose.
        node: NodeId,
    },
    /// One of the two places of volume 0's control blocks cannot be used, and the members that could stand for it did not all answer.
    #[error("a side of volume 0 cannot be used, and the members did not all answer")]
    Unheard,
    /// As [`Unheard`](Self::Unheard), at a node that is no member yet.
    #[error("a side of volume 0 cannot be used, and nobody is there who knows whether the other one has all")]
    OneLeg,
    /// A side of volume 0 failed earlier in the same ballot.
    #[error("side {0} of volume 0 failed in this ballot")]
    LegWithoutBody(u8),
    /// A mistake of the caller.
    #[error("membership cannot be configured so: {0}")]
    Configuration(&'static str),
}

/// Messages of `Service::Membership`, postcard.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Message {
    /// I am here. `Look` asks the receiver to read the slots now.
    Heartbeat {
        /// Something in the sender's slot has changed that others wait for.
        look: bool,
    },
    /// Decided, all dead proven, devices flushed.
    Announce(Decree),
    /// A ballot block for the members to keep.
    Ask(super::vote::Ask),
    /// What a member has kept.
    Word(super::vote::Word),
}
