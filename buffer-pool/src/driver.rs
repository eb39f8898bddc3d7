//! Performs what the core asks for: sending, fetching, installing, surrendering, repeating.
//!
//! Everything that changes a possession happens under the core lock together with the core's own change, so that core
//! and frame words never disagree.

use crate::config::{PageStoreError, PoolError};
use crate::images::Image;
use crate::pool::{Inner, Pool, Waiter, count, waiting};
use crate::repair::Loaded;
use crate::wire;
use aquifer_buffer_pool_proto::header::{self, Verdict};
use aquifer_buffer_pool_proto::{Conversion, ImageInfo, Message, Mode, Output, PageId};
use aquifer_dss::seam::{IoBuffer, Service, Tail, Timer};
use aquifer_dss_proto::NodeId;
use std::sync::Arc;

impl Pool {
    /// Performs all outputs of the core. Called under the core lock after each input.
    pub(crate) fn pump(self: &Arc<Self>, inner: &mut Inner) {
        while let Some(output) = inner.core.poll_output() {
            self.perform(inner, output);
        }
        if inner.redoing && inner.core.redo_outstanding() == 0 {
            inner.redoing = false;
            self.redo_ready.notify_waiters();
        }
        let next = inner.core.next_timeout();
        if next.is_some_and(|next| inner.armed.is_none_or(|armed| next < armed)) {
            inner.armed = next;
            self.timer.notify_one();
        }
    }

    fn perform(self: &Arc<Self>, inner: &mut Inner, output: Output<Image>) {
        match output {
            Output::Send(to, envelope, image) => {
                if image.is_some() {
                    let copy = matches!(envelope.message, Message::Copy { .. });
                    count(if copy {
                        &self.figures.copies_out
                    } else {
                        &self.figures.transfers_out
                    });
                }
                wire::encode(&envelope, &mut inner.head);
                self.transport
                    .send(to, Service::Pages, &inner.head, image.map(Image::into_tail));
            }
            Output::ReadStorage { page, conversion, .. } => self.spawn_fetch(page, conversion),
            Output::Install {
                page,
                conversion,
                image,
                info,
                ..
            } => {
                self.install_or_spawn(inner, page, conversion, image, info);
            }
            Output::Upgrade { page, conversion, .. } => self.upgrade(inner, page, conversion),
            Output::Restore {
                page,
                conversion,
                image,
                info,
            } => self.spawn_restore(page, conversion, image.into_tail(), info),
            Output::Surrender { page, conversion, .. } => self.begin_surrender(inner, page, conversion),
            Output::Inherit(page) => {
                let index = self.table.get(page).expect("a possessed page has a frame");
                let mut meta = self.frames.frame(index).meta.lock();
                meta.duty = meta.dirty;
                self.dirty.note(index, &meta, self.now());
            }
            Output::Denied(page) => self.fail_waiters(inner, page, &PoolError::Corrupt(page)),
            Output::WriteBackWanted(page, by) => self.answer_wanted(inner, page, by),
            Output::NotHeld(page) => self.spawn_note_stored(page),
            Output::WrittenBack(by, pages) => self.redo.written_back(by, &pages),
            Output::CopyWanted { page, to, request } => self.serve_copy(inner, page, to, request),
            Output::Copied { page, request, copy } => self.copied(inner, page, request, copy),
            Output::RedoReady => {
                self.redo_ready.notify_waiters();
                self.changed.notify_waiters();
            }
        }
    }

    pub(crate) fn start_timer(self: &Arc<Self>) {
        let (weak, timer) = (Arc::downgrade(self), self.timer.clone());
        let mut clock = Timer::new(self.runtime.clone());
        let task = async move {
            loop {
                let next = {
                    let Some(pool) = weak.upgrade() else { return };
                    let mut inner = pool.lock();
                    let now = pool.now();
                    if inner.core.next_timeout().is_some_and(|at| at <= now) {
                        inner.core.handle_timeout(now);
                    }
                    pool.pump(&mut inner);
                    inner.armed = inner.core.next_timeout();
                    inner.armed
                };
                match next {
                    Some(at) => tokio::select! {
                        biased;
                        () = timer.notified() => {}
                        () = clock.until(at) => {}
                    },
                    None => timer.notified().await,
                }
            }
        };
        self.runtime.spawn("pool-timer", Box::pin(task));
    }

    /// Looks at each interval whether slots should move.
    pub(crate) fn start_rebalancing(self: &Arc<Self>) {
        let Some(locality) = self.config.locality else {
            return;
        };
        let (weak, runtime) = (Arc::downgrade(self), self.runtime.clone());
        let mut clock = Timer::new(runtime.clone());
        let task = async move {
            loop {
                clock.until(runtime.now() + locality.interval).await;
                let Some(pool) = weak.upgrade() else { return };
                let mut inner = pool.lock();
                if inner.closed {
                    return;
                }
                inner.core.handle_rebalance(pool.now(), locality.requests);
                pool.pump(&mut inner);
            }
        };
        self.runtime.spawn("pool-rebalance", Box::pin(task));
    }

