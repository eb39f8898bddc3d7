//! The metadata journal and its checkpoints as bytes: entries that are chained by hash, in segments of a ring.
//!
//! An entry starts at a block and never crosses a segment. Header of an entry, little-endian:
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 8 | magic "AQJOURN\0" |
//! | 8 | 4 | format version |
//! | 12 | 4 | length of the payload |
//! | 16 | 8 | first 8 bytes of the group's UUID |
//! | 24 | 8 | epoch of the leader that wrote it |
//! | 32 | 8 | sequence, +1 per entry |
//! | 40 | 8 | hash (CRC-64/NVME) of the entry before: its header and payload |
//! | 48 | 8 | logical position in the journal |
//! | 56 | 4 | zero |
//! | 60 | 4 | CRC32C of bytes 0..60 and of the payload |
//! | 64 | length | payload: postcard of a sequence of records |
//!
//! Rules: an entry counts only when group, position, sequence and hash are exactly what the chain expects and its
//! epoch is not older than the one before (DSS-3); a new leader starts at the next segment boundary (HZ-18).

use crate::BLOCK_BYTES;
use crate::catalog::{Catalog, Record};
use crate::envelope::{EnvelopeError, chain_hash, crc32c, open_block, read_u32, read_u64, seal_block};
use crate::label::{FORMAT_VERSION, Uuid};
use crate::{Epoch, NodeId};
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// "AQJOURN\0" as a little-endian number.
pub const ENTRY_MAGIC: u64 = u64::from_le_bytes(*b"AQJOURN\0");
/// "AQCHECK\0" as a little-endian number.
pub const CHECKPOINT_MAGIC: u64 = u64::from_le_bytes(*b"AQCHECK\0");
/// Bytes of an entry's header.
pub const ENTRY_HEADER: usize = 64;

/// The end of the journal as far as it was read: what the next entry must be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Tail {
    /// Sequence of the next entry.
    pub sequence: u64,
    /// Logical position where it is expected: grows for ever, modulo the journal's size it is an offset.
    pub position: u64,
    /// Hash of the entry before.
    pub previous: u64,
    /// Epoch of the entry before.
    pub epoch: Epoch,
}

impl Tail {
    /// The start of the journal of a fresh group.
    pub fn first(group: Uuid) -> Self {
        Self {
            sequence: 1,
            position: 0,
            previous: chain_hash(&group.0),
            epoch: Epoch(0),
        }
    }

    /// The start of the segment after the one that `position` is in.
    pub const fn next_segment(&self, segment_bytes: u64) -> u64 {
        (self.position / segment_bytes + 1) * segment_bytes
    }
}

/// A good entry and the tail after it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Its sequence.
    pub sequence: u64,
    /// Epoch of its writer.
    pub epoch: Epoch,
    /// What it says.
    pub records: Vec<Record>,
    /// The tail after it.
    pub after: Tail,
}

/// Bytes on the device of an entry with a payload of `length` bytes.
pub const fn entry_bytes(length: usize) -> usize {
    (ENTRY_HEADER + length).next_multiple_of(BLOCK_BYTES)
}

