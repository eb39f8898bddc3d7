//! Slots of the nodes, read without being one of them; and the fence by hand.

use super::plain::PlainDevice;
use crate::admin::NodeReport;
use crate::failure::{Exit, Failure};
use aquifer_dss::fence::{Descriptor, LocalFencer};
use aquifer_dss::group::ControlBlocks;
use aquifer_dss::membership::{SlotState, SlotView};
use aquifer_dss::seam::{BlockDevice, FenceError, Fencer, LockState, Runtime};
use aquifer_dss::tokio_runtime::TokioRuntime;
use aquifer_dss_proto::NodeId;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How long a fence by hand waits for the proof.
const FENCE_LIMIT: Duration = Duration::from_secs(30);

/// A slot for people and programs.
pub fn report(slot: &SlotView) -> NodeReport {
    let state = match slot.state {
        SlotState::Joining => "joining",
        SlotState::Member => "member",
        SlotState::Leaving => "leaving",
        SlotState::Down => "stopped",
    };
    NodeReport {
        id: slot.node.get(),
        state: state.into(),
        incarnation: slot.incarnation.0,
        sql: slot.addresses.sql.clone(),
        peer: slot.addresses.peer.clone(),
        admin: slot.addresses.admin.clone(),
        installed_epoch: slot.installed_epoch.0,
        ..NodeReport::default()
    }
}

async fn read(path: &Path) -> Result<Vec<SlotView>, Failure> {
    let group = super::OfflineGroup::open(path).await?;
    let control = ControlBlocks::new(group.first.clone(), group.label.slots());
    let blocks = control
        .read_all_slot_blocks()
        .await
        .map_err(|e| Failure::unavailable(format!("{}: {e}", path.display())))?;
    let mut slots = Vec::new();
    for (node, block) in blocks.iter() {
        match SlotView::decode(node, block) {
            Ok(Some(slot)) => slots.push(slot),
            Ok(None) => {}
            Err(_) => {
                return Err(Failure::failed(format!(
                    "the slot of node {node} on {} is damaged; look with `aquifer vg check`",
                    path.display()
                )));
            }
        }
    }
    Ok(slots)
}

/// What the slots say.
pub async fn read_slots(path: &Path) -> Result<Vec<NodeReport>, Failure> {
    Ok(read(path).await?.iter().map(report).collect())
}

fn fencer(path: &Path) -> Result<(Arc<dyn Runtime>, LocalFencer), Failure> {
    let runtime: Arc<dyn Runtime> = Arc::new(TokioRuntime::current());
    let device = PlainDevice::open(path, false)?;
    let descriptor: Descriptor = Arc::new(device.into_file());
    let fencer = LocalFencer::new(runtime.clone(), vec![descriptor])
        .map_err(|e| Failure::failed(format!("/proc does not say who this process is: {e}")))?;
    Ok((runtime, fencer))
}

/// Whether some process holds a slot's lock on this device.
pub fn anybody_runs(path: &Path) -> Result<bool, Failure> {
    let (_, fencer) = fencer(path)?;
    for id in 1..=NodeId::MAX {
        let node = NodeId::new(id).expect("1 to 64 are node ids");
        let state = fencer
            .observe(node, aquifer_dss_proto::Incarnation(0))
            .map_err(Failure::failed)?;
        if state == LockState::Held {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Kills a node of this machine, proves that it can write no more, and makes what it wrote durable.
pub async fn fence(path: &Path, id: NodeId) -> Result<(), Failure> {
    let slots = read(path).await?;
    let slot = slots.iter().find(|s| s.node == id);
    let slot = slot.ok_or_else(|| Failure::usage(format!("node {id} never ran on {}", path.display())))?;
    let (runtime, fencer) = fencer(path)?;
    let group = super::OfflineGroup::open(path).await?;
    // The proof of a fence has to hold on each volume (HZ-17).
    let further: Vec<PathBuf> = group.further_paths()?.into_iter().map(|(_, path)| path).collect();
    for volume in &further {
        let device = PlainDevice::open(volume, false)?;
        fencer
            .add(Arc::new(device.into_file()))
            .map_err(Failure::failed)?;
    }
    fencer.observe(id, slot.incarnation).map_err(Failure::failed)?;
    let deadline = runtime.now() + FENCE_LIMIT;
    fencer.fence(id, slot.incarnation, slot.identity.clone(), deadline).await.map_err(|e| match e {
        FenceError::NoProof(_) => Failure::refused(format!("node {id} ran on another machine or before the last boot: it cannot be proven dead from here; fence it there")),
        other => Failure::new(Exit::Unknown, format!("node {id} is not proven dead: {other}")),
    })?;
    for volume in std::iter::once(path).chain(further.iter().map(PathBuf::as_path)) {
        let device = PlainDevice::open(volume, true)?;
        let flushed = device.flush().await;
        flushed.map_err(|e| Failure::unavailable(format!("{}: {e}", volume.display())))?;
    }
    Ok(())
}
