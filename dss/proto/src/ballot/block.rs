//! The block of one node: what it promised, what it accepted, and the last value it knows to be decided.

use crate::{Epoch, NodeId};

/// Bytes of an encoded block without the frame (magic, CRC) that the driver puts around it: well inside one sector.
pub const BALLOT_BLOCK_BYTES: usize = 80;

/// A ballot number: rounds first, then nodes, so no two nodes ever have the same.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct BallotNumber {
    /// 0 means "none".
    pub round: u64,
    /// The node that uses the number; 0 when round is 0.
    pub node: u8,
}

/// FNV-1a, 128 bit, of an encoded body. It tells bodies apart and finds a torn one; it is no defence against forgers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct BodyHash(pub u128);

impl BodyHash {
    /// The hash of `body`.
    pub fn of(body: &[u8]) -> Self {
        const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
        let start: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
        Self(
            body.iter()
                .fold(start, |hash, byte| (hash ^ u128::from(*byte)).wrapping_mul(PRIME)),
        )
    }
}

/// One node's ballot block.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct BallotBlock {
    /// The epoch being decided; 0 when this node never proposed.
    pub instance: Epoch,
    /// Highest ballot this node started in `instance`.
    pub promised: BallotNumber,
    /// Ballot in which `value` was accepted; round 0 when none was.
    pub accepted: BallotNumber,
    /// The accepted body, in this node's body place `instance % 2`.
    pub value: BodyHash,
    /// Highest epoch this node knows to be decided.
    pub decided: Epoch,
    /// Its body, in this node's body place `decided % 2`.
    pub decided_value: BodyHash,
}

impl BallotBlock {
    /// The block as bytes, little-endian, fields in the order of the declaration.
    pub fn encode(&self) -> [u8; BALLOT_BLOCK_BYTES] {
        let mut bytes = [0; BALLOT_BLOCK_BYTES];
        bytes[0..8].copy_from_slice(&self.instance.0.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.promised.round.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.accepted.round.to_le_bytes());
        bytes[24] = self.promised.node;
        bytes[25] = self.accepted.node;
        bytes[32..48].copy_from_slice(&self.value.0.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.decided.0.to_le_bytes());
        bytes[56..72].copy_from_slice(&self.decided_value.0.to_le_bytes());
        bytes
    }

    /// The block of `bytes`; `None` when a field is impossible.
    pub fn decode(bytes: &[u8; BALLOT_BLOCK_BYTES]) -> Option<Self> {
        let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
        let hash = |at: usize| {
            BodyHash(u128::from_le_bytes(
                bytes[at..at + 16].try_into().expect("16 bytes"),
            ))
        };
        let ballot = |round: u64, node: u8| {
            ((round == 0) == (node == 0) && node <= NodeId::MAX).then_some(BallotNumber { round, node })
        };
        let block = Self {
            instance: Epoch(number(0)),
            promised: ballot(number(8), bytes[24])?,
            accepted: ballot(number(16), bytes[25])?,
            value: hash(32),
            decided: Epoch(number(48)),
            decided_value: hash(56),
        };
        (block.accepted <= block.promised && block.decided <= block.instance).then_some(block)
    }
}
