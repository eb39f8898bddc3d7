//! States and transitions of the model.

use super::cluster::{Cluster, Log, Node, Packet, Work, id};
use super::words;
use crate::sim::panics;
use aquifer_buffer_pool_proto::{Message, Mode, PageId};
use aquifer_dss_proto::defect::{Defect, plant};
use aquifer_dss_proto::{Incarnation, NodeId, NodeSet};
use stateright::{Model, Property};
use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// How often each thing may happen in one run; what bounds the model.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Budget {
    /// Requests for possession.
    pub acquires: u8,
    /// Of these, how many may be Exclusive.
    pub exclusives: u8,
    /// Changes of a page.
    pub changes: u8,
    /// Messages lost.
    pub losses: u8,
    /// Messages delivered, and left in the network to be delivered again at any time.
    pub copies: u8,
    /// Repetitions while messages or work are under way. When nothing else can happen they are free.
    pub repetitions: u8,
    /// Possessions given up.
    pub evictions: u8,
    /// Pages written back.
    pub write_backs: u8,
    /// Requests of a node whose redo is pinned.
    pub flush_wishes: u8,
    /// Deaths, each with a new view.
    pub crashes: u8,
    /// Nodes that join, each with a new view.
    pub joins: u8,
    /// Redo that fails.
    pub redo_failures: u8,
    /// Slots handed over to another home.
    pub moves: u8,
    /// Copies that readers ask for.
    pub reads: u8,
}

impl Budget {
    /// The same with `more` of everything that there is any of.
    #[must_use]
    pub fn deeper(mut self, more: u8) -> Self {
        let all = [
            &mut self.acquires,
            &mut self.exclusives,
            &mut self.changes,
            &mut self.losses,
            &mut self.copies,
            &mut self.repetitions,
            &mut self.evictions,
            &mut self.write_backs,
            &mut self.flush_wishes,
            &mut self.crashes,
            &mut self.joins,
            &mut self.redo_failures,
            &mut self.moves,
            &mut self.reads,
        ];
        for budget in all {
            *budget += if *budget > 0 { more } else { 0 };
        }
        self
    }
}

/// What may happen.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Action {
    /// A message arrives.
    Deliver(usize),
    /// A message arrives and stays in the network.
    Copy(usize),
    /// A message is lost.
    Lose(usize),
    /// A node does a piece of work.
    Work(NodeId, usize),
    /// A home begins to hand the slot of a page over.
    Move(NodeId, PageId, NodeId),
    /// The leader finds that it cannot redo a page.
    FailRedo(NodeId, usize),
    /// A node wants a page.
    Acquire(NodeId, PageId, Mode),
    /// A reader wants a copy of a page.
    AskCopy(NodeId, PageId),
    /// An owner changes a page.
    Change(NodeId, PageId),
    /// A node's redo of a page becomes durable.
    Flush(NodeId, PageId),
    /// A page is given up.
    Evict(NodeId, PageId),
    /// A write to storage begins.
    BeginWrite(NodeId, PageId),
    /// A write to storage ends.
    EndWrite(NodeId, PageId),
    /// A node's redo is pinned by a page.
    WantFlush(NodeId, PageId),
    /// A node repeats what has no answer.
    TimeOut(NodeId),
    /// A node dies; its writes to storage that were under way are done, or not.
    Crash(NodeId, bool),
    /// A new node, or a new life of a dead one, joins.
    Join(NodeId),
    /// A member installs the next view.
    Install(NodeId),
    /// The leader reads the redo streams.
    Analyse,
    /// The leader takes an order to redo a page.
    TakeRedo,
    /// The leader declares the recovery over.
    Recovered,
}

/// A state of the model.
#[derive(Clone)]
pub struct State {
    /// The cores and what surrounds them.
    pub cluster: Cluster,
    /// What may still happen.
    pub left: Budget,
    /// A rule that the last transition broke.
    pub broken: Option<String>,
}

impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        let fingerprint = |state: &Self| {
            let mut hasher = DefaultHasher::new();
            state.hash(&mut hasher);
            hasher.finish()
        };
        fingerprint(self) == fingerprint(other)
    }
}

impl Hash for State {
    fn hash<H: Hasher>(&self, into: &mut H) {
        self.cluster.hash(into);
        (self.left, &self.broken).hash(into);
    }
}

/// What was met anywhere in a model.
#[derive(Clone, Default)]
pub struct Coverage(Arc<Mutex<BTreeSet<&'static str>>>);

impl Coverage {
    fn note(&self, kind: &'static str) {
        self.0.lock().expect("nobody panics here").insert(kind);
    }

    /// Kinds of message that were delivered.
    pub fn delivered(&self) -> Vec<&'static str> {
        let kinds = self.0.lock().expect("nobody panics here");
        kinds.iter().copied().collect()
    }
}

/// Until when a model is explored. Afterwards nothing happens any more in it, so that what is left of the exploration ends.
#[derive(Clone, Default)]
pub struct Patience(Arc<Mutex<Option<Instant>>>);

impl Patience {
    /// Sets the end; without one, everything may happen again, as it must when a path is looked at.
    pub fn set(&self, end: Option<Instant>) {
        *self.0.lock().expect("nobody panics here") = end;
    }

    fn is_over(&self) -> bool {
        let end = *self.0.lock().expect("nobody panics here");
        end.is_some_and(|end| Instant::now() >= end)
    }
}

/// The model of one configuration.
#[derive(Clone)]
pub struct Pages {
    /// Nodes at the beginning.
    pub nodes: u8,
    /// The home of each page at the beginning.
    pub homes: Vec<u8>,
    /// What may happen.
    pub budget: Budget,
    /// Acquires and changes that are done before the model begins: (node, mode, changes).
    pub prelude: Vec<(u8, Mode, u8)>,
    /// Requests that are made when the model begins, and of which nothing has arrived: (node, mode).
    pub asked: Vec<(u8, Mode)>,
    /// Work is done as soon as it is asked for, instead of at any time later.
    pub prompt: bool,
    /// Messages of an earlier epoch stay in the network, instead of being dropped when their receiver has a later one.
    pub keeps_old: bool,
    /// The hard states that must be reached, by the names of their properties.
    pub reaches: Vec<&'static str>,
    /// What is planted.
    pub defect: Option<Defect>,
    /// When to give up: one thread of the checker looks at no clock itself.
    pub patience: Patience,
    /// What was met.
    pub coverage: Coverage,
}

impl Pages {
    /// Whether no message is lost: then every notice of a write-back arrives.
    pub(super) fn is_calm(&self) -> bool {
        self.budget.losses == 0 && self.budget.crashes == 0 && self.budget.joins == 0
    }

    fn first(&self, log: Log) -> State {
        let nth = |at: usize| self.homes[..at].iter().filter(|h| **h == self.homes[at]).count();
        let pages = (0..self.homes.len()).map(|at| Cluster::page_of(self.homes[at], self.nodes, nth(at)));
        let mut cluster = Cluster::new(self.nodes, pages.collect());
        for n in 1..=self.nodes {
            cluster.install(id(n));
        }
        run(&mut cluster);
        for (node, mode, changes) in &self.prelude {
            let page = cluster.pages[0];
            cluster.acquire(id(*node), page, *mode);
            run(&mut cluster);
            for _ in 0..*changes {
                assert!(cluster.change(id(*node), page), "the prelude gave it the page");
            }
        }
        cluster.log = log;
        for (node, mode) in &self.asked {
            cluster.acquire(id(*node), cluster.pages[0], *mode);
        }
        State {
            cluster,
            left: self.budget,
            broken: None,
        }
    }

