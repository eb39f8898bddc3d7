//! Several cores with what surrounds them: frames, the network, storage, redo, crashes and views. A page's content is
//! its PSN; a redo stream is the set of PSNs that its node wrote. DIR-1 to DIR-6 are checked against what this sees.
//!
//! The same cluster is driven by the traces (`trace.rs`), by seeded walks (`walk.rs`) and, as a value that is cloned
//! and compared, by the model in the package of tests.

use super::words::{self, letter};
use aquifer_buffer_pool_proto::{
    Contents, Conversion, Envelope, ImageInfo, Mode, Output, Ownership, PageId, Psn, Redone, Request,
    SurrenderKind,
};
use aquifer_dss_proto::{Epoch, FileId, Incarnation, Instant, Member, NodeId, NodeSet, View};
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

/// How long a core waits before it repeats a message.
const RETRANSMIT: Duration = Duration::from_millis(10);

/// A page in a node's memory.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Frame {
    pub mode: Mode,
    pub psn: Psn,
    pub dirty: bool,
    pub duty: bool,
    pub contributors: NodeSet,
    /// The PSN that is on its way to storage.
    pub writing: Option<Psn>,
    /// This node's last changes are not durable in its redo.
    pub volatile: bool,
}

impl Frame {
    /// What would travel with the image.
    pub fn info(&self) -> ImageInfo {
        ImageInfo {
            psn: self.psn,
            dirty: self.dirty,
            contributors: self.contributors,
            flush_wanted: false,
        }
    }
}

/// The frames of a node.
#[derive(Clone, PartialEq, Eq, Hash, Default, Debug)]
pub struct Frames(pub BTreeMap<PageId, Frame>);

impl Contents for Frames {
    fn info(&self, page: PageId) -> (ImageInfo, bool) {
        let frame = &self.0[&page];
        (frame.info(), frame.duty)
    }
}

/// What a core told its driver to do, and the driver has not done yet.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Work {
    Read(PageId, Conversion),
    Install(PageId, Conversion, ImageInfo),
    Restore(PageId, Conversion, ImageInfo),
    Surrender(PageId),
    Redo(PageId, Psn, Epoch),
    /// A step that asked for a copy runs over it.
    ReadCopy(PageId, Copied),
}

/// A copy that came to a reader.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Copied {
    pub psn: Psn,
    /// The view in which it came.
    pub epoch: Epoch,
    /// The newest PSN when it was asked for: the reader's snapshot may cover that.
    pub asked: Psn,
}

/// One node.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Node {
    pub life: Incarnation,
    pub core: Ownership<Psn, Frames>,
    pub work: Vec<Work>,
    pub analysed: bool,
    pub wants: BTreeSet<(PageId, Mode)>,
    /// Questions for copies, with the newest PSN when each was asked.
    pub asked: BTreeMap<Request, Psn>,
}

/// A message under way.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Packet {
    pub from: NodeId,
    pub life: Incarnation,
    pub to: NodeId,
    pub envelope: Envelope,
    pub image: Option<Psn>,
}

/// A view as the members are told of it.
#[derive(Clone, Debug)]
pub struct Announced {
    pub view: Arc<View>,
    pub dead: NodeSet,
    pub pending: bool,
}

/// What happened, in words; no part of the state.
#[derive(Clone, Default)]
pub struct Log(pub Option<Vec<String>>);

impl Log {
    pub fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.0 {
            lines.push(line());
        }
    }
}

/// The whole.
#[derive(Clone)]
pub struct Cluster {
    pub now: Instant,
    pub pages: Vec<PageId>,
    pub nodes: BTreeMap<NodeId, Arc<Node>>,
    pub net: Vec<Packet>,
    pub storage: BTreeMap<PageId, Psn>,
    /// Durable records that are kept, per page and node; and those not yet durable.
    pub redo: BTreeMap<(PageId, NodeId), BTreeSet<Psn>>,
    pub volatile: BTreeMap<(PageId, NodeId), BTreeSet<Psn>>,
    /// Highest PSN that was ever durable, in a redo stream or on storage.
    pub truth: BTreeMap<PageId, Psn>,
    /// All views so far; each node installs them in order.
    pub views: Vec<Announced>,
    /// A recovery of dead nodes has not ended.
    pub pending: bool,
    pub log: Log,
}

