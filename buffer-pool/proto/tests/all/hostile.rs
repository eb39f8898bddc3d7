//! One core among members that say anything at all: every message is well-formed, few are true. The core's own driver is
//! honest. Nothing but a broken DIR-n may stop it, and what it does for one message is bounded (DIR-8).

use super::cluster::id;
use super::walk::Random;
use aquifer_buffer_pool_proto::{
    Claim, Contents, Conversion, CoreCounters, Envelope, Held, ImageInfo, Message, Mode, Order, Output,
    Ownership, PageId, Psn, Redone, Request, SlotEntry, Source, SurrenderKind,
};
use aquifer_dss_proto::{Epoch, FileId, Incarnation, Instant, Member, NodeId, NodeSet};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

/// The core under test, and its view of four.
const ME: u8 = 2;
const MEMBERS: u8 = 4;
/// What one message may make a core do: a step to each member for each of a chunk's pages, and something around it.
const OUTPUTS_MAX: usize = 512 * MEMBERS as usize + 64;

#[derive(Clone, Copy)]
struct Frame(Mode, ImageInfo);

#[derive(Default)]
struct Frames(BTreeMap<PageId, Frame>);

impl Contents for Frames {
    fn info(&self, page: PageId) -> (ImageInfo, bool) {
        let Frame(mode, info) = self.0[&page];
        (info, info.dirty && mode == Mode::Exclusive)
    }
}

struct Hostile {
    random: Random,
    now: u64,
    core: Ownership<Psn, Frames>,
    pages: Vec<PageId>,
    /// Conversions that went by: what a member may have heard of.
    heard: Vec<Conversion>,
    life: u64,
}

impl Hostile {
    fn new(seed: u64) -> Self {
        let pages = (0..6).map(|n| PageId {
            file: FileId(7),
            number: n * 64,
        });
        let mut this = Self {
            random: Random::new(seed),
            now: 1,
            core: Ownership::new(id(ME), Duration::from_millis(10), Frames::default()),
            pages: pages.collect(),
            heard: vec![Conversion::default()],
            life: 1,
        };
        this.change_view();
        this
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.random.below(limit)
    }

    fn one_of<T: Copy>(&mut self, things: &[T]) -> T {
        things[self.below(things.len() as u64) as usize]
    }

    /// The next view: of everybody, with a new life of one member, and this core leads every other one.
    fn change_view(&mut self) {
        let old = self.core.view().clone();
        self.life += 1;
        let again = self.below(u64::from(MEMBERS)) as u8 + 1;
        let member = |n: u8| Member {
            node: id(n),
            incarnation: old
                .incarnation(id(n))
                .filter(|_| n == ME || n != again)
                .unwrap_or(Incarnation(self.life)),
        };
        let mut view = old.successor((1..=MEMBERS).map(member).collect());
        view.leader = if self.life.is_multiple_of(2) {
            id(ME)
        } else {
            id(1)
        };
        let (dead, pending) = (NodeSet::of(id(again)), self.below(4) > 0);
        self.core
            .install_view(Instant(self.now), Arc::new(view), dead, pending);
        self.perform();
    }

    fn node(&mut self) -> NodeId {
        let any = self.below(12);
        id(if any == 0 { 64 } else { any as u8 % MEMBERS + 1 })
    }

    fn page(&mut self) -> PageId {
        let pages = self.pages.clone();
        match self.below(20) {
            0 => PageId {
                file: FileId(u64::MAX),
                number: u32::MAX,
            },
            _ => self.one_of(&pages),
        }
    }

    fn conversion(&mut self) -> Conversion {
        let heard = self.heard.clone();
        let latest = heard[heard.len() - 1];
        let next = Conversion {
            number: latest.number + 1,
            ..latest
        };
        let epoch = self.core.view().epoch;
        let of = |epoch, number| Conversion { epoch, number };
        match self.below(10) {
            0 => self.one_of(&heard),
            1 => next,
            2 => of(Epoch(u64::MAX), u64::MAX),
            3 => of(Epoch(0), 0),
            4 => of(epoch, u64::MAX),
            _ => of(epoch, self.below(1 + latest.number)),
        }
    }

    fn request(&mut self) -> Request {
        let number = match self.below(12) {
            0 => 0,
            1 => u64::MAX,
            2 => 1 << 21,
            _ => 1 + self.below(12),
        };
        Request {
            number,
            version: self.version(),
        }
    }

    fn version(&mut self) -> u32 {
        self.one_of(&[0, 0, 0, 0, 1, 1, 2, u32::MAX])
    }

    fn mode(&mut self) -> Mode {
        self.one_of(&[Mode::Shared, Mode::Exclusive])
    }

