//! The header of every page: its first 48 bytes, little-endian.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 4 | CRC32C of bytes 4 to the end of the page |
//! | 4 | 1 | version of the page format |
//! | 5 | 1 | kind (the engine's) |
//! | 6 | 2 | reserved, 0 |
//! | 8 | 8 | file |
//! | 16 | 4 | number of the page in the file |
//! | 20 | 4 | tree (the engine's) |
//! | 24 | 8 | PSN |
//! | 32 | 8 | epoch of the node that wrote it back |
//! | 40 | 8 | stamp of the last change (the engine's, written with the PSN) |
//!
//! The pool owns the CRC, the PSN and the epoch; file and number are written at the first `finish`; version, kind,
//! tree and stamp belong to the engine.

use crate::page::{PageId, Psn, Stamp};
use aquifer_dss_proto::envelope::crc32c;
use aquifer_dss_proto::{Epoch, FileId, PageSize};

/// Bytes of the header.
pub const HEADER_SIZE: usize = 48;
/// The version of the page format that this code writes.
pub const PAGE_VERSION: u8 = 2;

/// What a page read from storage is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Its header names it and its CRC is right.
    Valid(Psn),
    /// Zero, or bytes of something else that was there before the file: the page was never formatted. Its PSN is 0.
    NeverFormatted,
    /// It names itself, but its CRC is wrong; or it names itself in part, or another page of its file (a file gets no space back that
    /// it had before).
    Corrupt,
}

fn word(page: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(page[at..at + 8].try_into().expect("8 bytes"))
}

/// The CRC field.
pub fn checksum(page: &[u8]) -> u32 {
    u32::from_le_bytes(page[0..4].try_into().expect("4 bytes"))
}

/// The version of the format.
pub fn version(page: &[u8]) -> u8 {
    page[4]
}

/// The engine's kind of the page.
pub fn kind(page: &[u8]) -> u8 {
    page[5]
}

/// The page the header names.
pub fn page_id(page: &[u8]) -> PageId {
    PageId {
        file: FileId(word(page, 8)),
        number: u32::from_le_bytes(page[16..20].try_into().expect("4 bytes")),
    }
}

/// The engine's tree id.
pub fn tree(page: &[u8]) -> u32 {
    u32::from_le_bytes(page[20..24].try_into().expect("4 bytes"))
}

/// The PSN of the page.
pub fn psn(page: &[u8]) -> Psn {
    Psn(word(page, 24))
}

/// The epoch of the node that wrote the page back.
pub fn epoch(page: &[u8]) -> Epoch {
    Epoch(word(page, 32))
}

/// The stamp of the page's last change.
pub fn stamp(page: &[u8]) -> Stamp {
    Stamp(word(page, 40))
}

/// Sets the stamp of the page's last change.
pub fn set_stamp(page: &mut [u8], stamp: Stamp) {
    page[40..48].copy_from_slice(&stamp.0.to_le_bytes());
}

/// Sets the format's version, the engine's kind and the tree.
pub fn set_kind(page: &mut [u8], kind: u8, tree: u32) {
    page[4] = PAGE_VERSION;
    page[5] = kind;
    page[20..24].copy_from_slice(&tree.to_le_bytes());
}

/// Names the page and sets its PSN.
pub fn set_identity(page: &mut [u8], id: PageId, psn: Psn) {
    page[8..16].copy_from_slice(&id.file.0.to_le_bytes());
    page[16..20].copy_from_slice(&id.number.to_le_bytes());
    page[24..32].copy_from_slice(&psn.0.to_le_bytes());
}

/// Stamps the writer's epoch and the CRC, computed over the bytes that follow the CRC field.
pub fn seal(page: &mut [u8], epoch: Epoch) {
    assert!(PageSize::new(page.len()).is_some(), "a page is sealed whole");
    page[32..40].copy_from_slice(&epoch.0.to_le_bytes());
    let sum = crc32c(&[&page[4..]]);
    page[0..4].copy_from_slice(&sum.to_le_bytes());
}

/// Judges what storage gave for `id`.
pub fn verify(page: &[u8], id: PageId) -> Verdict {
    assert!(PageSize::new(page.len()).is_some(), "a page is verified whole");
    let named = page_id(page);
    if named != id {
        let in_part =
            named.number == id.number && tree(page) == id.file.0 as u32 && version(page) == PAGE_VERSION;
        return if named.file == id.file || in_part {
            Verdict::Corrupt
        } else {
            Verdict::NeverFormatted
        };
    }
    if crc32c(&[&page[4..]]) == checksum(page) {
        Verdict::Valid(psn(page))
    } else {
        Verdict::Corrupt
    }
}
