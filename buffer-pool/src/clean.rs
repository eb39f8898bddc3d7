//! Frames for new pages, and the way of dirty pages to storage.
//!
//! Rules: only the dirty holder writes a page back (DIR-4), from a private copy taken under the latch, and it gives the
//! page up only when the write is durable (HZ-2); redo of the page's last change is durable before it is written
//! (DIR-3, HZ-11); contributors are told after that (HZ-5).

use crate::config::PoolError;
use crate::pool::{Inner, Pool, count};
use aquifer_buffer_pool_proto::{Lsn, Mode, PAGE_SIZE, PageId, Psn, header};
use aquifer_dss::seam::IoBuffer;
use aquifer_dss_proto::defect::{Defect, planted};
use aquifer_dss_proto::{Instant, NodeId, NodeSet};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::oneshot;

/// One page of a write-back batch.
struct Writing {
    page: PageId,
    index: usize,
    psn: Psn,
}

impl Pool {
    /// A frame that nobody else has. Evicts, writes back, or waits until a page can be given up.
    pub(crate) async fn allocate(self: &Arc<Self>) -> usize {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(index) = self.free.lock().pop() {
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

    fn evict_one(self: &Arc<Self>) -> Option<usize> {
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
            let busy = meta.held(now) || meta.duty || meta.writing.is_some() || waiters.contains_key(&page);
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

    /// The cleaner's step: writes back up to `max_pages` pages that are old or wanted; how many were written.
    pub async fn write_back(self: &Arc<Self>, max_pages: usize) -> usize {
        self.write_some(max_pages, false).await
    }

    /// With `any`, age does not matter, and redo is waited for.
    async fn write_some(self: &Arc<Self>, max_pages: usize, any: bool) -> usize {
        let (batch, images, blocked) = self.begin_batch(max_pages, any);
        if blocked > Lsn(0) {
            self.redo.request(blocked);
            if batch.is_empty() && any {
                self.redo.wait(blocked).await;
                return 1; // progress: look again
            }
        }
        if batch.is_empty() {
            return 0;
        }
        let pool = self.clone();
        let write = async move {
            let result = pool.store.write_batch(images).await;
            if let Err(error) = &result {
                tracing::error!(%error, pages = batch.len(), "write-back failed");
            }
            pool.end_batch(&batch, result.is_ok())
        };
        self.to_the_end("pool-write-back", write).await
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

    /// Marks and copies what is to be written; also the redo position that kept a page back.
    fn begin_batch(&self, max_pages: usize, any: bool) -> (Vec<Writing>, Vec<(PageId, IoBuffer)>, Lsn) {
        let inner = self.lock();
        let (now, durable, epoch) = (self.now(), self.redo.durable(), inner.core.view().epoch);
        let (mut batch, mut images, mut blocked) = (Vec::new(), Vec::new(), Lsn(0));
        if !inner.core.serving() {
            return (batch, images, blocked);
        }
        let mut candidates: Vec<(bool, Instant, usize)> = (0..self.frames.len())
            .filter_map(|index| {
                let meta = self.frames.frame(index).meta.lock();
                let due = any || meta.flush_wanted || now.since(meta.dirty_since) >= self.config.clean_after;
                let ready = meta.page.is_some() && meta.duty && meta.dirty && meta.writing.is_none();
                (ready && due).then_some((!meta.flush_wanted, meta.dirty_since, index))
            })
            .collect();
        candidates.sort_unstable();
        for (_, _, index) in candidates.into_iter().take(max_pages) {
            let frame = self.frames.frame(index);
            frame.latch();
            let mut meta = frame.meta.lock();
            let page = meta.page.expect("it is bound: the core lock is held");
            if meta.redo_end > durable && !planted(Defect::WriteBackBeforeRedo) {
                blocked = blocked.max(meta.redo_end); // HZ-11
            } else {
                let mut image = IoBuffer::zeroed(PAGE_SIZE);
                self.frames.copy(index, &mut image);
                meta.writing = Some(frame.psn());
                header::set_identity(&mut image, page, frame.psn());
                header::seal(&mut image, epoch);
                batch.push(Writing {
                    page,
                    index,
                    psn: frame.psn(),
                });
                images.push((page, image));
            }
            drop(meta);
            frame.unlatch_exclusive();
        }
        (batch, images, blocked)
    }

    fn end_batch(self: &Arc<Self>, batch: &[Writing], written: bool) -> usize {
        let mut inner = self.lock();
        let now = self.now();
        let mut notices: BTreeMap<NodeId, Vec<(PageId, Psn)>> = BTreeMap::new();
        for Writing { page, index, psn } in batch {
            let frame = self.frames.frame(*index);
            frame.latch();
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
                (meta.dirty, meta.duty, meta.flush_wanted) = (false, false, false);
                meta.contributors = NodeSet::EMPTY;
            } else if written {
                // Changed meanwhile, which only this node can have done.
                meta.contributors = NodeSet::of(self.me());
                meta.dirty_since = now;
            }
            drop(meta);
            frame.unlatch_exclusive();
            if !written {
                continue;
            }
            count(&self.figures.write_backs);
            for contributor in contributors.iter() {
                notices.entry(contributor).or_default().push((*page, *psn));
            }
            if clean {
                inner.core.handle_cleaned(now, *page);
            }
        }
        for (contributor, pages) in notices {
            inner.core.handle_written_back(now, contributor, pages);
        }
        self.pump(&mut inner);
        drop(inner);
        self.changed.notify_waiters();
        if written { batch.len() } else { 0 }
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
