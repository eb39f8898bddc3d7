//! [`Membership`]: its state and what the node calls.

use super::slot::SlotView;
use super::slots;
use super::types::{Exclusions, MembershipConfig, MembershipError, MembershipEvent, Message, Timeline};
use super::vote::Vote;
use crate::group::MetadataDevices;
use crate::seam::{Fencer, LockState, Runtime, Service, Transport};
use aquifer_dss_proto::ballot::BallotBlock;
use aquifer_dss_proto::membership::{Core, Decree, Lease, Seen, SlotState};
use aquifer_dss_proto::{Epoch, Incarnation, Instant, Member, NodeId, View};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// Says whether a node may join (its redo stream is clean). Called by the leader.
pub type Admit = Arc<dyn Fn(NodeId) -> bool + Send + Sync>;
/// Told of all slots after each reading, to feed addresses to the transport.
pub type OnSlots = Arc<dyn Fn(&[SlotView]) + Send + Sync>;

pub(super) struct Inner {
    pub core: Core,
    pub lease: Lease,
    pub slot: SlotView,
    pub slots: Vec<SlotView>,
    pub own_block: BallotBlock,
    /// The own body of this epoch is not on this leg: the leg does not count in its ballot.
    pub no_body: Option<(Epoch, u8)>,
    /// The own block may differ from `own_block`: a write failed.
    pub own_block_unknown: bool,
    pub highest_round: u64,
    pub events: VecDeque<MembershipEvent>,
    pub timeline: Timeline,
    pub detected: Option<Instant>,
    pub exclusions: Exclusions,
    pub admit: Admit,
    pub on_slots: OnSlots,
    pub alarm: Option<String>,
    /// Somebody spoke of a view that this node does not know: the ballot blocks are to be read.
    pub hinted: bool,
}

/// This node's part in the membership of the cluster. See the module and RFC 0001, section 2.
pub struct Membership {
    pub(super) runtime: Arc<dyn Runtime>,
    pub(super) metadata: Arc<MetadataDevices>,
    pub(super) transport: Arc<dyn Transport>,
    pub(super) fencer: Arc<dyn Fencer>,
    pub(super) config: MembershipConfig,
    pub(super) me: Member,
    pub(super) inner: Mutex<Inner>,
    pub(super) vote: Mutex<Vote>,
    pub(super) slot_writer: tokio::sync::Mutex<()>,
    /// Instant (nanoseconds) at which the gate closes.
    pub(super) gate: AtomicU64,
    /// No task does anything any more.
    pub(super) ended: AtomicBool,
    pub(super) wake_vote: Notify,
    pub(super) wake_reform: Notify,
    pub(super) wake_watch: Notify,
    pub(super) wake_renew: Notify,
    pub(super) event_ready: Notify,
    /// Counts changes that `leave` may wait for.
    pub(super) changes: watch::Sender<u64>,
}

impl Membership {
    /// The life of this node.
    pub fn incarnation(&self) -> Incarnation {
        self.me.incarnation
    }

    /// The last view given out by an `Install` event; epoch 0 before the first.
    pub fn view(&self) -> Arc<View> {
        self.inner.lock().core.installed().clone()
    }

    /// The last view known to be decided, installed or not.
    pub fn decided_epoch(&self) -> Epoch {
        self.inner.lock().core.decided().view.epoch
    }

    /// Waits for the next event. One caller at a time.
    pub async fn next_event(&self) -> MembershipEvent {
        loop {
            if let Some(event) = self.inner.lock().events.pop_front() {
                return event;
            }
            self.event_ready.notified().await;
        }
    }

    /// The node has finished installing `epoch`: published in the slot.
    pub fn installed(&self, epoch: Epoch) {
        let now = self.runtime.now();
        let mut inner = self.inner.lock();
        inner.slot.installed_epoch = inner.slot.installed_epoch.max(epoch);
        if inner.timeline.epoch == epoch {
            inner.timeline.installed = Some(now);
        }
        drop(inner);
        self.wake_renew.notify_one();
    }

    /// False from t_r + L - G on: no result may leave, no write may start.
    pub fn lease_valid(&self, now: Instant) -> bool {
        now.0 < self.gate.load(Ordering::Acquire) && !self.ended.load(Ordering::Acquire)
    }

    /// Time until the gate closes (see [`lease_valid`](Self::lease_valid)); zero when it is closed.
    pub fn lease_left(&self, now: Instant) -> std::time::Duration {
        if self.lease_valid(now) {
            Instant(self.gate.load(Ordering::Acquire)).since(now)
        } else {
            std::time::Duration::ZERO
        }
    }

    /// Makes it durable in this node's slot that no SCN above `scn` was given out. Never falls.
    pub async fn raise_scn_ceiling(&self, scn: u64) -> Result<(), MembershipError> {
        {
            let mut inner = self.inner.lock();
            inner.slot.scn_ceiling = inner.slot.scn_ceiling.max(scn);
        }
        self.write_slot(true).await
    }

