//! The pool: local hits, acquiring, and the door through which inputs reach the ownership core.
//!
//! Lock order: core, then page latch, then frame meta, then free list or list of dirty pages. Under the core lock nothing
//! waits except for latches, which are held in synchronous code only and by nobody who takes the core lock.

use crate::announce;
use crate::answers::{Answer, Answers};
use crate::clean::Batch;
use crate::config::{Miss, PageStore, PoolConfig, PoolCounters, PoolError, Redo, RedoTask};
use crate::copies::CopyImage;
use crate::dirty::DirtyPages;
use crate::evict::{self, EvictionPolicy};
use crate::frame::{Frames, Reading};
use crate::free::{ArrivingFrame, FreeFrames};
use crate::guard::{Hold, PageReadGuard, PageWriteGuard};
use crate::images::{Image, PageBuffers};
use crate::receive::EarlyMessage;
use crate::surrender::Leaving;
use crate::table::PageTable;
use aquifer_buffer_pool_proto::{
    Contents, ImageInfo, Mode, Ownership, PageId, PageSize, Psn, Redone, Request,
};
use aquifer_dss::seam::{IoBuffer, Runtime, Transport};
use aquifer_dss_proto::{Epoch, Instant, NodeId, NodeSet, View};
use parking_lot::{Mutex, MutexGuard};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::sync::Notify;

/// Buffers for pages on their way that are kept: one for eight frames, within these bounds.
const BUFFERS_LEAST: usize = 16;
const BUFFERS_MOST: usize = 1024;

/// What the core may ask about pages in frames.
pub(crate) struct FrameContents {
    frames: Arc<Frames>,
    table: Arc<PageTable>,
}

impl Contents for FrameContents {
    fn info(&self, page: PageId) -> (ImageInfo, bool) {
        let frame = self
            .frames
            .frame(self.table.get(page).expect("a possessed page has a frame"));
        let meta = frame.meta.lock();
        (frame.info(&meta), meta.duty)
    }
}

pub(crate) struct Waiter {
    pub mode: Mode,
    pub answer: Answer<Result<Hold, PoolError>>,
}

/// The places of all who wait for one page.
pub(crate) fn waiting(page: PageId) -> RangeInclusive<(PageId, u64)> {
    (page, 0)..=(page, u64::MAX)
}

/// What the core lock protects.
pub(crate) struct Inner {
    pub core: Ownership<Image, FrameContents>,
    /// Who waits for a page, in order of arrival.
    pub waiters: BTreeMap<(PageId, u64), Waiter>,
    pub next_waiter: u64,
    pub policy: Box<dyn EvictionPolicy>,
    /// Who waits for a copy, by question.
    pub readers: BTreeMap<Request, Answer<Option<CopyImage>>>,
    /// Pages on their way for readers that have not come to them.
    pub asked_ahead: BTreeSet<PageId>,
    /// When the timer task will look next.
    pub armed: Option<Instant>,
    /// Messages of a view that is not installed here yet, in order of arrival.
    pub early: Vec<EarlyMessage>,
    /// The page of the message that is being handled, until it is installed.
    pub arrived: Option<ArrivingFrame>,
    /// Surrenders that wait for a hold.
    pub leaving: Vec<Leaving>,
    /// Memory for the head of a message.
    pub head: Vec<u8>,
    pub closed: bool,
    /// Somebody waits for pages to redo, or for the end of the redo.
    pub redoing: bool,
}

#[derive(Default)]
pub(crate) struct Figures {
    pub fetches: AtomicU64,
    pub prefetches: AtomicU64,
    pub transfers_in: AtomicU64,
    pub transfers_out: AtomicU64,
    pub copies_in: AtomicU64,
    pub copies_out: AtomicU64,
    pub invalidations: AtomicU64,
    pub write_backs: AtomicU64,
    pub write_batches: AtomicU64,
    pub rebuilt: AtomicU64,
    pub evictions: AtomicU64,
    pub strangers: AtomicU64,
    pub malformed: AtomicU64,
    /// Nanoseconds.
    pub surrender_redo: AtomicU64,
    /// Nanoseconds.
    pub surrender_write: AtomicU64,
    /// Nanoseconds.
    pub surrender_hold: AtomicU64,
}

