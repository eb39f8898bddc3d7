//! Inner pages: separators and children. Entry 0 has the page's low fence as its key.
//!
//! Cell: length u16, key length u16, child u32, key.

use super::header::{PageKind, expect_kind, read_u32};
use super::operation::ChildEntry;
use super::slotted::{self, INNER_KEY, NodeView};
use super::{Limits, PageError};
use alloc::vec::Vec;
use aquifer_buffer_pool_proto::PageId;

/// Free bytes an inner page needs to take a separator of `key` bytes.
pub const fn inner_entry_bytes(key: usize) -> usize {
    INNER_KEY + key + 2
}

/// An inner page, in place.
#[derive(Clone, Copy)]
pub struct InnerView<'a>(NodeView<'a>);

impl<'a> InnerView<'a> {
    /// Reads an inner page.
    pub fn new(page: &'a [u8]) -> Result<Self, PageError> {
        expect_kind(page, PageKind::Inner)?;
        let node = NodeView::new(page)?;
        if node.count() == 0 {
            return Err(PageError::Corrupt("inner page without children"));
        }
        Ok(Self(node))
    }

    /// Level, fences, link, keys.
    pub const fn node(&self) -> &NodeView<'a> {
        &self.0
    }

    /// The child in slot `index`.
    pub fn child(&self, index: usize) -> Result<u32, PageError> {
        read_u32(self.0.cell(index)?, 4)
    }

    /// The slot of the last child whose key is at or below `key`; the first child takes what is below all.
    pub fn slot_at_or_below(&self, key: &[u8]) -> Result<usize, PageError> {
        Ok(match self.0.search(key)? {
            Ok(index) => index,
            Err(index) => index.saturating_sub(1),
        })
    }

    /// The slot of the last child whose key is below `key`.
    pub fn slot_below(&self, key: &[u8]) -> Result<usize, PageError> {
        Ok(match self.0.search(key)? {
            Ok(index) | Err(index) => index.saturating_sub(1),
        })
    }

    /// A copy of the entry in slot `index`.
    pub fn entry(&self, index: usize) -> Result<ChildEntry, PageError> {
        Ok(ChildEntry {
            key: self.0.key(index)?.to_vec(),
            child: self.child(index)?,
        })
    }
}

/// The cell of a child, to be put into `page`.
fn encode_child(entry: &ChildEntry, page: &[u8]) -> Result<Vec<u8>, PageError> {
    if entry.key.len() > Limits::in_page(page).key {
        return Err(PageError::Mismatch("longer than the limit"));
    }
    let length = INNER_KEY + entry.key.len();
    let mut cell = Vec::with_capacity(length);
    cell.extend_from_slice(&(length as u16).to_le_bytes());
    cell.extend_from_slice(&(entry.key.len() as u16).to_le_bytes());
    cell.extend_from_slice(&entry.child.to_le_bytes());
    cell.extend_from_slice(&entry.key);
    Ok(cell)
}

pub(super) fn format(
    page: &mut [u8],
    id: PageId,
    content: &slotted::NodeContent<'_>,
    children: &[ChildEntry],
) -> Result<(), PageError> {
    if children.is_empty() || content.level == 0 {
        return Err(PageError::Mismatch("an inner page has a level and children"));
    }
    let cells: Vec<Vec<u8>> = children
        .iter()
        .map(|child| encode_child(child, page))
        .collect::<Result<_, _>>()?;
    slotted::build(page, id, content, &cells)
}

pub(super) fn insert_child(page: &mut [u8], id: PageId, entry: &ChildEntry) -> Result<(), PageError> {
    let inner = InnerView::new(page)?;
    match inner.0.search(&entry.key)? {
        Ok(_) => Err(PageError::Mismatch("this separator exists")),
        Err(index) => {
            let cell = encode_child(entry, page)?;
            slotted::insert_cell(page, id, index, &cell)
        }
    }
}