/// Encodes one entry at `position`; gives its bytes (whole blocks) and the tail after it.
pub fn encode_entry(
    group: Uuid,
    tail: &Tail,
    position: u64,
    epoch: Epoch,
    records: &[Record],
) -> (Vec<u8>, Tail) {
    assert!(epoch >= tail.epoch, "a journal's epochs never fall");
    assert!(
        position >= tail.position && position.is_multiple_of(BLOCK_BYTES as u64),
        "a journal grows by whole blocks"
    );
    let payload = postcard::to_allocvec(records).expect("plain data always encodes");
    let mut bytes = Vec::with_capacity(entry_bytes(payload.len()));
    bytes.extend_from_slice(&ENTRY_MAGIC.to_le_bytes());
    bytes.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
    bytes.extend_from_slice(
        &u32::try_from(payload.len())
            .expect("a segment is below 4 GiB")
            .to_le_bytes(),
    );
    bytes.extend_from_slice(&group.0[..8]);
    bytes.extend_from_slice(&epoch.0.to_le_bytes());
    bytes.extend_from_slice(&tail.sequence.to_le_bytes());
    bytes.extend_from_slice(&tail.previous.to_le_bytes());
    bytes.extend_from_slice(&position.to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    let crc = crc32c(&[&bytes[..60], &payload]);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes.extend_from_slice(&payload);
    let previous = chain_hash(&bytes);
    bytes.resize(entry_bytes(payload.len()), 0);
    let after = Tail {
        sequence: tail.sequence + 1,
        position: position + bytes.len() as u64,
        previous,
        epoch,
    };
    (bytes, after)
}

/// How many bytes to read for the entry whose first block is `block`, when it may continue `tail` at `position`.
pub fn expected_bytes(block: &[u8], group: Uuid, tail: &Tail, position: u64, limit: u64) -> Option<usize> {
    let head = block.get(..ENTRY_HEADER)?;
    let continues = read_u64(head, 0) == ENTRY_MAGIC
        && read_u32(head, 8) == FORMAT_VERSION
        && head[16..24] == group.0[..8]
        && read_u64(head, 24) >= tail.epoch.0
        && read_u64(head, 32) == tail.sequence
        && read_u64(head, 40) == tail.previous
        && read_u64(head, 48) == position;
    let bytes = entry_bytes(read_u32(head, 12) as usize);
    (continues && bytes as u64 <= limit).then_some(bytes)
}

/// Reads the entry in `bytes`, when it continues `tail` at `position`. Any bytes are safe.
pub fn decode_entry(bytes: &[u8], group: Uuid, tail: &Tail, position: u64) -> Option<Entry> {
    let whole = expected_bytes(bytes, group, tail, position, bytes.len() as u64)?;
    let length = read_u32(bytes, 12) as usize;
    let payload = bytes.get(ENTRY_HEADER..ENTRY_HEADER + length)?;
    if crc32c(&[&bytes[..60], payload]) != read_u32(bytes, 60) {
        return None;
    }
    let records: Vec<Record> = postcard::from_bytes(payload).ok()?;
    let known = |record: &Record| {
        record
            .origin
            .is_none_or(|origin| NodeId::new(origin.node.get()).is_some())
    };
    if !records.iter().all(known) {
        return None;
    }
    let epoch = Epoch(read_u64(bytes, 24));
    let after = Tail {
        sequence: tail.sequence.checked_add(1)?,
        position: position.checked_add(whole as u64)?,
        previous: chain_hash(&bytes[..ENTRY_HEADER + length]),
        epoch,
    };
    Some(Entry {
        sequence: tail.sequence,
        epoch,
        records,
        after,
    })
}

/// First block of a checkpoint: what the body is and where the journal goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CheckpointHead {
    /// Which group.
    pub group: Uuid,
    /// The first entry that the checkpoint does not contain.
    pub tail: Tail,
    /// Bytes of the body, which starts at the next block.
    pub length: u64,
    /// CRC32C of the body.
    pub crc: u32,
}

/// The first block of a checkpoint.
pub fn encode_checkpoint_head(head: &CheckpointHead) -> Vec<u8> {
    let head = postcard::to_allocvec(head).expect("plain data always encodes");
    let block = seal_block(CHECKPOINT_MAGIC, FORMAT_VERSION, &head);
    assert_eq!(block.len(), BLOCK_BYTES, "a head is one block");
    block
}

/// A checkpoint as bytes: a head block, then the body padded to whole blocks.
pub fn encode_checkpoint(group: Uuid, tail: Tail, catalog: &Catalog) -> Vec<u8> {
    let body = catalog.encode();
    let head = CheckpointHead {
        group,
        tail,
        length: body.len() as u64,
        crc: crc32c(&[&body]),
    };
    let mut bytes = encode_checkpoint_head(&head);
    bytes.extend_from_slice(&body);
    bytes.resize(bytes.len().next_multiple_of(BLOCK_BYTES), 0);
    bytes
}

