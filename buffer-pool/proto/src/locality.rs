//! Slots that move to the node that uses them, inside an epoch. An assignment of a slot is (home, version): version 0 is the
//! view's map, and only the home of version v makes version v + 1.
//!
//! Rules: a slot moves when it is complete and nothing is under way in it (LOC-1); from the moment in which it is sent its old
//! home answers for nothing in it, and its new home from the moment in which all of it is there (LOC-2); a home acts only on
//! requests that name its own version, and whoever was asked under an earlier one says who answers now (LOC-3); numbers of
//! conversions go on rising per page (LOC-4, HZ-4); a view change takes every slot back to its map (LOC-5).

use crate::admission::{Chunks, Fault};
use crate::directory::{Entry, State};
use crate::message::{Message, Request, SlotEntry};
use crate::ownership::{Contents, Key, Ownership};
use crate::page::PageId;
use crate::possession::Want;
use crate::rebuild::chunked;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use aquifer_dss_proto::defect::{Defect, planted};
use aquifer_dss_proto::{Instant, NodeId};

/// Of all requests for a slot, one node must have made this share before the slot moves to it.
const SHARE_PERCENT: u32 = 90;
/// What was counted loses this part of itself at each interval (at least one request), so that a use that has just begun does not
/// outweigh one that lasts.
const FADING: u32 = 8;

/// A slot on its way to another home.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Moving {
    to: NodeId,
    /// Pages of the slot that have, or may have, an entry.
    pages: BTreeSet<PageId>,
    /// The version that was sent, and its chunks that are not acknowledged. Before that, conversions under way end.
    sent: Option<(u32, BTreeSet<u32>)>,
}

/// A slot of which some chunks are here.
#[derive(Clone, PartialEq, Eq, Hash, Default, Debug)]
struct Incoming {
    version: u32,
    chunks: Chunks<SlotEntry>,
}

/// What this node knows of slots that are not where the view has them.
#[derive(Clone, PartialEq, Eq, Hash, Default, Debug)]
pub(crate) struct Locality {
    moved: BTreeMap<u16, (NodeId, u32)>,
    moving: BTreeMap<u16, Moving>,
    incoming: BTreeMap<u16, Incoming>,
}

/// How often each node asked for pages of the slots that this node answers for.
#[derive(Clone, Default, Debug)]
pub(crate) struct Usage(BTreeMap<u16, BTreeMap<NodeId, u32>>);

impl Usage {
    /// A request of `node` in `slot`.
    pub fn count(&mut self, slot: usize, node: NodeId) {
        let asked = self.0.entry(slot as u16).or_default().entry(node).or_default();
        *asked = asked.saturating_add(1);
    }

    /// An interval is over.
    fn fade(&mut self) {
        self.0.retain(|_, nodes| {
            nodes.retain(|_, asked| {
                *asked -= asked.div_ceil(FADING);
                *asked > 0
            });
            !nodes.is_empty()
        });
    }

    /// Slots that `me` should give away, and to whom: one node makes nearly all requests, and at least `least`.
    fn candidates(&self, me: NodeId, least: u32) -> BTreeMap<u16, NodeId> {
        let chosen = |(slot, nodes): (&u16, &BTreeMap<NodeId, u32>)| {
            let total: u64 = nodes.values().map(|asked| u64::from(*asked)).sum();
            let (node, most) = nodes.iter().max_by_key(|(_, asked)| **asked)?;
            let enough = *most >= least && u64::from(*most) * 100 >= total * u64::from(SHARE_PERCENT);
            (*node != me && enough).then_some((*slot, *node))
        };
        self.0.iter().filter_map(chosen).collect()
    }
}

impl<I: Clone, C: Contents> Ownership<I, C> {
    fn slot_of(&self, page: PageId) -> u16 {
        page.slot(&self.view) as u16
    }

    /// Who answers for a page, as far as this node knows.
    pub fn home(&self, page: PageId) -> NodeId {
        self.assignment(page.slot(&self.view)).0
    }

    /// Whether this node answers for the slot, or did in this epoch: what it ended there is acknowledged still.
    pub(crate) fn is_or_was_home(&self, slot: usize) -> bool {
        self.view.home(slot) == self.me || self.locality.moved.contains_key(&(slot as u16))
    }

    /// Whether another node may answer for the slot by now, though this one need not have heard of it.
    pub(crate) fn may_have_moved(&self, slot: usize) -> bool {
        let moving = self.locality.moving.get(&(slot as u16));
        self.assignment(slot).0 != self.me || moving.is_some_and(|moving| moving.sent.is_some())
    }

    pub(crate) fn assignment(&self, slot: usize) -> (NodeId, u32) {
        let moved = self.locality.moved.get(&(slot as u16));
        moved.copied().unwrap_or_else(|| (self.view.home(slot), 0))
    }

