//! Slots of the nodes, read without being one of them; and the fence by hand.

use super::offline::fencer;
use super::plain::PlainDevice;
use crate::admin::NodeReport;
use crate::failure::{Exit, Failure};
use aquifer_dss::fence::Descriptor;
use aquifer_dss::group::ControlBlocks;
use aquifer_dss::membership::{SlotState, SlotView};
use aquifer_dss::seam::{BlockDevice, FenceError, Fencer, LockState};
use aquifer_dss_proto::NodeId;
use std::path::Path;
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

fn descriptor(path: &Path) -> Result<Descriptor, Failure> {
    Ok(Arc::new(PlainDevice::open(path, false)?.into_file()))
}

/// Whether some process holds a slot's lock on this device.
pub fn anybody_runs(path: &Path) -> Result<bool, Failure> {
    let (_, fencer) = fencer(vec![descriptor(path)?])?;
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
    // The proof of a fence has to hold on each device that the node could write (HZ-17).
    let mut devices = vec![path.to_owned()];
    devices.extend(super::OfflineGroup::open(path).await?.written_paths());
    let descriptors = devices.iter().map(|path| descriptor(path));
    let (runtime, fencer) = fencer(descriptors.collect::<Result<_, _>>()?)?;
    fencer.observe(id, slot.incarnation).map_err(Failure::failed)?;
    let deadline = runtime.now() + FENCE_LIMIT;
    fencer.fence(id, slot.incarnation, slot.identity.clone(), deadline).await.map_err(|e| match e {
        FenceError::NoProof(_) => Failure::refused(format!("node {id} ran on another machine or before the last boot: it cannot be proven dead from here; fence it there")),
        other => Failure::new(Exit::Unknown, format!("node {id} is not proven dead: {other}")),
    })?;
    for path in &devices {
        let flushed = PlainDevice::open(path, true)?.flush().await;
        flushed.map_err(|e| Failure::unavailable(format!("{}: {e}", path.display())))?;
    }
    Ok(())
}
