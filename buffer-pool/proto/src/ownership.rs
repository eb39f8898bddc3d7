//! The core of one node: its directory part, its possessions, its part in the rebuild, and repetition of messages.
//!
//! Contract: `handle_*` and `install_view` take inputs, `poll_output` gives what the driver must do, in order, and
//! `next_timeout` when to call `handle_timeout`. Images are opaque (`I`): the core hands them through. A message
//! to this node itself is handled at once, without the network.

use crate::admission::Fault;
use crate::copies::Questions;
use crate::directory::{Entry, Seen};
use crate::locality::{Locality, Usage};
use crate::message::{Conversion, Envelope, Message, Request};
use crate::page::{ImageInfo, Mode, PageId};
use crate::possession::{Local, Retained};
use crate::rebuild::{Rebuild, RedoTasks};
use crate::surrender::SurrenderKind;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::sync::Arc;
use aquifer_dss_proto::defect::{Defect, planted};
use aquifer_dss_proto::{Epoch, Instant, NodeId, View};
use core::time::Duration;

/// What the driver knows of the pages in frames.
pub trait Contents {
    /// What would travel with an image of `page`, which is possessed, and whether this node has the duty to write it back.
    fn info(&self, page: PageId) -> (ImageInfo, bool);
}

/// What the driver must do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output<I> {
    /// Send to a peer; an image, if any, goes behind the message.
    Send(NodeId, Envelope, Option<I>),
    /// Read the page from storage into a frame, then `handle_installed` or `handle_refused`.
    ReadStorage {
        /// The page.
        page: PageId,
        /// The conversion that grants it.
        conversion: Conversion,
        /// What was granted.
        mode: Mode,
    },
    /// Put the image into a frame, then `handle_installed`. Never refused.
    Install {
        /// The page.
        page: PageId,
        /// The conversion that grants it.
        conversion: Conversion,
        /// What was granted.
        mode: Mode,
        /// The page's bytes.
        image: I,
        /// What came with it. With Exclusive the duty comes too.
        info: ImageInfo,
    },
    /// The frame has the page already: raise its possession, then `handle_installed`. The duty comes too.
    Upgrade {
        /// The page.
        page: PageId,
        /// The conversion that grants it.
        conversion: Conversion,
        /// What was granted.
        mode: Mode,
    },
    /// Compare with storage. Storage older: install as Exclusive with duty, `handle_installed`; else `handle_refused`.
    Restore {
        /// The page.
        page: PageId,
        /// The conversion that grants it.
        conversion: Conversion,
        /// The retained image.
        image: I,
        /// What went with it.
        info: ImageInfo,
    },
    /// Give the page up as `kind` says as soon as redo, write-back, holds and latches allow (DIR-3, HZ-2), then
    /// `handle_surrendered`. Void when the view changes: ask `surrender_wanted` before acting.
    Surrender {
        /// The page.
        page: PageId,
        /// The conversion that asks.
        conversion: Conversion,
        /// How.
        kind: SurrenderKind,
    },
    /// This node has the duty to write the page back now, if storage is behind it.
    Inherit(PageId),
    /// The page is broken: tell who waits for it.
    Denied(PageId),
    /// The redo of that node is pinned by the page. With the duty: write it back soon, and the node is one of those to
    /// tell. With a clean image: `handle_written_back` at once, since an earlier notice may have been lost.
    WriteBackWanted(PageId, NodeId),
    /// Nobody has to write it back: storage's PSN tells what redo is not needed.
    NotHeld(PageId),
    /// A dirty holder wrote these back: the node's redo is not needed for them up to these PSNs.
    WrittenBack(NodeId, alloc::vec::Vec<(PageId, crate::page::Psn)>),
    /// `next_redo` may have a task.
    RedoReady,
    /// A reader wants a copy of the page: at once `may_copy`, then `handle_copied`.
    CopyWanted {
        /// The page.
        page: PageId,
        /// The reader.
        to: NodeId,
        /// Its question.
        request: Request,
    },
    /// The answer to `handle_ask_copy`.
    Copied {
        /// The page.
        page: PageId,
        /// The question.
        request: Request,
        /// Image and PSN; none: take possession.
        copy: Option<(I, crate::page::Psn)>,
    },
}