pub(crate) fn count(figure: &AtomicU64) {
    figure.fetch_add(1, Ordering::Relaxed);
}

/// The page cache of one node.
pub struct Pool {
    pub(crate) config: PoolConfig,
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) store: Arc<dyn PageStore>,
    pub(crate) redo: Arc<dyn Redo>,
    pub(crate) frames: Arc<Frames>,
    pub(crate) table: Arc<PageTable>,
    pub(crate) free: Arc<FreeFrames>,
    pub(crate) images: PageBuffers,
    answers: Answers<Result<Hold, PoolError>>,
    pub(crate) copy_answers: Answers<Option<CopyImage>>,
    pub(crate) dirty: DirtyPages,
    /// Copies of pages on their way to storage.
    pub(crate) written: PageBuffers,
    /// Memory for the lists of a write-back batch.
    pub(crate) spare_batch: Mutex<Option<Batch>>,
    pub(crate) inner: Mutex<Inner>,
    pub(crate) timer: Arc<Notify>,
    pub(crate) redo_ready: Notify,
    /// There is one more surrender that waits for a hold.
    pub(crate) leaving: Arc<Notify>,
    /// A hold, a latch, a write-back or a frame was given up, or a view installed: who waits looks again.
    pub(crate) changed: Arc<Notify>,
    pub(crate) figures: Figures,
    pub(crate) flushing: AtomicBool,
}

impl Pool {
    /// A pool without pages, in no view: nothing is granted before the first `install_view`.
    pub fn new(
        config: PoolConfig,
        runtime: Arc<dyn Runtime>,
        transport: Arc<dyn Transport>,
        store: Arc<dyn PageStore>,
        redo: Arc<dyn Redo>,
    ) -> Arc<Self> {
        let frames = Arc::new(Frames::new(config.frames, config.page_size));
        let table = Arc::new(PageTable::new(frames.clone()));
        let contents = FrameContents {
            frames: frames.clone(),
            table: table.clone(),
        };
        let inner = Inner {
            core: Ownership::new(config.me, config.retransmit, contents),
            waiters: BTreeMap::new(),
            next_waiter: 0,
            readers: BTreeMap::new(),
            asked_ahead: BTreeSet::new(),
            policy: evict::policy(config.eviction, config.frames),
            armed: None,
            early: Vec::new(),
            arrived: None,
            leaving: Vec::new(),
            head: Vec::new(),
            closed: false,
            redoing: false,
        };
        let changed = Arc::new(Notify::new());
        let pool = Arc::new(Self {
            free: FreeFrames::new(frames.clone(), changed.clone()),
            images: PageBuffers::new(
                config.page_size.bytes(),
                (config.frames / 8).clamp(BUFFERS_LEAST, BUFFERS_MOST),
            ),
            dirty: DirtyPages::new(config.frames),
            written: PageBuffers::new(config.page_size.bytes(), config.write_batch),
            spare_batch: Mutex::default(),
            config,
            runtime,
            transport,
            store,
            redo,
            frames,
            table,
            inner: Mutex::new(inner),
            timer: Arc::new(Notify::new()),
            redo_ready: Notify::new(),
            leaving: Arc::new(Notify::new()),
            changed,
            answers: Answers::new(),
            copy_answers: Answers::new(),
            figures: Figures::default(),
            flushing: AtomicBool::new(false),
        });
        pool.start_timer();
        pool.start_surrendering();
        pool.start_rebalancing();
        pool
    }

    pub(crate) fn now(&self) -> Instant {
        self.runtime.now()
    }

    /// This node.
    pub fn me(&self) -> NodeId {
        self.config.me
    }

