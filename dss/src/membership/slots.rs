//! Slots on the legs of volume 0: written on all that count, and of each node the newest is read.

use super::slot::{BadBlock, SlotView};
use super::types::MembershipError;
use crate::group::MetadataDevices;
use crate::seam::DeviceError;
use aquifer_dss_proto::NodeId;
use aquifer_dss_proto::label::slot_offset;

/// A slot as the legs have it: the newest good copy. An error when none is good.
type Found = Result<Option<SlotView>, BadBlock>;

fn newer(one: Found, other: Found) -> Found {
    let age = |slot: &SlotView| (slot.incarnation, slot.sequence);
    match (one, other) {
        // Half a write, or decay: what was acknowledged is on the other leg too.
        (Err(_), good) | (good, Err(_)) => good,
        (Ok(one), Ok(other)) => Ok(match (one, other) {
            (Some(one), Some(other)) if age(&one) < age(&other) => Some(other),
            (one, other) => one.or(other),
        }),
    }
}

/// The slot of a node.
pub async fn read_slot(
    metadata: &MetadataDevices,
    node: NodeId,
) -> Result<Option<SlotView>, MembershipError> {
    let read = |control: crate::group::ControlBlocks| async move { control.read_slot_block(node).await };
    let blocks = metadata.read_each(read).await?;
    let slots = blocks
        .into_iter()
        .map(|(_, block)| SlotView::decode(node, &block));
    let newest = slots.reduce(newer).expect("a leg counts");
    newest.map_err(|_| MembershipError::Damaged { what: "slot", node })
}

/// The slots of all nodes.
pub(super) async fn read_all(metadata: &MetadataDevices) -> Result<Vec<(NodeId, Found)>, DeviceError> {
    let read = |control: crate::group::ControlBlocks| async move { control.read_all_slot_blocks().await };
    let legs = metadata.read_each(read).await?;
    let of = |node: NodeId| {
        let copies = legs
            .iter()
            .map(|(_, blocks)| SlotView::decode(node, blocks.of(node)));
        (node, copies.reduce(newer).expect("a leg counts"))
    };
    Ok((1..=NodeId::MAX).filter_map(NodeId::new).map(of).collect())
}

/// Writes a slot on every leg that counts.
pub(super) async fn write_slot(
    metadata: &MetadataDevices,
    node: NodeId,
    bytes: &[u8],
) -> Result<(), DeviceError> {
    metadata.write_block(slot_offset(node), bytes).await
}
