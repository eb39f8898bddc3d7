//! Status pages (outcomes of a node's transactions) and the sequence page of a status file.
//!
//! Status page, after the common header: 16 bytes reserved, then an SCN (u64) per transaction: 0 has no outcome, `u64::MAX` is
//! aborted, else the commit SCN. Sequence page, after the common header: next u64.

use super::PageError;
use super::header::{HEADER_BYTES, PageKind, expect_kind, format_header, read_u64, whole, write_u64};
use aquifer_buffer_pool_proto::{PageId, PageSize, Scn};

const FIRST: usize = HEADER_BYTES + 16;

/// Transactions of a status page.
pub const fn status_per_page(page_size: PageSize) -> usize {
    (page_size.bytes() - FIRST) / 8
}

/// The status of a transaction that was rolled back.
pub const STATUS_ABORTED: Scn = Scn(u64::MAX);

/// The outcome in `index`: SCN 0 when there is none, [`STATUS_ABORTED`], or the commit SCN.
pub fn status_of(page: &[u8], index: usize) -> Result<Scn, PageError> {
    expect_kind(page, PageKind::Status)?;
    if index >= (page.len() - FIRST) / 8 {
        return Err(PageError::Mismatch("no such transaction in this page"));
    }
    Ok(Scn(read_u64(page, FIRST + 8 * index)?))
}

/// The first number not given away.
pub fn sequence_of(page: &[u8]) -> Result<u64, PageError> {
    expect_kind(page, PageKind::Sequence)?;
    read_u64(page, HEADER_BYTES)
}

pub(super) fn format_status(page: &mut [u8], id: PageId) -> Result<(), PageError> {
    whole(page)?;
    format_header(page, id, PageKind::Status);
    Ok(())
}

pub(super) fn format_sequence(page: &mut [u8], id: PageId, next: u64) -> Result<(), PageError> {
    whole(page)?;
    format_header(page, id, PageKind::Sequence);
    write_u64(page, HEADER_BYTES, next);
    Ok(())
}

pub(super) fn set_status(page: &mut [u8], index: u16, scn: Scn) -> Result<(), PageError> {
    let known = status_of(page, usize::from(index))?;
    if known.0 != 0 && known != scn {
        return Err(PageError::Mismatch("an outcome is final"));
    }
    write_u64(page, FIRST + 8 * usize::from(index), scn.0);
    Ok(())
}

pub(super) fn set_sequence(page: &mut [u8], next: u64) -> Result<(), PageError> {
    if sequence_of(page)? > next {
        return Err(PageError::Mismatch("a sequence never falls"));
    }
    write_u64(page, HEADER_BYTES, next);
    Ok(())
}
