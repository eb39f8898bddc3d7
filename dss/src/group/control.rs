//! Control blocks of volume 0: node slots, ballot blocks and ballot bodies, as raw bytes.
//!
//! Their content and CRC belong to membership; here are only the places. A block is written by its node alone.
//! Nothing is durable before [`ControlBlocks::flush`].

use crate::seam::{BLOCK, BlockDevice, DeviceError, IoBuffer};
use aquifer_dss_proto::label::{
    BALLOTS_OFFSET, SLOTS_OFFSET, ballot_offset, body_bytes, body_offset, slot_offset,
};
use aquifer_dss_proto::{HomeSlots, NodeId};
use std::sync::Arc;

/// Typed access to the control blocks. Cheap to clone.
#[derive(Clone)]
pub struct ControlBlocks {
    device: Arc<dyn BlockDevice>,
    slots: HomeSlots,
}

/// The 64 blocks of all nodes, read at once.
pub struct AllBlocks(IoBuffer);

impl AllBlocks {
    /// The block of one node.
    pub fn of(&self, node: NodeId) -> &[u8] {
        &self.0[node.index() * BLOCK..][..BLOCK]
    }

    /// Every node with its block.
    pub fn iter(&self) -> impl Iterator<Item = (NodeId, &[u8])> {
        (1..=NodeId::MAX)
            .filter_map(NodeId::new)
            .map(|node| (node, self.of(node)))
    }
}

impl ControlBlocks {
    /// The control blocks of the first volume of a group whose directory has `slots`.
    pub fn new(device: Arc<dyn BlockDevice>, slots: HomeSlots) -> Self {
        Self { device, slots }
    }

    /// Slots of the group's directory.
    pub fn home_slots(&self) -> HomeSlots {
        self.slots
    }

    /// Reads one node's slot: 4 KiB.
    pub async fn read_slot_block(&self, node: NodeId) -> Result<IoBuffer, DeviceError> {
        self.device.read(slot_offset(node), IoBuffer::zeroed(BLOCK)).await
    }

    /// Writes one node's slot; `bytes` are at most 4 KiB, padded with zeros.
    pub async fn write_slot_block(&self, node: NodeId, bytes: &[u8]) -> Result<(), DeviceError> {
        self.write_block(slot_offset(node), bytes).await
    }

    /// Reads the slots of all 64 nodes in one operation of 256 KiB.
    pub async fn read_all_slot_blocks(&self) -> Result<AllBlocks, DeviceError> {
        self.read_all(SLOTS_OFFSET).await
    }

    /// Reads one node's ballot block: 4 KiB.
    pub async fn read_ballot_block(&self, node: NodeId) -> Result<IoBuffer, DeviceError> {
        self.device
            .read(ballot_offset(node), IoBuffer::zeroed(BLOCK))
            .await
    }

    /// Writes one node's ballot block; `bytes` are at most 4 KiB, padded with zeros.
    pub async fn write_ballot_block(&self, node: NodeId, bytes: &[u8]) -> Result<(), DeviceError> {
        self.write_block(ballot_offset(node), bytes).await
    }

    /// Reads the ballot blocks of all 64 nodes in one operation of 256 KiB.
    pub async fn read_all_ballot_blocks(&self) -> Result<AllBlocks, DeviceError> {
        self.read_all(BALLOTS_OFFSET).await
    }

    /// Reads body 0 or 1 of a node: 16 KiB, or twice the number of slots.
    pub async fn read_body(&self, node: NodeId, which: usize) -> Result<IoBuffer, DeviceError> {
        self.device
            .read(
                body_offset(self.slots, node, which),
                IoBuffer::zeroed(body_bytes(self.slots)),
            )
            .await
    }

    /// Writes body 0 or 1 of a node; `bytes` fit its place, padded with zeros to whole blocks.
    pub async fn write_body(&self, node: NodeId, which: usize, bytes: &[u8]) -> Result<(), DeviceError> {
        assert!(
            bytes.len() <= body_bytes(self.slots),
            "a body of {} bytes does not fit",
            bytes.len()
        );
        self.device
            .write(body_offset(self.slots, node, which), IoBuffer::copy_padded(bytes))
            .await
            .map(drop)
    }

    /// Makes what was written durable.
    pub async fn flush(&self) -> Result<(), DeviceError> {
        self.device.flush().await
    }

    async fn write_block(&self, offset: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        assert!(
            bytes.len() <= BLOCK,
            "a control block of {} bytes does not fit",
            bytes.len()
        );
        self.device
            .write(offset, IoBuffer::copy_padded(bytes))
            .await
            .map(drop)
    }

    async fn read_all(&self, offset: u64) -> Result<AllBlocks, DeviceError> {
        let all = IoBuffer::zeroed(BLOCK * usize::from(NodeId::MAX));
        self.device.read(offset, all).await.map(AllBlocks)
    }
}