/// Names a message that is repeated until it is answered.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Key {
    Acquire(PageId),
    Release(PageId),
    /// Done or Refused.
    Done(PageId, Conversion),
    /// Transfer, Invalidate, Grant or Inherit to a node: one at a time per page and node.
    Step(PageId, NodeId),
    Drop(PageId, NodeId),
    Query(NodeId),
    Analysis(NodeId, u32),
    NeedRedo(u32),
    Redone(PageId),
    Copy(Request),
    /// A chunk of a slot that is handed over.
    Slot(u16, u32),
}

/// Figures of a core.
#[derive(Clone, Copy, Default, Debug)]
pub struct CoreCounters {
    /// Messages sent to peers.
    pub messages: u64,
    /// Of these, sent again.
    pub retransmits: u64,
    /// Messages of another epoch or of a stranger (DIR-5).
    pub dropped_epoch: u64,
    /// Messages of a conversion that is over (HZ-4).
    pub dropped_stale: u64,
    /// Messages that are not their sender's to send, or not this node's to hear (DIR-8).
    pub dropped_role: u64,
    /// Messages with fields that no core makes (DIR-8).
    pub dropped_content: u64,
    /// Messages that asked this node to remember too much (DIR-8).
    pub dropped_limit: u64,
    /// Slots handed over to a node that uses them more.
    pub slots_moved: u64,
}

/// The ownership core of one node.
#[derive(Clone)]
pub struct Ownership<I, C> {
    pub(crate) me: NodeId,
    pub(crate) contents: C,
    pub(crate) retransmit: Duration,
    pub(crate) view: Arc<View>,
    pub(crate) now: Instant,
    pub(crate) entries: BTreeMap<PageId, Entry>,
    pub(crate) seen: BTreeMap<NodeId, Seen>,
    pub(crate) next_conversion: u64,
    pub(crate) pages: BTreeMap<PageId, Local>,
    pub(crate) retained: BTreeMap<PageId, Retained<I>>,
    pub(crate) next_request: BTreeMap<NodeId, u64>,
    pub(crate) next_answer: u64,
    pub(crate) rebuild: Rebuild,
    pub(crate) redo: RedoTasks,
    pub(crate) questions: Questions,
    pub(crate) locality: Locality,
    pub(crate) usage: Usage,
    pub(crate) outputs: VecDeque<Output<I>>,
    pub(crate) counters: CoreCounters,
    pub(crate) loopback: VecDeque<(Message, Option<I>)>,
    pub(crate) repeated: BTreeMap<Key, (Instant, NodeId, Message)>,
    due: BTreeSet<(Instant, Key)>,
}

impl<I: Clone, C: Contents> Ownership<I, C> {
    /// A core without pages, in no view.
    pub fn new(me: NodeId, retransmit: Duration, contents: C) -> Self {
        Self {
            me,
            contents,
            retransmit,
            view: Arc::new(View::none()),
            now: Instant(0),
            entries: BTreeMap::new(),
            seen: BTreeMap::new(),
            next_conversion: 0,
            pages: BTreeMap::new(),
            retained: BTreeMap::new(),
            next_request: BTreeMap::new(),
            next_answer: 0,
            rebuild: Rebuild::default(),
            redo: RedoTasks::default(),
            questions: Questions::default(),
            locality: Locality::default(),
            usage: Usage::default(),
            outputs: VecDeque::new(),
            counters: CoreCounters::default(),
            loopback: VecDeque::new(),
            repeated: BTreeMap::new(),
            due: BTreeSet::new(),
        }
    }

    /// What the driver gave to look into the frames.
    pub fn contents(&self) -> &C {
        &self.contents
    }

    /// The same, to change it.
    pub fn contents_mut(&mut self) -> &mut C {
        &mut self.contents
    }

    /// The view this core serves.
    pub fn view(&self) -> &Arc<View> {
        &self.view
    }