    fn psn(&mut self) -> Psn {
        let small = self.below(6);
        Psn(self.one_of(&[0, 1, small, u64::MAX]))
    }

    fn info(&mut self) -> ImageInfo {
        ImageInfo {
            psn: self.psn(),
            dirty: self.below(2) == 0,
            contributors: NodeSet::from_bits(self.random.0),
            flush_wanted: self.below(2) == 0,
        }
    }

    fn chunk(&mut self) -> (u32, u32) {
        let chunks = self.one_of(&[0, 1, 1, 1, 2, 3, 1 << 17, u32::MAX]);
        let chunk = self.one_of(&[0, 0, 1, 2, u32::MAX]);
        (chunk, chunks)
    }

    fn list<T>(&mut self, mut item: impl FnMut(&mut Self) -> T) -> Vec<T> {
        let count = self.one_of(&[0, 1, 1, 2, 3, 600]);
        (0..count).map(|_| item(self)).collect()
    }

    fn claim(&mut self) -> Claim {
        let (dirty, duty) = (self.below(2) == 0, self.below(2) == 0);
        let retained = Held::Retained(self.conversion());
        Claim {
            page: self.page(),
            held: self.one_of(&[Held::Exclusive, Held::Shared { dirty, duty }, retained, retained]),
            psn: self.psn(),
        }
    }

    fn slots(&mut self) -> Vec<(u16, u16)> {
        let (homes, slot) = (self.core.view().homes.clone(), self.below(4096) as u16);
        match self.below(3) {
            0 => self.list(|this| (this.below(5000) as u16, this.below(5000) as u16)),
            1 => vec![(0, u16::MAX)],
            _ => {
                let home = homes[usize::from(slot)];
                let end = (slot..4096).take_while(|s| homes[usize::from(*s)] == home).last();
                vec![(slot, end.unwrap_or(slot))]
            }
        }
    }

    fn message_to_home(&mut self) -> Message {
        let (page, conversion, request) = (self.page(), self.conversion(), self.request());
        let (chunk, chunks) = self.chunk();
        match self.below(13) {
            0 | 1 => {
                let mode = self.mode();
                Message::Acquire { page, mode, request }
            }
            2 => Message::Release { page, request },
            3 => {
                let retained = self.below(2) == 0;
                Message::Invalidated {
                    page,
                    conversion,
                    retained,
                }
            }
            4 => Message::Gone { page, conversion },
            5 => Message::Done { page, conversion },
            6 => Message::Refused { page, conversion },
            7 => Message::Dropped { page, conversion },
            8 => Message::Inherited { page, conversion },
            9 => Message::Cleaned { page, conversion },
            10 => Message::FlushWanted { page },
            11 => Message::Claims {
                answer: self.below(3),
                chunk,
                chunks,
                entries: self.list(Self::claim),
            },
            _ => Message::Analysis {
                chunk,
                chunks,
                targets: self.list(|this| (this.page(), this.psn())),
            },
        }
    }

    fn message_to_node(&mut self) -> Message {
        let (page, conversion, request) = (self.page(), self.conversion(), self.request());
        let mode = self.mode();
        match self.below(13) {
            0 => Message::Denied { page, request },
            1 => Message::ReleaseAck { page, request },
            2 | 3 => Message::Grant {
                page,
                conversion,
                request,
                mode,
                source: self.one_of(&[Source::Storage, Source::Upgrade, Source::Retained]),
            },
            4 => Message::Transfer {
                page,
                order: Order {
                    conversion,
                    mode,
                    to: self.node(),
                    request,
                },
            },
            5 if self.below(2) == 0 => Message::Next {
                page,
                order: Order {
                    conversion,
                    mode,
                    to: self.node(),
                    request,
                },
            },
            5 => Message::Invalidate { page, conversion },
            6 => Message::Page {
                page,
                conversion,
                request,
                mode,
                info: self.info(),
            },
            7 => Message::DoneAck { page, conversion },
            8 => Message::Drop { page, conversion },
            9 => Message::Inherit { page, conversion },
            10 => Message::WriteBackWanted {
                page,
                by: self.node(),
            },
            11 => Message::NotHeld { page },
            _ => Message::Query {
                slots: self.slots(),
                pages: self.list(Self::page),
            },
        }
    }

