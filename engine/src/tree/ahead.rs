//! Which pages a scan will come to: the parents of the leaves know it before the leaves are here.

use super::descent::Target;
use super::{Tree, corrupt};
use crate::Blocked;
use crate::mtr::{Pages, ReadPage};
use aquifer_buffer_pool_proto::PageId;
use aquifer_engine_proto::page::{InnerView, PageError};
use std::ops::Bound;

impl<P: Pages> Tree<'_, P> {
    /// The leaves behind the one in which a scan of this range begins, in its order, up to `count` of them. Fewer where the range or the
    /// tree ends, and where their parent is not here: then the parent is the last of the pages, if it is known. A hint: leaves that split
    /// just now may be left out.
    pub fn pages_ahead(
        &self,
        lower: Bound<&[u8]>,
        upper: Bound<&[u8]>,
        reverse: bool,
        count: usize,
    ) -> Vec<PageId> {
        let mut pages = Vec::new();
        let Some(target) = Target::of_scan(lower, upper, reverse) else {
            return pages;
        };
        let found = if reverse {
            self.children_before(target, lower, count, &mut pages)
        } else {
            self.children_behind(target, upper, count, &mut pages)
        };
        match found {
            Err(Blocked::Page(page, _)) if pages.len() < count => pages.push(page),
            // A damaged page is what the scan will stop at.
            Ok(()) | Err(_) => {}
        }
        pages
    }

    fn children_before(
        &self,
        target: Target<'_>,
        lower: Bound<&[u8]>,
        count: usize,
        pages: &mut Vec<PageId>,
    ) -> Result<(), Blocked> {
        let Some(number) = self.locate(target, 1, &mut Vec::new())? else {
            return Ok(());
        };
        let Some((guard, number)) = self.covering_read(number, 1, target, &mut Vec::new())? else {
            return Ok(());
        };
        let mut before = || -> Result<(), PageError> {
            let inner = InnerView::new(guard.bytes())?;
            for slot in (0..target.slot_in(&inner)?).rev().take(count) {
                let end = inner.node().key(slot + 1)?;
                if matches!(lower, Bound::Included(key) | Bound::Excluded(key) if end <= key) {
                    break;
                }
                pages.push(self.id.page(inner.child(slot)?));
            }
            Ok(())
        };
        before().map_err(|error| corrupt(self.id.page(number), error))
    }

    fn children_behind(
        &self,
        target: Target<'_>,
        upper: Bound<&[u8]>,
        count: usize,
        pages: &mut Vec<PageId>,
    ) -> Result<(), Blocked> {
        let Some(mut number) = self.locate(target, 1, &mut Vec::new())? else {
            return Ok(());
        };
        let past = |key: &[u8]| match upper {
            Bound::Unbounded => false,
            Bound::Included(last) => key > last,
            Bound::Excluded(end) => key >= end,
        };
        // Where this page of parents began; none: it is the first.
        let mut begin: Option<Vec<u8>> = None;
        loop {
            let at = begin.as_deref().map_or(target, Target::Key);
            let Some((guard, here)) = self.covering_read(number, 1, at, &mut Vec::new())? else {
                return Ok(());
            };
            let mut behind = || -> Result<Option<(u32, Vec<u8>)>, PageError> {
                let inner = InnerView::new(guard.bytes())?;
                let first = if begin.is_none() {
                    target.slot_in(&inner)? + 1
                } else {
                    0
                };
                for slot in first..inner.node().count() {
                    if pages.len() == count || past(inner.node().key(slot)?) {
                        return Ok(None);
                    }
                    pages.push(self.id.page(inner.child(slot)?));
                }
                let next = inner.node().high()?.filter(|high| !past(high));
                let right = inner.node().right()?;
                Ok(next.map(|high| (right, high.to_vec())))
            };
            let next = behind().map_err(|error| corrupt(self.id.page(here), error))?;
            let Some((right, high)) = next.filter(|_| pages.len() < count) else {
                return Ok(());
            };
            (number, begin) = (right, Some(high));
        }
    }
}
