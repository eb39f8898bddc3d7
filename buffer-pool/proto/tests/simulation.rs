//! Seeded runs of several cores over a bad network, with crashes, view changes, eviction and write-back; page content
//! is its PSN, redo is the set of durable PSNs per node and page. DIR-1 to DIR-7 are checked against what the model sees.
#![allow(clippy::unwrap_used, missing_docs)]

use aquifer_buffer_pool_proto::{
    Contents, Conversion, Envelope, ImageInfo, Mode, Output, Ownership, PageId, Psn, Redone, SurrenderKind,
};
use aquifer_dss_proto::{Epoch, FileId, Incarnation, Instant, Member, NodeId, NodeSet, View};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

#[derive(Clone, Copy, Debug)]
struct Frame {
    mode: Mode,
    psn: Psn,
    dirty: bool,
    duty: bool,
    contributors: NodeSet,
    writing: Option<Psn>,
    /// Highest PSN of this node's changes that is not durable in its redo.
    volatile: bool,
}

#[derive(Clone, Default)]
struct Frames(Rc<RefCell<BTreeMap<PageId, Frame>>>);

impl Contents for Frames {
    fn info(&self, page: PageId) -> (ImageInfo, bool) {
        let frame = self.0.borrow()[&page];
        (info(&frame), frame.duty)
    }
}

fn info(frame: &Frame) -> ImageInfo {
    ImageInfo {
        psn: frame.psn,
        dirty: frame.dirty,
        contributors: frame.contributors,
        flush_wanted: false,
    }
}

#[derive(Clone, Debug)]
enum Work {
    Read(PageId, Conversion),
    Install(PageId, Conversion, ImageInfo),
    Restore(PageId, Conversion, ImageInfo),
    Surrender(PageId),
    Redo(PageId, Psn, Epoch),
}

struct Node {
    life: Incarnation,
    core: Ownership<Psn, Frames>,
    frames: Frames,
    work: Vec<Work>,
    analysed: bool,
    wants: BTreeSet<(PageId, Mode)>,
}

type Net = (NodeId, Incarnation, NodeId, Envelope, Option<Psn>);

struct Sim {
    seed: u64,
    state: u64,
    now: Instant,
    nodes: BTreeMap<NodeId, Node>,
    pages: Vec<PageId>,
    net: Vec<Net>,
    storage: BTreeMap<PageId, Psn>,
    /// Durable records that are retained, per node and page; and those not yet durable.
    redo: BTreeMap<(NodeId, PageId), BTreeSet<Psn>>,
    volatile: BTreeMap<(NodeId, PageId), BTreeSet<Psn>>,
    /// Highest durable PSN ever.
    truth: BTreeMap<PageId, Psn>,
    view: Arc<View>,
    pending: bool,
    dead: NodeSet,
    lossy: bool,
    writes: u64,
    log: Vec<String>,
}

fn id(n: u8) -> NodeId {
    NodeId::new(n).unwrap()
}

impl Sim {
    fn new(seed: u64) -> Self {
        let mut sim = Self {
            seed,
            state: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1,
            now: Instant(1),
            nodes: BTreeMap::new(),
            pages: Vec::new(),
            net: Vec::new(),
            storage: BTreeMap::new(),
            redo: BTreeMap::new(),
            volatile: BTreeMap::new(),
            truth: BTreeMap::new(),
            view: Arc::new(View::none()),
            pending: false,
            dead: NodeSet::EMPTY,
            lossy: true,
            writes: 0,
            log: Vec::new(),
        };
        for n in 0..1 + sim.random(3) {
            sim.pages.push(PageId {
                file: FileId(7),
                number: n as u32 * 64,
            });
        }
        let count = 2 + sim.random(3) as u8;
        for n in 1..=count {
            sim.start_node(id(n), Incarnation(1));
        }
        sim.change_view(NodeSet::EMPTY);
        sim
    }

