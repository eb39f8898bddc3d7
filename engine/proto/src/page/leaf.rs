//! Leaves: rows, each with its versions, newest first.
//!
//! Cell: length u16, key length u16, flags u8 (bit 0: `truncated below` follows the key), versions u16, key, [truncated below u64],
//! then each version: transaction u64, SCN u64 (0 unknown), flags u8, value length u16, value.

use super::header::{PageKind, expect_kind, read_u16, read_u64, write_u64};
use super::operation::{PruneVersion, RowContent, Version};
use super::slotted::{self, LEAF_KEY, NodeView};
use super::{Limits, PageError};
use crate::{TxnId, VersionHead};
use alloc::vec::Vec;
use aquifer_buffer_pool_proto::{PageId, Scn};
use aquifer_dss_proto::defect::{Defect, planted};

/// Version flag: the row does not exist for who sees this version.
pub const DELETED: u8 = 1;
/// Version flag: a lock and nothing else; readers look at the version after it.
pub const LOCK_ONLY: u8 = 2;

/// Bytes of a version beside its value.
pub const VERSION_OVERHEAD: usize = 19;

const TRUNCATED: u8 = 1;

/// One version of a row, in place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VersionView<'a> {
    /// Who wrote it.
    pub txn: TxnId,
    /// Its commit timestamp, 0 while not stamped.
    pub scn: Scn,
    /// `DELETED`, `LOCK_ONLY`, or 0.
    pub flags: u8,
    /// The value; empty when deleted or lock-only.
    pub value: &'a [u8],
}

impl VersionView<'_> {
    /// Whether the row does not exist for who sees this version.
    pub const fn is_deleted(&self) -> bool {
        self.flags & DELETED != 0
    }

    /// Whether this is only a lock.
    pub const fn is_lock_only(&self) -> bool {
        self.flags & LOCK_ONLY != 0
    }

    /// The part that decides about visibility.
    pub const fn head(&self) -> VersionHead {
        VersionHead {
            txn: self.txn,
            scn: self.scn,
            deleted: self.is_deleted(),
            lock_only: self.is_lock_only(),
        }
    }

    /// A copy.
    pub fn to_version(&self) -> Version {
        Version {
            txn: self.txn,
            scn: self.scn,
            flags: self.flags,
            value: self.value.to_vec(),
        }
    }
}

/// A row, in place. Its bytes were checked when it was made.
#[derive(Clone, Copy)]
pub struct RowView<'a> {
    key: &'a [u8],
    truncated_below: Scn,
    count: u16,
    versions: &'a [u8],
}

impl<'a> RowView<'a> {
    /// The row that is not there: no versions.
    pub const fn absent(key: &'a [u8]) -> Self {
        Self {
            key,
            truncated_below: Scn(0),
            count: 0,
            versions: &[],
        }
    }

    /// The key.
    pub const fn key(&self) -> &'a [u8] {
        self.key
    }

    /// A snapshot below this SCN that finds no version it may see among these cannot be answered; 0: none was dropped.
    pub const fn truncated_below(&self) -> Scn {
        self.truncated_below
    }

    /// Number of versions; 0 when there is no row.
    pub const fn count(&self) -> usize {
        self.count as usize
    }

    /// The versions, newest first.
    pub fn versions(&self) -> impl Iterator<Item = VersionView<'a>> + use<'a> {
        let mut rest = self.versions;
        (0..self.count).map_while(move |_| take_version(&mut rest).ok())
    }

    fn parse(cell: &'a [u8]) -> Result<Self, PageError> {
        let length = usize::from(read_u16(cell, 2)?);
        let count = read_u16(cell, 5)?;
        let flags = *cell.get(4).ok_or(PageError::Corrupt("cell without flags"))?;
        let mut at = LEAF_KEY + length;
        let key = cell
            .get(LEAF_KEY..at)
            .ok_or(PageError::Corrupt("key past its cell"))?;
        let mut truncated_below = Scn(0);
        if flags & TRUNCATED != 0 {
            truncated_below = Scn(read_u64(cell, at)?);
            at += 8;
        }
        let versions = cell
            .get(at..)
            .ok_or(PageError::Corrupt("versions past their cell"))?;
        let mut rest = versions;
        for _ in 0..count {
            take_version(&mut rest)?;
        }
        if !rest.is_empty() || count == 0 {
            return Err(PageError::Corrupt("versions do not fill their cell"));
        }
        Ok(Self {
            key,
            truncated_below,
            count,
            versions,
        })
    }

    /// A copy.
    pub fn to_content(&self) -> RowContent {
        RowContent {
            key: self.key.to_vec(),
            truncated_below: self.truncated_below,
            versions: self.versions().map(|version| version.to_version()).collect(),
        }
    }
}

