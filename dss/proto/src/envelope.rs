//! The envelope of small structures on the device: magic, version, length, CRC32C, then the body.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 8 | magic |
//! | 8 | 4 | version |
//! | 12 | 4 | length of the body |
//! | 16 | 4 | CRC32C of bytes 0..16 and of the body |
//! | 20 | 12 | zero |
//! | 32 | length | body |

use crate::BLOCK_BYTES;
use alloc::vec::Vec;
use crc_fast::CrcAlgorithm;

/// Bytes before the body.
pub const ENVELOPE_BYTES: usize = 32;

/// Why bytes of the device are not what they should be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EnvelopeError {
    /// The magic is another: this was never written here.
    #[error("not there")]
    Absent,
    /// Written by another version of the software.
    #[error("written in format version {0}")]
    Version(u32),
    /// The CRC or the content is wrong.
    #[error("damaged")]
    Corrupt,
}

/// CRC32C of pieces that come one after another.
pub struct Crc32c(crc_fast::Digest);

impl Default for Crc32c {
    fn default() -> Self {
        Self(crc_fast::Digest::new(CrcAlgorithm::Crc32Iscsi))
    }
}

impl Crc32c {
    /// The next piece.
    pub fn update(&mut self, piece: &[u8]) {
        self.0.update(piece);
    }

    /// Of all pieces until now.
    pub fn value(&self) -> u32 {
        self.0.finalize() as u32
    }
}

/// CRC32C of several pieces, one after another.
pub fn crc32c(pieces: &[&[u8]]) -> u32 {
    let mut crc = Crc32c::default();
    for piece in pieces {
        crc.update(piece);
    }
    crc.value()
}

/// 64-bit hash that chains journal entries (CRC-64/NVME).
pub fn chain_hash(bytes: &[u8]) -> u64 {
    crc_fast::checksum(CrcAlgorithm::Crc64Nvme, bytes)
}

/// `body` in its envelope, padded with zeros to whole blocks.
pub fn seal_block(magic: u64, version: u32, body: &[u8]) -> Vec<u8> {
    let mut block = Vec::with_capacity((ENVELOPE_BYTES + body.len()).next_multiple_of(BLOCK_BYTES));
    block.extend_from_slice(&magic.to_le_bytes());
    block.extend_from_slice(&version.to_le_bytes());
    block.extend_from_slice(
        &u32::try_from(body.len())
            .expect("a body is below 4 GiB")
            .to_le_bytes(),
    );
    let crc = crc32c(&[&block[..16], body]);
    block.extend_from_slice(&crc.to_le_bytes());
    block.extend_from_slice(&[0; 12]);
    block.extend_from_slice(body);
    block.resize(block.len().next_multiple_of(BLOCK_BYTES), 0);
    block
}

/// The body of an envelope, checked.
pub fn open_block(magic: u64, version: u32, block: &[u8]) -> Result<&[u8], EnvelopeError> {
    let (head, rest) = block
        .split_at_checked(ENVELOPE_BYTES)
        .ok_or(EnvelopeError::Corrupt)?;
    if read_u64(head, 0) != magic {
        return Err(EnvelopeError::Absent);
    }
    let body = rest
        .get(..read_u32(head, 12) as usize)
        .ok_or(EnvelopeError::Corrupt)?;
    if crc32c(&[&head[..16], body]) != read_u32(head, 16) {
        return Err(EnvelopeError::Corrupt);
    }
    match read_u32(head, 8) {
        found if found == version => Ok(body),
        found => Err(EnvelopeError::Version(found)),
    }
}

/// A little-endian number at `at`; the caller has checked the length.
pub(crate) fn read_u64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// A little-endian number at `at`; the caller has checked the length.
pub(crate) fn read_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}