/// The head in the first block of a checkpoint of `group` that has room for `capacity` bytes in all.
pub fn decode_checkpoint_head(
    block: &[u8],
    group: Uuid,
    capacity: u64,
) -> Result<CheckpointHead, EnvelopeError> {
    let head = decode_loose_head(block)?;
    if head.group != group {
        return Err(EnvelopeError::Absent);
    }
    let fits = head.length <= capacity.saturating_sub(BLOCK_BYTES as u64);
    if fits && head.tail.position.is_multiple_of(BLOCK_BYTES as u64) {
        Ok(head)
    } else {
        Err(EnvelopeError::Corrupt)
    }
}

/// The catalogue in the body of a checkpoint.
pub fn decode_checkpoint_body(head: &CheckpointHead, body: &[u8]) -> Result<Catalog, EnvelopeError> {
    let length = usize::try_from(head.length).map_err(|_| EnvelopeError::Corrupt)?;
    let body = body.get(..length).ok_or(EnvelopeError::Corrupt)?;
    if crc32c(&[body]) != head.crc {
        return Err(EnvelopeError::Corrupt);
    }
    Catalog::decode(body)
}

/// An entry by itself, without the chain that it belongs to: for looking at a device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LooseEntry {
    /// First 8 bytes of the id of its group.
    pub group: [u8; 8],
    /// Epoch of its writer.
    pub epoch: Epoch,
    /// Its sequence.
    pub sequence: u64,
    /// Hash of the entry before.
    pub previous: u64,
    /// Logical position.
    pub position: u64,
    /// What it says.
    pub records: Vec<Record>,
}

/// Reads the entry at the front of `bytes`, whatever chain it is of. Any bytes are safe.
pub fn decode_loose_entry(bytes: &[u8]) -> Result<LooseEntry, EnvelopeError> {
    let head = bytes.get(..ENTRY_HEADER).ok_or(EnvelopeError::Absent)?;
    if read_u64(head, 0) != ENTRY_MAGIC {
        return Err(EnvelopeError::Absent);
    }
    let end = ENTRY_HEADER.checked_add(read_u32(head, 12) as usize);
    let payload = end.and_then(|end| bytes.get(ENTRY_HEADER..end));
    let payload = payload.ok_or(EnvelopeError::Corrupt)?;
    if crc32c(&[&head[..60], payload]) != read_u32(head, 60) {
        return Err(EnvelopeError::Corrupt);
    }
    if read_u32(head, 8) != FORMAT_VERSION {
        return Err(EnvelopeError::Version(read_u32(head, 8)));
    }
    Ok(LooseEntry {
        group: head[16..24].try_into().expect("eight bytes"),
        epoch: Epoch(read_u64(head, 24)),
        sequence: read_u64(head, 32),
        previous: read_u64(head, 40),
        position: read_u64(head, 48),
        records: postcard::from_bytes(payload).map_err(|_| EnvelopeError::Corrupt)?,
    })
}

/// The head in the first block of a checkpoint, of whatever group. Any bytes are safe.
pub fn decode_loose_head(block: &[u8]) -> Result<CheckpointHead, EnvelopeError> {
    let body = open_block(CHECKPOINT_MAGIC, FORMAT_VERSION, block)?;
    postcard::from_bytes(body).map_err(|_| EnvelopeError::Corrupt)
}

/// The sequence of a whole, undamaged entry of `group` that starts at the first byte; for finding entries that the
/// chain does not reach. Any bytes are safe.
pub fn sequence_of(bytes: &[u8], group: Uuid) -> Option<u64> {
    let head = bytes.get(..ENTRY_HEADER)?;
    if read_u64(head, 0) != ENTRY_MAGIC || head[16..24] != group.0[..8] {
        return None;
    }
    let payload = bytes.get(ENTRY_HEADER..ENTRY_HEADER.checked_add(read_u32(head, 12) as usize)?)?;
    (crc32c(&[&head[..60], payload]) == read_u32(head, 60)).then(|| read_u64(head, 32))
}
