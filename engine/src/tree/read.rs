//! Reading rows: one key, or a range leaf by leaf.

use super::descent::Target;
use super::{Tree, corrupt};
use crate::Blocked;
use crate::mtr::{Pages, ReadPage};
use aquifer_engine_proto::page::{LeafView, RowView};
use std::ops::{Bound, ControlFlow};

/// How a scan of one leaf ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ScanEnd {
    /// There is nothing more in the range.
    Done,
    /// The visitor broke off.
    Stopped,
    /// The range goes on in another leaf: scan again with this as the lower bound (backward: as the upper bound).
    Next(Bound<Vec<u8>>),
}

impl<P: Pages> Tree<'_, P> {
    /// Shows `see` the row of `key` (without versions when there is none) while its leaf is held for reading.
    pub fn read<R>(
        &self,
        key: &[u8],
        see: impl FnOnce(RowView<'_>) -> Result<R, Blocked>,
    ) -> Result<R, Blocked> {
        let target = Target::Key(key);
        loop {
            let Some(number) = self.locate(target, 0, &mut Vec::new())? else {
                continue;
            };
            let Some((guard, number)) = self.covering_read(number, 0, target, &mut Vec::new())? else {
                continue;
            };
            let leaf = LeafView::new(guard.bytes());
            let row = leaf
                .and_then(|leaf| leaf.find(key))
                .map_err(|error| corrupt(self.id.page(number), error))?;
            return see(row);
        }
    }

    /// Shows `visit` the rows of one leaf that are in the range, in order (or from the end when `reverse`). A visitor that answers
    /// `Err` remembers how far it came and the caller scans again from there.
    pub fn scan(
        &self,
        lower: Bound<&[u8]>,
        upper: Bound<&[u8]>,
        reverse: bool,
        visit: &mut dyn FnMut(RowView<'_>) -> Result<ControlFlow<()>, Blocked>,
    ) -> Result<ScanEnd, Blocked> {
        let Some(target) = Target::of_scan(lower, upper, reverse) else {
            return Ok(ScanEnd::Done);
        };
        loop {
            let Some(number) = self.locate(target, 0, &mut Vec::new())? else {
                continue;
            };
            let Some((guard, number)) = self.covering_read(number, 0, target, &mut Vec::new())? else {
                continue;
            };
            let bad = |error| corrupt(self.id.page(number), error);
            let leaf = LeafView::new(guard.bytes()).map_err(bad)?;
            let node = leaf.node();
            let from = match lower {
                Bound::Unbounded => 0,
                Bound::Included(key) => match node.search(key).map_err(bad)? {
                    Ok(slot) | Err(slot) => slot,
                },
                Bound::Excluded(key) => node
                    .search(key)
                    .map_err(bad)?
                    .map_or_else(|slot| slot, |slot| slot + 1),
            };
            let to = match upper {
                Bound::Unbounded => node.count(),
                Bound::Included(key) => node
                    .search(key)
                    .map_err(bad)?
                    .map_or_else(|slot| slot, |slot| slot + 1),
                Bound::Excluded(key) => match node.search(key).map_err(bad)? {
                    Ok(slot) | Err(slot) => slot,
                },
            };
            for step in 0..to.saturating_sub(from) {
                let slot = if reverse { to - 1 - step } else { from + step };
                if visit(leaf.row(slot).map_err(bad)?)?.is_break() {
                    return Ok(ScanEnd::Stopped);
                }
            }
            return Ok(if reverse {
                end_backward(node.low().map_err(bad)?, lower)
            } else {
                end_forward(node.high().map_err(bad)?, upper)
            });
        }
    }
}

fn end_forward(high: Option<&[u8]>, upper: Bound<&[u8]>) -> ScanEnd {
    let Some(high) = high else { return ScanEnd::Done };
    let done = match upper {
        Bound::Unbounded => false,
        Bound::Included(key) => key < high,
        Bound::Excluded(key) => key <= high,
    };
    if done {
        ScanEnd::Done
    } else {
        ScanEnd::Next(Bound::Included(high.to_vec()))
    }
}

fn end_backward(low: &[u8], lower: Bound<&[u8]>) -> ScanEnd {
    let done = low.is_empty()
        || match lower {
            Bound::Unbounded => false,
            Bound::Included(key) | Bound::Excluded(key) => key >= low,
        };
    if done {
        ScanEnd::Done
    } else {
        ScanEnd::Next(Bound::Excluded(low.to_vec()))
    }
}
