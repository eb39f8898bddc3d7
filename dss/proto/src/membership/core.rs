//! The decision: given what this node has seen, what should it do now.

use super::graph::largest_connected;
use super::peer::Peer;
use super::{Decree, LifeState, MetadataLegs, SlotFacts, SlotState, Timing};
use crate::defect::{Defect, planted};
use crate::{Epoch, Incarnation, Instant, Member, NodeId, NodeSet, View};
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// Something for the driver to carry out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Plan {
    /// Run a ballot for this decree, unless a later one is decided meanwhile.
    Propose(Decree),
    /// The decided view waits for proof that `decided().dead` are dead: fence them, flush, announce.
    Fence,
}

/// A proposal that is due later.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Proposal {
    /// Nothing to do as things stand.
    None,
    /// Look again at this instant.
    At(Instant),
    /// Now.
    Due(Plan),
}

/// What a newly decided view means for this node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seen {
    /// Not news.
    Old,
    /// This life is in it, or still waits outside.
    Noted,
    /// This life was in the view before and is not any more: stop at once.
    Excluded,
    /// This life wanted out and is.
    Left,
}

/// See the module.
pub struct Core {
    me: Member,
    timing: Timing,
    started: Instant,
    state: SlotState,
    peers: BTreeMap<NodeId, Peer>,
    heard: BTreeMap<NodeId, (Incarnation, Instant)>,
    decided: Decree,
    decided_at: Instant,
    decided_here: bool,
    fenced: Epoch,
    installed: Arc<View>,
    previous: Arc<View>,
    needed_since: Option<Instant>,
    apart_since: Option<Instant>,
    /// Which legs shall have the metadata, when that is news.
    wanted: Option<MetadataLegs>,
}

impl Core {
    /// A node that has just started in the life `me`; `decided` is the last decree on the device.
    pub fn new(now: Instant, me: Member, timing: Timing, decided: Decree) -> Self {
        assert!(
            decided.view.incarnation(me.node) < Some(me.incarnation),
            "a life is in no view before it began"
        );
        let none = Arc::new(View::none());
        let previous = Arc::new(decided.view.clone());
        Self {
            me,
            timing,
            started: now,
            state: SlotState::Joining,
            peers: BTreeMap::new(),
            heard: BTreeMap::new(),
            decided,
            decided_at: now,
            decided_here: false,
            fenced: Epoch(0),
            installed: none,
            previous,
            needed_since: None,
            apart_since: None,
            wanted: None,
        }
    }

    /// What the own slot is to say.
    pub fn state(&self) -> SlotState {
        self.state
    }

    /// The last decree known to be decided.
    pub fn decided(&self) -> &Decree {
        &self.decided
    }

    /// Views up to this epoch have all their dead proven.
    pub fn fenced(&self) -> Epoch {
        self.fenced
    }

    /// The last view given out by [`poll_install`](Self::poll_install).
    pub fn installed(&self) -> &Arc<View> {
        &self.installed
    }

    /// Whom this node hears over the network.
    pub fn heard(&self, now: Instant) -> NodeSet {
        let recent = |(_, at): &(Incarnation, Instant)| now.since(*at) <= self.timing.heard_within();
        self.heard
            .iter()
            .filter(|(_, at)| recent(at))
            .map(|(node, _)| *node)
            .collect()
    }

    /// All slots as just read.
    pub fn handle_slots(&mut self, now: Instant, slots: impl IntoIterator<Item = SlotFacts>) {
        for facts in slots.into_iter().filter(|facts| facts.node != self.me.node) {
            self.fenced = self.fenced.max(facts.fenced);
            self.peers
                .entry(facts.node)
                .or_insert_with(|| Peer::new(now, facts))
                .handle_slot(now, facts);
        }
    }

    /// A network heartbeat, or any other message of membership.
    pub fn handle_message(&mut self, now: Instant, from: Member) {
        let heard = self.heard.entry(from.node).or_insert((from.incarnation, now));
        if from.incarnation >= heard.0 {
            *heard = (from.incarnation, now);
        }
    }

    /// A look at the lock of a life; true when it is news that this life is dead.
    pub fn handle_lock(&mut self, life: Member, held: bool) -> bool {
        self.peers
            .get_mut(&life.node)
            .is_some_and(|peer| peer.handle_lock(life.incarnation, held))
    }

