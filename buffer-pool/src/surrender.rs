//! Pages are given up as their homes order it, as soon as nothing is in the way (BUF-4).
//!
//! A surrender that waits for redo or for a write is a task of its own. Those that wait for a hold have one together: a page that several
//! nodes want at once is nearly always held when the order comes, and whoever gives the last hold back mostly gives the page up itself.

use crate::images::Image;
use crate::pool::{Inner, Pool, count};
use aquifer_buffer_pool_proto::{Conversion, Lsn, Mode, PageId, SurrenderKind};
use aquifer_dss::seam::BoxFuture;
use aquifer_dss_proto::Instant;
use aquifer_dss_proto::defect::{Defect, planted};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What a surrender still waits for.
pub(crate) enum Obstacle {
    Redo(Lsn),
    Write,
    Hold(Instant),
}

/// A surrender that waits for a hold.
pub(crate) struct Leaving {
    page: PageId,
    conversion: Conversion,
    since: Instant,
}

/// A timer that is set again only for an earlier time, or when it is over.
#[derive(Default)]
struct Alarm(Option<(Instant, BoxFuture<'static, ()>)>);

impl Alarm {
    /// Until the time that is set.
    async fn wait(&mut self) {
        match &mut self.0 {
            Some((_, timer)) => {
                timer.await;
                self.0 = None;
            }
            None => std::future::pending().await,
        }
    }
}

impl Pool {
    pub(crate) fn begin_surrender(self: &Arc<Self>, inner: &mut Inner, page: PageId, conversion: Conversion) {
        if let Some(obstacle) = self.try_surrender(inner, page, conversion) {
            self.wait_to_surrender(inner, page, conversion, &obstacle);
        }
    }

    fn wait_to_surrender(
        self: &Arc<Self>,
        inner: &mut Inner,
        page: PageId,
        conversion: Conversion,
        obstacle: &Obstacle,
    ) {
        if matches!(obstacle, Obstacle::Hold(_)) {
            inner.leaving.push(Leaving {
                page,
                conversion,
                since: self.now(),
            });
            self.leaving.notify_one();
            return;
        }
        let pool = self.clone();
        let task = async move { pool.surrender_when_written(page, conversion).await };
        self.runtime.spawn("pool-surrender", Box::pin(task));
    }

    /// Gives the page up when redo, and a write of it, are done; with a hold in the way then, it waits with the others.
    async fn surrender_when_written(self: Arc<Self>, page: PageId, conversion: Conversion) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let obstacle = {
                let mut inner = self.lock();
                let obstacle = self.try_surrender(&mut inner, page, conversion);
                if let Some(hold @ Obstacle::Hold(_)) = &obstacle {
                    self.wait_to_surrender(&mut inner, page, conversion, hold);
                }
                self.pump(&mut inner);
                obstacle
            };
            let begun = self.now();
            let waited = match obstacle {
                None | Some(Obstacle::Hold(_)) => return,
                Some(Obstacle::Redo(position)) => {
                    self.redo.wait(position).await;
                    &self.figures.surrender_redo
                }
                Some(Obstacle::Write) => {
                    changed.await;
                    &self.figures.surrender_write
                }
            };
            waited.fetch_add(self.now().0.saturating_sub(begun.0), Ordering::Relaxed);
        }
    }

    /// Gives up pages whose holds have ended or expired.
    pub(crate) fn start_surrendering(self: &Arc<Self>) {
        let (weak, runtime) = (Arc::downgrade(self), self.runtime.clone());
        let (leaving, changed) = (self.leaving.clone(), self.changed.clone());
        let task = async move {
            let mut alarm = Alarm::default();
            loop {
                let changed = changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                let next = {
                    let Some(pool) = weak.upgrade() else { return };
                    let mut inner = pool.lock();
                    let next = pool.surrender_leaving(&mut inner);
                    pool.pump(&mut inner);
                    next
                };
                let Some(next) = next else {
                    leaving.notified().await;
                    continue;
                };
                if alarm.0.as_ref().is_none_or(|(set, _)| next < *set) {
                    alarm.0 = Some((next, runtime.sleep_until(next)));
                }
                tokio::select! {
                    biased;
                    () = changed => {}
                    () = leaving.notified() => {}
                    () = alarm.wait() => {}
                }
            }
        };
        self.runtime.spawn("pool-surrenders", Box::pin(task));
    }

    /// When the next of those that still wait is to be looked at.
    fn surrender_leaving(self: &Arc<Self>, inner: &mut Inner) -> Option<Instant> {
        let mut next: Option<Instant> = None;
        let mut at = 0;
        while let Some(Leaving {
            page,
            conversion,
            since,
        }) = inner.leaving.get(at)
        {
            let (page, conversion, since) = (*page, *conversion, *since);
            let obstacle = self.try_surrender(inner, page, conversion);
            if let Some(Obstacle::Hold(until)) = obstacle {
                next = Some(next.map_or(until, |next| next.min(until)));
                at += 1;
                continue;
            }
            inner.leaving.swap_remove(at);
            let waited = self.now().0.saturating_sub(since.0);
            self.figures.surrender_hold.fetch_add(waited, Ordering::Relaxed);
            if let Some(obstacle) = obstacle {
                self.wait_to_surrender(inner, page, conversion, &obstacle);
            }
        }
        next
    }

    /// A copy of a frame that the caller has latched in any mode.
    pub(crate) fn image_of(&self, index: usize) -> Image {
        let mut image = self.images.take();
        self.frames.copy(index, &mut image);
        Image::Buffer(self.images.share(image))
    }

    /// Gives the page up if nothing is in the way. `None` when it is done or not wanted any more.
    pub(crate) fn try_surrender(
        self: &Arc<Self>,
        inner: &mut Inner,
        page: PageId,
        conversion: Conversion,
    ) -> Option<Obstacle> {
        let (wanted, kind) = inner.core.surrender_wanted(page)?;
        if wanted != conversion {
            return None;
        }
        let index = self.table.get(page).expect("a possessed page has a frame");
        let frame = self.frames.frame(index);
        frame.latch();
        let meta = *frame.meta.lock();
        let obstacle = if meta.held(self.now()) {
            Some(Obstacle::Hold(meta.hold_until))
        } else if meta.redo_end > self.redo.durable() && !planted(Defect::SurrenderBeforeRedo) {
            Some(Obstacle::Redo(meta.redo_end)) // DIR-3
        } else if meta.writing.is_some() && !planted(Defect::SurrenderWhileWriting) {
            Some(Obstacle::Write) // HZ-2
        } else {
            None
        };
        if obstacle.is_some() {
            if matches!(obstacle, Some(Obstacle::Hold(_))) {
                frame.meta.lock().leaving = Some(conversion);
            } else {
                frame.close(); // or local writers would move the redo position on for ever
            }
            if let Some(Obstacle::Redo(position)) = obstacle {
                self.redo.request(position);
            }
            frame.unlatch_exclusive();
            return obstacle;
        }
        let info = frame.info(&meta);
        let needed = kind != SurrenderKind::Drop || meta.duty;
        let image = needed.then(|| self.image_of(index));
        match kind {
            SurrenderKind::Copy => {
                frame.open();
                frame.unlatch_exclusive();
            }
            SurrenderKind::Downgrade => {
                frame.set_possession(Some(Mode::Shared));
                frame.unlatch_exclusive();
            }
            SurrenderKind::Ship | SurrenderKind::Drop => {
                count(&self.figures.invalidations);
                self.unbind(index, page);
                inner.policy.removed(index);
                self.give_back(index);
            }
        }
        inner
            .core
            .handle_surrendered(self.now(), page, conversion, image, info);
        self.serve(inner, page);
        None
    }
}
