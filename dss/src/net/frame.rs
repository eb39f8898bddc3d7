//! What is on the wire: one hello each way, then frames. Little-endian. Everything a peer sends is checked.
//!
//! hello, 64 bytes: magic 8, version u16, node u8, zero u8, reserved 4, group 16, incarnation u64, epoch u64,
//! reserved 12, crc32c u32 of what is before it.
//! frame: length u32 of the body, service u8, flags u8 (0), reserved u16, crc32c u32 of the 8 bytes before and of
//! the body; body.

use crate::seam::Service;
use aquifer_dss_proto::{Incarnation, NodeId};
use crc_fast::{CrcAlgorithm, Digest};

/// Bytes of a hello.
pub(super) const HELLO: usize = 64;
/// Bytes before a body.
pub(super) const HEADER: usize = 12;
/// Longest body accepted and sent, in bytes.
pub const BODY_BYTES_MAX: usize = 8 << 20;
/// Version of this protocol.
pub(super) const VERSION: u16 = 1;
const MAGIC: [u8; 8] = *b"AQUIFER\x01";

/// Who is at the other end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Hello {
    pub group: [u8; 16],
    pub node: NodeId,
    pub incarnation: Incarnation,
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
    /// A body longer than [`BODY_BYTES_MAX`].
    TooLong,
    /// No hello in time.
    Timeout,
    /// Half a frame and then nothing, or a peer that takes nothing of what is sent.
    Stalled,
    /// Too many connections without a hello at the same time: the oldest had to go.
    Crowded,
}

impl Refusal {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Garbage,
        Self::Version,
        Self::Group,
        Self::Node,
        Self::Stale,
        Self::Unknown,
        Self::TooLong,
        Self::Timeout,
        Self::Stalled,
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
    })
}

pub(super) fn encode_header(service: Service, body: &[u8]) -> [u8; HEADER] {
    let mut bytes = [0; HEADER];
    bytes[..4].copy_from_slice(&(body.len() as u32).to_le_bytes());
    bytes[4] = service as u8;
    let crc = checksum(&[&bytes[..8], body]);
    bytes[8..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// The service and the length of the body that follows.
pub(super) fn decode_header(bytes: &[u8; HEADER]) -> Result<(Service, usize), Refusal> {
    let length = u32::from_le_bytes(bytes[..4].try_into().expect("4 bytes")) as usize;
    let service = Service::from_byte(bytes[4]).ok_or(Refusal::Garbage)?;
    if bytes[5..8] != [0; 3] {
        return Err(Refusal::Garbage);
    }
    if length > BODY_BYTES_MAX {
        Err(Refusal::TooLong)
    } else {
        Ok((service, length))
    }
}

pub(super) fn body_matches(header: &[u8; HEADER], body: &[u8]) -> bool {
    header[8..] == checksum(&[&header[..8], body]).to_le_bytes()
}

fn checksum(parts: &[&[u8]]) -> u32 {
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    for part in parts {
        digest.update(part);
    }
    digest.finalize() as u32
}
