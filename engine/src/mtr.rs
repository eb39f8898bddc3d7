//! Mini-transactions: several page changes that reach redo whole or not at all.
//!
//! Rules
//! - BT-6 every page is held before the first change, so that a step can give up with [`Blocked`] having changed nothing.
//! - BT-7 a change moves the page's PSN by one and its record names the PSN before it; the page takes the stamp of its group.
//! - BT-8 `commit` appends one group and only then finishes the guards with its end (HZ-11: an image may leave the node
//!   when redo up to the end of the group is durable, not merely up to its own record).
//! - A changed mini-transaction that is dropped is a broken invariant: pages in memory would differ from their redo.

use crate::Blocked;
use aquifer_buffer_pool::{PageReadGuard, PageWriteGuard, Pool, header};
use aquifer_buffer_pool_proto::{Lsn, PageId, PageSize, Psn, Scn, Stamp};
use aquifer_dss_proto::defect::{Defect, planted};
use aquifer_engine_proto::group::group_length;
use aquifer_engine_proto::page::{self, PageError, PageOperation, encode_operation};
use aquifer_engine_proto::{RedoRecord, TxnId};

/// A page held for reading.
pub trait ReadPage {
    /// The whole page.
    fn bytes(&self) -> &[u8];
}

/// A page held for changing. Dropped without [`finish`](WritePage::finish): unchanged but for SCN stamps.
pub trait WritePage {
    /// The whole page.
    fn bytes(&self) -> &[u8];
    /// The whole page, to be changed.
    fn bytes_mut(&mut self) -> &mut [u8];
    /// Its PSN.
    fn psn(&self) -> Psn;
    /// It has `psn` now, by redo that ends at `redo_end`.
    fn finish(self, psn: Psn, redo_end: Lsn);
}

/// The two calls of the buffer pool that steps need. A page that is not possessed in the mode is `Blocked::Page`.
pub trait Pages {
    /// A page held for reading.
    type Read<'a>: ReadPage
    where
        Self: 'a;
    /// A page held for changing.
    type Write<'a>: WritePage
    where
        Self: 'a;
    /// Size of a page.
    fn page_size(&self) -> PageSize;
    /// Holds a page for reading.
    fn read(&self, page: PageId) -> Result<Self::Read<'_>, Blocked>;
    /// Holds a page for changing. A thread holds a page once at most.
    fn write(&self, page: PageId) -> Result<Self::Write<'_>, Blocked>;
}

/// Where a group stands in the redo.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Appended {
    /// Behind it in its stream.
    pub end: Lsn,
    /// Its stamp.
    pub stamp: Stamp,
}

/// Where groups go: this node's redo stream.
pub trait RedoSink {
    /// Appends one group, applied whole or not at all. `pages` is the highest stamp in the pages it changes; its own is higher
    /// (WAL-9). Never waits for the device.
    fn append(&self, records: &[RedoRecord], pages: Stamp) -> Appended;
}

impl ReadPage for PageReadGuard<'_> {
    fn bytes(&self) -> &[u8] {
        PageReadGuard::bytes(self)
    }
}

impl WritePage for PageWriteGuard<'_> {
    fn bytes(&self) -> &[u8] {
        PageWriteGuard::bytes(self)
    }
    fn bytes_mut(&mut self) -> &mut [u8] {
        PageWriteGuard::bytes_mut(self)
    }
    fn psn(&self) -> Psn {
        PageWriteGuard::psn(self)
    }
    fn finish(self, psn: Psn, redo_end: Lsn) {
        PageWriteGuard::finish(self, psn, redo_end);
    }
}

impl Pages for Pool {
    type Read<'a> = PageReadGuard<'a>;
    type Write<'a> = PageWriteGuard<'a>;
    fn page_size(&self) -> PageSize {
        Pool::page_size(self)
    }
    fn read(&self, page: PageId) -> Result<PageReadGuard<'_>, Blocked> {
        Pool::read(self, page).map_err(|miss| Blocked::Page(miss.page, miss.mode))
    }
    fn write(&self, page: PageId) -> Result<PageWriteGuard<'_>, Blocked> {
        Pool::write(self, page).map_err(|miss| Blocked::Page(miss.page, miss.mode))
    }
}

struct Held<W> {
    id: PageId,
    guard: W,
    psn: Psn,
    changed: bool,
}

/// A page of a [`Mtr`]: the place in which it was held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HeldPage(usize);