fn take_version<'a>(rest: &mut &'a [u8]) -> Result<VersionView<'a>, PageError> {
    let bytes = *rest;
    let txn = TxnId(read_u64(bytes, 0)?);
    let scn = Scn(read_u64(bytes, 8)?);
    let flags = *bytes.get(16).ok_or(PageError::Corrupt("version past its cell"))?;
    let length = usize::from(read_u16(bytes, 17)?);
    let value = bytes.get(VERSION_OVERHEAD..VERSION_OVERHEAD + length);
    let value = value.ok_or(PageError::Corrupt("value past its cell"))?;
    *rest = &bytes[VERSION_OVERHEAD + length..];
    Ok(VersionView {
        txn,
        scn,
        flags,
        value,
    })
}

/// A leaf, in place.
#[derive(Clone, Copy)]
pub struct LeafView<'a>(NodeView<'a>);

impl<'a> LeafView<'a> {
    /// Reads a leaf.
    pub fn new(page: &'a [u8]) -> Result<Self, PageError> {
        expect_kind(page, PageKind::Leaf)?;
        Ok(Self(NodeView::new(page)?))
    }

    /// Level, fences, link, keys.
    pub const fn node(&self) -> &NodeView<'a> {
        &self.0
    }

    /// The row in slot `index`.
    pub fn row(&self, index: usize) -> Result<RowView<'a>, PageError> {
        RowView::parse(self.0.cell(index)?)
    }

    /// The row of `key`, without versions when there is none.
    pub fn find<'k>(&self, key: &'k [u8]) -> Result<RowView<'k>, PageError>
    where
        'a: 'k,
    {
        match self.0.search(key)? {
            Ok(index) => self.row(index),
            Err(_) => Ok(RowView::absent(key)),
        }
    }
}

/// The cell of a row, to be put into `page`.
fn encode_row(row: &RowContent, page: &[u8]) -> Result<Vec<u8>, PageError> {
    let limits = Limits::in_page(page);
    let too_long = |version: &Version| version.value.len() > limits.value;
    if row.key.len() > limits.key || row.versions.iter().any(too_long) {
        return Err(PageError::Mismatch("longer than the limit"));
    }
    if row.versions.is_empty() {
        return Err(PageError::Mismatch("a row without versions"));
    }
    let length = row_bytes(row);
    if length > slotted::capacity(page.len()) {
        return Err(PageError::DoesNotFit);
    }
    let mut cell = Vec::with_capacity(length);
    cell.extend_from_slice(&(length as u16).to_le_bytes());
    cell.extend_from_slice(&(row.key.len() as u16).to_le_bytes());
    cell.push(if row.truncated_below.0 == 0 { 0 } else { TRUNCATED });
    cell.extend_from_slice(&(row.versions.len() as u16).to_le_bytes());
    cell.extend_from_slice(&row.key);
    if row.truncated_below.0 != 0 {
        cell.extend_from_slice(&row.truncated_below.0.to_le_bytes());
    }
    for version in &row.versions {
        cell.extend_from_slice(&version.txn.0.to_le_bytes());
        cell.extend_from_slice(&version.scn.0.to_le_bytes());
        cell.push(version.flags);
        cell.extend_from_slice(&(version.value.len() as u16).to_le_bytes());
        cell.extend_from_slice(&version.value);
    }
    Ok(cell)
}

fn row_bytes(row: &RowContent) -> usize {
    let versions: usize = row
        .versions
        .iter()
        .map(|version| VERSION_OVERHEAD + version.value.len())
        .sum();
    LEAF_KEY + row.key.len() + if row.truncated_below.0 == 0 { 0 } else { 8 } + versions
}

/// The bytes of a row's cell once a version of `txn` with `value` bytes was put in front of `row`.
pub fn row_bytes_with(row: &RowView<'_>, txn: TxnId, flags: u8, value: usize) -> usize {
    let mut versions: usize = row
        .versions()
        .map(|version| VERSION_OVERHEAD + version.value.len())
        .sum();
    match row.versions().next() {
        Some(newest) if newest.txn == txn && flags & LOCK_ONLY != 0 => {}
        Some(newest) if newest.txn == txn => versions = versions - newest.value.len() + value,
        _ => versions += VERSION_OVERHEAD + value,
    }
    LEAF_KEY + row.key.len() + if row.truncated_below.0 == 0 { 0 } else { 8 } + versions
}

