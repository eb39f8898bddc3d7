//! The `reform` task: learns, gives out views, proposes, fences. One step at a time, so nothing runs twice.

use super::api::Membership;
use super::ballots::{Outcome, learn_decided};
use super::types::{MembershipError, MembershipEvent, Message, Timeline};
use crate::seam::{FenceError, ProcessIdentity};
use aquifer_dss_proto::defect::{Defect, planted};
use aquifer_dss_proto::membership::{Decree, Plan, Proposal};
use aquifer_dss_proto::{Instant, Member};
use std::sync::atomic::Ordering;
use std::time::Duration;

impl Membership {
    pub(super) async fn reform(&self) {
        while !self.ended.load(Ordering::Acquire) {
            let next = match self.reform_step().await {
                Ok(next) => next,
                Err(error) => {
                    tracing::error!(%error, "a view could not be agreed on; trying again");
                    self.inner.lock().alarm = Some(error.to_string());
                    self.pause(self.config.timing.heartbeat).await;
                    continue;
                }
            };
            let idle = self.runtime.now() + self.config.timing.heartbeat;
            tokio::select! {
                biased;
                () = self.wake_reform.notified() => {}
                () = self.metadata.news.notified() => {}
                () = self.runtime.sleep_until(next.unwrap_or(idle)) => {}
            }
        }
    }

    async fn pause(&self, duration: Duration) {
        self.runtime.sleep(duration).await;
    }

    /// Does what is due; answers when to look again at the latest.
    async fn reform_step(&self) -> Result<Option<Instant>, MembershipError> {
        let behind = {
            let mut inner = self.inner.lock();
            std::mem::take(&mut inner.hinted) || inner.core.is_behind()
        };
        if behind {
            let decree = learn_decided(&*self.runtime, &self.metadata).await?;
            self.handle_decided(decree, false);
        }
        if let Some(leg) = self.metadata.failed_leg() {
            self.inner.lock().core.handle_leg_lost(leg);
        } else if self.metadata.is_full() {
            self.inner.lock().core.handle_leg_filled();
        }
        self.give_out_view().await?;
        let now = self.runtime.now();
        let admit = self.inner.lock().admit.clone();
        // Asked outside the lock, since the answer is the node's own code.
        let admitted = {
            let joiners: Vec<_> = self.inner.lock().core.watched().map(|life| life.node).collect();
            joiners
                .into_iter()
                .filter(|node| admit(*node))
                .collect::<aquifer_dss_proto::NodeSet>()
        };
        let proposal = self.inner.lock().core.plan(now, &|node| admitted.contains(node));
        match proposal {
            Proposal::None => Ok(None),
            Proposal::At(instant) => Ok(Some(instant)),
            Proposal::Due(_) if !self.lease_valid(now) => Ok(None),
            Proposal::Due(Plan::Propose(decree)) => {
                self.propose(decree).await?;
                Ok(Some(self.runtime.now()))
            }
            Proposal::Due(Plan::Fence) => {
                let done = self.fence_decided().await?;
                Ok(Some(
                    self.runtime.now()
                        + if done {
                            Duration::ZERO
                        } else {
                            self.config.timing.heartbeat
                        },
                ))
            }
        }
    }

    async fn propose(&self, decree: Decree) -> Result<(), MembershipError> {
        let members = decree.view.nodes();
        tracing::info!(
            epoch = decree.view.epoch.0,
            ?members,
            dead = decree.dead.len(),
            "proposing a view"
        );
        {
            let now = self.runtime.now();
            let mut inner = self.inner.lock();
            if !decree.dead.is_empty() {
                inner.detected.get_or_insert(now);
            }
        }
        let before = self.runtime.now();
        match self.run_ballot(&decree).await? {
            Outcome::Decided(decree) => {
                // The last flush of the ballot counts as the one after the fence for lives dead before it began.
                let proven = !self.has_further_volumes() && self.all_dead_at(&decree, before);
                let epoch = decree.view.epoch;
                self.count_exclusions(&decree);
                self.handle_decided(decree.clone(), true);
                if proven {
                    self.announce(&decree);
                } else {
                    tracing::info!(epoch = epoch.0, "fencing the excluded");
                }
            }
            Outcome::Learned(decree) => self.handle_decided(decree, false),
            Outcome::Preempted => {
                // Two proposers must not keep stopping each other.
                let spread = self.config.timing.heartbeat.as_nanos() as u64 / 8;
                self.pause(Duration::from_nanos(
                    spread / 8 + self.runtime.random() % spread.max(1),
                ))
                .await;
            }
        }
        Ok(())
    }

