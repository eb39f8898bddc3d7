//! From the root to the page of a level that covers a position.

use super::{ROOT, Tree, corrupt};
use crate::mtr::{HeldPage, Mtr, Pages, ReadPage};
use crate::{Blocked, Error};
use aquifer_buffer_pool_proto::PageId;
use aquifer_dss_proto::defect::{Defect, planted};
use aquifer_engine_proto::page::{InnerView, NodeView, PageError, file_of, kind_of};
use std::ops::Bound;

/// A position in key order.
#[derive(Clone, Copy, Debug)]
pub(super) enum Target<'k> {
    /// At this key.
    Key(&'k [u8]),
    /// Just below this key, which is not empty.
    Before(&'k [u8]),
    /// After all keys.
    Last,
}

impl<'k> Target<'k> {
    /// Where a scan of a range begins; `None` when the range is empty.
    pub(super) const fn of_scan(
        lower: Bound<&'k [u8]>,
        upper: Bound<&'k [u8]>,
        reverse: bool,
    ) -> Option<Self> {
        Some(match (reverse, lower, upper) {
            (false, Bound::Included(key) | Bound::Excluded(key), _) => Self::Key(key),
            (false, Bound::Unbounded, _) => Self::Key(&[]),
            (true, _, Bound::Included(key)) => Self::Key(key),
            (true, _, Bound::Excluded([])) => return None,
            (true, _, Bound::Excluded(key)) => Self::Before(key),
            (true, _, Bound::Unbounded) => Self::Last,
        })
    }

    /// The slot of the child that leads to the position, in an inner page that covers it.
    pub(super) fn slot_in(self, inner: &InnerView<'_>) -> Result<usize, PageError> {
        match self {
            Self::Key(key) => inner.slot_at_or_below(key),
            Self::Before(key) => inner.slot_below(key),
            Self::Last => Ok(inner.node().count() - 1),
        }
    }

    /// Whether a page with this high fence lies left of the position.
    fn is_right_of(self, high: Option<&[u8]>) -> bool {
        match (self, high) {
            (_, None) => false,
            (Self::Key(key), Some(high)) => high <= key,
            (Self::Before(key), Some(high)) => high < key,
            (Self::Last, Some(_)) => true,
        }
    }

    /// Whether a page with this low fence lies right of the position.
    fn is_left_of(self, low: &[u8]) -> bool {
        match self {
            Self::Key(key) => key < low,
            Self::Before(key) => key <= low,
            Self::Last => false,
        }
    }
}

/// A page that was reached by moving right at `level`: its parent may not know it yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Missing {
    pub(super) level: u8,
    pub(super) separator: Vec<u8>,
    pub(super) child: u32,
}

/// What a page says about a position.
enum Step {
    /// It covers it.
    Here,
    /// It lies left of it.
    Right { number: u32, fence: Vec<u8> },
    /// The root has grown above the level that was expected.
    Grown,
}

impl<'a, P: Pages> Tree<'a, P> {
    /// Reads the page and checks that it is what a traversal may step on: of this tree, with this number, at this level, in order.
    fn step(&self, bytes: &[u8], id: PageId, level: u8, target: Target<'_>) -> Result<Step, Blocked> {
        if kind_of(bytes).map_err(|error| corrupt(id, error))?.is_none() {
            return Err(self.unformatted(id));
        }
        (|| {
            let node = NodeView::new(bytes)?;
            if file_of(bytes)? != id {
                return Err(PageError::Corrupt("the page names another page"));
            }
            if node.level() != level {
                let grown = id.number == ROOT && node.level() > level;
                return if grown {
                    Ok(Step::Grown)
                } else {
                    Err(PageError::Corrupt("level"))
                };
            }
            let (low, high) = (node.low()?, node.high()?);
            if target.is_left_of(low) || high.is_some_and(|high| high <= low) {
                return Err(PageError::Corrupt("fences"));
            }
            if !target.is_right_of(high) || planted(Defect::TrustParent) {
                return Ok(Step::Here);
            }
            // Low fences rise strictly from page to page, so this walk ends.
            let fence = high
                .expect("a page without a high fence is not left of anything")
                .to_vec();
            match node.right()? {
                0 => Err(PageError::Corrupt("a high fence without a right sibling")),
                number => Ok(Step::Right { number, fence }),
            }
        })()
        .map_err(|error| corrupt(id, error))
    }

