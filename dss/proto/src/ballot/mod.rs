//! Disk Paxos on one shared disk (HZ-19): which view has a given epoch.
//!
//! Rules (MEM-1 to MEM-4 in the README of `dss/proto`):
//! - a node writes only its own block, one sector; the block is read first after every start, so that a ballot
//!   number (round, node) is never used twice;
//! - what was written is flushed before the blocks of others are read;
//! - one instance per epoch; a block that has moved on to instance `e + 1` names the decided value of `e`, and the
//!   body of that value is in its node's body place `e % 2`;
//! - a body is stored and flushed before a block names it.

mod block;
mod proposer;
#[cfg(test)]
mod tests;

pub use block::{BALLOT_BLOCK_BYTES, BallotBlock, BallotNumber, BodyHash};
pub use proposer::{BallotOutput, Proposer};