    fn message_of_recovery(&mut self) -> Message {
        let (page, conversion) = (self.page(), self.conversion());
        let (chunk, chunks) = self.chunk();
        match self.below(7) {
            0 => Message::AnalysisAck { chunk },
            1 => Message::NeedRedo {
                chunk,
                chunks,
                pages: self.list(|this| (this.page(), this.psn(), this.conversion())),
            },
            2 => Message::NeedRedoAck { chunk },
            3 => Message::RedoUrgent { page },
            4 => Message::Redone {
                page,
                conversion,
                outcome: self.one_of(&[Redone::Held, Redone::Current, Redone::Failed]),
            },
            5 => Message::RedoneAck { page, conversion },
            _ => Message::WrittenBack {
                by: self.node(),
                pages: self.list(|this| (this.page(), this.psn())),
            },
        }
    }

    fn slot_entry(&mut self, page: PageId) -> SlotEntry {
        let (node, other) = (self.node(), self.node());
        SlotEntry {
            page,
            owner: self.one_of(&[None, Some(node)]),
            sharers: self.one_of(&[
                NodeSet::EMPTY,
                NodeSet::of(node),
                NodeSet::from_bits(self.random.0),
            ]),
            duty: self
                .one_of(&[None, Some(node), Some(other)])
                .map(|by| (by, self.conversion())),
        }
    }

    fn message_of_a_move(&mut self) -> Message {
        let (page, version) = (self.page(), self.version());
        let known = page.slot(self.core.view()) as u16;
        let slot = self.one_of(&[known, known, u16::MAX]);
        let (chunk, chunks) = self.chunk();
        match self.below(3) {
            0 => Message::Slot {
                slot,
                version,
                chunk,
                chunks,
                entries: self.list(|this| {
                    let other = this.page();
                    let listed = this.one_of(&[page, page, page, other]);
                    this.slot_entry(listed)
                }),
                next_conversion: self.one_of(&[0, 3, 1000, u64::MAX]),
            },
            1 => Message::SlotAck { slot, version, chunk },
            _ => Message::Moved {
                page,
                home: self.node(),
                version,
                request: self.request(),
            },
        }
    }

    /// What passes a socket: it is encoded and decoded.
    fn receive(&mut self) {
        let message = match self.below(11) {
            0..4 => self.message_to_home(),
            4..8 => self.message_to_node(),
            8 => self.message_of_a_move(),
            _ => self.message_of_recovery(),
        };
        let image = matches!(message, Message::Page { .. }) != (self.below(30) == 0);
        let epoch = Epoch(self.core.view().epoch.0 - u64::from(self.below(30) == 0));
        let bytes = postcard::to_allocvec(&Envelope { epoch, message }).unwrap();
        let envelope: Envelope = postcard::from_bytes(&bytes).unwrap();
        let from = loop {
            let from = self.node();
            if from != id(ME) {
                break from;
            }
        };
        let image = image.then_some(Psn(3));
        self.core.handle_message(Instant(self.now), from, envelope, image);
    }

    /// Does what the core wants, honestly. Gives how much that was.
    fn perform(&mut self) -> usize {
        let mut count = 0;
        while let Some(output) = self.core.poll_output() {
            count += 1;
            self.note(&output);
            let now = Instant(self.now);
            match output {
                Output::ReadStorage {
                    page,
                    conversion,
                    mode,
                } => {
                    if self.below(5) == 0 {
                        self.core.handle_refused(now, page, conversion);
                    } else {
                        self.install(page, conversion, mode, ImageInfo::default());
                    }
                }
                Output::Install {
                    page,
                    conversion,
                    mode,
                    info,
                    ..
                } => self.install(page, conversion, mode, info),
                Output::Restore {
                    page,
                    conversion,
                    info,
                    ..
                } => self.install(page, conversion, Mode::Exclusive, info),
                Output::Upgrade { page, conversion, .. } => {
                    let mode = self.core.handle_installed(now, page, conversion);
                    let frame = self.core.contents_mut().0.get_mut(&page);
                    frame.expect("an upgrade is of a held page").0 = mode.expect("at once");
                }
                Output::Surrender { page, .. } => self.surrender(page),
                Output::Inherit(page) => assert!(self.core.contents().0.contains_key(&page)),
                _ => {}
            }
        }
        count
    }

    fn note(&mut self, output: &Output<Psn>) {
        let Output::Send(_, envelope, _) = output else {
            return;
        };
        match envelope.message {
            Message::Transfer { order, .. } | Message::Next { order, .. } => {
                self.heard.push(order.conversion);
            }
            Message::Invalidate { conversion, .. }
            | Message::Grant { conversion, .. }
            | Message::Inherit { conversion, .. }
            | Message::Drop { conversion, .. } => self.heard.push(conversion),
            _ => {}
        }
    }