/// Node `n`.
pub fn id(n: u8) -> NodeId {
    NodeId::new(n).expect("nodes of tests are numbered from 1")
}

impl Cluster {
    /// Nodes 1 to `count`, none of which has installed the first view yet.
    pub fn new(count: u8, pages: Vec<PageId>) -> Self {
        let mut cluster = Self {
            now: Instant(1),
            pages,
            nodes: BTreeMap::new(),
            net: Vec::new(),
            storage: BTreeMap::new(),
            redo: BTreeMap::new(),
            volatile: BTreeMap::new(),
            truth: BTreeMap::new(),
            views: Vec::new(),
            pending: false,
            log: Log::default(),
        };
        for n in 1..=count {
            cluster.start_node(id(n), Incarnation(1));
        }
        cluster.change_view(NodeSet::EMPTY);
        cluster
    }

    /// A page whose home in the first view of `count` nodes is `home`; another for each `nth`.
    pub fn page_of(home: u8, count: u8, nth: usize) -> PageId {
        let members = (1..=count).map(|n| Member {
            node: id(n),
            incarnation: Incarnation(1),
        });
        let view = View::none().successor(members.collect());
        (0..)
            .map(|group| PageId {
                file: FileId(7),
                number: group * 64,
            })
            .filter(|page| view.home(page.slot(&view)) == id(home))
            .nth(nth)
            .expect("every member is home of a slot")
    }

    pub fn view(&self) -> &Arc<View> {
        &self.views.last().expect("the first view is made at once").view
    }

    pub fn node(&mut self, node: NodeId) -> &mut Node {
        Arc::make_mut(self.nodes.get_mut(&node).expect("the node is alive"))
    }

    pub fn frame(&self, node: NodeId, page: PageId) -> Option<Frame> {
        self.nodes.get(&node)?.core.contents().0.get(&page).copied()
    }

    fn frame_mut(&mut self, node: NodeId, page: PageId) -> &mut Frame {
        let frames = &mut self.node(node).core.contents_mut().0;
        frames.get_mut(&page).expect("the page is in a frame")
    }

    pub fn stored(&self, page: PageId) -> Psn {
        self.storage.get(&page).copied().unwrap_or_default()
    }

    pub fn durable(&self, page: PageId) -> Psn {
        self.truth.get(&page).copied().unwrap_or_default()
    }

    fn letter(&self, page: PageId) -> char {
        letter(&self.pages, page)
    }

    pub fn start_node(&mut self, node: NodeId, life: Incarnation) {
        let state = Node {
            life,
            core: Ownership::new(node, RETRANSMIT, Frames::default()),
            work: Vec::new(),
            analysed: false,
            wants: BTreeSet::new(),
            asked: BTreeMap::new(),
        };
        self.nodes.insert(node, Arc::new(state));
    }

    /// Agrees on a view of the nodes that are alive; `dead` died since the last one.
    pub fn change_view(&mut self, dead: NodeSet) {
        let members = self.nodes.iter().map(|(node, state)| Member {
            node: *node,
            incarnation: state.life,
        });
        let members = members.collect();
        let view = match self.views.last() {
            Some(last) => last.view.successor(members),
            None => View::none().successor(members),
        };
        self.pending |= !dead.is_empty();
        let pending = self.pending;
        self.log.note(|| words::view(&view, dead, pending));
        self.views.push(Announced {
            view: Arc::new(view),
            dead,
            pending,
        });
    }

