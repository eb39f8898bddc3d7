//! Pages are given up as their homes order it, as soon as nothing is in the way (BUF-4).
//!
//! Those that have to wait have one task together, whatever they wait for: a page that several nodes want at once is nearly always held when
//! the order comes, and whoever gives the last hold back mostly gives the page up itself; one flush of redo serves many of them.

use crate::images::Image;
use crate::pool::{Inner, Pool, count};
use aquifer_buffer_pool_proto::{Conversion, Lsn, Mode, PageId, SurrenderKind};
use aquifer_dss::seam::Timer;
use aquifer_dss_proto::Instant;
use aquifer_dss_proto::defect::{Defect, planted};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What a surrender still waits for.
#[derive(Clone, Copy)]
pub(crate) enum Obstacle {
    Redo(Lsn),
    Write,
    Hold(Instant),
}

/// A surrender that waits.
pub(crate) struct Leaving {
    page: PageId,
    conversion: Conversion,
    obstacle: Obstacle,
    /// When that was in the way first.
    since: Instant,
}

/// A timer that is set again only for an earlier time, or when it is over.
struct Alarm {
    set: Option<Instant>,
    timer: Timer,
}

impl Alarm {
    /// Rings at `next` at the latest.
    fn set(&mut self, next: Option<Instant>) {
        let Some(next) = next else { return };
        if self.set.is_none_or(|set| next < set) {
            self.set = Some(next);
            self.timer.set(next);
        }
    }

    /// Until the time that is set.
    async fn wait(&mut self) {
        if self.set.is_none() {
            return std::future::pending().await;
        }
        self.timer.over().await;
        self.timer.forget();
        self.set = None;
    }
}

/// When the first hold expires that is in the way of a surrender, if one is.
struct NextHold(Option<Instant>);

impl Pool {
    pub(crate) fn begin_surrender(self: &Arc<Self>, inner: &mut Inner, page: PageId, conversion: Conversion) {
        if let Some(obstacle) = self.try_surrender(inner, page, conversion) {
            inner.leaving.push(Leaving {
                page,
                conversion,
                obstacle,
                since: self.now(),
            });
            self.leaving.notify_one();
        }
    }

    /// Gives up pages when what was in the way is over.
    pub(crate) fn start_surrendering(self: &Arc<Self>) {
        let (weak, timer) = (Arc::downgrade(self), Timer::new(self.runtime.clone()));
        let (leaving, changed) = (self.leaving.clone(), self.changed.clone());
        let task = async move {
            let mut alarm = Alarm { set: None, timer };
            loop {
                let Some(pool) = weak.upgrade() else { return };
                let durable = pool.redo.risen();
                let (mut changed, mut durable) = (pin!(changed.notified()), pin!(durable.notified()));
                changed.as_mut().enable();
                durable.as_mut().enable();
                let next = pool.surrender_leaving();
                drop(pool);
                let Some(next) = next else {
                    leaving.notified().await;
                    continue;
                };
                alarm.set(next.0);
                tokio::select! {
                    biased;
                    () = changed => {}
                    () = durable => {}
                    () = leaving.notified() => {}
                    () = alarm.wait() => {}
                }
            }
        };
        self.runtime.spawn("pool-surrenders", Box::pin(task));
    }

    /// Looks at all that wait. What is to be waited for: the end of the first hold, if any; `None` when nobody waits.
    fn surrender_leaving(self: &Arc<Self>) -> Option<NextHold> {
        let mut inner = self.lock();
        let mut next: Option<Instant> = None;
        let mut at = 0;
        while at < inner.leaving.len() {
            let Leaving {
                page,
                conversion,
                obstacle,
                ..
            } = inner.leaving[at];
            if matches!(obstacle, Obstacle::Redo(position) if position > self.redo.durable()) {
                // No writer gets in, so there is nothing to look at in the frame.
                at += 1;
                continue;
            }
            let obstacle = self.try_surrender(&mut inner, page, conversion);
            self.count_wait(&mut inner.leaving[at], obstacle);
            match obstacle {
                None => drop(inner.leaving.swap_remove(at)),
                Some(obstacle) => {
                    if let Obstacle::Hold(until) = obstacle {
                        next = Some(next.map_or(until, |next| next.min(until)));
                    }
                    at += 1;
                }
            }
        }
        self.pump(&mut inner);
        (!inner.leaving.is_empty()).then_some(NextHold(next))
    }

    /// Accounts for the time that an obstacle was in the way, when it is not any more.
    fn count_wait(&self, leaving: &mut Leaving, now_waits_for: Option<Obstacle>) {
        let figure = match (leaving.obstacle, now_waits_for) {
            (Obstacle::Redo(_), Some(Obstacle::Redo(_)))
            | (Obstacle::Write, Some(Obstacle::Write))
            | (Obstacle::Hold(_), Some(Obstacle::Hold(_))) => return,
            (Obstacle::Redo(_), _) => &self.figures.surrender_redo,
            (Obstacle::Write, _) => &self.figures.surrender_write,
            (Obstacle::Hold(_), _) => &self.figures.surrender_hold,
        };
        let now = self.now();
        let waited = now.0.saturating_sub(leaving.since.0);
        figure.fetch_add(waited, Ordering::Relaxed);
        leaving.since = now;
        leaving.obstacle = now_waits_for.unwrap_or(leaving.obstacle);
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
