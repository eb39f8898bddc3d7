//! Barriers: the leader waits until every member has read the journal up to an entry and has finished what it began
//! before (HZ-7), and then says so in the journal. Volumes that join and units that move go on with it.
//!
//! Rule: an operation is counted under the lock under which its extent map was taken. So those that a member begins after it has
//! read the entry know it, and do not hold the barrier up.

use super::volume_group::VolumeGroup;
use aquifer_dss_proto::catalog::{Catalog, Operation};
use aquifer_dss_proto::storage_message::StorageMessage;
use aquifer_dss_proto::{NodeId, NodeSet};
use parking_lot::Mutex;
use std::sync::Arc;

/// Waiting for members.
#[derive(Clone, Copy)]
struct Waiting {
    through: u64,
    members: NodeSet,
}

/// What the leader waits for.
#[derive(Default)]
pub(super) struct Barrier {
    waiting: Mutex<Option<Waiting>>,
}

impl Barrier {
    /// The view changed: a member that joined may have read the catalogue before the entry.
    pub(super) fn start_again(&self) {
        *self.waiting.lock() = None;
    }
}

impl VolumeGroup {
    /// Asks members to pass the barrier that the catalogue waits for; true when somebody must be asked again later.
    pub(super) fn barrier_step(self: &Arc<Self>) -> bool {
        let Some((oldest, newest)) = self.with_catalog(Catalog::awaited) else {
            self.barrier.start_again();
            return false;
        };
        let Some(members) = self.members_to_wait_for() else {
            return false;
        };
        let mut waiting = self.barrier.waiting.lock();
        let done = waiting.is_none_or(|waiting| waiting.members.is_empty() && waiting.through < oldest);
        if done {
            *waiting = Some(Waiting {
                through: newest,
                members,
            });
        }
        let Some(Waiting { through, members }) = *waiting else {
            return false;
        };
        drop(waiting);
        for member in members.iter() {
            if member == self.me {
                self.receive_barrier(member, through);
            } else {
                self.send(member, &StorageMessage::Barrier { through });
            }
        }
        !members.is_empty()
    }

    /// Follows the journal up to entry `through`, finishes what began before, and says so to the leader.
    pub(super) fn receive_barrier(self: &Arc<Self>, leader: NodeId, through: u64) {
        let group = self.clone();
        let pass = async move {
            if group.catch_up_to(through).await.is_err() {
                return; // The leader asks again.
            }
            group.open_volumes().await;
            let (mirrored, moving) = group.with_catalog(|catalog| {
                let moving: Vec<_> = catalog.moves().map(|unit| unit.file).collect();
                (catalog.is_mirrored(), moving)
            });
            // Legs are not a matter of single files.
            let files = (!mirrored).then_some(&moving[..]);
            group.in_flight.wait_for(files).await;
            if leader == group.me {
                group.member_passed(leader, through);
            } else {
                group.send(leader, &StorageMessage::Passed { through });
            }
        };
        self.runtime.spawn("pass a barrier", Box::pin(pass));
    }

    /// A member passed. After the last one the journal says so.
    pub(super) fn member_passed(&self, member: NodeId, through: u64) {
        let mut waiting = self.barrier.waiting.lock();
        let Some(current) = waiting.as_mut().filter(|current| current.through == through) else {
            return;
        };
        if !current.members.remove(member) || !current.members.is_empty() {
            return;
        }
        drop(waiting);
        self.enqueue_own(Operation::Passed { through });
    }
}
