//! The frame that leaves and inner pages share: level, right sibling, fences, slot array, heap of cells.
//!
//! After the common header: level u8, reserved u8, slots u16, heap start u16, dead bytes in the heap u16, right u32, low fence
//! (offset u16, length u16), high fence (offset u16, length u16; offset 0: no bound), then the slots (u16 each, offset of a cell, in
//! key order). The heap grows down from the end of the page. A cell begins with its whole length (u16) and the length of its key
//! (u16); where the key stands depends on the kind of page.

use super::PageError;
use super::header::{HEADER_BYTES, PageKind, format_header, kind_of, read_u16, read_u32, whole, write_u16};
use alloc::vec::Vec;
use aquifer_buffer_pool_proto::PageId;

const LEVEL: usize = HEADER_BYTES;
const SLOTS: usize = HEADER_BYTES + 2;
const HEAP: usize = HEADER_BYTES + 4;
const DEAD: usize = HEADER_BYTES + 6;
const RIGHT: usize = HEADER_BYTES + 8;
const LOW: usize = HEADER_BYTES + 12;
const HIGH: usize = HEADER_BYTES + 16;
const FIRST_SLOT: usize = HEADER_BYTES + 20;

/// Offset of the key in a leaf's cell: length u16, key length u16, flags u8, versions u16.
pub(super) const LEAF_KEY: usize = 7;
/// Offset of the key in an inner cell: length u16, key length u16, child u32.
pub(super) const INNER_KEY: usize = 8;

/// Bytes for fences, slots and cells in a node of a page of `page_bytes`.
pub const fn capacity(page_bytes: usize) -> usize {
    page_bytes - FIRST_SLOT
}

/// Bytes a node with these fences and cells takes of [`capacity`].
pub fn node_bytes(low: usize, high: usize, cells: impl Iterator<Item = usize>) -> usize {
    low + high + cells.map(|cell| cell + 2).sum::<usize>()
}

/// A tree page read in place.
#[derive(Clone, Copy)]
pub struct NodeView<'a> {
    page: &'a [u8],
    count: usize,
    key_at: usize,
}

impl<'a> NodeView<'a> {
    /// Reads a leaf or inner page.
    pub fn new(page: &'a [u8]) -> Result<Self, PageError> {
        whole(page)?;
        let key_at = match kind_of(page)? {
            Some(PageKind::Leaf) => LEAF_KEY,
            Some(PageKind::Inner) => INNER_KEY,
            _ => return Err(PageError::Mismatch("not a tree page")),
        };
        let count = usize::from(read_u16(page, SLOTS)?);
        let heap = usize::from(read_u16(page, HEAP)?);
        if heap > page.len() || FIRST_SLOT + 2 * count > heap {
            return Err(PageError::Corrupt("slots and heap overlap"));
        }
        if (page[LEVEL] == 0) != (key_at == LEAF_KEY) {
            return Err(PageError::Corrupt("level does not match the kind"));
        }
        if usize::from(read_u16(page, DEAD)?) > page.len() - heap {
            return Err(PageError::Corrupt("more dead bytes than heap"));
        }
        Ok(Self { page, count, key_at })
    }

    /// Whether the page holds rows.
    pub const fn is_leaf(&self) -> bool {
        self.key_at == LEAF_KEY
    }

    /// Distance from the leaves.
    pub fn level(&self) -> u8 {
        self.page[LEVEL]
    }

    /// Number of rows or children.
    pub const fn count(&self) -> usize {
        self.count
    }

    /// Right sibling, 0 when there is none.
    pub fn right(&self) -> Result<u32, PageError> {
        read_u32(self.page, RIGHT)
    }