/// The free bytes a leaf needs to take a version in front of `row` (0 when it does not grow).
pub fn put_bytes(row: &RowView<'_>, txn: TxnId, flags: u8, value: usize) -> usize {
    let new = row_bytes_with(row, txn, flags, value);
    if row.count() == 0 {
        return new + 2;
    }
    let mut old: usize = row
        .versions()
        .map(|version| VERSION_OVERHEAD + version.value.len())
        .sum();
    old += LEAF_KEY + row.key.len() + if row.truncated_below.0 == 0 { 0 } else { 8 };
    new.saturating_sub(old)
}

pub(super) fn format(
    page: &mut [u8],
    id: PageId,
    content: &slotted::NodeContent<'_>,
    rows: &[RowContent],
) -> Result<(), PageError> {
    let cells: Vec<Vec<u8>> = rows
        .iter()
        .map(|row| encode_row(row, page))
        .collect::<Result<_, _>>()?;
    slotted::build(page, id, content, &cells)
}

pub(super) fn put_version(
    page: &mut [u8],
    id: PageId,
    key: &[u8],
    version: &Version,
) -> Result<(), PageError> {
    let leaf = LeafView::new(page)?;
    let slot = leaf.0.search(key)?;
    let mut row = leaf.find(key)?.to_content();
    match row.versions.first_mut() {
        // The lock is implied by what this transaction wrote.
        Some(newest) if newest.txn == version.txn && version.flags & LOCK_ONLY != 0 => return Ok(()),
        Some(newest) if newest.txn == version.txn => *newest = version.clone(),
        _ => row.versions.insert(0, version.clone()),
    }
    let cell = encode_row(&row, page)?;
    match slot {
        Ok(index) => slotted::replace_cell(page, id, index, &cell),
        Err(index) => slotted::insert_cell(page, id, index, &cell),
    }
}

pub(super) fn prune(
    page: &mut [u8],
    id: PageId,
    key: &[u8],
    versions: &[PruneVersion],
    truncated_below: Scn,
) -> Result<(), PageError> {
    let leaf = LeafView::new(page)?;
    let Ok(index) = leaf.0.search(key)? else {
        return Err(PageError::Mismatch("no such row"));
    };
    let mut row = leaf.row(index)?.to_content();
    if versions
        .windows(2)
        .any(|pair| pair[0].position >= pair[1].position)
    {
        return Err(PageError::Mismatch("positions do not rise"));
    }
    for name in versions.iter().rev() {
        let position = usize::from(name.position);
        if planted(Defect::PruneStampedOnly) && row.versions.get(position).is_some_and(|v| v.scn == Scn(0)) {
            continue;
        }
        if row.versions.get(position).map(|version| version.txn) != Some(name.txn) {
            return Err(PageError::Mismatch("no such version"));
        }
        row.versions.remove(position);
    }
    if row.versions.is_empty() {
        return slotted::remove_cell(page, index);
    }
    row.truncated_below = row.truncated_below.max(truncated_below);
    let cell = encode_row(&row, page)?;
    slotted::replace_cell(page, id, index, &cell)
}

pub(super) fn remove_key(page: &mut [u8], key: &[u8]) -> Result<(), PageError> {
    let leaf = LeafView::new(page)?;
    let Ok(index) = leaf.0.search(key)? else {
        return Err(PageError::Mismatch("no such row"));
    };
    slotted::remove_cell(page, index)
}

/// Writes the SCN of committed `txn` into its versions of `key` (BT-5). True when something was stamped.
pub fn stamp(page: &mut [u8], key: &[u8], txn: TxnId, scn: Scn) -> Result<bool, PageError> {
    let leaf = LeafView::new(page)?;
    let Ok(index) = leaf.0.search(key)? else {
        return Ok(false);
    };
    let row = leaf.row(index)?;
    let cell = leaf.0.cell_offset(index)?;
    let mut at = cell + leaf.0.cell(index)?.len() - row.versions.len();
    let versions: Vec<(TxnId, Scn, usize)> = row.versions().map(|v| (v.txn, v.scn, v.value.len())).collect();
    let mut stamped = false;
    for (writer, known, length) in versions {
        if writer == txn && known.0 == 0 {
            write_u64(page, at + 8, scn.0);
            stamped = true;
        }
        at += VERSION_OVERHEAD + length;
    }
    Ok(stamped)
}
