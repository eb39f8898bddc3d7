//! Locks on node slots, and the power to kill, as [`Fencer`] has them on one machine.
//!
//! Rules: the lock of a life is taken by `hold` and becomes free when the life has ended *and* its writes in flight have
//! settled (HZ-17). A kill hits exactly the life that the identity names. When a later life of the victim has been seen, the
//! lock is that life's and the earlier one is gone. This is what the fencer of one machine does.

use super::disk::SimDisk;
use super::random::Random;
use super::world::{Life, World};
use aquifer_dss::seam::{BoxFuture, FenceError, Fencer, LockState, ProcessIdentity};
use aquifer_dss_proto::{Incarnation, Instant, NodeId};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// Looks at the lock this often while it waits for it.
const LOOK: Duration = Duration::from_micros(200);

/// All slot locks of a world.
pub struct Locks {
    world: Weak<World>,
    disk: Arc<SimDisk>,
    holders: Mutex<BTreeMap<NodeId, Life>>,
    /// Fences that fail, in a million.
    failures: Mutex<u32>,
    random: Mutex<Random>,
}

impl Locks {
    /// Nobody holds anything.
    pub fn new(world: &Arc<World>, disk: Arc<SimDisk>) -> Arc<Self> {
        Arc::new(Self {
            world: Arc::downgrade(world),
            disk,
            holders: Mutex::default(),
            failures: Mutex::new(0),
            random: Mutex::new(Random::fork(world.seed(), "fencer")),
        })
    }

    /// Lets that many fences in a million fail.
    pub fn set_failures(&self, parts_per_million: u32) {
        *self.failures.lock() = parts_per_million;
    }

    /// The fencer of `life`.
    pub fn fencer(self: &Arc<Self>, life: Life) -> Arc<SimFencer> {
        Arc::new(SimFencer {
            locks: self.clone(),
            life,
            seen: Mutex::default(),
        })
    }

    /// Who holds the lock of `node` now.
    fn holder(&self, node: NodeId) -> Option<Life> {
        let world = self.world.upgrade()?;
        let mut holders = self.holders.lock();
        let life = *holders.get(&node)?;
        if world.is_alive(life) || !self.disk.settled(life) {
            return Some(life);
        }
        holders.remove(&node);
        None
    }
}

/// The fencer of one life.
pub struct SimFencer {
    locks: Arc<Locks>,
    life: Life,
    seen: Mutex<BTreeSet<(NodeId, Incarnation)>>,
}

fn identity_of(life: Life) -> ProcessIdentity {
    ProcessIdentity {
        pid: u32::from(life.node.get()) * 100_000 + life.number as u32,
        start_ticks: life.number,
        pid_namespace: 1,
        boot_id: [1; 16],
    }
}

impl Fencer for SimFencer {
    fn hold(&self, node: NodeId) -> Result<(), FenceError> {
        match self.locks.holder(node) {
            Some(holder) if holder != self.life => Err(FenceError::SlotBusy(node)),
            _ => {
                self.locks.holders.lock().insert(node, self.life);
                Ok(())
            }
        }
    }

    fn identity(&self) -> ProcessIdentity {
        identity_of(self.life)
    }

    fn observe(&self, node: NodeId, incarnation: Incarnation) -> Result<LockState, FenceError> {
        self.seen.lock().insert((node, incarnation));
        Ok(if self.locks.holder(node).is_some() {
            LockState::Held
        } else {
            LockState::Free
        })
    }

    fn fence(
        &self,
        victim: NodeId,
        incarnation: Incarnation,
        identity: ProcessIdentity,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<(), FenceError>> {
        Box::pin(async move {
            let Some(world) = self.locks.world.upgrade() else {
                return std::future::pending().await;
            };
            let fields = [self.life.node.get().into(), victim.get().into(), incarnation.0, 0];
            world.record("fence", fields, "fencing (by, victim, incarnation)");
            let failures = *self.locks.failures.lock();
            if self.locks.random.lock().chance(failures) {
                let message = "simulated failure of the fence".to_owned();
                return Err(FenceError::System {
                    node: victim,
                    message,
                });
            }
            if let Some(life) = world.life(victim).filter(|life| identity_of(*life) == identity) {
                world.crash(life, "killed by a fence");
            }
            // A later life was seen: if the lock is held, it is that life's.
            let later = self
                .seen
                .lock()
                .iter()
                .any(|(node, seen)| *node == victim && *seen > incarnation);
            while !later && self.locks.holder(victim).is_some() {
                if world.local_time(self.life.node) >= deadline.0 {
                    return Err(FenceError::StillAlive(victim));
                }
                let until = world.local_time(self.life.node) + LOOK.as_nanos() as u64;
                world.sleep_local(self.life, until).await;
            }
            world.record("fenced", fields, "fence proven (by, victim, incarnation)");
            Ok(())
        })
    }
}
