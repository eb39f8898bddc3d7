//! The home's side: who holds a page, one conversion at a time, the others in a queue.
//!
//! Rules: a conversion ends with the requester's Done (or Refused), never by silence; whoever does not hold what the
//! directory says answers Gone; after Done every retained image is dropped; a release is acted on exactly once and
//! never while its sender's own conversion is not Done.

use crate::admission::Fault;
use crate::message::{Conversion, Message, Order, Redone, Request, Source};
use crate::ownership::{Contents, Key, Ownership};
use crate::page::{Mode, PageId, Psn};
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use aquifer_dss_proto::defect::{Defect, planted};
use aquifer_dss_proto::{NodeId, NodeSet};

/// Which requests of a node were acted on: all up to `floor`, and those `above`.
#[derive(Clone, PartialEq, Eq, Hash, Default, Debug)]
pub(crate) struct Seen {
    floor: u64,
    above: BTreeSet<u64>,
}

impl Seen {
    /// Everything up to here was acted on.
    pub fn floor(&self) -> u64 {
        self.floor
    }

    fn contains(&self, request: Request) -> bool {
        request.number <= self.floor || self.above.contains(&request.number)
    }

    pub fn insert(&mut self, request: Request) {
        self.above.insert(request.number);
        while self.above.remove(&(self.floor + 1)) {
            self.floor += 1;
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Ask {
    pub node: NodeId,
    pub mode: Mode,
    pub request: Request,
}

impl Ask {
    /// What the holder is told, from whom it gets the page.
    pub fn order(self, conversion: Conversion) -> Order {
        let Self { node, mode, request } = self;
        Order {
            conversion,
            mode,
            to: node,
            request,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Step {
    /// These sharers have still to give the page up.
    Invalidating(NodeSet),
    /// This node has still to send its image.
    Shipping(NodeId),
    /// The requester has still to say Done.
    Granting,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum State {
    Idle,
    Converting {
        conversion: Conversion,
        ask: Ask,
        step: Step,
    },
    /// This sharer was asked to take the dirty duty of a dead holder.
    Inheriting(Conversion, NodeId),
    /// Members are being asked what they hold.
    Unknown,
    /// Waits for the analysis of dead streams.
    Frozen,
    /// The leader redoes it.
    Redoing(Conversion),
    /// It could not be redone.
    Broken,
}

/// What the home knows of one page.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Entry {
    pub state: State,
    pub owner: Option<NodeId>,
    pub sharers: NodeSet,
    /// The sharer that may have the duty to write back, and the conversion since which it may. An owner has it anyway.
    pub duty: Option<(NodeId, Conversion)>,
    /// Images kept by nodes that shipped them, until Dropped.
    pub retained: BTreeMap<NodeId, (Conversion, Psn)>,
    /// The conversion that follows the one under way, when its requester was told already: the page goes on without waiting for Done.
    pub next: Option<(Conversion, Ask)>,
    pub queue: VecDeque<Ask>,
}

impl Entry {
    pub fn new(state: State) -> Self {
        Self {
            state,
            owner: None,
            sharers: NodeSet::EMPTY,
            duty: None,
            retained: BTreeMap::new(),
            next: None,
            queue: VecDeque::new(),
        }
    }

    fn is_empty(&self) -> bool {
        self.state == State::Idle
            && self.owner.is_none()
            && self.sharers.is_empty()
            && self.retained.is_empty()
            && self.queue.is_empty()
    }

    pub fn holders(&self) -> NodeSet {
        let mut holders = self.sharers;
        if let Some(owner) = self.owner {
            holders.insert(owner);
        }
        holders
    }

    /// Who waits, first come first.
    pub fn waiting(&self) -> impl Iterator<Item = &Ask> {
        self.next.iter().map(|(_, ask)| ask).chain(&self.queue)
    }

    pub fn forget(&mut self, node: NodeId) {
        self.sharers.remove(node);
        if self.owner == Some(node) {
            self.owner = None;
        }
        if self.duty.is_some_and(|(duty, _)| duty == node) {
            self.duty = None;
        }
    }

    /// DIR-1, as the home sees it.
    pub fn check(&self, page: PageId) {
        assert!(
            self.owner.is_none() || self.sharers.is_empty(),
            "DIR-1: {page} has an owner and sharers"
        );
    }
}

impl<I: Clone, C: Contents> Ownership<I, C> {
    pub(crate) fn entry(&mut self, page: PageId) -> &mut Entry {
        let state = self.rebuild.state_of(page.slot(&self.view));
        self.entries.entry(page).or_insert_with(|| Entry::new(state))
    }

    pub(crate) fn on_acquire(&mut self, from: NodeId, page: PageId, mode: Mode, request: Request) {
        if !self.answers(from, page, request) {
            return;
        }
        let state = self.entry(page).state;
        if state == State::Broken {
            self.seen.entry(from).or_default().insert(request);
            return self.send(from, Message::Denied { page, request }, None);
        }
        if matches!(state, State::Redoing(_)) {
            let leader = self.view.leader;
            self.send(leader, Message::RedoUrgent { page }, None);
        }
        if !self.seen.entry(from).or_default().contains(request) {
            // One request per page at a time: the one that waits is not over.
            if self.entry(page).waiting().any(|ask| ask.node == from) {
                return self.refuse(Fault::Limit);
            }
            self.seen.entry(from).or_default().insert(request);
            self.usage.count(page.slot(&self.view), from);
            let entry = self.entry(page);
            entry.queue.push_back(Ask {
                node: from,
                mode,
                request,
            });
        }
        self.start(page);
    }

    pub(crate) fn on_release(&mut self, from: NodeId, page: PageId, request: Request) {
        if !self.answers(from, page, request) || self.handed_over(page) {
            return;
        }
        if !self.seen.entry(from).or_default().contains(request) {
            let entry = self.entry(page);
            let following = entry.next.is_some_and(|(_, ask)| ask.node == from);
            match entry.state {
                State::Converting { ask, .. }
                    if (ask.node == from || following) && !planted(Defect::ReleaseBeforeDone) =>
                {
                    return self.start(page);
                }
                State::Unknown | State::Inheriting(..) => return,
                _ => {}
            }
            self.seen.entry(from).or_default().insert(request);
            self.entry(page).forget(from);
        }
        self.send(from, Message::ReleaseAck { page, request }, None);
        self.start(page);
    }

    /// Begins the next conversion of the queue if none is under way; forgets an entry that says nothing.
    pub(crate) fn start(&mut self, page: PageId) {
        let Some(entry) = self.entries.get_mut(&page) else {
            return;
        };
        let granting = matches!(
            entry.state,
            State::Converting {
                step: Step::Granting,
                ..
            }
        );
        if entry.state != State::Idle && !(granting && planted(Defect::GrantTwice)) {
            return self.chain(page);
        }
        entry.check(page);
        if let Some((conversion, ask)) = entry.next.take() {
            if let Some(owner) = entry.owner {
                return self.follow(page, conversion, ask, owner);
            }
            entry.queue.push_front(ask); // storage refused the page: the order came to nothing
        }
        if self.rests(page) {
            return; // an order that was told ahead is under way, what waits in the queue is not (LOC-1)
        }
        let Some(entry) = self.entries.get_mut(&page) else {
            return;
        };
        let Some(ask) = entry.queue.pop_front() else {
            if entry.is_empty() {
                self.entries.remove(&page);
            }
            return;
        };
        let conversion = self.new_conversion();
        self.step(page, conversion, ask);
    }

    /// Decides the next step of a conversion from who holds the page now.
    fn step(&mut self, page: PageId, conversion: Conversion, ask: Ask) {
        let Ask { node, mode, .. } = ask;
        let me = self.me;
        let entry = self
            .entries
            .get_mut(&page)
            .expect("a converting page has an entry");
        let holders = entry.holders();
        let upgrade = holders.contains(node);
        let duty = entry
            .duty
            .map(|(duty, _)| duty)
            .filter(|d| entry.sharers.contains(*d));
        let nearest = if entry.sharers.contains(me) {
            Some(me)
        } else {
            entry.sharers.first()
        };
        let source = if upgrade {
            Some(node)
        } else {
            entry.owner.or(duty).or(nearest)
        };
        let mut others = holders;
        if let Some(source) = source {
            others.remove(source);
        }
        if let Some(forgotten) = others.first().filter(|_| planted(Defect::SkipInvalidation)) {
            others.remove(forgotten);
        }
        if mode == Mode::Exclusive && !others.is_empty() {
            let step = Step::Invalidating(others);
            entry.state = State::Converting {
                conversion,
                ask,
                step,
            };
            for sharer in others.iter() {
                self.repeat(
                    Key::Step(page, sharer),
                    sharer,
                    Message::Invalidate { page, conversion },
                );
            }
            return;
        }
        self.send_or_grant(page, conversion, ask, source.filter(|_| !upgrade), upgrade);
    }

    /// Nobody is in the way: `source` ships the image, or the page is granted.
    fn send_or_grant(
        &mut self,
        page: PageId,
        conversion: Conversion,
        ask: Ask,
        source: Option<NodeId>,
        upgrade: bool,
    ) {
        let Ask { node, mode, request } = ask;
        let entry = self
            .entries
            .get_mut(&page)
            .expect("a converting page has an entry");
        // The only image may be one that was retained in this very conversion: its sender was a dirty sharer.
        let kept = || {
            entry
                .retained
                .iter()
                .find(|(_, (c, _))| *c == conversion)
                .map(|(n, _)| *n)
        };
        let source = if upgrade { None } else { source.or_else(kept) };
        if let Some(source) = source {
            entry.state = State::Converting {
                conversion,
                ask,
                step: Step::Shipping(source),
            };
            let order = ask.order(conversion);
            self.repeat(Key::Step(page, source), source, Message::Transfer { page, order });
            return self.chain(page);
        }
        let mode = if entry.owner == Some(node) {
            Mode::Exclusive
        } else {
            mode
        };
        entry.state = State::Converting {
            conversion,
            ask: Ask { mode, ..ask },
            step: Step::Granting,
        };
        let source = if upgrade && !planted(Defect::UpgradeFromStorage) {
            Source::Upgrade
        } else {
            Source::Storage
        };
        self.repeat(
            Key::Step(page, node),
            node,
            Message::Grant {
                page,
                conversion,
                request,
                mode,
                source,
            },
        );
        if planted(Defect::EndWithoutDone) {
            return self.on_done(node, page, conversion, true);
        }
        self.chain(page);
    }

    /// Makes `node`, which retained the only image, compare it with storage and hold the newer.
    pub(crate) fn reinstate(&mut self, page: PageId, node: NodeId) {
        let conversion = self.new_conversion();
        let ask = Ask {
            node,
            mode: Mode::Exclusive,
            request: Request::default(),
        };
        let Ask { mode, request, .. } = ask;
        self.entry(page).state = State::Converting {
            conversion,
            ask,
            step: Step::Granting,
        };
        let source = Source::Retained;
        self.repeat(
            Key::Step(page, node),
            node,
            Message::Grant {
                page,
                conversion,
                request,
                mode,
                source,
            },
        );
    }

    fn converting(&self, page: PageId, conversion: Conversion) -> Option<(Ask, Step)> {
        match self.entries.get(&page)?.state {
            State::Converting {
                conversion: current,
                ask,
                step,
            } if current == conversion => Some((ask, step)),
            _ => None,
        }
    }

    pub(crate) fn on_invalidated(
        &mut self,
        from: NodeId,
        page: PageId,
        conversion: Conversion,
        retained: bool,
    ) {
        let Some((ask, Step::Invalidating(mut waiting))) = self.converting(page, conversion) else {
            self.counters.dropped_stale += 1;
            return;
        };
        if !waiting.remove(from) {
            return;
        }
        self.settle(Key::Step(page, from));
        let entry = self.entry(page);
        entry.forget(from);
        if retained {
            entry.retained.insert(from, (conversion, Psn::default()));
        }
        entry.state = State::Converting {
            conversion,
            ask,
            step: Step::Invalidating(waiting),
        };
        if waiting.is_empty() {
            self.step(page, conversion, ask);
        }
    }

    pub(crate) fn on_gone(&mut self, from: NodeId, page: PageId, conversion: Conversion) {
        if let Some((ask, Step::Shipping(source))) = self.converting(page, conversion) {
            if source == from {
                self.settle(Key::Step(page, from));
                let entry = self.entry(page);
                entry.forget(from);
                entry.retained.remove(&from);
                self.settle(Key::Drop(page, from));
                self.step(page, conversion, ask);
            }
            return;
        }
        let entry = self.entries.get_mut(&page);
        if let Some(entry) = entry.filter(|e| e.state == State::Inheriting(conversion, from)) {
            entry.forget(from);
            self.settle(Key::Step(page, from));
            self.inherit(page);
        }
    }

    pub(crate) fn on_done(&mut self, from: NodeId, page: PageId, conversion: Conversion, possessed: bool) {
        if possessed && !planted(Defect::DoneProvesNothing) {
            self.end_proven(from, page, conversion);
        }
        let asked = self
            .converting(page, conversion)
            .filter(|(ask, _)| ask.node == from);
        // Nothing was granted before the others gave the page up, and only what comes from storage is refused.
        if let Some((_, step)) = asked
            && (matches!(step, Step::Invalidating(_)) || !possessed && step != Step::Granting)
        {
            return self.refuse(Fault::Role);
        }
        self.send(from, Message::DoneAck { page, conversion }, None);
        let Some((ask, step)) = asked else {
            return;
        };
        if possessed {
            self.end(page, conversion, ask, step);
        } else {
            self.settle(Key::Step(page, from));
        }
        let entry = self.entry(page);
        entry.state = State::Idle;
        // It dropped its own when it installed or refused.
        if entry.retained.remove(&from).is_some() {
            self.settle(Key::Drop(page, from));
        }
        self.drop_retained(page);
        self.start(page);
    }

    /// The requester possesses the page.
    pub(crate) fn end(&mut self, page: PageId, conversion: Conversion, ask: Ask, step: Step) {
        self.settle(Key::Step(page, ask.node));
        let source = if let Step::Shipping(source) = step {
            Some(source)
        } else {
            None
        };
        let entry = self.entry(page);
        if ask.mode == Mode::Exclusive {
            if let Some(source) = source {
                entry.retained.insert(source, (conversion, Psn::default()));
            }
            entry.owner = Some(ask.node);
            entry.sharers = NodeSet::EMPTY;
            entry.duty = None;
        } else {
            if let Some(owner) = entry.owner.take() {
                entry.sharers.insert(owner);
                entry.duty = Some((owner, conversion));
            }
            entry.sharers.insert(ask.node);
        }
        if let Some(source) = source {
            self.settle(Key::Step(page, source));
        }
    }

    pub(crate) fn drop_retained(&mut self, page: PageId) {
        let Some(entry) = self.entries.get(&page) else {
            return;
        };
        let nodes: NodeSet = entry.retained.keys().copied().collect();
        for node in nodes.iter() {
            let (conversion, _) = self.entries[&page].retained[&node];
            self.repeat(Key::Drop(page, node), node, Message::Drop { page, conversion });
        }
    }

    pub(crate) fn on_dropped(&mut self, from: NodeId, page: PageId, conversion: Conversion) {
        let Some(entry) = self.entries.get_mut(&page) else {
            return;
        };
        if entry
            .retained
            .get(&from)
            .is_some_and(|(kept, _)| *kept == conversion)
        {
            entry.retained.remove(&from);
            self.settle(Key::Drop(page, from));
            self.start(page);
        }
    }

    /// Asks a sharer to take the duty of a dead dirty holder; without a sharer the page is left to the analysis.
    pub(crate) fn inherit(&mut self, page: PageId) {
        let pending = self.rebuild.analysis_awaited();
        let conversion = self.new_conversion();
        let entry = self.entry(page);
        if let Some(heir) = entry.sharers.first() {
            let others = entry.sharers.without(NodeSet::of(heir));
            entry.state = State::Inheriting(conversion, heir);
            for other in others.iter().filter(|_| planted(Defect::EveryHeirInherits)) {
                self.send(other, Message::Inherit { page, conversion }, None);
            }
            return self.repeat(Key::Step(page, heir), heir, Message::Inherit { page, conversion });
        }
        entry.state = State::Frozen;
        if !pending {
            self.thaw(page, None);
        }
        self.plan();
    }

    pub(crate) fn on_inherited(&mut self, from: NodeId, page: PageId, conversion: Conversion) {
        let Some(entry) = self.entries.get_mut(&page) else {
            return;
        };
        if entry.state != State::Inheriting(conversion, from) {
            return;
        }
        entry.duty = Some((from, conversion));
        entry.state = State::Idle;
        self.settle(Key::Step(page, from));
        self.drop_retained(page);
        self.start(page);
        self.plan();
    }

    pub(crate) fn on_cleaned(&mut self, from: NodeId, page: PageId, conversion: Conversion) {
        if self.home(page) != self.me {
            return self.point(from, page, Request::default());
        }
        let Some(entry) = self.entries.get_mut(&page) else {
            return;
        };
        if entry.duty.is_some_and(|(duty, since)| {
            duty == from && (since <= conversion || planted(Defect::ObeyStaleCleaned))
        }) {
            entry.duty = None;
        }
    }

    pub(crate) fn on_flush_wanted(&mut self, from: NodeId, page: PageId) {
        if self.home(page) != self.me {
            return self.point(from, page, Request::default());
        }
        if self.handed_over(page) {
            return; // a wish is repeated
        }
        let entry = self.entry(page);
        let (idle, holders) = (entry.state == State::Idle, entry.holders());
        if idle && entry.owner.is_none() && entry.duty.is_none() {
            self.send(from, Message::NotHeld { page }, None);
        }
        for holder in holders.iter() {
            self.send(holder, Message::WriteBackWanted { page, by: from }, None);
        }
        self.start(page);
    }

    pub(crate) fn on_redone(&mut self, from: NodeId, page: PageId, conversion: Conversion, outcome: Redone) {
        self.send(from, Message::RedoneAck { page, conversion }, None);
        let Some(entry) = self.entries.get_mut(&page) else {
            return;
        };
        if entry.state != State::Redoing(conversion) {
            return;
        }
        entry.state = State::Idle;
        match outcome {
            Redone::Held => entry.owner = Some(from),
            Redone::Current => {}
            Redone::Failed => {
                entry.state = State::Broken;
                for ask in core::mem::take(&mut entry.queue) {
                    self.send(
                        ask.node,
                        Message::Denied {
                            page,
                            request: ask.request,
                        },
                        None,
                    );
                }
                // It is no use to a page that cannot reach its target, and a node that retains an image cannot leave.
                return self.drop_retained(page);
            }
        }
        self.drop_retained(page);
        self.start(page);
    }
}
