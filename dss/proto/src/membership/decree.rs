//! What a ballot decides: a view, and who must be proven dead before anybody acts on it.

use crate::{HomeSlots, Member, View};
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// Which legs of volume 0 have the control blocks, the journal and the checkpoints, as a decree says it.
///
/// Of a mirrored volume 0 both do, until a decree drops one. A leg that was dropped says `Both` for ever, or whatever it said then: so what one
/// leg alone says of itself is no reason to believe it, unless it says `Only` that leg (MEM-13).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum MetadataLegs {
    /// Both of a mirrored volume.
    Both,
    /// This one: of a volume that is not mirrored the only one there is, or the other one was dropped.
    Only(u8),
}

impl MetadataLegs {
    /// Whether this leg counts.
    pub const fn counts(self, leg: u8) -> bool {
        match self {
            Self::Both => leg < 2,
            Self::Only(only) => leg == only,
        }
    }

    /// The legs that count.
    pub fn legs(self) -> impl Iterator<Item = u8> {
        (0..2).filter(move |leg| self.counts(*leg))
    }
}

/// The body of a ballot, encoded with postcard.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Decree {
    /// The view.
    pub view: View,
    /// Lives excluded by this view, or by an earlier one that was perhaps never completed, that did not leave
    /// cleanly. All of them are fenced before the view is announced.
    pub dead: Vec<Member>,
    /// Lives that left cleanly with this view.
    pub left: Vec<Member>,
    /// Nobody of the view before was alive when this was proposed: the first view, or a restart of the whole cluster.
    pub founding: bool,
    /// Which legs of volume 0 have the metadata from this epoch on. The next epoch is decided on them.
    pub metadata: MetadataLegs,
}

impl Decree {
    /// The decree before the first of a group with so many slots, and its metadata there: nobody.
    pub fn none(slots: HomeSlots, metadata: MetadataLegs) -> Self {
        Self {
            view: View::of_nobody(slots),
            dead: Vec::new(),
            left: Vec::new(),
            founding: false,
            metadata,
        }
    }

    /// A view that a view of `View::successor` can follow, as decoded from a device or a peer: members rise, the
    /// leader and every home are members, and there are as many slots as the group has.
    pub fn is_sound(&self, slots: HomeSlots) -> bool {
        let view = &self.view;
        let known = |node: crate::NodeId| crate::NodeId::new(node.get()).is_some();
        let lives = view.members.iter().chain(&self.dead).chain(&self.left);
        if !lives.map(|m| m.node).chain([view.leader]).all(known) {
            return false;
        }
        let nodes = view.nodes();
        view.epoch.0 > 0
            && self.metadata.legs().next().is_some()
            && !view.members.is_empty()
            && view.members.windows(2).all(|w| w[0].node < w[1].node)
            && nodes.contains(view.leader)
            && view.homes.len() == slots.count()
            && view
                .homes
                .iter()
                .all(|home| known(*home) && nodes.contains(*home))
    }
}