    /// Installs the next view at a node, if there is one.
    pub fn install(&mut self, node: NodeId) {
        let state = &self.nodes[&node];
        let member = Member {
            node,
            incarnation: state.life,
        };
        let epoch = state.core.view().epoch;
        let next = self
            .views
            .iter()
            .find(|a| a.view.epoch > epoch && a.view.members.contains(&member));
        let Some(Announced { view, dead, pending }) = next.cloned() else {
            return;
        };
        self.log.note(|| format!("{node} installs view {}", view.epoch.0));
        let now = self.now;
        let state = self.node(node);
        state.analysed = false;
        state.core.install_view(now, view, dead, pending);
        self.collect(node);
    }

    pub fn installed_everywhere(&self) -> bool {
        let epoch = self.view().epoch;
        self.nodes.values().all(|n| n.core.view().epoch == epoch)
    }

    /// Does or notes down what a core wants done.
    fn collect(&mut self, node: NodeId) {
        while let Some(output) = self.node(node).core.poll_output() {
            match output {
                Output::Send(to, envelope, image) => {
                    let life = self.nodes[&node].life;
                    let pages = &self.pages;
                    self.log
                        .note(|| format!("{node} -> {to}: {}", words::message(pages, &envelope.message)));
                    self.net.push(Packet {
                        from: node,
                        life,
                        to,
                        envelope,
                        image,
                    });
                }
                Output::Upgrade { page, conversion, .. } => self.upgrade(node, page, conversion),
                Output::Inherit(page) => {
                    let frame = self.frame_mut(node, page);
                    frame.duty = frame.dirty;
                }
                Output::Denied(page) => self.node(node).wants.retain(|(p, _)| *p != page),
                Output::WriteBackWanted(page, by) => self.write_back_wanted(node, page, by),
                Output::NotHeld(page) => self.trim_redo(page, node, self.stored(page)),
                Output::RedoReady => {}
                Output::CopyWanted { page, to, request } => self.serve_copy(node, page, to, request),
                Output::Copied { page, request, copy } => self.copied(node, page, request, copy),
                Output::WrittenBack(by, pages) => {
                    for (page, psn) in pages {
                        self.trim_redo(page, by, psn);
                    }
                }
                output => self.queue_work(node, output),
            }
        }
    }

    fn queue_work(&mut self, node: NodeId, output: Output<Psn>) {
        let work = match output {
            Output::ReadStorage { page, conversion, .. } => Work::Read(page, conversion),
            Output::Install {
                page,
                conversion,
                image,
                info,
                ..
            } => {
                assert_eq!(image, info.psn, "an image is what its message says");
                Work::Install(page, conversion, info)
            }
            Output::Restore {
                page,
                conversion,
                info,
                ..
            } => Work::Restore(page, conversion, info),
            Output::Surrender { page, .. } => Work::Surrender(page),
            _ => unreachable!("collect does the others"),
        };
        self.node(node).work.push(work);
    }

    fn upgrade(&mut self, node: NodeId, page: PageId, conversion: Conversion) {
        let now = self.now;
        let mode = self.node(node).core.handle_installed(now, page, conversion);
        let frame = self.frame_mut(node, page);
        frame.mode = mode.expect("an upgrade is taken at once");
        frame.duty |= frame.mode == Mode::Exclusive && frame.dirty;
        self.possessed(node, page);
    }

    fn write_back_wanted(&mut self, node: NodeId, page: PageId, by: NodeId) {
        let Some(frame) = self.frame(node, page) else {
            return;
        };
        if frame.duty && frame.dirty {
            self.frame_mut(node, page).contributors.insert(by);
        } else if !frame.dirty {
            let now = self.now;
            let core = &mut self.node(node).core;
            core.handle_written_back(now, by, vec![(page, frame.psn)]);
        }
    }

    fn trim_redo(&mut self, page: PageId, by: NodeId, upto: Psn) {
        if let Some(records) = self.redo.get_mut(&(page, by)) {
            records.retain(|psn| *psn > upto);
            if records.is_empty() {
                self.redo.remove(&(page, by));
            }
        }
        let (from, to, kept) = (self.stored(page).0, self.durable(page).0, &self.redo);
        let lost = (from + 1..=to).find(|psn| !has_record(kept, page, Psn(*psn)));
        assert!(
            lost.is_none(),
            "DIR-6: redo of {page} {lost:?} is forgotten before it is on storage"
        );
    }