    /// An interval is over (the driver chooses how long one is): slots of which one other node made nearly all requests, and at
    /// least `least` lately, begin to move there. Moves cost a fixed share of those requests at most, so nothing else limits them.
    pub fn handle_rebalance(&mut self, now: Instant, least: u32) {
        self.now = now;
        let candidates = self.usage.candidates(self.me, least);
        self.usage.fade();
        if !candidates.is_empty() {
            self.begin_moves(candidates);
        }
        self.drain();
    }

    /// Moves the slot of `page` to `to`, whatever was measured. True when it is moving.
    pub fn handle_move(&mut self, now: Instant, page: PageId, to: NodeId) -> bool {
        self.now = now;
        self.begin_moves(BTreeMap::from([(self.slot_of(page), to)]));
        self.drain();
        self.is_moving(page)
    }

    /// Whether this node is the home of `page`: nobody else is, in this epoch (LOC-2).
    pub fn answers_for(&self, page: PageId) -> bool {
        self.serving() && !self.may_have_moved(page.slot(&self.view))
    }

    /// Whether this node has begun to hand over the slot of `page`, and does not know yet that it arrived.
    pub fn is_moving(&self, page: PageId) -> bool {
        self.locality.moving.contains_key(&self.slot_of(page))
    }

    /// Begins to move those slots that may (LOC-1).
    fn begin_moves(&mut self, mut slots: BTreeMap<u16, NodeId>) {
        if !self.serving() || !self.rebuild.is_over() {
            return;
        }
        slots.retain(|slot, to| {
            let mine = self.assignment(usize::from(*slot)).0 == self.me && *to != self.me;
            mine && self.view.contains(*to) && !self.locality.moving.contains_key(slot)
        });
        let mut pages: BTreeMap<u16, BTreeSet<PageId>> =
            slots.keys().map(|slot| (*slot, BTreeSet::new())).collect();
        for (page, entry) in &self.entries {
            let slot = self.slot_of(*page);
            if !matches!(entry.state, State::Idle | State::Converting { .. }) {
                pages.remove(&slot); // it would not rest for long
            } else if let Some(pages) = pages.get_mut(&slot) {
                pages.insert(*page);
            }
        }
        for (slot, pages) in pages {
            let (to, sent) = (slots[&slot], None);
            self.locality.moving.insert(slot, Moving { to, pages, sent });
            self.hand_over(slot);
        }
    }

    /// Whether no conversion of `page` may begin because its slot moves. Sends the slot when this page was what it waited for.
    pub(crate) fn rests(&mut self, page: PageId) -> bool {
        let slot = self.slot_of(page);
        let Some(moving) = self.locality.moving.get_mut(&slot) else {
            return false;
        };
        moving.pages.insert(page);
        self.hand_over(slot);
        !planted(Defect::StartWhileMoving)
    }

    /// Whether the slot of `page` was sent away: what is changed here now would be lost.
    pub(crate) fn handed_over(&self, page: PageId) -> bool {
        let moving = self.locality.moving.get(&self.slot_of(page));
        moving.is_some_and(|moving| moving.sent.is_some()) && !planted(Defect::ReleaseWhileMoving)
    }

    /// Sends a moving slot as soon as nothing is under way in it.
    fn hand_over(&mut self, slot: u16) {
        let version = self.assignment(usize::from(slot)).1 + 1;
        let next_conversion = self.next_conversion;
        let Some(moving) = self.locality.moving.get_mut(&slot) else {
            return;
        };
        let listed = || {
            moving
                .pages
                .iter()
                .filter_map(|p| Some((*p, self.entries.get(p)?)))
        };
        let rests =
            |entry: &Entry| entry.state == State::Idle && entry.next.is_none() && entry.retained.is_empty();
        if moving.sent.is_some() || !listed().all(|(_, entry)| rests(entry)) {
            return;
        }
        let entries: Vec<SlotEntry> = listed()
            .filter(|(_, entry)| !entry.holders().is_empty())
            .map(|(page, entry)| SlotEntry {
                page,
                owner: entry.owner,
                sharers: entry.sharers,
                duty: entry.duty,
            })
            .collect();
        let (to, parts) = (moving.to, chunked(&entries));
        let chunks = parts.len() as u32;
        moving.sent = Some((version, (0..chunks).collect()));
        for (chunk, entries) in (0..).zip(parts) {
            let message = Message::Slot {
                slot,
                version,
                chunk,
                chunks,
                entries,
                next_conversion,
            };
            self.repeat(Key::Slot(slot, chunk), to, message);
        }
    }

    pub(crate) fn on_slot(
        &mut self,
        from: NodeId,
        slot: u16,
        version: u32,
        (chunk, chunks): (u32, u32),
        entries: Vec<SlotEntry>,
        next_conversion: u64,
    ) {
        if !self.rebuild.is_over() {
            return; // it is sent again
        }
        if version > self.assignment(usize::from(slot)).1 {
            let incoming = self.locality.incoming.entry(slot).or_default();
            if incoming.version != version {
                *incoming = Incoming {
                    version,
                    chunks: Chunks::default(),
                };
            }
            if !incoming.chunks.insert(chunk, chunks, entries) {
                return self.refuse(Fault::Content);
            }
            if incoming.chunks.is_complete() {
                self.take_over(slot, version, next_conversion);
            }
        }
        self.send(from, Message::SlotAck { slot, version, chunk }, None);
    }