    /// Figures so far.
    pub fn counters(&self) -> CoreCounters {
        self.counters
    }

    /// What to do next.
    pub fn poll_output(&mut self) -> Option<Output<I>> {
        self.outputs.pop_front()
    }

    /// When to call `handle_timeout`.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Repeats what was not answered in time.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.now = now;
        while let Some((at, key)) = self.due.first().copied() {
            if at > now {
                break;
            }
            self.due.remove(&(at, key));
            let next = now + self.retransmit;
            let (deadline, to, message) = self.repeated.get_mut(&key).expect("what is due is repeated");
            *deadline = next;
            let (to, message) = (*to, message.clone());
            self.due.insert((next, key));
            self.counters.retransmits += 1;
            self.send(to, message, None);
        }
        self.drain();
    }

    /// A message of `from`, a member of the view in the life that the view names (the driver checks that). Says why it was
    /// dropped, if it was for what it says (DIR-8).
    pub fn handle_message(
        &mut self,
        now: Instant,
        from: NodeId,
        envelope: Envelope,
        image: Option<I>,
    ) -> Option<Fault> {
        self.now = now;
        let other = envelope.epoch != self.view.epoch && !planted(Defect::AcceptOldEpoch);
        if other || !self.serving() || !self.view.contains(from) {
            self.counters.dropped_epoch += 1; // DIR-5
            return None;
        }
        let fault = self.fault(from, &envelope.message, image.is_some());
        if let Some(fault) = fault {
            self.refuse(fault);
            return Some(fault);
        }
        self.dispatch(from, envelope.message, image);
        self.drain();
        None
    }

    /// Whether this node is in the view.
    pub fn serving(&self) -> bool {
        self.view.contains(self.me)
    }

    pub(crate) fn epoch(&self) -> Epoch {
        self.view.epoch
    }

    pub(crate) fn send(&mut self, to: NodeId, message: Message, image: Option<I>) {
        if to == self.me {
            self.loopback.push_back((message, image));
        } else {
            self.counters.messages += 1;
            let envelope = Envelope {
                epoch: self.epoch(),
                message,
            };
            self.outputs.push_back(Output::Send(to, envelope, image));
        }
    }

    /// Sends now and again until `settle(key)` or the next view.
    pub(crate) fn repeat(&mut self, key: Key, to: NodeId, message: Message) {
        self.remind(key, to, message.clone());
        self.send(to, message, None);
    }

    /// The same without the first time: it was said in other words.
    pub(crate) fn remind(&mut self, key: Key, to: NodeId, message: Message) {
        self.settle(key);
        let at = self.now + self.retransmit;
        self.repeated.insert(key, (at, to, message));
        self.due.insert((at, key));
    }

    pub(crate) fn settle(&mut self, key: Key) {
        if let Some((at, _, _)) = self.repeated.remove(&key) {
            self.due.remove(&(at, key));
        }
    }

    pub(crate) fn forget_messages(&mut self) {
        self.repeated.clear();
        self.due.clear();
        self.loopback.clear();
        self.forget_questions();
    }

    pub(crate) fn drain(&mut self) {
        while let Some((message, image)) = self.loopback.pop_front() {
            self.dispatch(self.me, message, image);
        }
    }

    pub(crate) fn new_conversion(&mut self) -> Conversion {
        self.next_conversion += 1;
        Conversion {
            epoch: self.epoch(),
            number: self.next_conversion,
        }
    }

    /// A number for an Acquire or Release of `page`, and the home that it is for.
    pub(crate) fn new_request(&mut self, page: PageId) -> (NodeId, Request) {
        let (home, version) = self.assignment(page.slot(&self.view));
        let last = self.next_request.entry(home).or_insert(0);
        *last += 1;
        let number = *last;
        (home, Request { number, version })
    }

    fn dispatch(&mut self, from: NodeId, message: Message, image: Option<I>) {
        match message {
            Message::Acquire { page, mode, request } => self.on_acquire(from, page, mode, request),
            Message::Release { page, request } => self.on_release(from, page, request),
            Message::Invalidated {
                page,
                conversion,
                retained,
            } => {
                self.on_invalidated(from, page, conversion, retained);
            }
            Message::Gone { page, conversion } => self.on_gone(from, page, conversion),
            Message::Done { page, conversion } => self.on_done(from, page, conversion, true),
            Message::Refused { page, conversion } => self.on_done(from, page, conversion, false),
            Message::Dropped { page, conversion } => self.on_dropped(from, page, conversion),
            Message::Inherited { page, conversion } => self.on_inherited(from, page, conversion),
            Message::Cleaned { page, conversion } => self.on_cleaned(from, page, conversion),
            Message::FlushWanted { page } => self.on_flush_wanted(from, page),
            Message::Redone {
                page,
                conversion,
                outcome,
            } => self.on_redone(from, page, conversion, outcome),
            Message::Claims {
                answer,
                chunk,
                chunks,
                entries,
            } => self.on_claims(from, answer, chunk, chunks, entries),
            Message::Analysis {
                chunk,
                chunks,
                targets,
            } => self.on_analysis(from, chunk, chunks, targets),
            Message::Slot {
                slot,
                version,
                chunk,
                chunks,
                entries,
                next_conversion,
            } => self.on_slot(from, slot, version, (chunk, chunks), entries, next_conversion),
            Message::SlotAck { slot, version, chunk } => self.on_slot_ack(from, slot, version, chunk),
            other => self.dispatch_to_node(from, other, image),
        }
    }

    fn dispatch_to_node(&mut self, from: NodeId, message: Message, image: Option<I>) {
        match message {
            Message::Denied { page, request } => self.on_denied(page, request),
            Message::ReleaseAck { page, request } => self.on_release_ack(page, request),
            Message::Moved {
                page,
                home,
                version,
                request,
            } => self.on_moved(page, home, version, request),
            Message::Grant {
                page,
                conversion,
                request,
                mode,
                source,
            } => {
                self.on_grant(from, page, conversion, request, mode, source);
            }
            Message::Transfer { page, order } => self.on_transfer(from, page, order),
            Message::Next { page, order } => self.on_next(page, order),
            Message::Invalidate { page, conversion } => self.on_invalidate(from, page, conversion),
            Message::Page {
                page,
                conversion,
                request,
                mode,
                info,
            } => {
                self.on_page(page, conversion, request, mode, info, image);
            }
            Message::DoneAck { page, conversion } => self.settle(Key::Done(page, conversion)),
            Message::Drop { page, conversion } => self.on_drop(from, page, conversion),
            Message::Inherit { page, conversion } => self.on_inherit(from, page, conversion),
            Message::WrittenBack { by, pages } => self.outputs.push_back(Output::WrittenBack(by, pages)),
            Message::WriteBackWanted { page, by } => {
                self.outputs.push_back(Output::WriteBackWanted(page, by));
            }
            Message::NotHeld { page } => self.outputs.push_back(Output::NotHeld(page)),
            Message::Query { slots, pages } => self.on_query(from, &slots, &pages),
            Message::AnalysisAck { chunk } => self.settle(Key::Analysis(from, chunk)),
            Message::NeedRedo { chunk, chunks, pages } => self.on_need_redo(from, chunk, chunks, pages),
            Message::NeedRedoAck { chunk } => self.settle(Key::NeedRedo(chunk)),
            Message::RedoUrgent { page } => self.redo.urgent(page),
            Message::RedoneAck { page, conversion } => self.on_redone_ack(page, conversion),
            Message::AskCopy { page, request } => self.on_ask_copy(from, page, request),
            Message::CopyWanted { page, to, request } => self.on_copy_wanted(page, to, request),
            Message::Copy { page, request, psn } => match image {
                Some(image) => self.on_copy(page, request, Some((image, psn))),
                None => self.stale(),
            },
            Message::NoCopy { page, request } => self.on_copy(page, request, None),
            _ => unreachable!("handled by dispatch"),
        }
    }
}