    /// Size of its pages.
    pub fn page_size(&self) -> PageSize {
        self.config.page_size
    }

    /// The epoch that the pool serves.
    pub fn epoch(&self) -> Epoch {
        self.inner.lock().core.view().epoch
    }

    /// The page, if it is possessed. A local hit: no message, no allocation, no lock held afterwards but the latch.
    // Of a page that is only read the processor overlaps as many hits as it can look ahead: each instruction here counts.
    #[inline]
    pub fn read(&self, page: PageId) -> Result<PageReadGuard<'_>, Miss> {
        if let Some(reader) = announce::reader()
            && let index = self.table.first(page)
            && let Some(announced) = self.frames.announce_used(index, page, reader)
        {
            self.table.count_hit(reader);
            return Ok(PageReadGuard {
                frames: &self.frames,
                index,
                reading: Reading::Announced(announced),
            });
        }
        self.read_slowly(page)
    }

    /// A page in a frame that is not biased, or behind others in the table, or that is not here.
    #[inline(never)]
    fn read_slowly(&self, page: PageId) -> Result<PageReadGuard<'_>, Miss> {
        if let Some(index) = self.table.get(page) {
            let frame = self.frames.frame(index);
            let announced = announce::reader().and_then(|reader| frame.announce(page, reader));
            if let Some(reading) = announced.or_else(|| frame.latch_shared(page)) {
                frame.add_use();
                self.table.count(true);
                return Ok(PageReadGuard {
                    frames: &self.frames,
                    index,
                    reading,
                });
            }
        }
        self.table.count(false);
        Err(Miss {
            page,
            mode: Mode::Shared,
        })
    }

    /// Says that the page will be read soon: if it is here, what a hit looks at comes into the processor's cache meanwhile. For who knows several
    /// pages beforehand; a few ahead are enough.
    #[inline]
    pub fn touch(&self, page: PageId) {
        self.frames.touch(self.table.first(page));
    }

    /// The page, if it is possessed exclusively and nobody waits for its surrender.
    pub fn write(&self, page: PageId) -> Result<PageWriteGuard<'_>, Miss> {
        if let Some(index) = self.table.get(page) {
            let frame = self.frames.frame(index);
            if frame.latch_to_write(page) {
                frame.add_use();
                self.table.count(true);
                return Ok(PageWriteGuard {
                    pool: self,
                    frame,
                    index,
                    bytes: self.frames.bytes(index),
                    page,
                });
            }
        }
        self.table.count(false);
        Err(Miss {
            page,
            mode: Mode::Exclusive,
        })
    }

    /// Until the page is possessed in `mode`. The hold keeps it here for `hold_limit` at most, so that the step that
    /// missed it can use it once. May be dropped at any time.
    pub async fn acquire(self: &Arc<Self>, page: PageId, mode: Mode) -> Result<Hold, PoolError> {
        let answer = {
            let mut inner = self.inner.lock();
            if inner.closed {
                return Err(PoolError::Closed);
            }
            let possessed = inner.core.possessed(page).is_some_and(|held| held >= mode);
            if possessed && inner.core.surrender_wanted(page).is_none() {
                return Ok(self.make_hold(page));
            }
            let (answer, question) = self.answers.ask();
            let number = inner.next_waiter;
            inner.next_waiter += 1;
            inner.waiters.insert((page, number), Waiter { mode, answer });
            inner.core.handle_acquire(self.now(), page, mode);
            self.pump(&mut inner);
            question
        };
        answer.await.unwrap_or(Err(PoolError::Closed))
    }

    /// Holds a page that is possessed; the core lock is taken.
    pub(crate) fn make_hold(self: &Arc<Self>, page: PageId) -> Hold {
        let index = self.table.get(page).expect("a possessed page has a frame");
        let mut meta = self.frames.frame(index).meta.lock();
        meta.holds += 1;
        // Nodes that hold pages of each other's steps must not expire together for ever: limits differ by node.
        let limit = self.config.hold_limit + self.config.hold_limit * u32::from(self.config.me.get() % 8) / 8;
        meta.hold_until = meta.hold_until.max(self.now() + limit);
        Hold {
            pool: self.clone(),
            page,
            index,
            stay: meta.stay,
        }
    }

    pub(crate) fn release_hold(self: &Arc<Self>, page: PageId, index: usize, stay: u64) {
        let mut meta = self.frames.frame(index).meta.lock();
        if meta.stay != stay || meta.holds == 0 {
            return;
        }
        meta.holds -= 1;
        if meta.holds > 0 {
            return;
        }
        meta.hold_until = Instant::default();
        let leaving = meta.leaving.take();
        drop(meta);
        // Where the core is busy, or is what drops this hold, the surrender's own task looks again.
        if let Some(conversion) = leaving
            && let Some(mut inner) = self.inner.try_lock()
        {
            self.try_surrender(&mut inner, page, conversion);
            self.pump(&mut inner);
        }
        self.changed.notify_waiters();
    }

    /// A new view. Possessions stay; everything under way starts again with the new homes. `dead` are former members
    /// that are proven dead; `pending_redo` says that an analysis follows ([`Self::analysed`] at the leader): it must
    /// also be set while a former recovery was not finished.
    pub fn install_view(self: &Arc<Self>, view: Arc<View>, dead: NodeSet, pending_redo: bool) {
        let mut inner = self.inner.lock();
        for index in 0..self.frames.len() {
            self.frames.frame(index).open();
        }
        inner.core.install_view(self.now(), view, dead, pending_redo);
        self.pump(&mut inner);
        self.take_early(&mut inner);
        self.pump(&mut inner);
        let mut pages: Vec<PageId> = inner.waiters.keys().map(|(page, _)| *page).collect();
        pages.dedup();
        for page in pages {
            self.serve(&mut inner, page);
        }
        self.pump(&mut inner);
        self.changed.notify_waiters();
        self.redo_ready.notify_waiters();
    }

    /// Leader: every page whose content on storage may be behind durable redo, with its highest durable PSN over all
    /// streams, living ones too. Pages not named are current on storage.
    pub fn analysed(self: &Arc<Self>, pages: Vec<(PageId, Psn)>) {
        let mut inner = self.inner.lock();
        inner.core.handle_analysed(self.now(), pages);
        self.pump(&mut inner);
    }

    /// Leader: the next page to redo; asked-for pages first. `None` when nothing is [outstanding](Self::redo_outstanding) any more.
    pub async fn next_redo(self: &Arc<Self>) -> Option<RedoTask> {
        loop {
            let ready = self.redo_ready.notified();
            tokio::pin!(ready);
            ready.as_mut().enable();
            {
                let mut inner = self.inner.lock();
                if let Some((page, target, epoch)) = inner.core.next_redo() {
                    return Some(RedoTask {
                        page,
                        target,
                        base: None,
                        epoch,
                    });
                }
                if inner.core.redo_outstanding() == 0 {
                    return None;
                }
                inner.redoing = true;
            }
            ready.await;
        }
    }

    /// Leader: the page is at its target. It enters as exclusive and dirty at this node, with the contributors of
    /// `info`; the home opens it. Waits for a frame.
    pub async fn redone(self: &Arc<Self>, task: RedoTask, image: IoBuffer, info: ImageInfo) {
        assert_eq!(
            image.len(),
            self.config.page_size.bytes(),
            "a redone page is whole"
        );
        assert!(info.psn >= task.target, "a page is shown only at its target");
        let index = self.allocate().await;
        let mut inner = self.inner.lock();
        if !inner
            .core
            .handle_redone(self.now(), task.page, task.epoch, Redone::Held)
        {
            return self.give_back(index);
        }
        self.frames.fill(index, &image);
        self.bind(
            index,
            task.page,
            Mode::Exclusive,
            ImageInfo { dirty: true, ..info },
        );
        inner.policy.admitted(index, task.page);
        self.serve(&mut inner, task.page);
        self.pump(&mut inner);
    }

    /// Leader: storage has the page at its target already.
    pub fn redo_current(self: &Arc<Self>, task: RedoTask) {
        self.report(task, Redone::Current);
    }

    /// Leader: the page cannot be redone; whoever acquires it gets [`PoolError::Corrupt`] until the next recovery.
    pub fn redo_failed(self: &Arc<Self>, task: RedoTask, reason: &str) {
        tracing::error!(page = %task.page, reason, "redo of a page failed");
        self.report(task, Redone::Failed);
    }

    fn report(self: &Arc<Self>, task: RedoTask, outcome: Redone) {
        let mut inner = self.inner.lock();
        inner
            .core
            .handle_redone(self.now(), task.page, task.epoch, outcome);
        self.pump(&mut inner);
    }

    /// Leader: 0 when every home has answered the analysis and every page is redone and known to its home.
    pub fn redo_outstanding(&self) -> usize {
        self.inner.lock().core.redo_outstanding()
    }

    /// Asks the dirty holders of `pages` to write them back soon: this node's redo is pinned by them.
    pub fn want_flush(self: &Arc<Self>, pages: &[PageId]) {
        let mut inner = self.inner.lock();
        for page in pages {
            if !self.mark_wanted(*page, self.me()) {
                inner.core.handle_want_flush(self.now(), *page);
            }
        }
        self.pump(&mut inner);
    }

    /// Marks a page that this node has the duty to write back; `by` is told when it was.
    pub(crate) fn mark_wanted(&self, page: PageId, by: NodeId) -> bool {
        let Some(index) = self.table.get(page) else {
            return false;
        };
        let mut meta = self.frames.frame(index).meta.lock();
        let mine = meta.page == Some(page) && meta.duty && meta.dirty;
        if mine {
            meta.flush_wanted = true;
            meta.contributors.insert(by);
            self.dirty.note(index, &meta, self.now());
        }
        mine
    }

    /// Figures since the pool was made.
    pub fn counters(&self) -> PoolCounters {
        let (hits, misses) = self.table.counted();
        let core = self.inner.lock().core.counters();
        let of = |figure: &AtomicU64| figure.load(Ordering::Relaxed);
        PoolCounters {
            hits,
            misses,
            fetches: of(&self.figures.fetches),
            prefetches: of(&self.figures.prefetches),
            transfers_in: of(&self.figures.transfers_in),
            transfers_out: of(&self.figures.transfers_out),
            copies_in: of(&self.figures.copies_in),
            copies_out: of(&self.figures.copies_out),
            invalidations: of(&self.figures.invalidations),
            write_backs: of(&self.figures.write_backs),
            write_batches: of(&self.figures.write_batches),
            dirty: self.dirty.len() as u64,
            rebuilt: of(&self.figures.rebuilt),
            evictions: of(&self.figures.evictions),
            messages: core.messages,
            slots_moved: core.slots_moved,
            retransmits: core.retransmits,
            dropped_epoch: core.dropped_epoch + of(&self.figures.strangers),
            dropped_malformed: of(&self.figures.malformed),
            dropped_stale: core.dropped_stale,
            dropped_role: core.dropped_role,
            dropped_content: core.dropped_content,
            dropped_limit: core.dropped_limit,
            surrender_redo_us: of(&self.figures.surrender_redo) / 1000,
            surrender_write_us: of(&self.figures.surrender_write) / 1000,
            surrender_hold_us: of(&self.figures.surrender_hold) / 1000,
        }
    }

    /// Pages possessed now, with their modes: for status and tests.
    pub fn possessions(&self) -> Vec<(PageId, Mode)> {
        self.inner.lock().core.possessions().collect()
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock()
    }
}
