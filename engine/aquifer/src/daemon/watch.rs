//! Who died in the step from one view to the next, as far as this node saw both.

use aquifer_dss::membership::{SlotState, SlotView};
use aquifer_dss_proto::{Member, NodeId, View};
use std::sync::Mutex;

#[derive(Default)]
struct Seen {
    epoch: u64,
    members: Vec<Member>,
    dead: Vec<NodeId>,
}

/// Remembers the members of the view before.
#[derive(Default)]
pub struct ViewWatch(Mutex<Seen>);

impl ViewWatch {
    /// The nodes that are not in `view`, were in the one seen before it, and did not leave cleanly. Views that came and
    /// went between two calls count together.
    pub fn dead(&self, view: &View, slots: &[SlotView]) -> Vec<NodeId> {
        let mut seen = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if view.epoch.0 > seen.epoch {
            let left = |member: &Member| {
                let slot = slots
                    .iter()
                    .find(|s| s.node == member.node && s.incarnation == member.incarnation);
                slot.is_some_and(|s| s.state == SlotState::Down)
            };
            let gone = seen
                .members
                .iter()
                .filter(|m| !view.members.contains(m) && !left(m));
            seen.dead = gone.map(|m| m.node).collect();
            seen.epoch = view.epoch.0;
            seen.members.clone_from(&view.members);
        }
        seen.dead.clone()
    }
}
