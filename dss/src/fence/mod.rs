//! Fencing of processes on one machine, by locks on the shared device.
//!
//! Every node holds an OFD lock on the byte range of its slot, through the same open file description as its I/O.
//! The kernel gives the lock up only with the last reference to that description, so not before the last I/O that
//! uses it has ended. Rules (HZ-17):
//! - a free lock is proof only when this node saw it held in that incarnation, on every volume, or when the
//!   process of the slot, on this boot and in this PID namespace, is gone;
//! - descriptors are close-on-exec and never passed on;
//! - a pidfd is opened before the start time is compared, so that the process signalled is the one compared.

#[cfg(test)]
mod kernel_tests;
mod lock;
mod process;
#[cfg(test)]
mod tests;

use crate::seam::{BoxFuture, FenceError, Fencer, LockState, ProcessIdentity, Runtime};
use aquifer_dss_proto::defect::{Defect, planted};
use aquifer_dss_proto::label::slot_offset;
use aquifer_dss_proto::{Incarnation, Instant, NodeId};
use parking_lot::{Mutex, RwLock};
use process::{Victim, open_victim, own_identity};
use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

/// A descriptor through which a device does its I/O.
pub type Descriptor = Arc<dyn AsFd + Send + Sync>;

#[derive(Clone, Copy, Default)]
struct Observed {
    /// Highest incarnation in which the lock was seen held.
    held: Option<Incarnation>,
    /// Highest incarnation ever asked about.
    latest: Incarnation,
}

/// What locks are taken on.
struct Volumes {
    descriptors: Vec<Descriptor>,
    /// Whose slot is held on each of them.
    holder: Option<NodeId>,
}

/// The [`Fencer`] of production for nodes on one machine. `fence` needs to be polled inside a tokio runtime with I/O.
pub struct LocalFencer {
    runtime: Arc<dyn Runtime>,
    /// A volume is added while nodes serve: the lock of this node's slot is then taken on it too.
    volumes: RwLock<Volumes>,
    identity: ProcessIdentity,
    observed: Mutex<BTreeMap<NodeId, Observed>>,
}

impl LocalFencer {
    /// Locks through these descriptors, one for each volume: those that the device I/O uses. Fails when /proc
    /// does not tell who this process is.
    pub fn new(runtime: Arc<dyn Runtime>, volumes: Vec<Descriptor>) -> std::io::Result<Self> {
        assert!(!volumes.is_empty(), "a fencer has a volume to lock");
        Ok(Self {
            runtime,
            volumes: RwLock::new(Volumes {
                descriptors: volumes,
                holder: None,
            }),
            identity: own_identity()?,
            observed: Mutex::default(),
        })
    }

    /// Locks a volume that turned up too. Call it before the first write to it; fails when another process has the
    /// slot of this node there.
    pub fn add(&self, volume: Descriptor) -> Result<(), FenceError> {
        let mut volumes = self.volumes.write();
        if let Some(node) = volumes.holder {
            take(&volume, node)?;
        }
        volumes.descriptors.push(volume);
        Ok(())
    }

    /// Locks this volume no more: no I/O of this process on it is left, nor will there be.
    pub fn remove(&self, volume: &Descriptor) {
        let mut volumes = self.volumes.write();
        volumes.descriptors.retain(|known| !Arc::ptr_eq(known, volume));
    }

    /// On how many volumes the lock is held, and how many volumes there are.
    fn held_on(&self, node: NodeId) -> Result<(usize, usize), FenceError> {
        let volumes = self.volumes.read();
        let mut held = 0;
        for volume in &volumes.descriptors {
            let state = lock::look(volume.as_fd(), slot_offset(node));
            let state = state.map_err(|error| FenceError::System {
                node,
                message: error.to_string(),
            })?;
            held += usize::from(state == LockState::Held);
        }
        Ok((held, volumes.descriptors.len()))
    }

    /// Until the lock is free.
    async fn wait_for_lock(&self, node: NodeId, deadline: Instant) -> Result<(), FenceError> {
        let mut pause = Duration::from_micros(200);
        while self.held_on(node)?.0 > 0 {
            if self.runtime.now() >= deadline {
                return Err(FenceError::StillAlive(node));
            }
            self.runtime.sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(20));
        }
        Ok(())
    }

    async fn fence_life(
        &self,
        node: NodeId,
        incarnation: Incarnation,
        identity: ProcessIdentity,
        deadline: Instant,
    ) -> Result<(), FenceError> {
        let observed = self.observed.lock().get(&node).copied().unwrap_or_default();
        let here = identity.boot_id == self.identity.boot_id
            && identity.pid_namespace == self.identity.pid_namespace;
        if here {
            if identity.pid == self.identity.pid && identity.start_ticks == self.identity.start_ticks {
                let message = "its slot names this very process".to_owned();
                return Err(FenceError::System { node, message });
            }
            let system = |error: std::io::Error| FenceError::System {
                node,
                message: error.to_string(),
            };
            match open_victim(&identity).map_err(system)? {
                Victim::Gone => {}
                Victim::Running(process) => {
                    process.kill().map_err(system)?;
                    tokio::select! {
                        biased;
                        ended = process.ended() => ended.map_err(system)?,
                        () = self.runtime.sleep_until(deadline) => return Err(FenceError::StillAlive(node)),
                    }
                }
            }
            if observed.latest > incarnation {
                // The lock, if it is held, is that of the next life.
                return Ok(());
            }
            return self.wait_for_lock(node, deadline).await;
        }
        if observed.held < Some(incarnation) && !planted(Defect::TrustLockNeverSeenHeld) {
            return Err(FenceError::NoProof(node));
        }
        if observed.latest > incarnation {
            Ok(())
        } else {
            self.wait_for_lock(node, deadline).await
        }
    }
}

fn take(volume: &Descriptor, node: NodeId) -> Result<(), FenceError> {
    match lock::take(volume.as_fd(), slot_offset(node)) {
        Ok(true) => Ok(()),
        Ok(false) => Err(FenceError::SlotBusy(node)),
        Err(error) => Err(FenceError::System {
            node,
            message: error.to_string(),
        }),
    }
}

impl Fencer for LocalFencer {
    fn hold(&self, node: NodeId) -> Result<(), FenceError> {
        let mut volumes = self.volumes.write();
        for volume in &volumes.descriptors {
            take(volume, node)?;
        }
        volumes.holder = Some(node);
        Ok(())
    }

    fn identity(&self) -> ProcessIdentity {
        self.identity.clone()
    }

    fn observe(&self, node: NodeId, incarnation: Incarnation) -> Result<LockState, FenceError> {
        let (held, volumes) = self.held_on(node)?;
        if held > 0 && held < volumes && !planted(Defect::TrustLockOfOneVolume) {
            // It is being let go, or one volume is another inode here: neither is a life seen, nor later its end.
            let message = format!("its lock is held on {held} of {volumes} volumes");
            return Err(FenceError::System { node, message });
        }
        let state = if held > 0 {
            LockState::Held
        } else {
            LockState::Free
        };
        let mut observed = self.observed.lock();
        let entry = observed.entry(node).or_default();
        entry.latest = entry.latest.max(incarnation);
        if state == LockState::Held {
            entry.held = entry.held.max(Some(incarnation));
        }
        Ok(state)
    }

    fn fence(
        &self,
        victim: NodeId,
        incarnation: Incarnation,
        identity: ProcessIdentity,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<(), FenceError>> {
        Box::pin(self.fence_life(victim, incarnation, identity, deadline))
    }
}
