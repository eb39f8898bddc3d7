//! What is on the wire: one hello each way, then frames. Little-endian. Everything a peer sends is checked.
//!
//! hello, 64 bytes: magic 8, version u16, node u8, zero u8, reserved 4, group 16, incarnation u64, epoch u64,
//! machine u64 (0: frames go over the socket), reserved 4, crc32c u32 of what is before it. Between two hellos that name the same machine
//! and the first frame: an [offer](super::offer) of memory, and one byte as the answer.
//! frame: length u32 of the head, length u32 of the tail, service u8, zero 3, crc32c u32 of the tail, crc32c u32 of the 16 bytes
//! before and of the head; head; tail. The head is checked before the tail is read, because it says where that goes.

use crate::seam::Service;
use aquifer_dss_proto::{Incarnation, NodeId};
use crc_fast::{CrcAlgorithm, Digest};
use std::num::NonZeroU64;

/// Bytes of a hello.
pub(super) const HELLO: usize = 64;
/// Bytes before a head.
pub(super) const HEADER: usize = 20;
/// Longest head accepted and sent, in bytes.
pub const HEAD_BYTES_MAX: usize = 8 << 20;
/// Longest tail accepted and sent, in bytes.
pub const TAIL_BYTES_MAX: usize = 64 << 10;
/// Version of this protocol.
pub(super) const VERSION: u16 = 2;
const MAGIC: [u8; 8] = *b"AQUIFER\x01";

/// Who is at the other end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Hello {
    pub group: [u8; 16],
    pub node: NodeId,
    pub incarnation: Incarnation,
    /// The boot of its machine, when it would share memory there.
    pub machine: Option<NonZeroU64>,
}

/// Why a connection is not wanted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Refusal {
    /// Not our protocol, or bytes altered under way.
    Garbage,
    /// Another protocol version.
    Version,
    /// A node of another volume group.
    Group,
    /// Not the node that was expected there, or this node itself.
    Node,
    /// A life that is over: a later one was seen.
    Stale,
    /// A life that no slot of the volume group names.
    Unknown,
    /// A head longer than [`HEAD_BYTES_MAX`] or a tail longer than [`TAIL_BYTES_MAX`].
    TooLong,
    /// No hello in time.
    Timeout,
    /// Half a frame and then nothing, or a peer that takes nothing of what is sent.
    Stalled,
    /// Shared memory whose other end broke its rules.
    Memory,
    /// Too many connections without a hello at the same time: the oldest had to go.
    Crowded,
}

impl Refusal {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Garbage,
        Self::Version,
        Self::Group,
        Self::Node,
        Self::Stale,
        Self::Unknown,
        Self::TooLong,
        Self::Timeout,
        Self::Stalled,
        Self::Memory,
        Self::Crowded,
    ];

    /// The reason as counters name it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Garbage => "garbage",
            Self::Version => "version",
            Self::Group => "group",
            Self::Node => "node",
            Self::Stale => "stale",
            Self::Unknown => "unknown",
            Self::TooLong => "too_long",
            Self::Timeout => "timeout",
            Self::Stalled => "stalled",
            Self::Memory => "memory",
            Self::Crowded => "crowded",
        }
    }
}

pub(super) fn encode_hello(hello: &Hello) -> [u8; HELLO] {
    let mut bytes = [0; HELLO];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
    bytes[10] = hello.node.get();
    bytes[16..32].copy_from_slice(&hello.group);
    bytes[32..40].copy_from_slice(&hello.incarnation.0.to_le_bytes());
    bytes[48..56].copy_from_slice(&hello.machine.map_or(0, NonZeroU64::get).to_le_bytes());
    let crc = checksum(&[&bytes[..60]]);
    bytes[60..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

pub(super) fn decode_hello(bytes: &[u8; HELLO]) -> Result<Hello, Refusal> {
    if bytes[..8] != MAGIC || bytes[60..] != checksum(&[&bytes[..60]]).to_le_bytes() {
        return Err(Refusal::Garbage);
    }
    if bytes[8..10] != VERSION.to_le_bytes() {
        return Err(Refusal::Version);
    }
    Ok(Hello {
        group: bytes[16..32].try_into().expect("16 bytes"),
        node: NodeId::new(bytes[10]).ok_or(Refusal::Garbage)?,
        incarnation: Incarnation(u64::from_le_bytes(bytes[32..40].try_into().expect("8 bytes"))),
        machine: NonZeroU64::new(u64::from_le_bytes(bytes[48..56].try_into().expect("8 bytes"))),
    })
}

/// What a header says of the frame behind it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Header {
    pub service: Service,
    /// Bytes of the head.
    pub head: usize,
    /// Bytes of the tail; 0: there is none.
    pub tail: usize,
    tail_crc: u32,
}

pub(super) fn encode_header(service: Service, head: &[u8], tail: Option<&[u8]>) -> [u8; HEADER] {
    let tail = tail.unwrap_or_default();
    let mut bytes = [0; HEADER];
    bytes[..4].copy_from_slice(&(head.len() as u32).to_le_bytes());
    bytes[4..8].copy_from_slice(&(tail.len() as u32).to_le_bytes());
    bytes[8] = service as u8;
    bytes[12..16].copy_from_slice(&checksum(&[tail]).to_le_bytes());
    let crc = checksum(&[&bytes[..16], head]);
    bytes[16..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// Bounds only: it is believed when the head is here and [matches](head_matches).
pub(super) fn decode_header(bytes: &[u8; HEADER]) -> Result<Header, Refusal> {
    let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
    let service = Service::from_byte(bytes[8]).ok_or(Refusal::Garbage)?;
    if bytes[9..12] != [0; 3] {
        return Err(Refusal::Garbage);
    }
    let (head, tail) = (number(0) as usize, number(4) as usize);
    if head > HEAD_BYTES_MAX || tail > TAIL_BYTES_MAX {
        return Err(Refusal::TooLong);
    }
    Ok(Header {
        service,
        head,
        tail,
        tail_crc: number(12),
    })
}

pub(super) fn head_matches(header: &[u8], head: &[u8]) -> bool {
    header[16..] == checksum(&[&header[..16], head]).to_le_bytes()
}

impl Header {
    pub fn tail_matches(&self, tail: &[u8]) -> bool {
        checksum(&[tail]) == self.tail_crc
    }
}

pub(super) fn checksum(parts: &[&[u8]]) -> u32 {
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    for part in parts {
        digest.update(part);
    }
    digest.finalize() as u32
}
