//! The B-link tree: one file per tree, rows with their versions in the leaves.
//!
//! Rules (BT-1 to BT-5 are in `aquifer_engine_proto::page`, BT-6 to BT-8 in `mtr`)
//! - BT-9 page 0 is the first space map, page 1 the root; the root never moves: when it splits, its content goes to two fresh pages.
//! - BT-10 a reader holds one page at a time; what left its place is found by moving right. Moving is decided by the fences; the page's
//!   file, level and low fence are checked at every step (HZ-9).
//! - BT-11 a page's low fence never changes and pages of a tree are never merged or freed one by one. So a stale parent costs a move to
//!   the right and nothing else.
//! - BT-12 a split is one mini-transaction over the page, its new sibling and the space map (and a second new page at the root). The parent's
//!   entry is a later step; when that is lost, the first writer that has to move right posts it.
//! - BT-13 order of holding: tree page, space map, fresh pages. A fresh page is reachable by nobody else.
//! - BT-14 every function is a step: it answers [`Blocked`] for what it lacks and may then be run again from the start. Closures
//!   may be asked more than once and decide from what they see.
//! - BT-15 a row takes at most [`Limits::row`] bytes, so that it fits between the longest fences and every page can be split.

mod ahead;
mod descent;
mod modify;
mod read;
mod space;
mod split;

#[cfg(test)]
mod tests;

pub use modify::{Decision, Room};
pub use read::ScanEnd;
pub use space::FileSpace;

use crate::mtr::{Mtr, Pages, RedoSink};
use crate::{Blocked, Error};
use aquifer_buffer_pool_proto::{Lsn, PageId};
use aquifer_dss_proto::NodeId;
use aquifer_engine_proto::TreeId;
use aquifer_engine_proto::page::{Limits, PageContent, PageError, PageOperation};

/// The root's page number.
pub const ROOT: u32 = 1;

/// A handle on a tree, made for a step or for as long as its parts live; it has no state of its own.
pub struct Tree<'a, P: Pages> {
    pages: &'a P,
    redo: &'a dyn RedoSink,
    space: &'a dyn FileSpace,
    id: TreeId,
    me: NodeId,
}

impl<'a, P: Pages> Tree<'a, P> {
    /// The tree `id` as node `me` uses it.
    pub const fn new(
        pages: &'a P,
        redo: &'a dyn RedoSink,
        space: &'a dyn FileSpace,
        id: TreeId,
        me: NodeId,
    ) -> Self {
        Self {
            pages,
            redo,
            space,
            id,
            me,
        }
    }

    /// How long its keys, values and rows may be.
    pub(super) fn limits(&self) -> Limits {
        Limits::of(self.pages.page_size())
    }

    /// Which tree.
    pub const fn id(&self) -> TreeId {
        self.id
    }

    /// Formats space map and root of a new file of at least two pages. Done already: nothing happens.
    pub fn create(&self) -> Result<Option<Lsn>, Blocked> {
        if self.space.pages(self.id) < 2 {
            return Err(Blocked::Space(self.id));
        }
        let mut mtr = Mtr::new(self.pages);
        let root = mtr.hold(self.id.page(ROOT))?;
        let map = mtr.hold(self.id.page(0))?;
        if aquifer_engine_proto::page::kind_of(mtr.bytes(root))
            .map_err(|e| corrupt(mtr.id(root), e))?
            .is_some()
        {
            return Ok(None);
        }
        mtr.change(map, &PageOperation::Format(PageContent::SpaceMap))?;
        let leaf = PageContent::Leaf {
            low: Vec::new(),
            high: None,
            right: 0,
            rows: Vec::new(),
        };
        mtr.change(root, &PageOperation::Format(leaf))?;
        Ok(mtr.commit(self.redo))
    }
}

/// A page that cannot be read.
fn corrupt(page: PageId, error: PageError) -> Blocked {
    tracing::error!(page = %page, "{error}");
    Blocked::Corrupt(page)
}

/// Fails with a clear error when key or value is too long.
pub fn check_lengths(limits: Limits, key: &[u8], value: &[u8]) -> Result<(), Error> {
    for (what, length, limit) in [
        ("key", key.len(), limits.key),
        ("value", value.len(), limits.value),
    ] {
        if length > limit {
            return Err(Error::TooLarge { what, length, limit });
        }
    }
    Ok(())
}