    /// A node just came to possess a page: DIR-1 and DIR-2 over the whole cluster.
    fn possessed(&mut self, node: NodeId, page: PageId) {
        let frame = self.frame(node, page).expect("it was put there");
        let durable = self.durable(page);
        let letter = self.letter(page);
        self.log
            .note(|| format!("{node} holds {letter} {}", words::frame(&frame)));
        assert!(
            frame.psn >= durable,
            "DIR-2: {node} got {page} at {:?}, {durable:?} is durable",
            frame.psn
        );
        self.check_holders(page);
        let wants = &mut self.node(node).wants;
        wants.retain(|(p, m)| *p != page || *m > frame.mode);
    }

    /// DIR-1 and DIR-2 of one page over all frames.
    pub fn check_holders(&self, page: PageId) {
        let holders: Vec<(NodeId, Frame)> = self
            .nodes
            .keys()
            .filter_map(|node| Some((*node, self.frame(*node, page)?)))
            .collect();
        for pair in holders.windows(2) {
            let [(one, first), (other, second)] = pair else {
                continue;
            };
            assert!(
                first.mode == Mode::Shared && second.mode == Mode::Shared,
                "DIR-1: {one} holds {page} {:?} and {other} {:?}",
                first.mode,
                second.mode
            );
            assert_eq!(first.psn, second.psn, "DIR-2: sharers of {page} differ");
        }
    }

    fn put(&mut self, node: NodeId, page: PageId, mode: Mode, info: ImageInfo) {
        let frame = Frame {
            mode,
            psn: info.psn,
            dirty: info.dirty,
            duty: mode == Mode::Exclusive && info.dirty,
            contributors: info.contributors,
            writing: None,
            volatile: false,
        };
        let before = self.node(node).core.contents_mut().0.insert(page, frame);
        assert!(before.is_none(), "DIR-1: an installed page was there already");
        self.possessed(node, page);
    }

    /// Does one piece of a node's work; false when it has to wait (HZ-2).
    pub fn do_work(&mut self, node: NodeId, at: usize) -> bool {
        let now = self.now;
        let work = self.node(node).work.remove(at);
        match work {
            Work::Read(page, conversion) => {
                let info = ImageInfo {
                    psn: self.stored(page),
                    ..ImageInfo::default()
                };
                self.installed(node, page, conversion, info);
            }
            Work::Install(page, conversion, info) => self.installed(node, page, conversion, info),
            Work::Restore(page, conversion, info) => {
                if self.stored(page) >= info.psn {
                    let stored = self.stored(page).0;
                    self.log
                        .note(|| format!("{node} refuses its retained image: storage has psn {stored}"));
                    self.node(node).core.handle_refused(now, page, conversion);
                } else {
                    self.installed(node, page, conversion, ImageInfo { dirty: true, ..info });
                }
            }
            Work::Surrender(page) => {
                if self.frame(node, page).is_some_and(|f| f.writing.is_some())
                    && self.nodes[&node].core.surrender_wanted(page).is_some()
                {
                    self.node(node).work.push(Work::Surrender(page));
                    return false;
                }
                self.surrender(node, page);
            }
            Work::Redo(page, target, epoch) => self.redo_page(node, page, target, epoch),
            Work::ReadCopy(page, copy) => self.read_copy(node, page, copy),
        }
        self.collect(node);
        true
    }

    fn installed(&mut self, node: NodeId, page: PageId, conversion: Conversion, info: ImageInfo) {
        let now = self.now;
        if let Some(mode) = self.node(node).core.handle_installed(now, page, conversion) {
            self.put(node, page, mode, info);
        }
    }