    /// Counts the members that `decree`, which is not known yet, excludes. A founding view has nobody to exclude.
    fn count_exclusions(&self, decree: &Decree) {
        let now = self.runtime.now();
        let mut inner = self.inner.lock();
        let present = &inner.core.decided().view.members;
        let excluded = decree
            .dead
            .iter()
            .filter(|life| !decree.founding && present.contains(life));
        let states: Vec<_> = excluded
            .map(|life| (life.node, inner.core.life(now, *life)))
            .collect();
        for (node, state) in states {
            tracing::info!(%node, ?state, "a member is excluded");
            inner.exclusions.count(state);
        }
    }

    /// Whether there are devices besides that of the control blocks.
    fn has_further_volumes(&self) -> bool {
        let volumes = self.config.volumes.as_ref();
        volumes.is_some_and(|volumes| volumes.has_further())
    }

    fn all_dead_at(&self, decree: &Decree, instant: Instant) -> bool {
        let inner = self.inner.lock();
        decree
            .dead
            .iter()
            .all(|life| inner.core.is_proven_dead(instant, *life))
    }

    /// Fences everybody whom the decided decree excludes, flushes, announces. False when somebody may still live.
    async fn fence_decided(&self) -> Result<bool, MembershipError> {
        let decree = self.inner.lock().core.decided().clone();
        for life in &decree.dead {
            if let Err(error) = self.fence(&decree, *life).await {
                tracing::error!(%error, node = %life.node, epoch = decree.view.epoch.0,
                    "a dead node cannot be fenced: its pages stay frozen");
                self.inner.lock().alarm = Some(error.to_string());
                return Ok(false);
            }
        }
        // HZ-10: what the dead had written and the kernel finished for them must be durable before anybody reads it.
        if planted(Defect::ReadTailsBeforeFlush) {
            self.announce(&decree);
            return Ok(true);
        }
        self.metadata.flush_or_fail().await?;
        if let Some(volumes) = &self.config.volumes {
            volumes.flush_after_fence().await?;
        }
        self.announce(&decree);
        Ok(true)
    }

    async fn fence(&self, decree: &Decree, life: Member) -> Result<(), FenceError> {
        let now = self.runtime.now();
        let identity: Option<ProcessIdentity> = {
            let inner = self.inner.lock();
            if inner.core.is_proven_dead(now, life) || planted(Defect::AnnounceUnfenced) {
                return Ok(());
            }
            let own =
                |slot: &&super::SlotView| slot.node == life.node && slot.incarnation == life.incarnation;
            inner.slots.iter().find(own).map(|slot| slot.identity.clone())
        };
        let identity = identity.ok_or(FenceError::NoProof(life.node))?;
        let deadline = now + self.config.timing.longest_io;
        let result = self
            .fencer
            .fence(life.node, life.incarnation, identity, deadline)
            .await;
        let mut inner = self.inner.lock();
        let now = self.runtime.now();
        let by_lease = (decree.founding || self.config.lease_is_proof) && inner.core.lease_is_over(now, life);
        match result {
            Err(FenceError::NoProof(_) | FenceError::System { .. }) if by_lease => {
                tracing::warn!(node = %life.node, "taken for dead because its lease is over");
            }
            other => other?,
        }
        inner.core.handle_dead(life);
        Ok(())
    }

    /// All dead of `decree` are proven dead and the devices flushed: everybody may act on it.
    fn announce(&self, decree: &Decree) {
        let epoch = decree.view.epoch;
        {
            let now = self.runtime.now();
            let mut inner = self.inner.lock();
            inner.core.handle_fenced(epoch);
            inner.alarm = None;
            self.note_fenced(&mut inner, epoch, now);
        }
        for member in decree
            .view
            .members
            .iter()
            .filter(|member| member.node != self.me.node)
        {
            self.send(member.node, &Message::Announce(decree.clone()));
        }
        for left in &decree.left {
            self.send(left.node, &Message::Announce(decree.clone()));
        }
        self.wake_reform.notify_one();
    }

    /// Gives out the last view that may be acted upon, after the slot says that this node is a member.
    async fn give_out_view(&self) -> Result<(), MembershipError> {
        let install = self.inner.lock().core.poll_install();
        let Some((view, previous, dead)) = install else {
            return Ok(());
        };
        let epoch = view.epoch;
        if let Err(error) = self.write_slot(false).await {
            tracing::warn!(%error, "the slot does not name the new view yet");
        }
        {
            let now = self.runtime.now();
            let mut inner = self.inner.lock();
            if inner.timeline.epoch != epoch {
                inner.timeline = Timeline {
                    epoch,
                    ..Timeline::default()
                };
            }
            inner.timeline.fenced.get_or_insert(now);
            inner.timeline.announced = Some(now);
        }
        tracing::info!(epoch = epoch.0, members = ?view.nodes(), dead = dead.len(), "view given out");
        self.push_event(MembershipEvent::Install { view, previous, dead });
        self.send_heartbeats(true);
        self.record_decided().await
    }
}
