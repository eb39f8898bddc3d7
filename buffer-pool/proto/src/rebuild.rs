//! A new view: what survives of the directory, claims for what does not, analysis and redo of what died.
//!
//! Rules: every conversion in flight dies with its epoch; a home keeps its idle entries of slots it keeps, and asks
//! all members (Query) for the rest; a page whose only holders died waits for the analysis, as do unclaimed pages of
//! slots whose directory was lost; retained images are candidates, never possessions (HZ-3); targets that a survivor
//! holds are met (DIR-2).

use crate::admission::{CHUNK, Chunks, Fault};
use crate::directory::{Entry, Seen, State};
use crate::message::{Claim, Conversion, Held, Message, Redone};
use crate::ownership::{Contents, Key, Output, Ownership};
use crate::page::{Mode, PageId, Psn};
use crate::possession::{Local, Possession, Want};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;
use aquifer_dss_proto::defect::{Defect, planted};
use aquifer_dss_proto::{Epoch, Instant, NodeId, NodeSet, View};

#[derive(Clone, PartialEq, Eq, Hash, Default, Debug)]
struct Gathered {
    answer: u64,
    chunks: Chunks<Claim>,
}

/// The home's part in a view change.
#[derive(Clone, PartialEq, Eq, Hash, Default, Debug)]
pub(crate) struct Rebuild {
    /// Redo of the dead was announced, so that an analysis will come.
    pending: bool,
    /// Slots whose pages are not known yet.
    slots: BTreeSet<u16>,
    claims: BTreeMap<NodeId, Gathered>,
    claims_done: bool,
    targets: Chunks<(PageId, Psn)>,
    analysis_done: bool,
    planned: bool,
}

impl Rebuild {
    /// State of a page without an entry, in slot `slot`.
    pub fn state_of(&self, slot: usize) -> State {
        match (self.slots.contains(&(slot as u16)), self.claims_done) {
            (false, _) => State::Idle,
            (true, false) => State::Unknown,
            (true, true) => State::Frozen,
        }
    }

    /// Whether every slot is complete: claims are in, and redo that was announced is ordered.
    pub fn is_over(&self) -> bool {
        self.claims_done && !self.analysis_awaited()
    }