    fn random(&mut self, below: u64) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        (self.state >> 11) % below
    }

    fn start_node(&mut self, node: NodeId, life: Incarnation) {
        let frames = Frames::default();
        let core = Ownership::new(node, Duration::from_millis(10), frames.clone());
        let node_state = Node {
            life,
            core,
            frames,
            work: Vec::new(),
            analysed: false,
            wants: BTreeSet::new(),
        };
        self.nodes.insert(node, node_state);
    }

    fn change_view(&mut self, dead: NodeSet) {
        let members = self
            .nodes
            .iter()
            .map(|(n, s)| Member {
                node: *n,
                incarnation: s.life,
            })
            .collect();
        self.view = Arc::new(self.view.successor(members));
        self.pending |= !dead.is_empty();
        self.dead = dead;
        self.log.push(format!(
            "view {:?} {:?} dead {dead:?} pending {}",
            self.view.epoch,
            self.view.nodes(),
            self.pending
        ));
    }

    fn install(&mut self, node: NodeId) {
        let (view, dead, pending, now) = (self.view.clone(), self.dead, self.pending, self.now);
        let state = self.nodes.get_mut(&node).unwrap();
        if state.core.view().epoch < view.epoch {
            state.analysed = false;
            // Views may be skipped by nobody: the model installs each before the next is made.
            state.core.install_view(now, view, dead, pending);
            self.collect(node);
        }
    }

    fn installed_everywhere(&self) -> bool {
        self.nodes
            .values()
            .all(|n| n.core.view().epoch == self.view.epoch)
    }

    fn collect(&mut self, node: NodeId) {
        loop {
            let state = self.nodes.get_mut(&node).unwrap();
            let Some(output) = state.core.poll_output() else {
                break;
            };
            let life = state.life;
            match output {
                Output::Send(to, envelope, image) => self.net.push((node, life, to, envelope, image)),
                Output::ReadStorage { page, conversion, .. } => state.work.push(Work::Read(page, conversion)),
                Output::Install {
                    page,
                    conversion,
                    image,
                    info,
                    ..
                } => {
                    assert_eq!(image, info.psn);
                    state.work.push(Work::Install(page, conversion, info));
                }
                Output::Upgrade { page, conversion, .. } => {
                    let mode = state.core.handle_installed(self.now, page, conversion).unwrap();
                    let mut frames = state.frames.0.borrow_mut();
                    let frame = frames.get_mut(&page).unwrap();
                    frame.mode = mode;
                    frame.duty |= mode == Mode::Exclusive && frame.dirty;
                    drop(frames);
                    self.possessed(node, page);
                }
                Output::Restore {
                    page,
                    conversion,
                    info,
                    ..
                } => state.work.push(Work::Restore(page, conversion, info)),
                Output::Surrender { page, .. } => state.work.push(Work::Surrender(page)),
                Output::Inherit(page) => {
                    let mut frames = state.frames.0.borrow_mut();
                    let frame = frames.get_mut(&page).unwrap();
                    frame.duty = frame.dirty;
                }
                Output::Denied(page) => panic!("{page} is denied"),
                Output::WriteBackWanted(..) | Output::NotHeld(_) | Output::RedoReady => {}
                Output::WrittenBack(by, pages) => {
                    for (page, psn) in pages {
                        self.redo.entry((by, page)).or_default().retain(|p| *p > psn);
                    }
                }
            }
        }
    }

    /// A node just came to possess a page: DIR-1 and DIR-2 over the whole cluster.
    fn possessed(&mut self, node: NodeId, page: PageId) {
        let frame = self.nodes[&node].frames.0.borrow()[&page];
        let truth = self.truth.get(&page).copied().unwrap_or_default();
        assert!(
            frame.psn >= truth,
            "DIR-2: {node} got {page} at {:?}, {truth:?} is durable",
            frame.psn
        );
        for (other, state) in &self.nodes {
            if let Some(theirs) = state.frames.0.borrow().get(&page).filter(|_| *other != node) {
                assert!(
                    frame.mode == Mode::Shared && theirs.mode == Mode::Shared,
                    "DIR-1: {node} {:?} and {other} {:?} on {page}",
                    frame.mode,
                    theirs.mode
                );
                assert_eq!(frame.psn, theirs.psn, "DIR-2");
            }
        }
        self.nodes
            .get_mut(&node)
            .unwrap()
            .wants
            .retain(|(p, m)| *p != page || *m > frame.mode);
    }

    fn put(&mut self, node: NodeId, page: PageId, mode: Mode, info: ImageInfo) {
        let duty = mode == Mode::Exclusive && info.dirty;
        let ImageInfo {
            psn,
            dirty,
            contributors,
            ..
        } = info;
        let frame = Frame {
            mode,
            psn,
            dirty,
            duty,
            contributors,
            writing: None,
            volatile: false,
        };
        let before = self.nodes[&node].frames.0.borrow_mut().insert(page, frame);
        assert!(before.is_none(), "an installed page was not there");
        self.possessed(node, page);
    }

    fn step_work(&mut self, node: NodeId) {
        let count = self.nodes[&node].work.len() as u64;
        if count == 0 {
            return;
        }
        let at = self.random(count) as usize;
        let now = self.now;
        let state = self.nodes.get_mut(&node).unwrap();
        let work = state.work.remove(at);
        self.log.push(format!("{node} work {work:?}"));
        match work {
            Work::Read(page, conversion) => {
                let psn = self.storage.get(&page).copied().unwrap_or_default();
                if let Some(mode) = state.core.handle_installed(now, page, conversion) {
                    self.put(
                        node,
                        page,
                        mode,
                        ImageInfo {
                            psn,
                            ..ImageInfo::default()
                        },
                    );
                }
            }
            Work::Install(page, conversion, info) => {
                if let Some(mode) = state.core.handle_installed(now, page, conversion) {
                    self.put(node, page, mode, info);
                }
            }
            Work::Restore(page, conversion, info) => {
                if self.storage.get(&page).copied().unwrap_or_default() >= info.psn {
                    state.core.handle_refused(now, page, conversion);
                } else if let Some(mode) = state.core.handle_installed(now, page, conversion) {
                    self.put(node, page, mode, ImageInfo { dirty: true, ..info });
                }
            }
            Work::Surrender(page) => self.surrender(node, page),
            Work::Redo(page, target, epoch) => self.redo_page(node, page, target, epoch),
        }
        self.collect(node);
    }

    fn surrender(&mut self, node: NodeId, page: PageId) {
        let now = self.now;
        let state = self.nodes.get_mut(&node).unwrap();
        let Some((conversion, kind)) = state.core.surrender_wanted(page) else {
            return;
        };
        let frame = state.frames.0.borrow()[&page];
        if frame.writing.is_some() {
            state.work.push(Work::Surrender(page)); // HZ-2
            return;
        }
        if frame.volatile {
            self.flush_redo(node, page); // DIR-3
        }
        let state = self.nodes.get_mut(&node).unwrap();
        let mut frames = state.frames.0.borrow_mut();
        let mut image = Some(frame.psn);
        match kind {
            SurrenderKind::Copy => {}
            SurrenderKind::Downgrade => frames.get_mut(&page).unwrap().mode = Mode::Shared,
            SurrenderKind::Ship => drop(frames.remove(&page)),
            SurrenderKind::Drop => {
                frames.remove(&page);
                image = image.filter(|_| frame.duty);
            }
        }
        drop(frames);
        state
            .core
            .handle_surrendered(now, page, conversion, image, info(&frame));
    }

    fn flush_redo(&mut self, node: NodeId, page: PageId) {
        let records = self.volatile.remove(&(node, page)).unwrap_or_default();
        if let Some(last) = records.last() {
            let truth = self.truth.entry(page).or_default();
            *truth = (*truth).max(*last);
        }
        self.redo.entry((node, page)).or_default().extend(records);
        if let Some(frame) = self.nodes[&node].frames.0.borrow_mut().get_mut(&page) {
            frame.volatile = false;
        }
    }

    fn redo_page(&mut self, leader: NodeId, page: PageId, target: Psn, epoch: Epoch) {
        let now = self.now;
        let base = self.storage.get(&page).copied().unwrap_or_default();
        let state = self.nodes.get_mut(&leader).unwrap();
        if epoch != state.core.view().epoch {
            return;
        }
        if base >= target {
            state.core.handle_redone(now, page, epoch, Redone::Current);
            return;
        }
        let mut contributors = NodeSet::EMPTY;
        for psn in base.0 + 1..=target.0 {
            let by = self
                .redo
                .iter()
                .find(|((_, p), set)| *p == page && set.contains(&Psn(psn)));
            let ((by, _), _) = by.unwrap_or_else(|| {
                panic!("DIR-6: redo of {page} {psn} is gone, base {base:?} target {target:?}")
            });
            contributors.insert(*by);
        }
        let info = ImageInfo {
            psn: target,
            dirty: true,
            contributors,
            flush_wanted: false,
        };
        if state.core.handle_redone(now, page, epoch, Redone::Held) {
            self.put(leader, page, Mode::Exclusive, info);
        }
    }

    /// The leader's engine: reads all streams once every member has installed the view.
    fn analyse(&mut self) {
        let leader = self.view.leader;
        if !self.pending || !self.installed_everywhere() || self.nodes[&leader].analysed {
            return;
        }
        let mut targets = BTreeMap::<PageId, Psn>::new();
        for ((_, page), records) in &self.redo {
            if let Some(last) = records.last() {
                let target = targets.entry(*page).or_default();
                *target = (*target).max(*last);
            }
        }
        self.log.push(format!("analysed {targets:?}"));
        let now = self.now;
        let state = self.nodes.get_mut(&leader).unwrap();
        state.analysed = true;
        state.core.handle_analysed(now, targets.into_iter().collect());
        self.collect(leader);
    }

    fn recovered(&mut self) {
        let leader = self.view.leader;
        let done = self.nodes[&leader].analysed && self.nodes[&leader].core.redo_outstanding() == 0;
        if self.pending && self.installed_everywhere() && done {
            self.pending = false;
            self.log.push("recovered".into());
        }
    }

    fn write_back(&mut self, node: NodeId, page: PageId) {
        let Some(frame) = self.nodes[&node].frames.0.borrow().get(&page).copied() else {
            return;
        };
        if let Some(psn) = frame.writing {
            self.written(node, page, psn);
        } else if frame.duty && frame.dirty {
            if frame.volatile {
                self.flush_redo(node, page); // HZ-11
            }
            self.nodes[&node]
                .frames
                .0
                .borrow_mut()
                .get_mut(&page)
                .unwrap()
                .writing = Some(frame.psn);
        }
    }

    fn written(&mut self, node: NodeId, page: PageId, psn: Psn) {
        let before = self.storage.insert(page, psn).unwrap_or_default();
        assert!(
            before <= psn,
            "DIR-4: {page} fell from {before:?} to {psn:?} on storage"
        );
        self.log.push(format!("{node} wrote back {page} {psn:?}"));
        let now = self.now;
        let state = self.nodes.get_mut(&node).unwrap();
        let mut frames = state.frames.0.borrow_mut();
        let frame = frames.get_mut(&page).unwrap();
        frame.writing = None;
        let contributors = frame.contributors;
        let clean = frame.psn == psn;
        frame.dirty = !clean;
        frame.duty = !clean;
        frame.contributors = if clean { NodeSet::EMPTY } else { NodeSet::of(node) };
        drop(frames);
        if clean {
            state.core.handle_cleaned(now, page);
        }
        for by in contributors.iter() {
            state.core.handle_written_back(now, by, vec![(page, psn)]);
        }
        self.collect(node);
    }

    fn use_page(&mut self, node: NodeId, page: PageId) {
        let now = self.now;
        let mode = if self.random(2) == 0 {
            Mode::Shared
        } else {
            Mode::Exclusive
        };
        let held = self.nodes[&node].frames.0.borrow().get(&page).copied();
        if let Some(frame) = held.filter(|f| f.mode == Mode::Exclusive && mode == Mode::Exclusive) {
            let psn = Psn(frame.psn.0 + 1);
            self.writes += 1;
            self.volatile.entry((node, page)).or_default().insert(psn);
            let mut frames = self.nodes[&node].frames.0.borrow_mut();
            let frame = frames.get_mut(&page).unwrap();
            (frame.psn, frame.dirty, frame.duty, frame.volatile) = (psn, true, true, true);
            frame.contributors.insert(node);
        } else if held.is_none_or(|f| f.mode < mode) {
            let state = self.nodes.get_mut(&node).unwrap();
            state.wants.insert((page, mode));
            state.core.handle_acquire(now, page, mode);
            self.collect(node);
        }
    }

    fn evict(&mut self, node: NodeId, page: PageId) {
        let now = self.now;
        let Some(frame) = self.nodes[&node].frames.0.borrow().get(&page).copied() else {
            return;
        };
        if frame.duty || frame.writing.is_some() {
            return;
        }
        let state = self.nodes.get_mut(&node).unwrap();
        if state.core.handle_release(now, page) {
            state.frames.0.borrow_mut().remove(&page);
            self.log.push(format!("{node} evicted {page}"));
            self.collect(node);
        }
    }

    fn kill(&mut self, node: NodeId) {
        if self.nodes.len() < 2 || !self.installed_everywhere() {
            return;
        }
        self.log.push(format!("kill {node}"));
        let state = self.nodes.remove(&node).unwrap();
        let life = state.life;
        for (page, frame) in state.frames.0.borrow().iter() {
            if let (Some(psn), 0) = (frame.writing, self.random(2)) {
                self.storage.insert(*page, psn);
            }
        }
        let mut lost: Vec<_> = self
            .volatile
            .keys()
            .filter(|(n, _)| *n == node)
            .copied()
            .collect();
        lost.drain(..).for_each(|key| drop(self.volatile.remove(&key)));
        // Its stream is empty again before the id may come back; here it comes back at once in one run of four.
        let flushed = self.redo.iter().all(|((n, _), set)| *n != node || set.is_empty());
        if flushed && self.random(4) == 0 {
            self.start_node(node, Incarnation(life.0 + 1));
        }
        self.change_view(NodeSet::of(node));
    }

    fn join(&mut self) {
        if !self.installed_everywhere() || self.nodes.len() >= 4 {
            return;
        }
        for n in 1..=4 {
            let free = !self.nodes.contains_key(&id(n))
                && self
                    .redo
                    .iter()
                    .all(|((o, _), set)| *o != id(n) || set.is_empty());
            if free {
                self.start_node(id(n), Incarnation(self.view.epoch.0 + 10));
                return self.change_view(NodeSet::EMPTY);
            }
        }
    }

    fn deliver(&mut self) {
        if self.net.is_empty() {
            return;
        }
        let at = if self.lossy {
            self.random(self.net.len() as u64) as usize
        } else {
            0
        };
        let fate = if self.lossy { self.random(20) } else { 19 };
        let message = if fate == 0 {
            self.net[at].clone()
        } else {
            self.net.remove(at)
        };
        if fate == 1 {
            return;
        }
        let (from, life, to, envelope, image) = message;
        let now = self.now;
        let Some(state) = self.nodes.get_mut(&to) else {
            return;
        };
        if state.core.view().incarnation(from) == Some(life) {
            self.log.push(format!("{from}->{to} {envelope:?}"));
            state.core.handle_message(now, from, envelope, image);
            self.collect(to);
        }
    }

    fn tick(&mut self, node: NodeId) {
        self.now = Instant(self.now.0 + 1_000_000);
        let now = self.now;
        let state = self.nodes.get_mut(&node).unwrap();
        if state.core.next_timeout().is_some_and(|at| at <= now) {
            state.core.handle_timeout(now);
        }
        if let Some((page, target, epoch)) = state.core.next_redo() {
            state.work.push(Work::Redo(page, target, epoch));
        }
        self.collect(node);
    }

    fn any_node(&mut self) -> NodeId {
        let nodes: Vec<NodeId> = self.nodes.keys().copied().collect();
        nodes[self.random(nodes.len() as u64) as usize]
    }

    fn step(&mut self) {
        let node = self.any_node();
        let at = self.random(self.pages.len() as u64) as usize;
        let page = self.pages[at];
        match self.random(100) {
            0..45 => self.deliver(),
            45..65 => self.step_work(node),
            65..80 => self.use_page(node, page),
            80..84 => self.evict(node, page),
            84..88 => self.write_back(node, page),
            88..92 => self.tick(node),
            92..95 => self.install(node),
            95..97 => self.flush_redo(node, page),
            97 => self.analyse(),
            98 => self.recovered(),
            _ => match self.random(8) {
                0 => self.kill(node),
                1 => self.join(),
                _ => {}
            },
        }
    }

    /// DIR-7: with a good network every request is granted, and recovery ends.
    fn settle(&mut self) {
        self.lossy = false;
        for round in 0..6000 {
            for node in self.nodes.keys().copied().collect::<Vec<_>>() {
                self.install(node);
                self.step_work(node);
                self.tick(node);
                for page in self.pages.clone() {
                    if self.nodes[&node]
                        .frames
                        .0
                        .borrow()
                        .get(&page)
                        .is_some_and(|f| f.writing.is_some())
                    {
                        self.write_back(node, page);
                    }
                    let want = self.nodes[&node].wants.iter().find(|(p, _)| *p == page).copied();
                    if let Some((page, mode)) = want {
                        let now = self.now;
                        self.nodes
                            .get_mut(&node)
                            .unwrap()
                            .core
                            .handle_acquire(now, page, mode);
                        self.collect(node);
                    }
                }
            }
            for _ in 0..self.net.len() {
                self.deliver();
            }
            self.analyse();
            self.recovered();
            if !self.pending
                && self
                    .nodes
                    .values()
                    .all(|n| n.wants.is_empty() && n.core.retained_count() == 0)
            {
                return;
            }
            assert!(
                round < 5999,
                "DIR-7: not granted: {:?}",
                self.nodes
                    .iter()
                    .map(|(n, s)| (*n, s.wants.clone(), s.core.retained_count()))
                    .collect::<Vec<_>>()
            );
        }
    }
}

struct Trace(Sim);
impl Drop for Trace {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let from = self.0.log.len().saturating_sub(120);
            eprintln!("seed {}:\n{}", self.0.seed, self.0.log[from..].join("\n"));
        }
    }
}

fn run(seed: u64, steps: u64) -> u64 {
    let mut sim = Trace(Sim::new(seed));
    for _ in 0..steps {
        sim.0.step();
    }
    sim.0.settle();
    sim.0.writes
}

#[test]
fn invariants_hold_over_seeds() {
    let only = std::env::var("SEED").ok().and_then(|s| s.parse().ok());
    let count = std::env::var("SEEDS")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(1500);
    let mut writes = 0;
    for seed in only.map_or(1..count, |s| s..s + 1) {
        writes += run(seed, 1500);
    }
    assert!(writes > 0, "the runs write");
    println!("{writes} writes");
}