    /// Gives a filled frame its page and makes it visible.
    pub(crate) fn bind(&self, index: usize, page: PageId, mode: Mode, info: ImageInfo) {
        let frame = self.frames.frame(index);
        let mut meta = frame.meta.lock();
        assert!(meta.page.is_none(), "a frame is bound to one page");
        *meta = crate::frame::Meta {
            page: Some(page),
            stay: meta.stay + 1,
            dirty: info.dirty,
            duty: info.dirty && mode == Mode::Exclusive,
            contributors: info.contributors,
            flush_wanted: info.flush_wanted,
            ..crate::frame::Meta::default()
        };
        self.dirty.note(index, &meta, self.now());
        drop(meta);
        frame.name(page);
        frame.set_psn(info.psn);
        self.table.insert(page, index);
        frame.set_possession(Some(mode));
    }

    /// Takes the page out of a frame that the caller has latched exclusively, and frees the frame.
    pub(crate) fn unbind(&self, index: usize, page: PageId) {
        let frame = self.frames.frame(index);
        self.table.remove(page);
        let mut meta = frame.meta.lock();
        assert_eq!(meta.page, Some(page), "the frame has the page");
        *meta = crate::frame::Meta {
            stay: meta.stay + 1,
            ..crate::frame::Meta::default()
        };
        self.dirty.note(index, &meta, self.now());
        drop(meta);
        frame.set_possession(None);
        frame.unlatch_exclusive();
    }

    pub(crate) fn give_back(&self, index: usize) {
        self.free.give_back(index);
    }

    /// Answers those who wait for a page that is possessed now; asks on for the others.
    pub(crate) fn serve(self: &Arc<Self>, inner: &mut Inner, page: PageId) {
        let asked_for = inner.core.surrender_wanted(page).is_some();
        let possessed = inner.core.possessed(page).filter(|_| !asked_for);
        self.serve_in(inner, page, possessed);
    }

    /// `possessed`: what who waits may have.
    fn serve_in(self: &Arc<Self>, inner: &mut Inner, page: PageId, possessed: Option<Mode>) {
        let has_its_turn = |_: &(PageId, u64), waiter: &mut Waiter| {
            waiter.answer.is_closed() || possessed.is_some_and(|mode| mode >= waiter.mode)
        };
        for (_, waiter) in inner.waiters.extract_if(waiting(page), has_its_turn) {
            if !waiter.answer.is_closed() {
                // A waiter that went away gives its hold back by dropping it.
                drop(waiter.answer.send(Ok(self.make_hold(page))));
            }
        }
        let rest = inner.waiters.range(waiting(page));
        if let Some(mode) = rest.map(|(_, waiter)| waiter.mode).max() {
            inner.core.handle_acquire(self.now(), page, mode);
        }
    }

    fn fail_waiters(&self, inner: &mut Inner, page: PageId, error: &PoolError) {
        for (_, waiter) in inner.waiters.extract_if(waiting(page), |_, _| true) {
            drop(waiter.answer.send(Err(error.clone())));
        }
    }

    /// The page is in frame `index`, which is not bound: makes it visible if the grant still stands, and says whether.
    fn installed(
        self: &Arc<Self>,
        inner: &mut Inner,
        index: usize,
        page: PageId,
        by: Conversion,
        info: ImageInfo,
    ) -> bool {
        let granted = inner.core.handle_installed(self.now(), page, by);
        match granted {
            Some(mode) => {
                self.bind(index, page, mode, info);
                inner.policy.admitted(index, page);
                // Who waited for it has its turn, even if the next node's order is here already.
                self.serve_in(inner, page, Some(mode));
            }
            None => self.give_back(index),
        }
        granted.is_some()
    }

    fn install_or_spawn(
        self: &Arc<Self>,
        inner: &mut Inner,
        page: PageId,
        conversion: Conversion,
        image: Image,
        info: ImageInfo,
    ) {
        let image = match image {
            Image::Buffer(image) => image,
            Image::Arrived => {
                let frame = inner.arrived.take().expect("it is installed once");
                self.installed(inner, frame.into_index(), page, conversion, info);
                return;
            }
        };
        if let Some(index) = self.free.take() {
            self.frames.fill(index, &image);
            self.installed(inner, index, page, conversion, info);
            return;
        }
        let pool = self.clone();
        let task = async move {
            let index = pool.allocate().await;
            pool.frames.fill(index, &image);
            let mut inner = pool.lock();
            pool.installed(&mut inner, index, page, conversion, info);
            pool.pump(&mut inner);
        };
        self.runtime.spawn("pool-install", Box::pin(task));
    }