    /// The events of a path, in words.
    pub fn explain(&self, actions: &[Action]) -> String {
        let mut state = self.first(Log(Some(Vec::new())));
        for action in actions {
            let line = describe(&state, *action);
            state.cluster.log.note(|| format!("* {line}"));
            match self.next_state(&state, *action) {
                Some(next) => state = next,
                None => break,
            }
        }
        let mut lines = state.cluster.log.0.take().unwrap_or_default();
        lines.extend(state.broken);
        lines.join("\n")
    }

    /// What follows from an action at once: messages that decide nothing arrive, and drivers ask on.
    fn follow(&self, state: &mut State) {
        loop {
            for node in state.cluster.nodes.keys().copied().collect::<Vec<_>>() {
                if wants_on(&state.cluster, node) {
                    state.cluster.want_again(node);
                }
            }
            if let Some(at) = state
                .cluster
                .net
                .iter()
                .position(|p| self.is_at_once(&state.cluster, p))
            {
                let packet = state.cluster.net.swap_remove(at);
                self.deliver(state, packet);
                continue;
            }
            let idle = |node: &NodeId| !(self.prompt && can_work(&state.cluster, *node));
            let Some(node) = state.cluster.nodes.keys().copied().find(|n| !idle(n)) else {
                return;
            };
            let at = first_work(&state.cluster, node).expect("it can work");
            state.cluster.do_work(node, at);
        }
    }

    /// Whether a message may as well arrive now: nothing but its sender's repetition depends on when it does, or it
    /// is about slots of no modelled page, or nobody will act on it.
    fn is_at_once(&self, cluster: &Cluster, packet: &Packet) -> bool {
        let Some(receiver) = cluster.nodes.get(&packet.to) else {
            return true;
        };
        let epoch = receiver.core.view().epoch;
        if packet.envelope.epoch > epoch {
            return false;
        }
        if packet.envelope.epoch < epoch {
            return !self.keeps_old;
        }
        let home = |node: NodeId| {
            cluster
                .pages
                .iter()
                .any(|page| receiver.core.view().home(page.slot(receiver.core.view())) == node)
        };
        match &packet.envelope.message {
            Message::DoneAck { .. }
            | Message::AnalysisAck { .. }
            | Message::NeedRedoAck { .. }
            | Message::RedoneAck { .. } => true,
            Message::Query { .. } | Message::NeedRedo { .. } => !home(packet.from),
            Message::Claims { .. } | Message::Analysis { .. } => !home(packet.to),
            _ => false,
        }
    }

    fn deliver(&self, state: &mut State, packet: Packet) {
        self.coverage.note(kind(&packet.envelope.message));
        state.cluster.deliver(packet);
    }

    fn apply(&self, state: &mut State, action: Action) {
        let cluster = &mut state.cluster;
        match action {
            Action::Deliver(at) => {
                let packet = cluster.net.swap_remove(at);
                self.deliver(state, packet);
            }
            Action::Copy(at) => {
                let packet = cluster.net[at].clone();
                self.deliver(state, packet);
            }
            Action::Lose(at) => drop(cluster.net.swap_remove(at)),
            Action::Work(node, at) => drop(cluster.do_work(node, at)),
            Action::FailRedo(node, at) => cluster.fail_redo(node, at),
            Action::Acquire(node, page, mode) => cluster.acquire(node, page, mode),
            Action::AskCopy(node, page) => cluster.ask_copy(node, page),
            Action::Change(node, page) => drop(cluster.change(node, page)),
            Action::Flush(node, page) => cluster.flush_redo(node, page),
            Action::Evict(node, page) => drop(cluster.evict(node, page)),
            Action::BeginWrite(node, page) => drop(cluster.begin_write_back(node, page)),
            Action::EndWrite(node, page) => drop(cluster.end_write_back(node, page)),
            Action::WantFlush(node, page) => cluster.want_flush(node, page),
            Action::Move(home, page, to) => drop(cluster.move_slot(home, page, to)),
            Action::TimeOut(node) => cluster.time_out(node),
            Action::Crash(node, landed) => {
                cluster.kill(node, |_| landed);
                cluster.change_view(NodeSet::of(node));
            }
            Action::Join(node) => {
                let life = Incarnation(cluster.view().epoch.0 + 10);
                cluster.start_node(node, life);
                cluster.change_view(NodeSet::EMPTY);
            }
            Action::Install(node) => cluster.install(node),
            Action::Analyse => drop(cluster.analyse()),
            Action::TakeRedo => drop(cluster.take_redo()),
            Action::Recovered => drop(cluster.recovered()),
        }
    }