    /// A fence has succeeded.
    pub fn handle_dead(&mut self, life: Member) {
        if let Some(peer) = self.peers.get_mut(&life.node) {
            peer.dead = peer.dead.max(Some(life.incarnation));
        }
    }

    /// Views up to `epoch` have all their dead proven, and the device was flushed after that.
    pub fn handle_fenced(&mut self, epoch: Epoch) {
        self.fenced = self.fenced.max(epoch);
    }

    /// A decree is decided; `here` when this node ran the ballot.
    pub fn handle_decided(&mut self, now: Instant, decree: Decree, here: bool) -> Seen {
        if decree.view.epoch <= self.decided.view.epoch {
            return Seen::Old;
        }
        let was_in = self.is_in(&self.decided.view);
        self.decided = decree;
        self.decided_at = now;
        self.decided_here = here;
        self.needed_since = None;
        // What a leg lacks, or failed at, is found out again under this decree.
        self.wanted = None;
        if self.is_in(&self.decided.view) {
            if self.state == SlotState::Joining {
                self.state = SlotState::Member;
            }
            Seen::Noted
        } else if !was_in {
            self.previous = Arc::new(self.decided.view.clone());
            Seen::Noted
        } else if matches!(self.state, SlotState::Leaving | SlotState::Down) {
            Seen::Left
        } else {
            Seen::Excluded
        }
    }

    /// A leg of volume 0 failed this node: the other one shall go on alone. Nothing new unless both count.
    pub fn handle_leg_lost(&mut self, leg: u8) {
        if self.decided.metadata == MetadataLegs::Both {
            self.wanted = Some(MetadataLegs::Only(1 - leg));
        }
    }

    /// The leg that does not count has all metadata that the other one has, and gets what is written from now on.
    pub fn handle_leg_filled(&mut self) {
        self.wanted = Some(MetadataLegs::Both);
    }

    /// The members whose word stands for a leg of volume 0 that is lost, all together: those of the view that can still speak.
    pub fn voters(&self, now: Instant) -> Vec<Member> {
        let members = self.decided.view.members.iter().copied();
        members
            .filter(|member| !self.is_proven_dead(now, *member))
            .collect()
    }

    /// This node has stopped using the shared storage and wants out.
    pub fn handle_leave(&mut self) {
        self.state = SlotState::Leaving;
    }

    /// The last write of this life says so.
    pub fn handle_down(&mut self) {
        self.state = SlotState::Down;
    }

    /// Whether a peer knows of a later decision, so that the ballot blocks must be read.
    pub fn is_behind(&self) -> bool {
        let latest = self
            .peers
            .values()
            .map(|peer| peer.facts.decided.max(peer.facts.fenced))
            .max();
        latest > Some(self.decided.view.epoch)
    }

    /// The next view that may be acted upon: it, the one before, and the dead among them. Given out once.
    pub fn poll_install(&mut self) -> Option<(Arc<View>, Arc<View>, Vec<Member>)> {
        let view = &self.decided.view;
        if view.epoch <= self.installed.epoch || view.epoch > self.fenced || !self.is_in(view) {
            return None;
        }
        let view = Arc::new(view.clone());
        let gone = |m: &&Member| !view.members.contains(m) && !self.decided.left.contains(m);
        let mut dead = self.decided.dead.clone();
        dead.extend(self.previous.members.iter().filter(gone));
        dead.sort_by_key(|m| (m.node, m.incarnation));
        dead.dedup();
        let previous = core::mem::replace(&mut self.previous, view.clone());
        self.installed = view.clone();
        Some((view, previous, dead))
    }

    /// How it stands with a life.
    pub fn life(&self, now: Instant, life: Member) -> LifeState {
        if life.node == self.me.node {
            return if life == self.me {
                LifeState::Alive
            } else {
                LifeState::Dead
            };
        }
        // A life without a slot was lost with the device it was written to.
        self.peers
            .get(&life.node)
            .map_or(LifeState::Dead, |p| p.life(now, &self.timing, life.incarnation))
    }

    /// Whether a life is over, as far as this node can see.
    pub fn is_gone(&self, now: Instant, life: Member) -> bool {
        !matches!(self.life(now, life), LifeState::Alive | LifeState::Unlocked)
    }