    /// The highest ceiling of all slots, read from the device now.
    pub async fn highest_scn_ceiling(&self) -> Result<u64, MembershipError> {
        Ok(self
            .read_slots()
            .await?
            .iter()
            .map(|slot| slot.scn_ceiling)
            .max()
            .unwrap_or(0))
    }

    /// All slots as last read, in rising order of node.
    pub fn slots(&self) -> Vec<SlotView> {
        self.inner.lock().slots.clone()
    }

    /// All slots, read from the device now. A damaged slot is an error.
    pub async fn read_slots(&self) -> Result<Vec<SlotView>, MembershipError> {
        let mut slots = Vec::new();
        for (node, slot) in slots::read_all(&self.metadata).await? {
            slots.extend(slot.map_err(|_| MembershipError::Damaged { what: "slot", node })?);
        }
        Ok(slots)
    }

    /// When the steps of the last reform happened.
    pub fn timeline(&self) -> Timeline {
        self.inner.lock().timeline
    }

    /// Whom this node's proposals have excluded since it started.
    pub fn exclusions(&self) -> Exclusions {
        self.inner.lock().exclusions
    }

    /// Why a decided view cannot be given out, while that is so.
    pub fn alarm(&self) -> Option<String> {
        self.inner.lock().alarm.clone()
    }

    /// Sets who may join; everybody may before this is called.
    pub fn set_admit(&self, admit: Admit) {
        self.inner.lock().admit = admit;
        self.wake_reform.notify_one();
    }

    /// Sets who is told of the slots after each reading.
    pub fn set_on_slots(&self, on_slots: OnSlots) {
        let slots = {
            let mut inner = self.inner.lock();
            inner.on_slots = on_slots.clone();
            inner.slots.clone()
        };
        on_slots(&slots);
    }

    /// Something `admit` depends on has changed: look again now.
    pub fn look_again(&self) {
        self.wake_reform.notify_one();
    }

    /// Leaves cleanly: waits for a view without this life (or until nobody is there to make one), then writes
    /// `Down`. The caller has stopped using the shared storage before.
    pub async fn leave(&self) -> Result<(), MembershipError> {
        let mut changes = self.changes.subscribe();
        self.inner.lock().core.handle_leave();
        self.write_slot(false).await?;
        self.send_heartbeats(true);
        let deadline = self.runtime.now() + self.config.timing.death_after();
        while self.runtime.now() < deadline && !self.may_go() {
            let pause = (self.runtime.now() + self.config.timing.heartbeat).min(deadline);
            tokio::select! {
                biased;
                _ = changes.changed() => {}
                () = self.runtime.sleep_until(pause) => {}
            }
        }
        self.inner.lock().core.handle_down();
        self.write_slot(true).await?;
        self.ended.store(true, Ordering::Release);
        self.metadata.set_decides(false);
        self.send_heartbeats(true);
        self.wake_all();
        Ok(())
    }

    /// Whether nobody is left whom a view without this node would help.
    fn may_go(&self) -> bool {
        let inner = self.inner.lock();
        let view = &inner.core.decided().view;
        let stays = |member: &Member| {
            *member != self.me
                && inner.slots.iter().any(|slot| {
                    slot.node == member.node
                        && slot.incarnation == member.incarnation
                        && slot.state == SlotState::Member
                })
                && !inner.core.is_gone(self.runtime.now(), *member)
        };
        !view.members.contains(&self.me) || !view.members.iter().any(stays)
    }

    /// A message of `Service::Membership`. Garbage is dropped.
    pub fn receive(&self, from: NodeId, incarnation: Incarnation, body: &[u8]) {
        if from == self.me.node || self.ended.load(Ordering::Acquire) {
            return;
        }
        let Ok(message) = postcard::from_bytes::<Message>(body) else {
            tracing::warn!(%from, "membership message that cannot be decoded");
            return;
        };
        let now = self.runtime.now();
        let life = Member {
            node: from,
            incarnation,
        };
        self.inner.lock().core.handle_message(now, life);
        match message {
            Message::Heartbeat { look: false } => {}
            Message::Heartbeat { look: true } => self.wake_watch.notify_one(),
            Message::Announce(decree) if decree.is_sound(self.metadata.home_slots()) => {
                self.receive_announcement(life, decree, now);
            }
            Message::Announce(_) => tracing::warn!(%from, "announcement of an impossible view"),
            Message::Ask(ask) => self.receive_ask(life, ask),
            Message::Word(word) => self.receive_word(life, word),
        }
    }