    fn messages(&self, state: &State, actions: &mut Vec<Action>) {
        let cluster = &state.cluster;
        let mut seen: Vec<&Packet> = Vec::new();
        for (at, packet) in cluster.net.iter().enumerate() {
            let receiver = cluster.nodes.get(&packet.to);
            let early = receiver.is_some_and(|r| r.core.view().epoch < packet.envelope.epoch);
            if seen.contains(&packet) {
                continue;
            }
            seen.push(packet);
            if !early {
                actions.push(Action::Deliver(at));
                if state.left.copies > 0 {
                    actions.push(Action::Copy(at));
                }
            }
            if state.left.losses > 0 {
                actions.push(Action::Lose(at));
            }
        }
    }

    fn moves(state: &State, home: NodeId, actions: &mut Vec<Action>) {
        let (cluster, core) = (&state.cluster, &state.cluster.nodes[&home].core);
        for page in cluster.pages.iter().copied() {
            if state.left.moves > 0 && core.answers_for(page) && !core.is_moving(page) {
                let others = core.view().nodes().without(NodeSet::of(home));
                actions.extend(others.iter().map(|to| Action::Move(home, page, to)));
            }
        }
    }

    fn work(&self, state: &State, node: NodeId, actions: &mut Vec<Action>) {
        let work = &state.cluster.nodes[&node].work;
        for (at, item) in work.iter().enumerate() {
            if !is_blocked(&state.cluster, node, item) {
                actions.push(Action::Work(node, at));
                if state.left.redo_failures > 0 && matches!(item, Work::Redo(..)) {
                    actions.push(Action::FailRedo(node, at));
                }
            }
        }
    }

    fn pages(&self, state: &State, node: NodeId, actions: &mut Vec<Action>) {
        let (cluster, left) = (&state.cluster, state.left);
        for page in cluster.pages.iter().copied() {
            let frame = cluster.frame(node, page);
            let wanted = cluster.nodes[&node].wants.iter().any(|(p, _)| *p == page);
            if left.acquires > 0 && !wanted {
                if frame.is_none() {
                    actions.push(Action::Acquire(node, page, Mode::Shared));
                }
                if left.exclusives > 0 && frame.is_none_or(|f| f.mode == Mode::Shared) {
                    actions.push(Action::Acquire(node, page, Mode::Exclusive));
                }
            }
            if left.reads > 0 && frame.is_none() {
                actions.push(Action::AskCopy(node, page));
            }
            if left.flush_wishes > 0 && frame.is_none() && cluster.redo.contains_key(&(page, node)) {
                actions.push(Action::WantFlush(node, page));
            }
            let Some(frame) = frame else { continue };
            if left.changes > 0 && frame.mode == Mode::Exclusive {
                actions.push(Action::Change(node, page));
            }
            if left.crashes > 0 && frame.volatile {
                actions.push(Action::Flush(node, page));
            }
            let releasable = cluster.nodes[&node].core.releasable(page);
            if left.evictions > 0 && Cluster::may_give_up(&frame) && releasable {
                actions.push(Action::Evict(node, page));
            }
            if frame.writing.is_some() {
                actions.push(Action::EndWrite(node, page));
            } else if left.write_backs > 0 && frame.duty && frame.dirty {
                actions.push(Action::BeginWrite(node, page));
            }
        }
    }

