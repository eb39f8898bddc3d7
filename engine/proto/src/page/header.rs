//! The fields of the common page header that the engine reads or sets.

use super::PageError;
use aquifer_buffer_pool_proto::header::{HEADER_SIZE, PAGE_VERSION};
use aquifer_buffer_pool_proto::{PageId, PageSize, Psn, Stamp};
use aquifer_dss_proto::FileId;

/// Bytes of the common header. Offsets: crc 0, version 4, kind 5, file 8, number 16, tree 20, psn 24, epoch 32, stamp 40.
pub const HEADER_BYTES: usize = HEADER_SIZE;

const VERSION: usize = 4;
const KIND: usize = 5;
const FILE: usize = 8;
const NUMBER: usize = 16;
const TREE: usize = 20;
const PSN: usize = 24;
const STAMP: usize = 40;

/// What a page is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum PageKind {
    /// Rows.
    Leaf = 1,
    /// Separators and children.
    Inner = 2,
    /// Chunks of pages: who owns them, which are used.
    SpaceMap = 3,
    /// Outcomes of transactions.
    Status = 4,
    /// The next sequence that is not yet given away.
    Sequence = 5,
}

pub(super) fn read_u16(page: &[u8], at: usize) -> Result<u16, PageError> {
    let bytes = page
        .get(at..at + 2)
        .ok_or(PageError::Corrupt("offset past the end"))?;
    Ok(u16::from_le_bytes([bytes[0], bytes[1]]))
}

pub(super) fn read_u32(page: &[u8], at: usize) -> Result<u32, PageError> {
    let bytes = page
        .get(at..at + 4)
        .ok_or(PageError::Corrupt("offset past the end"))?;
    Ok(u32::from_le_bytes(
        bytes.try_into().expect("four bytes were taken"),
    ))
}

pub(super) fn read_u64(page: &[u8], at: usize) -> Result<u64, PageError> {
    let bytes = page
        .get(at..at + 8)
        .ok_or(PageError::Corrupt("offset past the end"))?;
    Ok(u64::from_le_bytes(
        bytes.try_into().expect("eight bytes were taken"),
    ))
}

pub(super) fn write_u16(page: &mut [u8], at: usize, value: u16) {
    page[at..at + 2].copy_from_slice(&value.to_le_bytes());
}

pub(super) fn write_u64(page: &mut [u8], at: usize, value: u64) {
    page[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

/// Fails unless `page` is a whole page.
pub(super) fn whole(page: &[u8]) -> Result<(), PageError> {
    if PageSize::new(page.len()).is_some() {
        Ok(())
    } else {
        Err(PageError::Corrupt("not a whole page"))
    }
}

/// What the page is; `None` when it was never formatted.
pub fn kind_of(page: &[u8]) -> Result<Option<PageKind>, PageError> {
    whole(page)?;
    Ok(Some(match page[KIND] {
        0 => return Ok(None),
        1 => PageKind::Leaf,
        2 => PageKind::Inner,
        3 => PageKind::SpaceMap,
        4 => PageKind::Status,
        5 => PageKind::Sequence,
        _ => return Err(PageError::Corrupt("unknown kind")),
    }))
}

/// Fails unless the page is of `kind`.
pub(super) fn expect_kind(page: &[u8], kind: PageKind) -> Result<(), PageError> {
    if kind_of(page)? == Some(kind) {
        Ok(())
    } else {
        Err(PageError::Mismatch("another kind of page"))
    }
}

/// The file and number the page names itself.
pub fn file_of(page: &[u8]) -> Result<PageId, PageError> {
    Ok(PageId {
        file: FileId(read_u64(page, FILE)?),
        number: read_u32(page, NUMBER)?,
    })
}

/// The PSN in the header.
pub fn psn_of(page: &[u8]) -> Result<Psn, PageError> {
    Ok(Psn(read_u64(page, PSN)?))
}

/// Sets the PSN in the header. `page` is a whole page, or this panics.
pub fn set_psn(page: &mut [u8], psn: Psn) {
    write_u64(page, PSN, psn.0);
}

/// The stamp of the last change.
pub fn stamp_of(page: &[u8]) -> Result<Stamp, PageError> {
    Ok(Stamp(read_u64(page, STAMP)?))
}

/// Sets the stamp of the last change. `page` is a whole page, or this panics.
pub fn set_stamp(page: &mut [u8], stamp: Stamp) {
    write_u64(page, STAMP, stamp.0);
}

/// Clears everything but PSN, stamp, CRC and epoch and names the page.
pub(super) fn format_header(page: &mut [u8], id: PageId, kind: PageKind) {
    page[VERSION] = PAGE_VERSION;
    page[KIND] = kind as u8;
    page[KIND + 1..FILE].fill(0);
    write_u64(page, FILE, id.file.0);
    page[NUMBER..NUMBER + 4].copy_from_slice(&id.number.to_le_bytes());
    // The tree's number is the low half of its file id: a second witness, the file field is the whole name.
    page[TREE..TREE + 4].copy_from_slice(&(id.file.0 as u32).to_le_bytes());
    page[HEADER_BYTES..].fill(0);
}