    /// What a page without content in the place of a tree page means: the tree was never made, or the page is damaged. Root and first
    /// space map are formatted together.
    fn unformatted(&self, id: PageId) -> Blocked {
        let made = || {
            let map = self.pages.read(self.id.page(0))?;
            kind_of(map.bytes()).map_err(|error| corrupt(id, error))
        };
        let damaged = || corrupt(id, PageError::Corrupt("a page in the tree was never formatted"));
        if id.number != ROOT {
            return damaged();
        }
        match made() {
            Ok(None) => Blocked::Failed(Error::NoSuchTree),
            Ok(Some(_)) => damaged(),
            Err(blocked) => blocked,
        }
    }

    /// After a move to the right the page must begin where its left sibling ended.
    fn check_joined(&self, bytes: &[u8], id: PageId, fence: Option<&[u8]>) -> Result<(), Blocked> {
        let Some(fence) = fence else { return Ok(()) };
        let low = NodeView::new(bytes)
            .and_then(|node| node.low())
            .map_err(|error| corrupt(id, error))?;
        if low == fence {
            Ok(())
        } else {
            Err(corrupt(id, PageError::Corrupt("siblings do not join")))
        }
    }

    /// Level of the root now.
    fn root_level(&self) -> Result<u8, Blocked> {
        let id = self.id.page(ROOT);
        let guard = self.pages.read(id)?;
        match kind_of(guard.bytes()).map_err(|error| corrupt(id, error))? {
            None => Err(self.unformatted(id)),
            Some(_) => Ok(NodeView::new(guard.bytes())
                .map_err(|error| corrupt(id, error))?
                .level()),
        }
    }

    /// The page of `level` at which to begin looking for `target`; `None` when the tree is not that high. Pages found by moving right
    /// are added to `missing`.
    pub(super) fn locate(
        &self,
        target: Target<'_>,
        level: u8,
        missing: &mut Vec<Missing>,
    ) -> Result<Option<u32>, Blocked> {
        'again: loop {
            let mut at = self.root_level()?;
            if at < level {
                return Ok(None);
            }
            let mut number = ROOT;
            while at > level {
                let Some((guard, _)) = self.covering_read(number, at, target, missing)? else {
                    continue 'again;
                };
                let inner = InnerView::new(guard.bytes());
                let child = inner.and_then(|inner| inner.child(target.slot_in(&inner)?));
                number = child.map_err(|error| corrupt(self.id.page(number), error))?;
                at -= 1;
            }
            return Ok(Some(number));
        }
    }

    /// Holds for reading the page at or right of `number` that covers `target`; `None` when the root has grown.
    #[allow(clippy::type_complexity)]
    pub(super) fn covering_read(
        &self,
        mut number: u32,
        level: u8,
        target: Target<'_>,
        missing: &mut Vec<Missing>,
    ) -> Result<Option<(P::Read<'a>, u32)>, Blocked> {
        let mut joined: Option<Vec<u8>> = None;
        loop {
            let id = self.id.page(number);
            let guard = self.pages.read(id).map_err(|blocked| match blocked {
                Blocked::Page(page, _) if level == 0 => Blocked::Leaf(page),
                other => other,
            })?;
            let step = self.step(guard.bytes(), id, level, target)?;
            self.check_joined(guard.bytes(), id, joined.as_deref())?;
            match step {
                Step::Here => return Ok(Some((guard, number))),
                Step::Grown => return Ok(None),
                Step::Right { number: right, fence } => {
                    missing.push(Missing {
                        level: level + 1,
                        separator: fence.clone(),
                        child: right,
                    });
                    (number, joined) = (right, Some(fence));
                }
            }
        }
    }

    /// Holds for change, in a mini-transaction of its own, the page at or right of `number` that covers `target`.
    #[allow(clippy::type_complexity)]
    pub(super) fn covering_write(
        &self,
        mut number: u32,
        level: u8,
        target: Target<'_>,
        missing: &mut Vec<Missing>,
    ) -> Result<Option<(Mtr<'a, P>, HeldPage)>, Blocked> {
        let mut joined: Option<Vec<u8>> = None;
        loop {
            let id = self.id.page(number);
            let mut mtr = Mtr::new(self.pages);
            let held = mtr.hold(id)?;
            let step = self.step(mtr.bytes(held), id, level, target)?;
            self.check_joined(mtr.bytes(held), id, joined.as_deref())?;
            match step {
                Step::Here => return Ok(Some((mtr, held))),
                Step::Grown => return Ok(None),
                Step::Right { number: right, fence } => {
                    missing.push(Missing {
                        level: level + 1,
                        separator: fence.clone(),
                        child: right,
                    });
                    (number, joined) = (right, Some(fence));
                }
            }
        }
    }
}
