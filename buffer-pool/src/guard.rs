//! Guards: a latched page, for synchronous code; and holds, which keep a page from being surrendered for a while.

use crate::frame::{Frame, Frames, Reading};
use crate::pool::Pool;
use aquifer_buffer_pool_proto::{Lsn, PageId, Psn, header};
use std::sync::Arc;

/// A page held for reading; only in synchronous code.
pub struct PageReadGuard<'a> {
    pub(crate) frames: &'a Frames,
    pub(crate) index: usize,
    #[expect(dead_code, reason = "dropped at the end of the reading")]
    pub(crate) reading: Reading<'a>,
}

impl PageReadGuard<'_> {
    /// The page.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: as long as the guard lives, the page is latched shared or announced as being read, so that nobody changes it; and
        // the mapping lives as long as the pool, which the guard borrows.
        unsafe { &*self.frames.bytes(self.index) }
    }

    /// Which page.
    pub fn page(&self) -> PageId {
        self.frames.frame(self.index).page()
    }

    /// Its PSN.
    pub fn psn(&self) -> Psn {
        self.frames.frame(self.index).psn()
    }
}

/// A page held for changing; only in synchronous code. Dropping it without [`finish`](Self::finish) means: unchanged,
/// except hints that need neither PSN nor redo (HZ-12).
pub struct PageWriteGuard<'a> {
    pub(crate) pool: &'a Pool,
    pub(crate) frame: Frame<'a>,
    pub(crate) index: usize,
    pub(crate) bytes: *mut [u8],
    pub(crate) page: PageId,
}

impl PageWriteGuard<'_> {
    /// The page.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the exclusive latch is held as long as the guard lives.
        unsafe { &*self.bytes }
    }

    /// The page, to be changed.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: the exclusive latch is held as long as the guard lives, and `&mut self` makes this the only access.
        unsafe { &mut *self.bytes }
    }

    /// Which page.
    pub fn page(&self) -> PageId {
        self.page
    }

    /// Its PSN before the change.
    pub fn psn(&self) -> Psn {
        self.frame.psn()
    }

    /// The page was changed to `psn` by redo that ends at `redo_end` (DIR-3). Names the page and writes the PSN into
    /// its header.
    pub fn finish(mut self, psn: Psn, redo_end: Lsn) {
        assert!(psn > self.psn(), "the PSN of {} rises", self.page);
        let page = self.page;
        header::set_identity(self.bytes_mut(), page, psn);
        self.frame.set_psn(psn);
        let mut meta = self.frame.meta.lock();
        let known = meta.dirty && meta.duty;
        meta.dirty = true;
        meta.duty = true;
        meta.redo_end = meta.redo_end.max(redo_end);
        meta.contributors.insert(self.pool.me());
        if !known {
            self.pool.dirty.note(self.index, &meta, self.pool.now());
        }
    }
}

impl Drop for PageWriteGuard<'_> {
    fn drop(&mut self) {
        self.frame.unlatch_exclusive();
    }
}

/// Keeps a page from being surrendered or evicted, at most for the configured time.
pub struct Hold {
    pub(crate) pool: Arc<Pool>,
    pub(crate) page: PageId,
    pub(crate) index: usize,
    pub(crate) stay: u64,
}

impl Hold {
    /// Which page.
    pub fn page(&self) -> PageId {
        self.page
    }
}

impl std::fmt::Debug for Hold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Hold({})", self.page)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.pool.release_hold(self.page, self.index, self.stay);
    }
}