    /// MEM-11: the next view is believed of a member of the last one, who has decided and fenced before saying so. Anything else, a gap or a
    /// founding view, is a reason to read the ballot blocks, and nothing more.
    fn receive_announcement(&self, sender: Member, decree: Decree, now: Instant) {
        let epoch = decree.view.epoch;
        let mut inner = self.inner.lock();
        let known = inner.core.decided();
        let member = known.view.members.contains(&sender);
        let next = known.view.epoch < Epoch(u64::MAX) && epoch == known.view.epoch.next();
        if member && next {
            drop(inner);
            self.handle_decided(decree, false);
            inner = self.inner.lock();
        } else if epoch > known.view.epoch {
            inner.hinted = true;
            drop(inner);
            self.wake_watch.notify_one();
            return self.wake_reform.notify_one();
        } else if !member || (epoch == known.view.epoch && decree != *known) {
            tracing::warn!(%sender.node, epoch = epoch.0, "an announcement that contradicts what is decided");
            return;
        }
        if inner.core.decided().view.epoch >= epoch {
            inner.core.handle_fenced(epoch);
            self.note_fenced(&mut inner, epoch, now);
        }
        drop(inner);
        self.wake_reform.notify_one();
    }

    /// A connection was closed: looks at the peer's lock at once, and again while the kernel may be tearing down.
    pub fn disconnected(self: &Arc<Self>, peer: NodeId, incarnation: Incarnation) {
        let life = Member {
            node: peer,
            incarnation,
        };
        if peer == self.me.node || self.ended.load(Ordering::Acquire) || self.look_at_lock(life) {
            return;
        }
        let this = self.clone();
        let look = async move {
            let mut pause = Duration::from_millis(1);
            while pause < this.config.timing.heartbeat {
                this.runtime.sleep(pause).await;
                if this.ended.load(Ordering::Acquire) || this.look_at_lock(life) {
                    return;
                }
                pause = pause * 3 / 2;
            }
        };
        self.runtime.spawn("membership-look", Box::pin(look));
    }

    /// Looks at the lock of a life; true when it is free.
    pub(super) fn look_at_lock(&self, life: Member) -> bool {
        let Ok(lock) = self.fencer.observe(life.node, life.incarnation) else {
            return false;
        };
        let now = self.runtime.now();
        let mut inner = self.inner.lock();
        if inner.core.handle_lock(life, lock == LockState::Held) {
            tracing::info!(node = %life.node, incarnation = life.incarnation.0, "lock is free: node is dead");
            inner.detected.get_or_insert(now);
            drop(inner);
            self.wake_reform.notify_one();
        }
        lock == LockState::Free
    }

    /// A decree is decided. Stops this life when it is excluded.
    pub(super) fn handle_decided(&self, decree: Decree, here: bool) {
        let now = self.runtime.now();
        let mut inner = self.inner.lock();
        let (epoch, legs) = (decree.view.epoch, decree.metadata);
        let seen = inner.core.handle_decided(now, decree, here);
        if seen == Seen::Old {
            return;
        }
        self.metadata.set_legs(legs);
        self.vote.lock().begin(epoch);
        tracing::info!(epoch = epoch.0, here, "view decided");
        inner.timeline = Timeline {
            epoch,
            detected: inner.detected.take(),
            decided: Some(now),
            ..Timeline::default()
        };
        drop(inner);
        self.changes.send_modify(|count| *count += 1);
        if seen == Seen::Excluded {
            self.stop(&format!(
                "this node is not in the view of epoch {}: the others have gone on",
                epoch.0
            ));
        }
        self.wake_reform.notify_one();
    }

    pub(super) fn note_fenced(&self, inner: &mut Inner, epoch: Epoch, now: Instant) {
        if inner.timeline.epoch == epoch && inner.timeline.fenced.is_none() {
            inner.timeline.fenced = Some(now);
        }
    }

    pub(super) fn push_event(&self, event: MembershipEvent) {
        self.inner.lock().events.push_back(event);
        self.event_ready.notify_one();
    }

    /// Ends this life.
    pub(super) fn stop(&self, reason: &str) {
        if self.ended.swap(true, Ordering::AcqRel) {
            return;
        }
        tracing::error!(reason, "membership stops this node");
        self.metadata.set_decides(false);
        self.push_event(MembershipEvent::Stop {
            reason: reason.to_owned(),
        });
        self.wake_all();
        self.runtime.abort(reason);
    }

    pub(super) fn wake_all(&self) {
        for wake in [
            &self.wake_vote,
            &self.wake_reform,
            &self.wake_watch,
            &self.wake_renew,
            &self.event_ready,
        ] {
            wake.notify_one();
        }
    }

    pub(super) fn send(&self, to: NodeId, message: &Message) {
        let body = postcard::to_allocvec(message).expect("a message has nothing that cannot be encoded");
        self.transport.send(to, Service::Membership, &body, None);
    }

    pub(super) fn send_heartbeats(&self, look: bool) {
        let peers: Vec<NodeId> = self.inner.lock().core.watched().map(|life| life.node).collect();
        for peer in peers {
            self.send(peer, &Message::Heartbeat { look });
        }
    }
}