    fn fence(&self, at: usize) -> Result<&'a [u8], PageError> {
        let offset = usize::from(read_u16(self.page, at)?);
        let length = usize::from(read_u16(self.page, at + 2)?);
        self.page
            .get(offset..offset + length)
            .ok_or(PageError::Corrupt("fence past the end"))
    }

    /// Keys of this page are at or above this.
    pub fn low(&self) -> Result<&'a [u8], PageError> {
        self.fence(LOW)
    }

    /// Keys of this page are below this; `None` is no bound.
    pub fn high(&self) -> Result<Option<&'a [u8]>, PageError> {
        if read_u16(self.page, HIGH)? == 0 {
            Ok(None)
        } else {
            self.fence(HIGH).map(Some)
        }
    }

    /// The cell in slot `index`, which is below `count`.
    pub fn cell(&self, index: usize) -> Result<&'a [u8], PageError> {
        if index >= self.count {
            return Err(PageError::Corrupt("no such slot"));
        }
        let offset = usize::from(read_u16(self.page, FIRST_SLOT + 2 * index)?);
        let length = usize::from(read_u16(self.page, offset)?);
        let cell = self
            .page
            .get(offset..offset + length)
            .ok_or(PageError::Corrupt("cell past the end"))?;
        let heap = usize::from(read_u16(self.page, HEAP)?);
        if offset < heap || length < self.key_at {
            return Err(PageError::Corrupt("cell outside the heap"));
        }
        Ok(cell)
    }

    /// Offset of the cell in slot `index`.
    pub(super) fn cell_offset(&self, index: usize) -> Result<usize, PageError> {
        self.cell(index)?;
        Ok(usize::from(read_u16(self.page, FIRST_SLOT + 2 * index)?))
    }

    /// The key in slot `index`.
    pub fn key(&self, index: usize) -> Result<&'a [u8], PageError> {
        let cell = self.cell(index)?;
        let length = usize::from(read_u16(cell, 2)?);
        cell.get(self.key_at..self.key_at + length)
            .ok_or(PageError::Corrupt("key past its cell"))
    }

    /// `Ok(slot)` of the key, or `Err(slot)` where it would stand.
    pub fn search(&self, key: &[u8]) -> Result<Result<usize, usize>, PageError> {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.key(middle)?.cmp(key) {
                core::cmp::Ordering::Equal => return Ok(Ok(middle)),
                core::cmp::Ordering::Less => low = middle + 1,
                core::cmp::Ordering::Greater => high = middle,
            }
        }
        Ok(Err(low))
    }

    /// Bytes of the page for fences, slots and cells.
    pub const fn capacity(&self) -> usize {
        capacity(self.page.len())
    }

    /// Bytes free for slots and cells, dead ones included.
    pub fn free(&self) -> Result<usize, PageError> {
        Ok(self.contiguous()? + usize::from(read_u16(self.page, DEAD)?))
    }

    fn contiguous(&self) -> Result<usize, PageError> {
        Ok(usize::from(read_u16(self.page, HEAP)?) - FIRST_SLOT - 2 * self.count)
    }

    /// Copies of all cells.
    pub(super) fn cells(&self) -> Result<Vec<Vec<u8>>, PageError> {
        (0..self.count)
            .map(|index| self.cell(index).map(<[u8]>::to_vec))
            .collect()
    }
}

/// What a node is rebuilt from.
pub(super) struct NodeContent<'a> {
    pub(super) level: u8,
    pub(super) low: &'a [u8],
    pub(super) high: Option<&'a [u8]>,
    pub(super) right: u32,
}

/// Writes a node from nothing. Fails, having changed nothing, when it does not fit.
pub(super) fn build(
    page: &mut [u8],
    id: PageId,
    content: &NodeContent<'_>,
    cells: &[Vec<u8>],
) -> Result<(), PageError> {
    whole(page)?;
    let high_length = content.high.map_or(0, <[u8]>::len);
    let bytes = node_bytes(content.low.len(), high_length, cells.iter().map(Vec::len));
    if bytes > capacity(page.len()) {
        return Err(PageError::DoesNotFit);
    }
    let kind = if content.level == 0 {
        PageKind::Leaf
    } else {
        PageKind::Inner
    };
    format_header(page, id, kind);
    page[LEVEL] = content.level;
    page[RIGHT..RIGHT + 4].copy_from_slice(&content.right.to_le_bytes());
    // The end of the largest page is 32,768: an offset like any other.
    let mut heap = page.len();
    // A fence of no bytes at the very end would have an offset past the page: the empty fence is (0, 0) when low; a high fence
    // is never empty because keys below it exist.
    for (at, fence) in [(LOW, Some(content.low)), (HIGH, content.high)] {
        if let Some(fence) = fence.filter(|fence| !fence.is_empty()) {
            heap -= fence.len();
            page[heap..heap + fence.len()].copy_from_slice(fence);
            write_u16(page, at, heap as u16);
            write_u16(page, at + 2, fence.len() as u16);
        }
    }
    for (index, cell) in cells.iter().enumerate() {
        heap -= cell.len();
        page[heap..heap + cell.len()].copy_from_slice(cell);
        write_u16(page, FIRST_SLOT + 2 * index, heap as u16);
    }
    write_u16(page, SLOTS, cells.len() as u16);
    write_u16(page, HEAP, heap as u16);
    Ok(())
}

