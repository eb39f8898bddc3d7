//! What a node writes into its slot and its ballot block, as bytes.
//!
//! Either fits into 512 bytes, so that a device writes it whole or not at all: {magic 8, crc32c u32 of what
//! follows, length u16, reserved u16, content}. Slot content is postcard, ballot content as in `BallotBlock`.

use crate::seam::ProcessIdentity;
use aquifer_dss_proto::ballot::{BALLOT_BLOCK_BYTES, BallotBlock};
use aquifer_dss_proto::membership::{SlotFacts, SlotState};
use aquifer_dss_proto::{Epoch, Incarnation, NodeId, NodeSet};
use crc_fast::{CrcAlgorithm, checksum};
use serde::{Deserialize, Serialize};

const SECTOR: usize = 512;
const HEADER: usize = 16;
const SLOT_MAGIC: [u8; 8] = *b"AQSLOT\0\x01";
const BALLOT_MAGIC: [u8; 8] = *b"AQBALT\0\x01";

/// Longest address in a slot, in bytes: three of them fit into the sector.
pub const ADDRESS_BYTES_MAX: usize = 120;

/// Where a node answers: `HOST:PORT` or `unix:PATH`; empty when it does not.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Addresses {
    /// Traffic between nodes.
    pub peer: String,
    /// SQL sessions.
    pub sql: String,
    /// Administration.
    pub admin: String,
}

/// One node's slot as read from the device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotView {
    /// Whose.
    pub node: NodeId,
    /// Which life wrote it.
    pub incarnation: Incarnation,
    /// Grows with each write of that life.
    pub sequence: u64,
    /// What the node says of itself.
    pub state: SlotState,
    /// How others can fence it.
    pub identity: ProcessIdentity,
    /// Whom it heard over the network within 2H.
    pub heard: NodeSet,
    /// Highest epoch it knows to be decided.
    pub decided: Epoch,
    /// Highest epoch of which it knows that all excluded lives are proven dead.
    pub fenced: Epoch,
    /// Highest epoch the node has finished installing.
    pub installed_epoch: Epoch,
    /// No SCN above this was ever given out by this node.
    pub scn_ceiling: u64,
    /// Where it answers.
    pub addresses: Addresses,
}

/// A block that is neither empty nor sound.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadBlock;

impl SlotView {
    pub(super) fn facts(&self) -> SlotFacts {
        SlotFacts {
            node: self.node,
            incarnation: self.incarnation,
            sequence: self.sequence,
            state: self.state,
            heard: self.heard,
            decided: self.decided,
            fenced: self.fenced,
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let content = postcard::to_allocvec(self).expect("a slot has nothing that cannot be encoded");
        frame(SLOT_MAGIC, &content)
    }

    /// Reads the block of `node`'s slot; any bytes are safe. `None` for a slot never written.
    pub fn decode(node: NodeId, block: &[u8]) -> Result<Option<Self>, BadBlock> {
        let Some(content) = unframe(SLOT_MAGIC, block)? else {
            return Ok(None);
        };
        let slot: Self = postcard::from_bytes(content).map_err(|_| BadBlock)?;
        if slot.node == node {
            Ok(Some(slot))
        } else {
            Err(BadBlock)
        }
    }
}

pub(super) fn encode_ballot(block: &BallotBlock) -> Vec<u8> {
    frame(BALLOT_MAGIC, &block.encode())
}

/// Reads a ballot block; any bytes are safe. A block of zeros is the block of a node that never proposed.
pub fn decode_ballot(block: &[u8]) -> Result<BallotBlock, BadBlock> {
    let Some(content) = unframe(BALLOT_MAGIC, block)? else {
        return Ok(BallotBlock::default());
    };
    let content: &[u8; BALLOT_BLOCK_BYTES] = content.try_into().map_err(|_| BadBlock)?;
    BallotBlock::decode(content).ok_or(BadBlock)
}

fn frame(magic: [u8; 8], content: &[u8]) -> Vec<u8> {
    assert!(
        HEADER + content.len() <= SECTOR,
        "{} bytes do not fit into a sector",
        content.len()
    );
    let mut bytes = Vec::with_capacity(SECTOR);
    bytes.extend_from_slice(&magic);
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&(content.len() as u16).to_le_bytes());
    bytes.extend_from_slice(&[0; 2]);
    bytes.extend_from_slice(content);
    let crc = checksum(CrcAlgorithm::Crc32Iscsi, &bytes[12..]) as u32;
    bytes[8..12].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn unframe(magic: [u8; 8], block: &[u8]) -> Result<Option<&[u8]>, BadBlock> {
    let sector = block.get(..SECTOR).ok_or(BadBlock)?;
    if sector.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    let length = usize::from(u16::from_le_bytes([sector[12], sector[13]]));
    if sector[..8] != magic || HEADER + length > SECTOR {
        return Err(BadBlock);
    }
    let crc = checksum(CrcAlgorithm::Crc32Iscsi, &sector[12..HEADER + length]) as u32;
    if sector[8..12] == crc.to_le_bytes() {
        Ok(Some(&sector[HEADER..HEADER + length]))
    } else {
        Err(BadBlock)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_of_the_largest_size_fits_a_sector_and_garbage_is_refused() {
        let longest = "x".repeat(ADDRESS_BYTES_MAX);
        let node = NodeId::new(64).unwrap();
        let identity = ProcessIdentity {
            pid: u32::MAX,
            start_ticks: 1 << 40,
            pid_namespace: u64::MAX,
            boot_id: [255; 16],
        };
        let slot = SlotView {
            node,
            incarnation: Incarnation(1 << 40),
            sequence: 1 << 40,
            state: SlotState::Member,
            identity,
            heard: NodeSet::from_bits(u64::MAX),
            decided: Epoch(1 << 30),
            fenced: Epoch(1 << 30),
            installed_epoch: Epoch(1 << 30),
            scn_ceiling: 1 << 50,
            addresses: Addresses {
                peer: longest.clone(),
                sql: longest.clone(),
                admin: longest,
            },
        };
        let mut block = slot.encode();
        block.resize(4096, 0);
        assert_eq!(SlotView::decode(node, &block), Ok(Some(slot)));
        assert_eq!(SlotView::decode(NodeId::new(1).unwrap(), &block), Err(BadBlock));
        block[100] ^= 1;
        assert_eq!(SlotView::decode(node, &block), Err(BadBlock));
        assert_eq!(SlotView::decode(node, &[0; 4096]), Ok(None));
        assert_eq!(SlotView::decode(node, &[0xff; 4096]), Err(BadBlock));
        assert_eq!(decode_ballot(&[0; 4096]), Ok(BallotBlock::default()));
    }
}