    fn surrender(&mut self, node: NodeId, page: PageId) {
        let now = self.now;
        let Some((conversion, kind)) = self.nodes[&node].core.surrender_wanted(page) else {
            return;
        };
        self.flush_redo(node, page); // DIR-3
        let frame = self.frame(node, page).expect("a possessed page has a frame");
        let letter = self.letter(page);
        self.log.note(|| format!("{node} gives up {letter}: {kind:?}"));
        let frames = &mut self.node(node).core.contents_mut().0;
        let mut image = Some(frame.psn);
        match kind {
            SurrenderKind::Copy => {}
            SurrenderKind::Downgrade => {
                frames.insert(
                    page,
                    Frame {
                        mode: Mode::Shared,
                        ..frame
                    },
                );
            }
            SurrenderKind::Ship => {
                frames.remove(&page);
            }
            SurrenderKind::Drop => {
                frames.remove(&page);
                image = image.filter(|_| frame.duty);
            }
        }
        let core = &mut self.node(node).core;
        core.handle_surrendered(now, page, conversion, image, frame.info());
    }

    /// Makes a node's redo of a page durable.
    pub fn flush_redo(&mut self, node: NodeId, page: PageId) {
        let records = self.volatile.remove(&(page, node)).unwrap_or_default();
        if let Some(last) = records.last() {
            let truth = self.truth.entry(page).or_default();
            *truth = (*truth).max(*last);
            for psn in &records {
                assert!(
                    !has_record(&self.redo, page, *psn),
                    "DIR-2: two nodes made {page} {psn:?}"
                );
            }
            self.redo.entry((page, node)).or_default().extend(records);
        }
        if self.frame(node, page).is_some_and(|f| f.volatile) {
            self.frame_mut(node, page).volatile = false;
        }
    }

    fn redo_page(&mut self, leader: NodeId, page: PageId, target: Psn, epoch: Epoch) {
        let now = self.now;
        let base = self.stored(page);
        if epoch != self.nodes[&leader].core.view().epoch {
            return;
        }
        let core = &mut self.node(leader).core;
        if base >= target {
            core.handle_redone(now, page, epoch, Redone::Current);
            return;
        }
        let mut contributors = NodeSet::EMPTY;
        for psn in base.0 + 1..=target.0 {
            let mut by = self.redo.iter();
            let by = by.find(|((p, _), set)| *p == page && set.contains(&Psn(psn)));
            let ((_, by), _) = by.unwrap_or_else(|| {
                panic!("DIR-6: redo of {page} {psn} is gone, storage has {base:?}, the target is {target:?}")
            });
            contributors.insert(*by);
        }
        let info = ImageInfo {
            psn: target,
            dirty: true,
            contributors,
            flush_wanted: false,
        };
        let core = &mut self.node(leader).core;
        if core.handle_redone(now, page, epoch, Redone::Held) {
            self.put(leader, page, Mode::Exclusive, info);
        }
    }

    /// The leader's engine cannot redo a page that it was told to.
    pub fn fail_redo(&mut self, leader: NodeId, at: usize) {
        let now = self.now;
        let state = self.node(leader);
        if let Work::Redo(page, _, epoch) = state.work.remove(at) {
            state.core.handle_redone(now, page, epoch, Redone::Failed);
        }
        self.collect(leader);
    }

    /// The leader's engine reads all streams, once every member has installed the view. True when it did.
    pub fn analyse(&mut self) -> bool {
        let leader = self.view().leader;
        if !self.pending || !self.installed_everywhere() || self.nodes[&leader].analysed {
            return false;
        }
        let mut targets = BTreeMap::<PageId, Psn>::new();
        for ((page, _), records) in &self.redo {
            let target = targets.entry(*page).or_default();
            *target = records.last().copied().unwrap_or_default().max(*target);
        }
        let pages = &self.pages;
        self.log.note(|| words::targets(pages, leader, &targets));
        let now = self.now;
        let state = self.node(leader);
        state.analysed = true;
        state.core.handle_analysed(now, targets.into_iter().collect());
        self.collect(leader);
        true
    }

    /// The leader's engine takes the next order to redo a page. True when there was one.
    pub fn take_redo(&mut self) -> bool {
        let leader = self.view().leader;
        if !self.nodes[&leader].analysed {
            return false;
        }
        let state = self.node(leader);
        let task = state.core.next_redo();
        if let Some((page, target, epoch)) = task {
            state.work.push(Work::Redo(page, target, epoch));
        }
        task.is_some()
    }