    fn membership(&self, state: &State, actions: &mut Vec<Action>) {
        let (cluster, left) = (&state.cluster, state.left);
        let last = cluster.view().epoch;
        for (node, alive) in &cluster.nodes {
            if alive.core.view().epoch < last {
                actions.push(Action::Install(*node));
            }
            if left.crashes > 0 && cluster.nodes.len() > 1 {
                actions.push(Action::Crash(*node, false));
                if cluster
                    .pages
                    .iter()
                    .any(|p| cluster.frame(*node, *p).is_some_and(|f| f.writing.is_some()))
                {
                    actions.push(Action::Crash(*node, true));
                }
            }
        }
        let joins = (1..=4)
            .map(id)
            .find(|n| !cluster.nodes.contains_key(n) && cluster.stream_is_empty(*n));
        if let (Some(node), true, true) = (joins, left.joins > 0, cluster.installed_everywhere()) {
            actions.push(Action::Join(node));
        }
        let leader = &cluster.nodes[&cluster.view().leader];
        if cluster.pending && cluster.installed_everywhere() {
            if !leader.analysed {
                actions.push(Action::Analyse);
            } else if leader.core.redo_waits() {
                actions.push(Action::TakeRedo);
            } else if leader.core.redo_outstanding() == 0 {
                actions.push(Action::Recovered);
            }
        }
    }
}

impl Model for Pages {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        plant(self.defect);
        let first = self.first(Log::default());
        plant(None);
        vec![first]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.broken.is_some() || self.patience.is_over() {
            return;
        }
        self.messages(state, actions);
        for node in state.cluster.nodes.keys() {
            self.work(state, *node, actions);
            self.pages(state, *node, actions);
            Self::moves(state, *node, actions);
        }
        self.membership(state, actions);
        // Time passes when nothing else can happen; before that it costs.
        let quiet = is_quiet(&state.cluster);
        for (node, alive) in &state.cluster.nodes {
            if alive.core.unanswered() > 0 && (quiet || state.left.repetitions > 0) {
                actions.push(Action::TimeOut(*node));
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        let free = is_quiet(&last.cluster);
        pay(&mut state.left, action, free);
        panics::capture();
        plant(self.defect);
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            self.apply(&mut state, action);
            self.follow(&mut state);
        }));
        plant(None);
        panics::release();
        if outcome.is_err() {
            let text = panics::last().unwrap_or_default();
            let mut broken = last.clone();
            broken.cluster.log = state.cluster.log;
            broken.broken = Some(text);
            return Some(broken);
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        super::properties::properties(self)
    }
}

/// Takes what an action costs from what is left.
fn pay(left: &mut Budget, action: Action, free: bool) {
    match action {
        Action::Copy(_) => left.copies -= 1,
        Action::Lose(_) => left.losses -= 1,
        Action::FailRedo(..) => left.redo_failures -= 1,
        Action::Acquire(_, _, mode) => {
            left.acquires -= 1;
            left.exclusives -= u8::from(mode == Mode::Exclusive);
        }
        Action::AskCopy(..) => left.reads -= 1,
        Action::Change(..) => left.changes -= 1,
        Action::Evict(..) => left.evictions -= 1,
        Action::BeginWrite(..) => left.write_backs -= 1,
        Action::WantFlush(..) => left.flush_wishes -= 1,
        Action::TimeOut(_) => left.repetitions -= u8::from(!free),
        Action::Crash(..) => left.crashes -= 1,
        Action::Join(_) => left.joins -= 1,
        Action::Move(..) => left.moves -= 1,
        _ => {}
    }
}

/// Whether nothing is under way but what only time brings on.
pub(super) fn is_quiet(cluster: &Cluster) -> bool {
    let busy =
        |n: &Arc<Node>| !n.work.is_empty() || n.core.contents().0.values().any(|f| f.writing.is_some());
    cluster.net.is_empty() && !cluster.nodes.values().any(busy)
}

/// Whether a node's driver has to ask on for something that is wanted.
fn wants_on(cluster: &Cluster, node: NodeId) -> bool {
    let state = &cluster.nodes[&node];
    let asks = |(page, mode): &(PageId, Mode)| {
        !state.core.wanted(*page) && state.core.possessed(*page).is_none_or(|held| held < *mode)
    };
    state.wants.iter().any(asks)
}

