//! Messages of `Service::Storage`: metadata requests to the storage leader, and letting go of removed units.
//!
//! All may be lost or repeated: requests are retransmitted and done once by their origin (DSS-4), `Drain` is
//! repeated until every member answered (HZ-7).

use crate::catalog::{Operation, Origin, Outcome, VolumeUnit};
use crate::{FileId, NodeId};
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// One message. Encoded with postcard.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum StorageMessage {
    /// To the leader: please do this.
    Request {
        /// Who asks, and which request it is.
        origin: Origin,
        /// What.
        operation: Operation,
    },
    /// From the leader: it is durable in journal entry `sequence` at the latest.
    Answer {
        /// Life of the asker.
        session: u64,
        /// Which request.
        request: u64,
        /// Read the journal past this entry to see it.
        sequence: u64,
        /// What it came to.
        outcome: Outcome,
    },
    /// From somebody who does not lead: ask again, maybe somebody else.
    NotLeader {
        /// Life of the asker.
        session: u64,
        /// Which request.
        request: u64,
    },
    /// From the leader: read the journal past this entry and finish I/O on files that are gone (HZ-7).
    Drain {
        /// Journal sequence.
        through: u64,
    },
    /// To the leader: done, but for removed files that are still open here.
    Drained {
        /// Journal sequence.
        through: u64,
        /// Of the files that were removed until then, those that are open.
        held: Vec<FileId>,
    },
    /// From the leader: read the journal past this entry, open what joined, finish I/O on units that move (HZ-7).
    Barrier {
        /// Journal sequence.
        through: u64,
    },
    /// To the leader: done.
    Passed {
        /// Journal sequence.
        through: u64,
    },
    /// To the leader: a checksum says that one leg has wrong bytes.
    Mend(Mend),
    /// To the leader: somebody waits for these torn units, heal them first (HZ-21).
    Wanted {
        /// Which.
        units: Vec<VolumeUnit>,
    },
}

/// Bytes of a mirrored volume that are wrong on one leg, by a checksum of whoever read them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Mend {
    /// Which volume.
    pub volume: u16,
    /// The leg that has them wrong.
    pub leg: u8,
    /// Byte offset on the device.
    pub offset: u64,
    /// How many, in whole blocks.
    pub length: u32,
    /// CRC32C of what was read from each leg. When it is something else by now, somebody has written there.
    pub found: [u32; 2],
}

impl StorageMessage {
    /// As bytes.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_allocvec(self).expect("plain data always encodes")
    }

    /// From bytes of a peer; any bytes are safe.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let message = postcard::from_bytes(bytes).ok()?;
        match &message {
            Self::Request { origin, .. } if NodeId::new(origin.node.get()).is_none() => None,
            _ => Some(message),
        }
    }
}