    /// The recovery ends when every page is redone and known to its home. True when it did.
    pub fn recovered(&mut self) -> bool {
        let leader = &self.nodes[&self.view().leader];
        let done = leader.analysed && leader.core.redo_outstanding() == 0;
        if !self.pending || !self.installed_everywhere() || !done {
            return false;
        }
        self.pending = false;
        self.log.note(|| "recovery has ended".into());
        true
    }

    /// Begins to write a dirty page back from a private copy, if the node has the duty. True when it did.
    pub fn begin_write_back(&mut self, node: NodeId, page: PageId) -> bool {
        let Some(frame) = self.frame(node, page) else {
            return false;
        };
        let wanted = frame.duty && frame.dirty && frame.writing.is_none();
        if wanted {
            self.flush_redo(node, page); // HZ-11
            self.frame_mut(node, page).writing = Some(frame.psn);
        }
        wanted
    }

    /// The write that was begun is on storage. True when there was one.
    pub fn end_write_back(&mut self, node: NodeId, page: PageId) -> bool {
        let Some(psn) = self.frame(node, page).and_then(|f| f.writing) else {
            return false;
        };
        self.store(page, psn);
        let letter = self.letter(page);
        self.log.note(|| format!("storage has {letter} at psn {}", psn.0));
        let now = self.now;
        let frame = self.frame_mut(node, page);
        let contributors = frame.contributors;
        let clean = frame.psn == psn;
        frame.writing = None;
        frame.dirty = !clean;
        frame.duty = !clean;
        frame.contributors = if clean { NodeSet::EMPTY } else { NodeSet::of(node) };
        let core = &mut self.node(node).core;
        if clean {
            core.handle_cleaned(now, page);
        }
        for by in contributors.iter() {
            core.handle_written_back(now, by, vec![(page, psn)]);
        }
        self.collect(node);
        true
    }

    fn store(&mut self, page: PageId, psn: Psn) {
        let before = self.storage.insert(page, psn).unwrap_or_default();
        assert!(
            before <= psn,
            "DIR-4: {page} fell from {before:?} to {psn:?} on storage"
        );
        let truth = self.truth.entry(page).or_default();
        *truth = (*truth).max(psn);
    }

    /// Every write that was begun is on storage.
    pub fn end_all_writes(&mut self) {
        for node in self.nodes.keys().copied().collect::<Vec<_>>() {
            for page in self.pages.clone() {
                self.end_write_back(node, page);
            }
        }
    }

    /// A node wants a page.
    pub fn acquire(&mut self, node: NodeId, page: PageId, mode: Mode) {
        let now = self.now;
        let state = self.node(node);
        state.wants.insert((page, mode));
        state.core.handle_acquire(now, page, mode);
        self.collect(node);
    }

    /// The newest PSN of a page that anybody made and that is not lost.
    fn newest(&self, page: PageId) -> Psn {
        let volatile = self.volatile.iter().filter(|((p, _), _)| *p == page);
        let volatile = volatile.filter_map(|(_, records)| records.last().copied());
        volatile.max().unwrap_or_default().max(self.durable(page))
    }

    /// A reader wants a copy of a page; where there is none, possession.
    pub fn ask_copy(&mut self, node: NodeId, page: PageId) {
        let (now, newest) = (self.now, self.newest(page));
        let state = self.node(node);
        match state.core.handle_ask_copy(now, page) {
            Some(request) => drop(state.asked.insert(request, newest)),
            None => self.share(node, page),
        }
        self.collect(node);
    }

    /// There is no copy: the reader takes possession, unless its node came to have the page meanwhile.
    fn share(&mut self, node: NodeId, page: PageId) {
        if self.frame(node, page).is_none() {
            self.acquire(node, page, Mode::Shared);
        }
    }