    /// All of a slot is here: this node answers for it from now on (LOC-2).
    fn take_over(&mut self, slot: u16, version: u32, next_conversion: u64) {
        self.locality.moved.insert(slot, (self.me, version));
        self.end_move(slot); // it has come back, which says more than the acknowledgement that is late
        let incoming = self.locality.incoming.remove(&slot);
        let entries = incoming
            .into_iter()
            .flat_map(|incoming| incoming.chunks.into_items());
        for listed in entries {
            let entry = Entry {
                owner: listed.owner,
                sharers: listed.sharers,
                duty: listed.duty,
                ..Entry::new(State::Idle)
            };
            entry.check(listed.page);
            self.entries.insert(listed.page, entry);
        }
        if !planted(Defect::ForgetConversionCounter) {
            self.next_conversion = self.next_conversion.max(next_conversion); // LOC-4
        }
    }

    pub(crate) fn on_slot_ack(&mut self, from: NodeId, slot: u16, version: u32, chunk: u32) {
        let moving = self.locality.moving.get_mut(&slot);
        let Some(moving) = moving.filter(|moving| moving.to == from) else {
            return;
        };
        let Some((_, missing)) = moving.sent.as_mut().filter(|(sent, _)| *sent == version) else {
            return;
        };
        missing.remove(&chunk);
        let over = missing.is_empty();
        self.settle(Key::Slot(slot, chunk));
        if over {
            self.end_move(slot);
        }
    }

    /// The new home answers: who waits here is told to ask there.
    fn end_move(&mut self, slot: u16) {
        let Some(Moving { to, pages, sent }) = self.locality.moving.remove(&slot) else {
            return;
        };
        let (version, unanswered) = sent.expect("a move ends after the slot was sent");
        for chunk in unanswered {
            self.settle(Key::Slot(slot, chunk));
        }
        self.counters.slots_moved += 1;
        self.usage.0.remove(&slot);
        self.believe(slot, to, version);
        for page in pages {
            let queue = self.entries.remove(&page).map(|entry| entry.queue);
            for ask in queue.unwrap_or_default() {
                self.point(ask.node, page, ask.request);
            }
        }
    }

    fn believe(&mut self, slot: u16, home: NodeId, version: u32) {
        if version > self.assignment(usize::from(slot)).1 {
            self.locality.moved.insert(slot, (home, version));
        }
    }

    /// Tells `from` who answers for `page`.
    pub(crate) fn point(&mut self, from: NodeId, page: PageId, request: Request) {
        let (home, version) = self.assignment(page.slot(&self.view));
        let message = Message::Moved {
            page,
            home,
            version,
            request,
        };
        self.send(from, message, None);
    }

    /// Whether this home acts on a request; if not, its sender learns who does (LOC-3).
    pub(crate) fn answers(&mut self, from: NodeId, page: PageId, request: Request) -> bool {
        let (home, version) = self.assignment(page.slot(&self.view));
        if request.version > version {
            return false; // the slot is on its way here, or was: the request is repeated
        }
        if home == self.me && (request.version == version || planted(Defect::ObeyEarlierVersion)) {
            return true;
        }
        self.counters.dropped_stale += 1;
        // Numbers have no gaps: it counts as seen, although nothing comes of it.
        self.seen.entry(from).or_default().insert(request);
        self.point(from, page, request);
        false
    }

    /// Nothing came of a request: asks there who answers now.
    pub(crate) fn on_moved(&mut self, page: PageId, home: NodeId, version: u32, request: Request) {
        if home != self.me && self.view.contains(home) {
            self.believe(self.slot_of(page), home, version);
        }
        if self.assignment(page.slot(&self.view)).1 <= request.version {
            return; // a copy, or the slot has not come to this node yet
        }
        let Some(local) = self.pages.get_mut(&page) else {
            return;
        };
        if local.releasing == Some(request) {
            self.settle(Key::Release(page));
            self.release(page);
        } else if let Some(Want::Asked(mode, asked)) = local.want
            && asked == request
        {
            local.want = Some(Want::Deferred(mode));
            self.settle(Key::Acquire(page));
            self.ask(page);
        }
    }

    /// The epoch is over, and every assignment with it (LOC-5): gives the slots whose directory this node, their home by the
    /// view's map, does not have as it was.
    pub(crate) fn forget_moves(&mut self) -> BTreeSet<u16> {
        let Locality { moved, moving, .. } = core::mem::take(&mut self.locality);
        self.usage = Usage::default();
        if planted(Defect::KeepMovedSlots) {
            return BTreeSet::new();
        }
        let sent = moving.into_iter().filter(|(_, moving)| moving.sent.is_some());
        moved.into_keys().chain(sent.map(|(slot, _)| slot)).collect()
    }
}