fn is_blocked(cluster: &Cluster, node: NodeId, work: &Work) -> bool {
    matches!(work, Work::Surrender(page)
        if cluster.frame(node, *page).is_some_and(|f| f.writing.is_some())
            && cluster.nodes[&node].core.surrender_wanted(*page).is_some())
}

fn first_work(cluster: &Cluster, node: NodeId) -> Option<usize> {
    let work = &cluster.nodes[&node].work;
    work.iter().position(|item| !is_blocked(cluster, node, item))
}

fn can_work(cluster: &Cluster, node: NodeId) -> bool {
    first_work(cluster, node).is_some()
}

/// Everything arrives and is done, in order, until nothing is left.
pub(super) fn run(cluster: &mut Cluster) {
    loop {
        if !cluster.net.is_empty() {
            let packet = cluster.net.remove(0);
            cluster.deliver(packet);
            continue;
        }
        let Some(node) = cluster.nodes.keys().copied().find(|n| can_work(cluster, *n)) else {
            return;
        };
        cluster.do_work(node, 0);
    }
}

fn describe(state: &State, action: Action) -> String {
    let of = |at: usize| {
        let packet = &state.cluster.net[at];
        let text = words::message(&state.cluster.pages, &packet.envelope.message);
        format!("{} -> {}: {text}", packet.from, packet.to)
    };
    match action {
        Action::Deliver(at) => format!("delivered {}", of(at)),
        Action::Copy(at) => format!("delivered, and kept, {}", of(at)),
        Action::Lose(at) => format!("lost {}", of(at)),
        Action::Work(node, at) => format!("{node} does {:?}", state.cluster.nodes[&node].work[at]),
        other => format!("{other:?}"),
    }
}

/// The kind of a message.
fn kind(message: &Message) -> &'static str {
    match message {
        Message::Acquire { .. } => "Acquire",
        Message::Denied { .. } => "Denied",
        Message::Release { .. } => "Release",
        Message::ReleaseAck { .. } => "ReleaseAck",
        Message::Grant { .. } => "Grant",
        Message::Transfer { .. } => "Transfer",
        Message::Next { .. } => "Next",
        Message::Invalidate { .. } => "Invalidate",
        Message::Invalidated { .. } => "Invalidated",
        Message::Gone { .. } => "Gone",
        Message::Page { .. } => "Page",
        Message::Done { .. } => "Done",
        Message::Refused { .. } => "Refused",
        Message::DoneAck { .. } => "DoneAck",
        Message::Drop { .. } => "Drop",
        Message::Dropped { .. } => "Dropped",
        Message::Inherit { .. } => "Inherit",
        Message::Inherited { .. } => "Inherited",
        Message::Cleaned { .. } => "Cleaned",
        Message::WrittenBack { .. } => "WrittenBack",
        Message::FlushWanted { .. } => "FlushWanted",
        Message::WriteBackWanted { .. } => "WriteBackWanted",
        Message::NotHeld { .. } => "NotHeld",
        Message::Query { .. } => "Query",
        Message::Claims { .. } => "Claims",
        Message::Analysis { .. } => "Analysis",
        Message::AnalysisAck { .. } => "AnalysisAck",
        Message::NeedRedo { .. } => "NeedRedo",
        Message::NeedRedoAck { .. } => "NeedRedoAck",
        Message::RedoUrgent { .. } => "RedoUrgent",
        Message::Redone { .. } => "Redone",
        Message::RedoneAck { .. } => "RedoneAck",
        Message::AskCopy { .. } => "AskCopy",
        Message::CopyWanted { .. } => "CopyWanted",
        Message::Copy { .. } => "Copy",
        Message::NoCopy { .. } => "NoCopy",
        Message::Slot { .. } => "Slot",
        Message::SlotAck { .. } => "SlotAck",
        Message::Moved { .. } => "Moved",
    }
}