    /// Whether a life can write no more, for certain.
    pub fn is_proven_dead(&self, now: Instant, life: Member) -> bool {
        matches!(self.life(now, life), LifeState::Dead | LifeState::Left)
    }

    /// Whether this node has evidence that the present life of `node` is there.
    pub fn seen_alive(&self, now: Instant, node: NodeId) -> bool {
        self.peers
            .get(&node)
            .is_some_and(|peer| peer.seen_alive(now, &self.timing))
    }

    /// Whether the lock of a life is not held and its slot was silent for the full time: what a lease can prove.
    pub fn lease_is_over(&self, now: Instant, life: Member) -> bool {
        self.life(now, life) == LifeState::Silent
            && self
                .peers
                .get(&life.node)
                .is_some_and(|peer| peer.locked != Some(true))
    }

    /// The lives whose locks are worth a look at each heartbeat.
    pub fn watched(&self) -> impl Iterator<Item = Member> + '_ {
        self.peers
            .values()
            .filter(|peer| peer.facts.state != SlotState::Down)
            .map(|peer| Member {
                node: peer.facts.node,
                incarnation: peer.facts.incarnation,
            })
    }

    /// What is to be done. `admit` says whether a node may join.
    pub fn plan(&mut self, now: Instant, admit: &dyn Fn(NodeId) -> bool) -> Proposal {
        match self.state {
            SlotState::Member => self.plan_member(now, admit),
            SlotState::Joining => self.plan_first(now),
            SlotState::Leaving | SlotState::Down => Proposal::None,
        }
    }

    fn is_in(&self, view: &View) -> bool {
        view.incarnation(self.me.node) == Some(self.me.incarnation)
    }

    fn heard_by(&self, now: Instant, node: NodeId) -> NodeSet {
        if node == self.me.node {
            return self.heard(now);
        }
        self.peers
            .get(&node)
            .map_or(NodeSet::EMPTY, |peer| peer.facts.heard)
    }

    fn connected(&self, now: Instant, nodes: NodeSet) -> NodeSet {
        largest_connected(nodes, |node| self.heard_by(now, node))
    }

    fn peer_state(&self, node: NodeId) -> SlotState {
        if node == self.me.node {
            self.state
        } else {
            self.peers[&node].facts.state
        }
    }

    fn present(&self, node: NodeId) -> Member {
        if node == self.me.node {
            return self.me;
        }
        Member {
            node,
            incarnation: self.peers[&node].facts.incarnation,
        }
    }

    /// Due at once for the first of `proposers`, for the others so much later that the first has had its chance.
    fn in_turn(&self, now: Instant, since: Instant, proposers: NodeSet, plan: Plan) -> Proposal {
        let Some(rank) = proposers.iter().position(|node| node == self.me.node) else {
            return Proposal::None;
        };
        let due = since + self.timing.heartbeat * 3 * rank as u32;
        if now >= due {
            Proposal::Due(plan)
        } else {
            Proposal::At(due)
        }
    }

    fn plan_member(&mut self, now: Instant, admit: &dyn Fn(NodeId) -> bool) -> Proposal {
        let mut alive = NodeSet::EMPTY;
        let (mut dead, mut left) = (Vec::new(), Vec::new());
        for member in self.decided.view.members.clone() {
            match self.life(now, member) {
                LifeState::Alive | LifeState::Unlocked => {
                    alive.insert(member.node);
                }
                LifeState::Silent | LifeState::Dead => dead.push(member),
                LifeState::Left => left.push(member),
            }
        }
        let connected = if planted(Defect::EvictTheUnheard) {
            alive.intersection(self.heard(now).union(NodeSet::of(self.me.node)))
        } else {
            self.connected(now, alive)
        };
        if connected == alive {
            self.apart_since = None;
        } else if now.since(*self.apart_since.get_or_insert(now)) >= self.timing.lease {
            dead.extend(alive.without(connected).iter().map(|node| self.present(node)));
            alive = connected;
        }
        if !connected.contains(self.me.node) {
            // A node with storage and no network does not evict the rest (HZ-19).
            return Proposal::None;
        }
        let leaving: NodeSet = alive
            .iter()
            .filter(|n| self.peer_state(*n) == SlotState::Leaving)
            .collect();
        left.extend(leaving.iter().map(|node| self.present(node)));
        let stay = alive.without(leaving);
        let proposers = connected.intersection(stay);
        let legs_change = self.wanted.is_some_and(|legs| legs != self.decided.metadata);
        if dead.is_empty() && left.is_empty() && legs_change {
            // Only who noticed knows; two who did are told apart by the ballot.
            let members = stay.iter().map(|node| self.present(node)).collect();
            return Proposal::Due(Plan::Propose(self.decree(members, dead, left, false)));
        }
        if dead.is_empty() && left.is_empty() {
            self.needed_since = None;
            if self.decided.view.epoch > self.fenced {
                let first = if self.decided_here {
                    NodeSet::of(self.me.node)
                } else {
                    proposers
                };
                let since = if self.decided_here {
                    self.decided_at
                } else {
                    self.decided_at + self.timing.longest_io
                };
                return self.in_turn(now, since, first, Plan::Fence);
            }
            return self.plan_join(now, stay, admit);
        }
        let since = *self.needed_since.get_or_insert(now);
        let members = stay.iter().map(|node| self.present(node)).collect();
        let decree = self.decree(members, dead, left, false);
        self.in_turn(now, since, proposers, Plan::Propose(decree))
    }

    fn plan_join(&self, now: Instant, members: NodeSet, admit: &dyn Fn(NodeId) -> bool) -> Proposal {
        if self.decided.view.leader != self.me.node {
            return Proposal::None;
        }
        let mut joined = members;
        for node in self.joiners(now).filter(|node| !members.contains(*node)) {
            let wider = joined.union(NodeSet::of(node));
            if self.connected(now, wider) == wider && admit(node) {
                joined = wider;
            }
        }
        if joined == members {
            return Proposal::None;
        }
        let members = joined.iter().map(|node| self.present(node)).collect();
        Proposal::Due(Plan::Propose(self.decree(members, Vec::new(), Vec::new(), false)))
    }

    fn joiners(&self, now: Instant) -> impl Iterator<Item = NodeId> + '_ {
        let waits =
            move |peer: &&Peer| peer.facts.state == SlotState::Joining && peer.seen_alive(now, &self.timing);
        self.peers.values().filter(waits).map(|peer| peer.facts.node)
    }

    fn plan_first(&mut self, now: Instant) -> Proposal {
        let base = &self.decided.view;
        if base
            .members
            .iter()
            .any(|m| self.life(now, *m) == LifeState::Alive)
        {
            self.needed_since = None;
            return Proposal::None;
        }
        let mut candidates: NodeSet = self.joiners(now).collect();
        candidates.insert(self.me.node);
        let connected = self.connected(now, candidates);
        // A short wait for others that are starting, a longer one for connections to those already seen.
        let wait = self.timing.heartbeat * if connected == candidates { 3 } else { 8 };
        let earliest = self.started + wait;
        if now < earliest {
            return Proposal::At(earliest);
        }
        if !connected.contains(self.me.node) {
            return Proposal::None;
        }
        let since = *self.needed_since.get_or_insert(now);
        let members = connected.iter().map(|node| self.present(node)).collect();
        let gone = |state: LifeState, base: &View| -> Vec<Member> {
            base.members
                .iter()
                .copied()
                .filter(|m| (self.life(now, *m) == LifeState::Left) == (state == LifeState::Left))
                .collect()
        };
        let (dead, left) = (gone(LifeState::Dead, base), gone(LifeState::Left, base));
        let decree = self.decree(members, dead, left, true);
        self.in_turn(now, since, connected, Plan::Propose(decree))
    }

    fn decree(
        &self,
        members: Vec<Member>,
        mut dead: Vec<Member>,
        left: Vec<Member>,
        founding: bool,
    ) -> Decree {
        if self.decided.view.epoch > self.fenced || founding {
            // Perhaps never fenced: the duty passes on.
            dead.extend(self.decided.dead.iter().filter(|m| !left.contains(m)));
        }
        dead.sort_by_key(|m| (m.node, m.incarnation));
        dead.dedup();
        Decree {
            view: self.decided.view.successor(members),
            dead,
            left,
            founding,
            metadata: self.wanted.unwrap_or(self.decided.metadata),
        }
    }
}