    fn serve_copy(&mut self, node: NodeId, page: PageId, to: NodeId, request: Request) {
        let now = self.now;
        let psn = self.frame(node, page).map(|frame| frame.psn);
        let core = &mut self.node(node).core;
        let copy = psn.filter(|_| core.may_copy(page)).map(|psn| (psn, psn));
        core.handle_copied(now, page, to, request, copy);
    }

    fn copied(&mut self, node: NodeId, page: PageId, request: Request, copy: Option<(Psn, Psn)>) {
        let state = self.node(node);
        let asked = state.asked.remove(&request).expect("a question has one answer");
        let epoch = state.core.view().epoch;
        match copy {
            Some((image, psn)) => {
                assert_eq!(image, psn, "a copy is what its message says");
                let copy = Copied { psn, epoch, asked };
                state.work.push(Work::ReadCopy(page, copy));
            }
            None => self.share(node, page),
        }
    }

    /// HZ-8: what a reader sees is as new as its question, and no later view has lost it.
    fn read_copy(&mut self, node: NodeId, page: PageId, copy: Copied) {
        let (letter, Copied { psn, epoch, asked }) = (self.letter(page), copy);
        if !self.nodes[&node].core.copy_stands(epoch) {
            self.log
                .note(|| format!("{node} drops its copy of {letter}: the view has changed"));
            return self.share(node, page);
        }
        self.log
            .note(|| format!("{node} reads a copy of {letter} psn {}", psn.0));
        assert!(
            psn >= asked,
            "HZ-8: {node} reads {page} at {psn:?}, it was at {asked:?} when asked for"
        );
        let current = self.nodes[&node].core.view().epoch == self.view().epoch;
        let newest = self.newest(page);
        assert!(
            !current || psn <= newest,
            "HZ-8: {node} reads {page} at {psn:?}, all above {newest:?} is lost"
        );
    }

    /// A node asks again for what it still wants: after a grant of less, or one that was taken away before use.
    pub fn want_again(&mut self, node: NodeId) {
        let now = self.now;
        for (page, mode) in self.nodes[&node].wants.clone() {
            self.node(node).core.handle_acquire(now, page, mode);
        }
        self.collect(node);
    }

    /// An owner changes a page; its redo is not durable yet. True when it is the owner.
    pub fn change(&mut self, node: NodeId, page: PageId) -> bool {
        let owned = |f: &Frame| f.mode == Mode::Exclusive;
        let Some(frame) = self.frame(node, page).filter(owned) else {
            return false;
        };
        let psn = Psn(frame.psn.0 + 1);
        self.volatile.entry((page, node)).or_default().insert(psn);
        let frame = self.frame_mut(node, page);
        (frame.psn, frame.dirty, frame.duty, frame.volatile) = (psn, true, true, true);
        frame.contributors.insert(node);
        let (frame, letter) = (*frame, self.letter(page));
        self.log
            .note(|| format!("{node} changes {letter}: {}", words::frame(&frame)));
        true
    }

    /// Whether a page need not be written back before it is given up.
    pub fn may_give_up(frame: &Frame) -> bool {
        !frame.duty && frame.writing.is_none()
    }

    /// A node gives up a page that it need not write back. True when it may.
    pub fn evict(&mut self, node: NodeId, page: PageId) -> bool {
        let now = self.now;
        if !self.frame(node, page).as_ref().is_some_and(Self::may_give_up) {
            return false;
        }
        let released = self.node(node).core.handle_release(now, page);
        if released {
            self.node(node).core.contents_mut().0.remove(&page);
            self.collect(node);
        }
        released
    }

    /// This node's redo is pinned by a page: it asks for a write-back.
    pub fn want_flush(&mut self, node: NodeId, page: PageId) {
        let now = self.now;
        self.node(node).core.handle_want_flush(now, page);
        self.collect(node);
    }

    /// A home begins to hand the slot of a page over to another node. True when it did.
    pub fn move_slot(&mut self, home: NodeId, page: PageId, to: NodeId) -> bool {
        let now = self.now;
        let begun = self.node(home).core.handle_move(now, page, to);
        self.collect(home);
        begun
    }