    fn upgrade(self: &Arc<Self>, inner: &mut Inner, page: PageId, conversion: Conversion) {
        let Some(mode) = inner.core.handle_installed(self.now(), page, conversion) else {
            return;
        };
        let index = self.table.get(page).expect("a possessed page has a frame");
        let frame = self.frames.frame(index);
        frame.set_possession(Some(mode));
        if mode == Mode::Exclusive {
            let mut meta = frame.meta.lock();
            meta.duty = meta.dirty;
            self.dirty.note(index, &meta, self.now());
        }
        self.serve_in(inner, page, Some(mode));
    }

    /// Reads a page and judges it: bytes and PSN, or why it cannot be had.
    pub(crate) async fn fetch(&self, page: PageId) -> Result<(IoBuffer, ImageInfo), PoolError> {
        count(&self.figures.fetches);
        let mut bytes = self.store.read(page).await.map_err(|error| match error {
            PageStoreError::Gone(page) => PoolError::Gone(page),
            PageStoreError::Failed(message) => PoolError::Storage { page, message },
        })?;
        if bytes.len() != self.config.page_size.bytes() {
            return Err(PoolError::Storage {
                page,
                message: format!("{} bytes came", bytes.len()),
            });
        }
        let psn = match header::verify(&bytes, page) {
            Verdict::Valid(psn) => psn,
            Verdict::NeverFormatted => {
                bytes.fill(0);
                aquifer_buffer_pool_proto::Psn(0)
            }
            Verdict::Corrupt => return Err(PoolError::Corrupt(page)),
        };
        Ok((
            bytes,
            ImageInfo {
                psn,
                ..ImageInfo::default()
            },
        ))
    }

    fn spawn_fetch(self: &Arc<Self>, page: PageId, conversion: Conversion) {
        let pool = self.clone();
        let task = async move {
            let index = pool.allocate().await;
            let loaded = pool.load(page).await;
            let mut inner = pool.lock();
            match loaded {
                Ok(Loaded { bytes, info, rebuilt }) => {
                    pool.frames.fill(index, &bytes);
                    if pool.installed(&mut inner, index, page, conversion, info) && rebuilt {
                        pool.begin_repair(index, page, bytes);
                    }
                }
                Err(error) => {
                    pool.give_back(index);
                    if inner.core.handle_refused(pool.now(), page, conversion) {
                        pool.fail_waiters(&mut inner, page, &error);
                    }
                }
            }
            pool.pump(&mut inner);
        };
        self.runtime.spawn("pool-fetch", Box::pin(task));
    }

    /// A retained image is the only one left: it counts if it is newer than storage (HZ-3).
    fn spawn_restore(self: &Arc<Self>, page: PageId, conversion: Conversion, image: Tail, info: ImageInfo) {
        let pool = self.clone();
        let task = async move {
            let index = pool.allocate().await;
            let stored = pool.load(page).await;
            let mut inner = pool.lock();
            // Storage that cannot be read, or of which nothing newer can be made, is not newer.
            if stored.is_ok_and(|stored| stored.info.psn >= info.psn) {
                pool.give_back(index);
                inner.core.handle_refused(pool.now(), page, conversion);
            } else {
                pool.frames.fill(index, &image);
                pool.installed(
                    &mut inner,
                    index,
                    page,
                    conversion,
                    ImageInfo { dirty: true, ..info },
                );
            }
            pool.pump(&mut inner);
        };
        self.runtime.spawn("pool-restore", Box::pin(task));
    }

    /// The redo of `by` is pinned by a page. A notice may have been lost with a view change, or went to contributors
    /// only, so a clean image is answered: storage has at least its PSN.
    fn answer_wanted(&self, inner: &mut Inner, page: PageId, by: NodeId) {
        let Some(index) = self.table.get(page) else {
            return;
        };
        if self.mark_wanted(page, by) {
            return;
        }
        let frame = self.frames.frame(index);
        frame.latch();
        let clean = !frame.meta.lock().dirty;
        let psn = frame.psn();
        frame.unlatch_exclusive();
        if clean {
            inner.core.handle_written_back(self.now(), by, vec![(page, psn)]);
        }
    }

    /// Nobody has to write a page back that pins this node's redo: what storage has needs no redo.
    fn spawn_note_stored(self: &Arc<Self>, page: PageId) {
        let pool = self.clone();
        let task = async move {
            let psn = match pool.fetch(page).await {
                Ok((_, info)) => info.psn,
                // No redo is needed for a page that nobody can ask for.
                Err(PoolError::Gone(_)) => aquifer_buffer_pool_proto::Psn(u64::MAX),
                Err(_) => return,
            };
            pool.redo.written_back(pool.me(), &[(page, psn)]);
        };
        self.runtime.spawn("pool-note-stored", Box::pin(task));
    }
}