    fn install(&mut self, page: PageId, conversion: Conversion, mode: Mode, info: ImageInfo) {
        if let Some(mode_now) = self.core.handle_installed(Instant(self.now), page, conversion) {
            assert!(mode_now >= mode, "a grant is never less than it says");
            let before = self.core.contents_mut().0.insert(page, Frame(mode_now, info));
            assert!(before.is_none(), "a page is put into one frame");
        }
    }

    fn surrender(&mut self, page: PageId) {
        let Some((conversion, kind)) = self.core.surrender_wanted(page) else {
            return;
        };
        let Frame(mode, info) = self.core.contents().0[&page];
        let frames = &mut self.core.contents_mut().0;
        match kind {
            SurrenderKind::Copy => {}
            SurrenderKind::Downgrade => drop(frames.insert(page, Frame(Mode::Shared, info))),
            SurrenderKind::Ship | SurrenderKind::Drop => drop(frames.remove(&page)),
        }
        let image = (kind != SurrenderKind::Drop || mode == Mode::Exclusive).then_some(info.psn);
        self.core
            .handle_surrendered(Instant(self.now), page, conversion, image, info);
    }

    /// Something of its own accord.
    fn act(&mut self) {
        let (now, page) = (Instant(self.now), self.page());
        match self.below(9) {
            0..3 => {
                let mode = self.mode();
                self.core.handle_acquire(now, page, mode);
            }
            3 => {
                if self.core.handle_release(now, page) {
                    self.core.contents_mut().0.remove(&page);
                }
            }
            4 => self.core.handle_timeout(now),
            5 => {
                let targets = self.list(|this| (this.page(), this.psn()));
                self.core.handle_analysed(now, targets);
            }
            6 => {
                if let Some((page, _, epoch)) = self.core.next_redo() {
                    let outcome = self.one_of(&[Redone::Held, Redone::Current, Redone::Failed]);
                    let stands = self.core.handle_redone(now, page, epoch, outcome);
                    if stands && outcome == Redone::Held {
                        let frame = Frame(Mode::Exclusive, ImageInfo::default());
                        self.core.contents_mut().0.insert(page, frame);
                    }
                }
            }
            7 => self.core.handle_want_flush(now, page),
            _ => match self.below(2) {
                0 => self.core.handle_rebalance(now, 2),
                _ => {
                    let to = self.node();
                    self.core.handle_move(now, page, to);
                }
            },
        }
    }

    fn run(&mut self, steps: usize) {
        for _ in 0..steps {
            self.now += 1_000_000;
            match self.below(400) {
                0 => self.change_view(),
                1..100 => self.act(),
                _ => {
                    self.receive();
                    let done = self.perform();
                    assert!(done <= OUTPUTS_MAX, "{done} outputs for one message");
                }
            }
            self.perform();
        }
    }
}

/// The figures of a run, and the broken rule it ended with, if it did.
fn run(seed: u64) -> (CoreCounters, Option<String>) {
    let mut hostile = Hostile::new(seed);
    let ended = catch_unwind(AssertUnwindSafe(|| hostile.run(2_000)));
    let why = ended.err().map(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .expect("a panic says why")
    });
    (hostile.core.counters(), why)
}

/// `SEED=n` runs one, `SEEDS=n` more.
#[test]
fn no_message_of_a_member_stops_a_node_unless_it_breaks_a_rule_of_possession() {
    let of = |name: &str| std::env::var(name).ok().map(|n| n.parse::<u64>().unwrap());
    let seeds = of("SEED").map_or_else(|| 1..=of("SEEDS").unwrap_or(200), |seed| seed..=seed);
    let (mut all, mut broken) = (CoreCounters::default(), 0);
    let runs = seeds.clone().count();
    // Rules are broken by the dozen here: only what is wrong is told.
    let told = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let ended: Vec<_> = seeds.map(|seed| (seed, run(seed))).collect();
    std::panic::set_hook(told);
    for (seed, (counters, why)) in ended {
        if let Some(why) = why {
            assert!(why.starts_with("DIR-"), "seed {seed}: {why}");
            broken += 1;
        }
        all.dropped_epoch += counters.dropped_epoch;
        all.dropped_stale += counters.dropped_stale;
        all.dropped_role += counters.dropped_role;
        all.dropped_content += counters.dropped_content;
        all.dropped_limit += counters.dropped_limit;
    }
    println!("{runs} runs, {broken} ended by DIR-1 or DIR-2: {all:?}");
    let reasons = [
        all.dropped_epoch,
        all.dropped_stale,
        all.dropped_role,
        all.dropped_content,
        all.dropped_limit,
    ];
    assert!(runs == 1 || reasons.iter().all(|count| *count > 0), "{all:?}");
}