/// Puts all cells together again so that the free bytes are in one run.
fn compact(page: &mut [u8], id: PageId) -> Result<(), PageError> {
    let node = NodeView::new(page)?;
    let (low, high) = (node.low()?.to_vec(), node.high()?.map(<[u8]>::to_vec));
    let (level, right, cells) = (node.level(), node.right()?, node.cells()?);
    build(
        page,
        id,
        &NodeContent {
            level,
            low: &low,
            high: high.as_deref(),
            right,
        },
        &cells,
    )
}

/// Inserts a cell at `index`.
pub(super) fn insert_cell(page: &mut [u8], id: PageId, index: usize, cell: &[u8]) -> Result<(), PageError> {
    let node = NodeView::new(page)?;
    if node.free()? < cell.len() + 2 {
        return Err(PageError::DoesNotFit);
    }
    if node.contiguous()? < cell.len() + 2 {
        compact(page, id)?;
    }
    let node = NodeView::new(page)?;
    let count = node.count();
    if index > count || node.contiguous()? < cell.len() + 2 {
        return Err(PageError::Corrupt("free space is not where it should be"));
    }
    let heap = usize::from(read_u16(page, HEAP)?) - cell.len();
    page[heap..heap + cell.len()].copy_from_slice(cell);
    let at = FIRST_SLOT + 2 * index;
    page.copy_within(at..FIRST_SLOT + 2 * count, at + 2);
    write_u16(page, at, heap as u16);
    write_u16(page, SLOTS, count as u16 + 1);
    write_u16(page, HEAP, heap as u16);
    Ok(())
}

/// Removes the cell at `index`.
pub(super) fn remove_cell(page: &mut [u8], index: usize) -> Result<(), PageError> {
    let node = NodeView::new(page)?;
    let (count, length) = (node.count(), node.cell(index)?.len());
    let dead = usize::from(read_u16(page, DEAD)?) + length;
    if dead > page.len() - usize::from(read_u16(page, HEAP)?) {
        return Err(PageError::Corrupt("more dead bytes than heap"));
    }
    write_u16(page, DEAD, dead as u16);
    let at = FIRST_SLOT + 2 * index;
    page.copy_within(at + 2..FIRST_SLOT + 2 * count, at);
    write_u16(page, SLOTS, count as u16 - 1);
    Ok(())
}

/// Replaces the cell at `index`. Fails, having changed nothing, when the new one does not fit.
pub(super) fn replace_cell(page: &mut [u8], id: PageId, index: usize, cell: &[u8]) -> Result<(), PageError> {
    let node = NodeView::new(page)?;
    let old = node.cell(index)?.len();
    if cell.len() > old + node.free()? {
        return Err(PageError::DoesNotFit);
    }
    if cell.len() <= old {
        let offset = node.cell_offset(index)?;
        let dead = usize::from(read_u16(page, DEAD)?) + (old - cell.len());
        page[offset..offset + cell.len()].copy_from_slice(cell);
        write_u16(page, DEAD, dead as u16);
        return Ok(());
    }
    remove_cell(page, index)?;
    insert_cell(page, id, index, cell)
}

/// Drops the slots at and after `from` and sets high fence and link.
pub(super) fn truncate(
    page: &mut [u8],
    id: PageId,
    from: usize,
    high: &[u8],
    right: u32,
) -> Result<(), PageError> {
    let node = NodeView::new(page)?;
    let (level, low) = (node.level(), node.low()?.to_vec());
    let mut cells = node.cells()?;
    cells.truncate(from);
    build(
        page,
        id,
        &NodeContent {
            level,
            low: &low,
            high: Some(high),
            right,
        },
        &cells,
    )
}