/// A mini-transaction over pages of `pages`.
pub struct Mtr<'a, P: Pages + 'a> {
    pages: &'a P,
    held: Vec<Held<P::Write<'a>>>,
    records: Vec<RedoRecord>,
}

impl<'a, P: Pages> Mtr<'a, P> {
    /// One that holds nothing.
    pub const fn new(pages: &'a P) -> Self {
        Self {
            pages,
            held: Vec::new(),
            records: Vec::new(),
        }
    }

    /// Holds a page for change; a page held already gives its place again. Panics after the first change (BT-6).
    pub fn hold(&mut self, id: PageId) -> Result<HeldPage, Blocked> {
        assert!(
            self.records.is_empty(),
            "page {id} is held after the first change"
        );
        if let Some(index) = self.held.iter().position(|held| held.id == id) {
            return Ok(HeldPage(index));
        }
        let guard = self.pages.write(id)?;
        let psn = guard.psn();
        self.held.push(Held {
            id,
            guard,
            psn,
            changed: false,
        });
        Ok(HeldPage(self.held.len() - 1))
    }

    /// The page as it is now.
    pub fn bytes(&self, page: HeldPage) -> &[u8] {
        self.held[page.0].guard.bytes()
    }

    /// The page's name.
    pub fn id(&self, page: HeldPage) -> PageId {
        self.held[page.0].id
    }

    /// Whether something was changed.
    pub const fn is_changed(&self) -> bool {
        !self.records.is_empty()
    }

    /// Whether the page takes the operation now.
    pub fn fits(&self, page: HeldPage, operation: &PageOperation) -> Result<bool, Blocked> {
        let held = &self.held[page.0];
        page::fits(held.guard.bytes(), operation).map_err(|_| Blocked::Corrupt(held.id))
    }

    /// Changes a held page. An error is possible before the first change only; later a page that does not take what it was asked
    /// about is a broken invariant, and this panics.
    pub fn change(&mut self, page: HeldPage, operation: &PageOperation) -> Result<(), Blocked> {
        let held = &mut self.held[page.0];
        if planted(Defect::FormatStartsOver) && matches!(operation, PageOperation::Format(_)) {
            held.psn = Psn(0);
        }
        if let Err(error) = page::apply(held.guard.bytes_mut(), held.id, operation) {
            let harmless = self.records.is_empty() && matches!(error, PageError::Corrupt(_));
            assert!(
                harmless,
                "page {} was held and asked, and does not take its change: {error}",
                held.id
            );
            return Err(Blocked::Corrupt(held.id));
        }
        let operation = encode_operation(operation);
        self.records.push(RedoRecord {
            page: held.id,
            prev_psn: held.psn,
            operation,
        });
        held.psn = Psn(held.psn.0 + 1);
        held.changed = true;
        Ok(())
    }

    /// Writes a commit's SCN into a row of a held leaf: a hint without PSN or redo (BT-5).
    pub fn stamp(&mut self, page: HeldPage, key: &[u8], txn: TxnId, scn: Scn) -> Result<(), Blocked> {
        let held = &mut self.held[page.0];
        page::stamp(held.guard.bytes_mut(), key, txn, scn).map_err(|_| Blocked::Corrupt(held.id))?;
        Ok(())
    }

    /// Appends the group and lets the pages go. `None` when nothing was changed.
    pub fn commit(mut self, sink: &(impl RedoSink + ?Sized)) -> Option<Lsn> {
        if self.records.is_empty() {
            return None;
        }
        let changed = self.held.iter().filter(|held| held.changed);
        let pages = changed.map(|held| header::stamp(held.guard.bytes())).max();
        let Appended { end, stamp } = sink.append(&self.records, pages.unwrap_or_default());
        let wait_for = if planted(Defect::WaitForGroupBegin) {
            Lsn(end.0 - group_length(&self.records) as u64)
        } else {
            end
        };
        self.records.clear();
        for mut held in self.held.drain(..) {
            if held.changed {
                page::set_psn(held.guard.bytes_mut(), held.psn);
                page::set_stamp(held.guard.bytes_mut(), stamp);
                held.guard.finish(held.psn, wait_for);
            }
        }
        Some(end)
    }
}

impl<'a, P: Pages + 'a> Drop for Mtr<'a, P> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert!(
                self.records.is_empty(),
                "a changed mini-transaction was dropped without commit"
            );
        }
    }
}
