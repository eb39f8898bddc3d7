//! Frames for new pages, and the way of dirty pages to storage.
//!
//! Rules: only the dirty holder writes a page back (DIR-4), from a private copy taken under the latch, and it gives the
//! page up only when the write is durable (HZ-2); redo of the page's last change is durable before it is written
//! (DIR-3, HZ-11); contributors are told after that (HZ-5).

use crate::config::PoolError;
use crate::images::PageBuffer;
use crate::pool::{Inner, Pool, count, waiting};
use aquifer_buffer_pool_proto::{Lsn, Mode, PageId, Psn, header};
use aquifer_dss::seam::Tail;
use aquifer_dss_proto::defect::{Defect, planted};
use aquifer_dss_proto::{Epoch, Instant, NodeId, NodeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::oneshot;

/// One page of a write-back batch.
struct Writing {
    page: PageId,
    index: usize,
    psn: Psn,
}

/// Private copies on their way to storage.
#[derive(Default)]
pub(crate) struct Batch {
    /// Frames that were chosen.
    chosen: Vec<usize>,
    pages: Vec<Writing>,
    /// Of these pages, in the same order.
    copies: Vec<PageBuffer>,
    /// The same, complete.
    images: Vec<(PageId, Tail)>,
    /// Who is told, of which page.
    notices: Vec<(NodeId, PageId, Psn)>,
    /// End of the redo of the last change in them.
    redo_end: Lsn,
    epoch: Epoch,
}

impl Batch {
    /// Without pages, but with the memory of its lists.
    fn clear(&mut self) {
        self.chosen.clear();
        self.pages.clear();
        self.copies.clear();
        self.images.clear();
        self.notices.clear();
        self.redo_end = Lsn::default();
    }
}

impl Pool {
    /// A frame that nobody else has. Evicts, writes back, or waits until a page can be given up.
    pub(crate) async fn allocate(self: &Arc<Self>) -> usize {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(index) = self.free.take() {
                return index;
            }
            if let Some(index) = self.evict_one() {
                return index;
            }
            if self
                .write_some(self.config.write_batch.min(self.frames.len()), true)
                .await
                > 0
            {
                continue;
            }
            let until = self.next_expiry();
            tokio::select! {
                biased;
                () = changed => {}
                () = self.runtime.sleep_until(until) => {}
            }
        }
    }

    /// When the next hold expires; with none, when a lost message would have been repeated.
    fn next_expiry(&self) -> Instant {
        let now = self.now();
        let holds = (0..self.frames.len()).map(|index| self.frames.frame(index).meta.lock().hold_until);
        holds
            .filter(|until| *until > now)
            .min()
            .unwrap_or(now + self.config.retransmit)
    }

    pub(crate) fn evict_one(self: &Arc<Self>) -> Option<usize> {
        let mut inner = self.lock();
        let now = self.now();
        let Inner {
            core,
            policy,
            waiters,
            ..
        } = &mut *inner;
        let taken = policy.take(&*self.frames, &mut |index| {
            let frame = self.frames.frame(index);
            let meta = *frame.meta.lock();
            let Some(page) = meta.page else { return false };
            let busy = meta.held(now)
                || meta.duty
                || meta.writing.is_some()
                || waiters.range(waiting(page)).next().is_some();
            if busy || !core.releasable(page) || !frame.try_latch() {
                return false;
            }
            // A writer may have come before the latch.
            if frame.meta.lock().duty || !core.handle_release(now, page) {
                frame.unlatch_exclusive();
                return false;
            }
            self.unbind(index, page);
            true
        });
        if taken.is_some() {
            count(&self.figures.evictions);
        }
        self.pump(&mut inner);
        taken
    }

    /// The cleaner's step: writes back up to `max_pages` pages that are wanted, too many, or old; how many were written.
    pub async fn write_back(self: &Arc<Self>, max_pages: usize) -> usize {
        self.write_some(max_pages, false).await
    }

    /// Whether the next step of the cleaner should follow at once: somebody wants pages on storage, or too many are dirty.
    pub fn write_back_is_behind(&self) -> bool {
        self.dirty.is_behind()
    }

    /// Until the cleaner should make a step before its time.
    pub async fn until_write_back_is_behind(&self) {
        self.dirty.until_behind().await;
    }

    /// With `any`, the oldest pages, whether or not they are due.
    async fn write_some(self: &Arc<Self>, max_pages: usize, any: bool) -> usize {
        let mut batch = self.spare_batch.lock().take().unwrap_or_default();
        self.begin_batch(&mut batch, max_pages, any);
        if batch.pages.is_empty() {
            *self.spare_batch.lock() = Some(batch);
            return 0;
        }
        let pool = self.clone();
        let write = async move {
            if !planted(Defect::WriteBackBeforeRedo) {
                pool.redo.wait(batch.redo_end).await; // HZ-11
            }
            pool.complete(&mut batch);
            let result = pool.store.write_batch(&batch.images).await;
            if let Err(error) = &result {
                tracing::error!(%error, pages = batch.pages.len(), "write-back failed");
            }
            pool.end_batch(batch, result.is_ok())
        };
        self.to_the_end("pool-write-back", write).await
    }

    /// Puts into the copies what they need on storage.
    fn complete(&self, batch: &mut Batch) {
        for (writing, mut image) in batch.pages.iter().zip(batch.copies.drain(..)) {
            header::set_identity(&mut image, writing.page, writing.psn);
            header::seal(&mut image, batch.epoch);
            batch.images.push((writing.page, self.written.share(image)));
        }
    }

    /// Runs `work` to its end, also when the caller is dropped meanwhile: a page that is marked as being written is never left so.
    pub(crate) async fn to_the_end<T: Send + 'static>(
        &self,
        name: &'static str,
        work: impl Future<Output = T> + Send + 'static,
    ) -> T {
        let (done, result) = oneshot::channel();
        let task = async move {
            // A caller that has gone needs no answer.
            let _ = done.send(work.await);
        };
        self.runtime.spawn(name, Box::pin(task));
        match result.await {
            Ok(result) => result,
            // The runtime ends, and everything with it.
            Err(_) => std::future::pending().await,
        }
    }

    /// Marks and copies what is to be written, in the order of storage. A page in the batch is not given up before the batch has ended,
    /// and may be changed meanwhile: what is written is the copy.
    fn begin_batch(&self, batch: &mut Batch, max_pages: usize, any: bool) {
        let inner = self.lock();
        batch.clear();
        batch.epoch = inner.core.view().epoch;
        if !inner.core.serving() {
            return;
        }
        let now = self.now();
        if any {
            self.dirty.oldest(max_pages, &mut batch.chosen);
        } else {
            self.dirty
                .due(max_pages, now, self.config.clean_after, &mut batch.chosen);
        }
        let chosen = batch.chosen.iter().map(|index| {
            let page = self.frames.frame(*index).meta.lock().page;
            let page = page.expect("a dirty frame is bound: the core lock is held");
            let (index, psn) = (*index, Psn(0));
            Writing { page, index, psn }
        });
        batch.pages.extend(chosen);
        batch.pages.sort_unstable_by_key(|writing| writing.page);
        for Writing { page, index, psn } in &mut batch.pages {
            let (page, index) = (*page, *index);
            let frame = self.frames.frame(index);
            // With readers, and against writers only while it is copied.
            let reading = frame.latch_shared(page);
            assert!(reading.is_some(), "{page} is dirty: it is possessed");
            let mut meta = frame.meta.lock();
            *psn = frame.psn();
            meta.writing = Some(*psn);
            batch.redo_end = batch.redo_end.max(meta.redo_end);
            self.dirty.note(index, &meta, now);
            drop(meta);
            let mut image = self.written.take();
            self.frames.copy(index, &mut image);
            drop(reading);
            batch.copies.push(image);
        }
    }

    fn end_batch(self: &Arc<Self>, mut batch: Batch, written: bool) -> usize {
        let mut inner = self.lock();
        let now = self.now();
        for Writing { page, index, psn } in &batch.pages {
            let frame = self.frames.frame(*index);
            // No change is half done under this latch.
            let reading = frame.latch_shared(*page);
            assert!(reading.is_some(), "HZ-2: a page stays while it is written");
            let mut meta = frame.meta.lock();
            assert_eq!(
                (meta.page, meta.writing),
                (Some(*page), Some(*psn)),
                "HZ-2: a page stays while it is written"
            );
            meta.writing = None;
            let contributors = meta.contributors;
            let clean = written && frame.psn() == *psn;
            if clean {
                (meta.dirty, meta.duty) = (false, false);
                meta.contributors = NodeSet::EMPTY;
            } else if written {
                // Changed meanwhile, which only this node can have done.
                meta.contributors = NodeSet::of(self.me());
            }
            // Whoever asked meanwhile is told too, and made its changes before this node got the page.
            meta.flush_wanted &= !written;
            self.dirty.note(*index, &meta, now);
            drop(meta);
            drop(reading);
            if !written {
                continue;
            }
            count(&self.figures.write_backs);
            for contributor in contributors.iter() {
                batch.notices.push((contributor, *page, *psn));
            }
            if clean {
                inner.core.handle_cleaned(now, *page);
            }
        }
        if written {
            count(&self.figures.write_batches);
        }
        batch.notices.sort_by_key(|(contributor, _, _)| *contributor);
        for notices in batch.notices.chunk_by(|one, next| one.0 == next.0) {
            let pages = notices.iter().map(|(_, page, psn)| (*page, *psn)).collect();
            inner.core.handle_written_back(now, notices[0].0, pages);
        }
        self.pump(&mut inner);
        drop(inner);
        self.changed.notify_waiters();
        let count = if written { batch.pages.len() } else { 0 };
        batch.clear();
        *self.spare_batch.lock() = Some(batch);
        count
    }

    /// Clean shutdown: takes no more requests, writes everything dirty back, gives every page up, and waits until the
    /// homes know and nobody may need an image of this node. The caller must not install views without this node before.
    pub async fn flush_all(self: &Arc<Self>) -> Result<(), PoolError> {
        assert!(
            !self.flushing.swap(true, Ordering::Relaxed),
            "a pool is shut down once"
        );
        self.lock().closed = true;
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.write_some(self.frames.len(), true).await > 0 {
                continue;
            }
            if self.give_all_up() {
                return Ok(());
            }
            tokio::select! {
                biased;
                () = changed => {}
                () = self.runtime.sleep(self.config.retransmit) => {}
            }
        }
    }

    /// Releases what can be released; true when nothing is left.
    fn give_all_up(self: &Arc<Self>) -> bool {
        let mut inner = self.lock();
        let now = self.now();
        let pages: Vec<(PageId, Mode)> = inner.core.possessions().collect();
        for (page, _) in pages {
            let index = self.table.get(page).expect("a possessed page has a frame");
            let frame = self.frames.frame(index);
            let meta = *frame.meta.lock();
            if meta.duty || meta.writing.is_some() || !inner.core.releasable(page) || !frame.try_latch() {
                continue;
            }
            if frame.meta.lock().duty || !inner.core.handle_release(now, page) {
                frame.unlatch_exclusive();
                continue;
            }
            self.unbind(index, page);
            inner.policy.removed(index);
            self.give_back(index);
        }
        self.pump(&mut inner);
        inner.core.is_quiet()
    }
}
