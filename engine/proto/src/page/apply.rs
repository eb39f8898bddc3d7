//! The one function that changes a page (BT-1), and redo on top of it.

use super::header::{psn_of, set_psn, set_stamp};
use super::operation::{PageContent, PageOperation, decode_operation};
use super::slotted::{self, NodeContent, NodeView};
use super::{PageError, inner, inner_entry_bytes, leaf, space, status};
use crate::RedoRecord;
use aquifer_buffer_pool_proto::{PageId, Psn, Stamp};

/// Changes `page`, which is or becomes the page `id`. The PSN is the caller's business. On an error nothing was changed, unless
/// the page was corrupt.
pub fn apply(page: &mut [u8], id: PageId, operation: &PageOperation) -> Result<(), PageError> {
    match operation {
        PageOperation::Format(content) => format(page, id, content),
        PageOperation::PutVersion { key, version } => leaf::put_version(page, id, key, version),
        PageOperation::Prune {
            key,
            versions,
            truncated_below,
        } => leaf::prune(page, id, key, versions, *truncated_below),
        PageOperation::RemoveKey { key } => leaf::remove_key(page, key),
        PageOperation::InsertChild(entry) => inner::insert_child(page, id, entry),
        PageOperation::TruncateRight { separator, right } => {
            let (Ok(from) | Err(from)) = NodeView::new(page)?.search(separator)?;
            slotted::truncate(page, id, from, separator, *right)
        }
        PageOperation::SetSpace {
            chunk,
            owner,
            page: bit,
        } => space::set(page, *chunk, *owner, *bit),
        PageOperation::SetStatus { index, scn } => status::set_status(page, *index, *scn),
        PageOperation::SetSequence { next } => status::set_sequence(page, *next),
    }
}

fn format(page: &mut [u8], id: PageId, content: &PageContent) -> Result<(), PageError> {
    match content {
        PageContent::Leaf {
            low,
            high,
            right,
            rows,
        } => {
            let node = NodeContent {
                level: 0,
                low,
                high: high.as_deref(),
                right: *right,
            };
            leaf::format(page, id, &node, rows)
        }
        PageContent::Inner {
            level,
            low,
            high,
            right,
            children,
        } => {
            let node = NodeContent {
                level: *level,
                low,
                high: high.as_deref(),
                right: *right,
            };
            inner::format(page, id, &node, children)
        }
        PageContent::SpaceMap => space::format(page, id),
        PageContent::Status => status::format_status(page, id),
        PageContent::Sequence { next } => status::format_sequence(page, id, *next),
    }
}

/// Whether the page has room for the operation. Asked before a mini-transaction changes its first page.
pub fn fits(page: &[u8], operation: &PageOperation) -> Result<bool, PageError> {
    Ok(match operation {
        PageOperation::PutVersion { key, version } => {
            let row = leaf::LeafView::new(page)?;
            let row = row.find(key)?;
            let need = leaf::put_bytes(&row, version.txn, version.flags, version.value.len());
            need <= NodeView::new(page)?.free()?
        }
        PageOperation::InsertChild(entry) => {
            inner_entry_bytes(entry.key.len()) <= NodeView::new(page)?.free()?
        }
        PageOperation::TruncateRight { separator, .. } => {
            let node = NodeView::new(page)?;
            let (Ok(from) | Err(from)) = node.search(separator)?;
            let mut bytes = node.low()?.len() + separator.len();
            for index in 0..from {
                bytes += node.cell(index)?.len() + 2;
            }
            bytes <= node.capacity()
        }
        // A prune that marks the row truncated may grow it by 8 bytes, but takes a version of at least 19.
        _ => true,
    })
}

/// What redo did with a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Redone {
    /// The page has moved to the next PSN.
    Applied,
    /// The page is at or past the record's change already.
    Skipped,
    /// The page is behind: changes between its PSN and the record are missing. Nothing was changed.
    Gap,
}

/// Applies `record` of a group with `stamp` exactly when the page stands at its `prev_psn`; PSN and stamp in the page move with it.
pub fn redo(page: &mut [u8], record: &RedoRecord, stamp: Stamp) -> Result<Redone, PageError> {
    let psn = psn_of(page)?;
    if psn > record.prev_psn {
        return Ok(Redone::Skipped);
    }
    let operation = decode_operation(&record.operation)?;
    // A Format needs no base, but it still has its place in the page's history.
    if psn < record.prev_psn && !matches!(operation, PageOperation::Format(_)) {
        return Ok(Redone::Gap);
    }
    apply(page, record.page, &operation)?;
    set_psn(page, Psn(record.prev_psn.0 + 1));
    set_stamp(page, stamp);
    Ok(Redone::Applied)
}