    /// Whether frozen pages will be thawed by a plan.
    pub fn analysis_awaited(&self) -> bool {
        self.pending && !self.planned
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum TaskState {
    Queued,
    Running,
    Reported,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Task {
    target: Psn,
    conversion: Conversion,
    home: NodeId,
    urgent: bool,
    state: TaskState,
}

/// The leader's redo orders.
#[derive(Clone, PartialEq, Eq, Hash, Default, Debug)]
pub(crate) struct RedoTasks {
    tasks: BTreeMap<PageId, Task>,
    queued: BTreeSet<PageId>,
    urgent: BTreeSet<PageId>,
    plans: BTreeMap<NodeId, Chunks<()>>,
    waiting: NodeSet,
}

impl RedoTasks {
    pub fn is_queued(&self) -> bool {
        !self.queued.is_empty() || !self.urgent.is_empty()
    }

    pub fn urgent(&mut self, page: PageId) {
        if let Some(task) = self.tasks.get_mut(&page) {
            task.urgent = true;
            if task.state == TaskState::Queued {
                self.urgent.insert(page);
            }
        }
    }
}

/// A node holds a page in one way, and retains one image of it.
fn contradicts((by, earlier): &(NodeId, Claim), node: NodeId, claim: &Claim) -> bool {
    let retained = |claim: &Claim| matches!(claim.held, Held::Retained(_));
    *by == node && retained(earlier) == retained(claim)
}

pub(crate) fn chunked<T: Clone>(items: &[T]) -> Vec<Vec<T>> {
    if items.is_empty() {
        alloc::vec![Vec::new()]
    } else {
        items.chunks(CHUNK).map(<[T]>::to_vec).collect()
    }
}

fn ranges(slots: &BTreeSet<u16>) -> Vec<(u16, u16)> {
    let mut ranges: Vec<(u16, u16)> = Vec::new();
    for slot in slots {
        match ranges.last_mut() {
            Some((_, end)) if *end + 1 == *slot => *end = *slot,
            _ => ranges.push((*slot, *slot)),
        }
    }
    ranges
}

impl<I: Clone, C: Contents> Ownership<I, C> {
    /// Installs the next view. `dead` are members of the former one that are proven dead (as opposed to left cleanly).
    /// With `pending_redo` an analysis of dead streams follows: it must also be set while an earlier recovery was not
    /// finished.
    pub fn install_view(&mut self, now: Instant, view: Arc<View>, dead: NodeSet, pending_redo: bool) {
        assert!(view.epoch > self.view.epoch, "views are installed in order");
        let slots = self.view.slots();
        assert!(
            self.view.members.is_empty() || view.slots() == slots,
            "the views of a group have the same slots"
        );
        self.now = now;
        let old = core::mem::replace(&mut self.view, view);
        self.forget_messages();
        if planted(Defect::ForgetRetained) {
            self.retained.clear();
        }
        self.seen = BTreeMap::<NodeId, Seen>::new();
        self.next_request.clear();
        self.redo = RedoTasks::default();
        let unready = core::mem::take(&mut self.rebuild).slots;
        let moved = self.forget_moves();
        self.rebuild.pending = pending_redo;
        if !self.serving() {
            self.entries.clear();
            return;
        }
        for slot in 0..self.view.slots() {
            let mine = self.view.home(slot) == self.me;
            let complete = !unready.contains(&(slot as u16)) && !moved.contains(&(slot as u16));
            let kept = old.contains(self.me) && old.home(slot) == self.me && complete;
            if mine && !kept {
                self.rebuild.slots.insert(slot as u16);
            }
        }
        if pending_redo && self.view.leader == self.me {
            self.redo.waiting = self.view.nodes();
        }
        let unknown = self.carry_entries(&old, dead);
        self.reset_possessions(&old);
        self.query(unknown);
        self.drain();
    }

    /// Carries the directory into the new view; gives the pages that members must be asked about.
    fn carry_entries(&mut self, old: &View, dead: NodeSet) -> Vec<PageId> {
        let gone: NodeSet = old
            .members
            .iter()
            .filter(|m| !self.view.members.contains(m))
            .map(|m| m.node)
            .collect();
        let dead = dead.intersection(gone);
        let pending = self.rebuild.pending;
        let mut unknown = Vec::new();
        let mut heirless = BTreeSet::new();
        let (mut kept, view, me) = (core::mem::take(&mut self.entries), self.view.clone(), self.me);
        kept.retain(|page, _| {
            let slot = page.slot(&view);
            view.home(slot) == me && !self.rebuild.slots.contains(&(slot as u16))
        });
        for (page, entry) in &mut kept {
            entry.queue.clear();
            if entry.state != State::Idle {
                *entry = Entry::new(State::Unknown);
                unknown.push(*page);
                continue;
            }
            let lost_owner = entry.owner.is_some_and(|o| dead.contains(o));
            let lost_duty = entry.duty.is_some_and(|(d, _)| dead.contains(d));
            for node in gone.iter() {
                entry.forget(node);
                entry.retained.remove(&node);
            }
            if lost_duty && !entry.sharers.is_empty() {
                heirless.insert(*page);
            } else if (lost_owner || lost_duty) && pending && !planted(Defect::OpenFrozen) {
                entry.state = State::Frozen;
            }
        }
        self.entries = kept;
        let pages: Vec<PageId> = self.entries.keys().copied().collect();
        for page in pages {
            let idle = self.entries.get(&page).is_some_and(|e| e.state == State::Idle);
            if idle && !heirless.contains(&page) {
                self.drop_retained(page);
                self.start(page);
            }
        }
        for page in heirless {
            self.inherit(page);
        }
        unknown
    }

    /// Possessions stay; everything that was under way is void, and what is wanted is asked for again.
    /// A release that was not acknowledged is repeated to a home that still lists this node; another home asks anyway.
    fn reset_possessions(&mut self, old: &View) {
        let (mut wanted, mut released) = (Vec::new(), Vec::new());
        for (page, local) in &mut self.pages {
            let want = local.want.map(|want| match want {
                Want::Deferred(mode) | Want::Asked(mode, _) | Want::Installing(mode, _) => {
                    Want::Deferred(mode)
                }
            });
            let home = self.view.home(page.slot(&self.view));
            let survives = self
                .view
                .members
                .iter()
                .any(|m| m.node == home && old.members.contains(m));
            if local.releasing.is_some() && survives && old.home(page.slot(old)) == home {
                released.push(*page);
            }
            *local = Local {
                held: local.held,
                want,
                ..Local::default()
            };
            if want.is_some() {
                wanted.push(*page);
            }
        }
        self.pages
            .retain(|_, local| local.held.is_some() || local.want.is_some());
        for page in released {
            self.release(page);
        }
        for page in wanted {
            self.ask(page);
        }
    }

    fn query(&mut self, pages: Vec<PageId>) {
        let slots = ranges(&self.rebuild.slots);
        if slots.is_empty() && pages.is_empty() {
            self.rebuild.claims_done = true;
            return self.plan();
        }
        for node in self.view.nodes().iter() {
            self.rebuild.claims.insert(node, Gathered::default());
            let message = Message::Query {
                slots: slots.clone(),
                pages: pages.clone(),
            };
            self.repeat(Key::Query(node), node, message);
        }
    }

    pub(crate) fn on_query(&mut self, home: NodeId, slots: &[(u16, u16)], pages: &[PageId]) {
        let asked: BTreeSet<PageId> = pages.iter().copied().collect();
        let wanted = |page: PageId| {
            let slot = page.slot(&self.view) as u16;
            let at = slots.partition_point(|(_, end)| *end < slot);
            slots.get(at).is_some_and(|(start, _)| *start <= slot) || asked.contains(&page)
        };
        let mut entries = Vec::new();
        for (page, local) in self.pages.iter().filter(|(page, _)| wanted(**page)) {
            let Some(possession) = local.held else { continue };
            let (info, duty) = self.contents.info(*page);
            let held = match possession.mode {
                Mode::Exclusive => Held::Exclusive,
                Mode::Shared => Held::Shared {
                    dirty: info.dirty,
                    duty,
                },
            };
            entries.push(Claim {
                page: *page,
                held,
                psn: info.psn,
            });
        }
        for (page, kept) in self.retained.iter().filter(|(page, _)| wanted(**page)) {
            entries.push(Claim {
                page: *page,
                held: Held::Retained(kept.conversion),
                psn: kept.info.psn,
            });
        }
        self.next_answer += 1;
        let answer = self.next_answer;
        let parts = chunked(&entries);
        let chunks = parts.len() as u32;
        for (chunk, entries) in (0..).zip(parts) {
            self.send(
                home,
                Message::Claims {
                    answer,
                    chunk,
                    chunks,
                    entries,
                },
                None,
            );
        }
    }

    pub(crate) fn on_claims(
        &mut self,
        from: NodeId,
        answer: u64,
        chunk: u32,
        chunks: u32,
        entries: Vec<Claim>,
    ) {
        let Some(gathered) = self.rebuild.claims.get_mut(&from) else {
            return;
        };
        if self.rebuild.claims_done || gathered.chunks.is_complete() || answer < gathered.answer {
            return;
        }
        if answer > gathered.answer {
            *gathered = Gathered {
                answer,
                ..Gathered::default()
            };
        }
        if !gathered.chunks.insert(chunk, chunks, entries) {
            return self.refuse(Fault::Content);
        }
        if gathered.chunks.is_complete() {
            self.settle(Key::Query(from));
        }
        let here = |gathered: &&Gathered| !gathered.chunks.is_complete();
        let missing = self.rebuild.claims.values().filter(here).count();
        if missing <= usize::from(planted(Defect::RebuildWithoutOne)) {
            self.rebuild_entries();
        }
    }

    fn rebuild_entries(&mut self) {
        self.rebuild.claims_done = true;
        let mut pages: BTreeMap<PageId, Vec<(NodeId, Claim)>> = BTreeMap::new();
        for (page, entry) in &self.entries {
            if entry.state == State::Unknown {
                pages.insert(*page, Vec::new());
            }
        }
        for (node, gathered) in core::mem::take(&mut self.rebuild.claims) {
            for claim in gathered.chunks.into_items() {
                let known = self.entries.get(&claim.page).map(|e| e.state);
                if known.is_some_and(|known| known != State::Unknown) {
                    continue;
                }
                let claims = pages.entry(claim.page).or_default();
                if claims.iter().any(|earlier| contradicts(earlier, node, &claim)) {
                    self.counters.dropped_content += 1;
                } else {
                    claims.push((node, claim));
                }
            }
        }
        if !self.rebuild.pending {
            self.rebuild.slots.clear();
        }
        for (page, claims) in pages {
            self.rebuild_entry(page, &claims);
        }
        self.plan();
    }

    fn rebuild_entry(&mut self, page: PageId, claims: &[(NodeId, Claim)]) {
        let pending = self.rebuild.pending;
        let mut entry = Entry::new(State::Idle);
        entry.queue = self.entries.remove(&page).map(|e| e.queue).unwrap_or_default();
        let (mut behind, mut newest) = (false, Psn::default());
        for (node, claim) in claims {
            match claim.held {
                Held::Exclusive => {
                    assert!(entry.owner.is_none(), "DIR-1: two nodes own {page}");
                    entry.owner = Some(*node);
                    newest = claim.psn;
                }
                Held::Shared { dirty, duty } => {
                    entry.sharers.insert(*node);
                    behind |= dirty;
                    newest = newest.max(claim.psn);
                    if duty {
                        entry.duty = Some((
                            *node,
                            Conversion {
                                epoch: Epoch(0),
                                number: 0,
                            },
                        ));
                    }
                }
                Held::Retained(conversion) => {
                    entry.retained.insert(*node, (conversion, claim.psn));
                }
            }
        }
        entry.check(page);
        let (held, duty) = (!entry.holders().is_empty(), entry.duty.is_some());
        let (owned, retained) = (entry.owner.is_some(), &entry.retained);
        assert!(
            !held || retained.values().all(|(_, psn)| *psn <= newest),
            "DIR-2: {page} is held behind its past"
        );
        if !held && pending {
            entry.state = State::Frozen;
        }
        self.entries.insert(page, entry);
        if held && !owned && behind && !duty {
            self.inherit(page);
        } else if held {
            self.drop_retained(page);
            self.start(page);
        } else if !pending {
            self.thaw(page, None);
        }
    }

    /// A page without a holder: redone up to `target`, restored from a retained image, or current on storage.
    pub(crate) fn thaw(&mut self, page: PageId, target: Option<Psn>) -> Option<(PageId, Psn, Conversion)> {
        let target = target.filter(|_| !planted(Defect::ForgetTarget));
        let entry = self.entry(page);
        let best = entry.retained.iter().map(|(node, (_, psn))| (*psn, *node)).max();
        match (best, target) {
            (Some((psn, node)), target) if target.is_none_or(|t| psn >= t) => self.reinstate(page, node),
            (_, Some(target)) => {
                let conversion = self.new_conversion();
                self.entry(page).state = State::Redoing(conversion);
                return Some((page, target, conversion));
            }
            _ => {
                self.entry(page).state = State::Idle;
                self.start(page);
            }
        }
        None
    }

    /// Once claims and analysis are here and nobody is being asked to inherit: orders redo, opens everything else.
    pub(crate) fn plan(&mut self) {
        let rebuild = &mut self.rebuild;
        if !rebuild.pending || !rebuild.claims_done || !rebuild.analysis_done || rebuild.planned {
            return;
        }
        if self
            .entries
            .values()
            .any(|e| matches!(e.state, State::Inheriting(..)))
        {
            return;
        }
        rebuild.planned = true;
        let slots = core::mem::take(&mut rebuild.slots);
        let targets: BTreeMap<PageId, Psn> = core::mem::take(&mut rebuild.targets).into_items().collect();
        let mut frozen: BTreeSet<PageId> = self
            .entries
            .iter()
            .filter(|(_, e)| e.state == State::Frozen)
            .map(|(page, _)| *page)
            .collect();
        let unclaimed = |page: &&PageId| {
            slots.contains(&(page.slot(&self.view) as u16)) && !self.entries.contains_key(page)
        };
        frozen.extend(targets.keys().filter(unclaimed));
        let mut orders = Vec::new();
        for page in frozen {
            let urgent = self.entries.get(&page).is_some_and(|e| !e.queue.is_empty());
            if let Some(order) = self.thaw(page, targets.get(&page).copied()) {
                orders.push((urgent, order));
            }
        }
        orders.sort_by_key(|(urgent, _)| !*urgent);
        let leader = self.view.leader;
        let list: Vec<_> = orders.iter().map(|(_, order)| *order).collect();
        let parts = chunked(&list);
        let chunks = parts.len() as u32;
        for (chunk, pages) in (0..).zip(parts) {
            self.repeat(
                Key::NeedRedo(chunk),
                leader,
                Message::NeedRedo { chunk, chunks, pages },
            );
        }
        for (_, (page, ..)) in orders.iter().filter(|(urgent, _)| *urgent) {
            self.send(leader, Message::RedoUrgent { page: *page }, None);
        }
    }

    /// Leader: the analysis is complete; `targets` are the pages whose content on storage may be behind durable redo.
    pub fn handle_analysed(&mut self, now: Instant, targets: Vec<(PageId, Psn)>) {
        self.now = now;
        if self.view.leader != self.me || !self.rebuild.pending {
            return;
        }
        let mut parts: BTreeMap<NodeId, Vec<(PageId, Psn)>> =
            self.view.nodes().iter().map(|n| (n, Vec::new())).collect();
        for (page, target) in targets {
            let home = self.view.home(page.slot(&self.view)); // no slot moves before the analysis (LOC-1)
            parts
                .get_mut(&home)
                .expect("homes are members")
                .push((page, target));
        }
        for (home, targets) in parts {
            let parts = chunked(&targets);
            let chunks = parts.len() as u32;
            for (chunk, targets) in (0..).zip(parts) {
                self.repeat(
                    Key::Analysis(home, chunk),
                    home,
                    Message::Analysis {
                        chunk,
                        chunks,
                        targets,
                    },
                );
            }
        }
        self.drain();
    }

    pub(crate) fn on_analysis(&mut self, from: NodeId, chunk: u32, chunks: u32, targets: Vec<(PageId, Psn)>) {
        if !self.rebuild.pending {
            return; // installed without pending redo: the leader's repetition tells that nodes disagree
        }
        if !self.rebuild.analysis_done {
            if !self.rebuild.targets.insert(chunk, chunks, targets) {
                return self.refuse(Fault::Content);
            }
            self.rebuild.analysis_done = self.rebuild.targets.is_complete();
        }
        self.send(from, Message::AnalysisAck { chunk }, None);
        self.plan();
    }

    pub(crate) fn on_need_redo(
        &mut self,
        home: NodeId,
        chunk: u32,
        chunks: u32,
        pages: Vec<(PageId, Psn, Conversion)>,
    ) {
        let plans = self.redo.plans.entry(home).or_default();
        let news = !plans.contains(chunk);
        if !plans.insert(chunk, chunks, Vec::new()) {
            return self.refuse(Fault::Content);
        }
        if plans.is_complete() {
            self.redo.waiting.remove(home);
        }
        self.send(home, Message::NeedRedoAck { chunk }, None);
        if !news {
            return;
        }
        for (page, target, conversion) in pages {
            let held = self.pages.get(&page).is_some_and(|local| local.held.is_some());
            if held || self.redo.tasks.contains_key(&page) {
                self.refuse(Fault::Content); // what is held needs no redo, and one order is enough
                continue;
            }
            let task = Task {
                target,
                conversion,
                home,
                urgent: false,
                state: TaskState::Queued,
            };
            self.redo.tasks.insert(page, task);
            self.redo.queued.insert(page);
        }
        self.outputs.push_back(Output::RedoReady);
    }

    /// Leader: the next page to redo, asked-for pages first.
    pub fn next_redo(&mut self) -> Option<(PageId, Psn, Epoch)> {
        // A release of an earlier possession must not be taken for one of what redo brings: its answer comes first.
        let settled = |page: &&PageId| self.pages.get(page).is_none_or(|l| l.releasing.is_none());
        let page = self
            .redo
            .urgent
            .iter()
            .chain(self.redo.queued.iter())
            .find(settled)
            .copied()?;
        self.redo.urgent.remove(&page);
        self.redo.queued.remove(&page);
        let task = self.redo.tasks.get_mut(&page).expect("what is queued is a task");
        task.state = TaskState::Running;
        Some((page, task.target, self.view.epoch))
    }

    /// Leader: a page was redone. True when the order still stands; for [`Redone::Held`] the frame's possession
    /// (exclusive, dirty, with duty) must become visible then.
    pub fn handle_redone(&mut self, now: Instant, page: PageId, epoch: Epoch, outcome: Redone) -> bool {
        self.now = now;
        let Some(task) = self.redo.tasks.get_mut(&page) else {
            return false;
        };
        if epoch != self.view.epoch || task.state != TaskState::Running {
            return false;
        }
        task.state = TaskState::Reported;
        let (conversion, home) = (task.conversion, task.home);
        if outcome == Redone::Held {
            let local = self.pages.entry(page).or_default();
            assert!(
                local.held.is_none(),
                "DIR-1: a page that is redone is held by nobody"
            );
            local.held = Some(Possession {
                mode: Mode::Exclusive,
                seen: conversion,
            });
            self.retained.remove(&page);
        }
        self.repeat(
            Key::Redone(page),
            home,
            Message::Redone {
                page,
                conversion,
                outcome,
            },
        );
        self.drain();
        true
    }

    pub(crate) fn on_redone_ack(&mut self, page: PageId, conversion: Conversion) {
        if self
            .redo
            .tasks
            .get(&page)
            .is_some_and(|t| t.conversion == conversion && t.state == TaskState::Reported)
        {
            self.redo.tasks.remove(&page);
            self.settle(Key::Redone(page));
            self.outputs.push_back(Output::RedoReady); // it may be released now
        }
    }

    /// Leader: homes that have not answered the analysis plus pages not redone or not acknowledged.
    pub fn redo_outstanding(&self) -> usize {
        self.redo.waiting.len() + self.redo.tasks.len()
    }
}