    /// A node dies, and is proven dead. Of its writes to storage that were under way some are done: `landed`.
    pub fn kill(&mut self, node: NodeId, landed: impl Fn(PageId) -> bool) {
        self.log.note(|| format!("{node} dies"));
        let state = self.nodes.remove(&node).expect("the node is alive");
        for (page, frame) in &state.core.contents().0 {
            if let Some(psn) = frame.writing.filter(|_| landed(*page)) {
                self.store(*page, psn);
            }
        }
        self.volatile.retain(|(_, by), _| *by != node);
    }

    /// Whether no redo of this node is kept: only then may its stream begin anew.
    pub fn stream_is_empty(&self, node: NodeId) -> bool {
        self.redo.keys().all(|(_, by)| *by != node)
    }

    /// Hands a packet to its receiver, which may be gone, or know another life of the sender.
    pub fn deliver(&mut self, packet: Packet) {
        let Packet {
            from,
            life,
            to,
            envelope,
            image,
        } = packet;
        let now = self.now;
        let Some(state) = self.nodes.get(&to) else {
            return;
        };
        if state.core.view().incarnation(from) != Some(life) {
            return;
        }
        let other_epoch = envelope.epoch != state.core.view().epoch;
        let before = other_epoch.then(|| state.clone());
        let fault = self.node(to).core.handle_message(now, from, envelope, image);
        if let Some(fault) = fault {
            self.log
                .note(|| format!("{to} drops what {from} says: {fault:?}"));
        }
        self.collect(to);
        if let Some(before) = before {
            assert!(
                before == self.nodes[&to],
                "DIR-5: a message of another epoch changed {to}"
            );
        }
    }

    /// Whether every request is granted, no recovery is under way, nobody keeps an image that it gave away, and nothing is repeated.
    pub fn is_settled(&self) -> bool {
        let served = |n: &Node| n.wants.is_empty() && n.asked.is_empty();
        let silent = |n: &Node| n.core.retained_count() == 0 && n.core.unanswered() == 0;
        !self.pending && self.nodes.values().all(|n| served(n) && silent(n))
    }

    /// What is missing for that.
    pub fn unserved(&self) -> String {
        let of = |(node, state): (&NodeId, &Arc<Node>)| {
            let (retained, repeated) = (state.core.retained_count(), state.core.unanswered());
            let (wants, asked) = (&state.wants, state.asked.len());
            format!(
                "{node} wants {wants:?} and {asked} copies, retains {retained} images, repeats {repeated} messages"
            )
        };
        let nodes: Vec<String> = self.nodes.iter().map(of).collect();
        format!("{}; redo pending: {}", nodes.join("; "), self.pending)
    }

    /// Time passes at a node until it repeats everything that has no answer.
    pub fn time_out(&mut self, node: NodeId) {
        self.now = self.now + RETRANSMIT;
        self.tick(node);
    }

    /// A node repeats what has had no answer for long enough.
    pub fn tick(&mut self, node: NodeId) {
        let now = self.now;
        let core = &mut self.node(node).core;
        if core.next_timeout().is_some_and(|at| at <= now) {
            core.handle_timeout(now);
        }
        self.collect(node);
    }
}

/// Whether some node's durable redo has this change.
pub fn has_record(redo: &BTreeMap<(PageId, NodeId), BTreeSet<Psn>>, page: PageId, psn: Psn) -> bool {
    redo.iter().any(|((p, _), set)| *p == page && set.contains(&psn))
}

impl Hash for Cluster {
    fn hash<H: Hasher>(&self, into: &mut H) {
        self.nodes.hash(into);
        // The network keeps no order.
        let packets = self.net.iter().map(|packet| {
            let mut hasher = DefaultHasher::new();
            packet.hash(&mut hasher);
            hasher.finish()
        });
        packets.fold(0u64, u64::wrapping_add).hash(into);
        (&self.storage, &self.redo, &self.volatile, &self.truth).hash(into);
        let last = self.view();
        (self.views.len(), self.pending, last.leader).hash(into);
        for page in &self.pages {
            last.home(page.slot(last)).hash(into);
        }
    }
}
