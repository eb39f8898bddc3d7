//! The tasks that only look and report: `renew`, `watch`, `lease`.

use super::api::Membership;
use super::slot::SlotView;
use super::slots;
use super::types::MembershipError;
use aquifer_dss_proto::Instant;
use aquifer_dss_proto::membership::{LeaseState, SlotFacts};
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl Membership {
    pub(super) fn spawn_tasks(self: &Arc<Self>) {
        let this = self.clone();
        self.runtime
            .spawn("membership-renew", Box::pin(async move { this.renew().await }));
        let this = self.clone();
        self.runtime.spawn(
            "membership-lease",
            Box::pin(async move { this.guard_lease().await }),
        );
        let this = self.clone();
        self.runtime
            .spawn("membership-watch", Box::pin(async move { this.watch().await }));
        let this = self.clone();
        self.runtime
            .spawn("membership-reform", Box::pin(async move { this.reform().await }));
    }

    fn over(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Writes the slot every H; the lease counts from before the write was submitted.
    async fn renew(&self) {
        while !self.over() {
            let begun = self.runtime.now();
            let heartbeat = self.config.timing.heartbeat;
            let pause = match self.write_slot(false).await {
                Ok(()) => heartbeat,
                Err(error) => {
                    tracing::warn!(%error, "the slot could not be written");
                    heartbeat / 4
                }
            };
            tokio::select! {
                biased;
                () = self.wake_renew.notified() => {}
                () = self.runtime.sleep_until(begun + pause) => {}
            }
        }
    }

    /// Writes the slot as things stand now, and flushes it when it has to be durable. A completed write renews the
    /// lease.
    pub(super) async fn write_slot(&self, flush: bool) -> Result<(), MembershipError> {
        let _turn = self.slot_writer.lock().await;
        if self.over() {
            return Ok(());
        }
        let begun = self.runtime.now();
        let bytes = {
            let mut inner = self.inner.lock();
            let (state, heard) = (inner.core.state(), inner.core.heard(begun));
            let (decided, fenced) = (inner.core.decided().view.epoch, inner.core.fenced());
            inner.slot.sequence += 1;
            inner.slot = SlotView {
                state,
                heard,
                decided,
                fenced,
                ..inner.slot.clone()
            };
            inner.slot.encode()
        };
        slots::write_slot(&self.metadata, self.me.node, &bytes).await?;
        self.renewed(begun);
        if flush {
            self.metadata.flush_or_fail().await?;
        }
        Ok(())
    }

    fn renewed(&self, begun: Instant) {
        let timing = &self.config.timing;
        self.inner.lock().lease.renew(begun);
        self.gate
            .fetch_max((begun + (timing.lease - timing.grace)).0, Ordering::AcqRel);
    }

    /// Ends the process when the lease is over.
    async fn guard_lease(&self) {
        let mut warned = false;
        while !self.over() {
            let now = self.runtime.now();
            let (state, next) = {
                let inner = self.inner.lock();
                (inner.lease.state(now), inner.lease.next_change(now))
            };
            match state {
                LeaseState::Valid => warned = false,
                LeaseState::Late | LeaseState::Closed if !warned => {
                    warned = true;
                    tracing::warn!("the slot was not written for half a lease: the storage is slow");
                }
                LeaseState::Late | LeaseState::Closed => {}
                LeaseState::Expired => {
                    self.stop("the lease is over: the slot could not be written in time");
                    return;
                }
            }
            self.runtime.sleep_until(next).await;
        }
    }

    /// Reads the slots every H, then looks at the locks, in this order.
    async fn watch(&self) {
        while !self.over() {
            let begun = self.runtime.now();
            self.send_heartbeats(false);
            match slots::read_all(&self.metadata).await {
                Ok(found) => {
                    // A damaged slot cannot be told from one under way; the last good content stays.
                    let slots = found.into_iter().filter_map(|(_, slot)| slot.ok()?);
                    self.handle_slots(slots.collect());
                }
                Err(error) => tracing::warn!(%error, "the slots could not be read"),
            }
            tokio::select! {
                biased;
                () = self.wake_watch.notified() => {}
                () = self.runtime.sleep_until(begun + self.config.timing.heartbeat) => {}
            }
        }
    }

    fn handle_slots(&self, slots: Vec<SlotView>) {
        let now = self.runtime.now();
        let (lives, on_slots) = {
            let mut inner = self.inner.lock();
            let facts: Vec<SlotFacts> = slots.iter().map(SlotView::facts).collect();
            inner.core.handle_slots(now, facts);
            inner.slots.clone_from(&slots);
            (inner.core.watched().collect::<Vec<_>>(), inner.on_slots.clone())
        };
        for life in lives {
            self.look_at_lock(life);
        }
        on_slots(&slots);
        self.changes.send_modify(|count| *count += 1);
        self.wake_reform.notify_one();
    }
}
