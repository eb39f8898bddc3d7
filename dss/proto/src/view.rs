//! A view: who is a member, which node is home of which directory slot, and the number of it all.

use crate::{Epoch, HomeSlots, Incarnation, NodeId, NodeSet};
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// One life of a node inside a view.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Member {
    /// Which node.
    pub node: NodeId,
    /// Which life of it.
    pub incarnation: Incarnation,
}

/// An agreed membership. Chosen by a ballot on the device, one instance per epoch.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct View {
    /// Number of the view; grows by one.
    pub epoch: Epoch,
    /// Members in rising order of node id. Never empty once `epoch > 0`.
    pub members: Vec<Member>,
    /// Storage leader: writes the metadata journal, serves SCNs, coordinates recovery.
    pub leader: NodeId,
    /// Home of each slot; as many as the volume group has ([`HomeSlots`]).
    pub homes: Vec<NodeId>,
}

impl View {
    /// The first view of nobody, from which the first real one follows, with the usual number of slots.
    pub fn none() -> Self {
        Self::of_nobody(HomeSlots::USUAL)
    }

    /// The first view of nobody, from which the first real one follows; it has homes so that each view has as many as the one before.
    pub fn of_nobody(slots: HomeSlots) -> Self {
        let leader = NodeId::new(1).expect("1 is a node id");
        Self {
            epoch: Epoch(0),
            members: Vec::new(),
            leader,
            homes: alloc::vec![leader; slots.count()],
        }
    }

    /// The view after this one with `members` (rising order, not empty). The leader stays if it is still the same
    /// life, otherwise the lowest member leads. Only slots whose home is gone, or the surplus that a new member
    /// takes over, change their home; the result depends on the arguments alone.
    #[must_use]
    pub fn successor(&self, members: Vec<Member>) -> Self {
        assert!(!members.is_empty(), "a view has a member");
        assert!(members.windows(2).all(|w| w[0].node < w[1].node), "members rise");
        let stays = |node: NodeId| self.members.iter().any(|m| m.node == node && members.contains(m));
        let leader = if stays(self.leader) {
            self.leader
        } else {
            members[0].node
        };
        let mut counts = alloc::vec![0usize; NodeId::MAX as usize];
        let mut homes: Vec<Option<NodeId>> = alloc::vec![None; self.homes.len()];
        let fair = self.homes.len().div_ceil(members.len());
        for (slot, home) in self.homes.iter().enumerate() {
            if stays(*home) && counts[home.index()] < fair {
                counts[home.index()] += 1;
                homes[slot] = Some(*home);
            }
        }
        let mut next = 0;
        let homes = homes.into_iter().map(|home| {
            home.unwrap_or_else(|| {
                while counts[members[next].node.index()] >= fair {
                    next += 1;
                }
                counts[members[next].node.index()] += 1;
                members[next].node
            })
        });
        Self {
            epoch: self.epoch.next(),
            homes: homes.collect(),
            leader,
            members,
        }
    }

    /// The members as a set.
    pub fn nodes(&self) -> NodeSet {
        self.members.iter().map(|m| m.node).collect()
    }

    /// The life of `node` in this view.
    pub fn incarnation(&self, node: NodeId) -> Option<Incarnation> {
        self.members
            .iter()
            .find(|m| m.node == node)
            .map(|m| m.incarnation)
    }

    /// Whether `node` is in the view.
    pub fn contains(&self, node: NodeId) -> bool {
        self.incarnation(node).is_some()
    }

    /// Number of slots.
    pub fn slots(&self) -> usize {
        self.homes.len()
    }

    /// Home of a slot, which is below [`slots`](Self::slots).
    pub fn home(&self, slot: usize) -> NodeId {
        self.homes[slot]
    }
}
