//! What a member may say (DIR-8).
//!
//! A member is trusted to keep its promises, not to be free of mistakes. Before a message changes anything it is asked:
//! does its sender have the part in the protocol that sends it, can a core have made its fields, is what it makes this
//! node remember bounded? What fails is dropped and counted by reason, and the sender, if it meant it, says it again.
//! What passes and contradicts a possession is DIR-1 or DIR-2 broken by a member: that stops the node.

use crate::message::{Claim, Conversion, Held, Message, SlotEntry};
use crate::ownership::{Contents, Ownership};
use crate::page::PageId;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use aquifer_dss_proto::{NodeId, NodeSet};

/// Entries of one chunk of claims, targets or redo orders.
pub(crate) const CHUNK: usize = 512;
/// Chunks of one answer: what 256 GiB of frames claim.
pub(crate) const CHUNKS_MAX: u32 = 1 << 16;
/// How far a request may be ahead of the first one that is missing: more than any node has under way with one home.
pub(crate) const REQUESTS_AHEAD: u64 = 1 << 20;
/// A slot does not move so often in one epoch.
const VERSIONS_MAX: u32 = 1 << 30;
/// No home counts so far.
const CONVERSIONS_MAX: u64 = 1 << 62;

/// Why a message of a member was dropped.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Fault {
    /// Its sender is not the home, the leader or the requester that would say so, or this node is not the one to hear it.
    Role,
    /// A core makes no such fields: a node outside the view, a conversion of another epoch, chunks that do not fit, an
    /// image too many or too few.
    Content,
    /// It would make this node remember more than any member needs.
    Limit,
}

/// Chunks of one list, as they come.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Chunks<T> {
    /// How many there are, as the first one said.
    all: Option<u32>,
    here: BTreeMap<u32, Vec<T>>,
}

impl<T> Default for Chunks<T> {
    fn default() -> Self {
        Self {
            all: None,
            here: BTreeMap::new(),
        }
    }
}

impl<T> Chunks<T> {
    /// False when the chunk is of another list than those before. A chunk that is here already changes nothing.
    pub fn insert(&mut self, chunk: u32, chunks: u32, items: Vec<T>) -> bool {
        if *self.all.get_or_insert(chunks) != chunks {
            return false;
        }
        self.here.entry(chunk).or_insert(items);
        true
    }

    pub fn contains(&self, chunk: u32) -> bool {
        self.here.contains_key(&chunk)
    }

    pub fn is_complete(&self) -> bool {
        self.all.is_some_and(|all| self.here.len() == all as usize)
    }

    pub fn into_items(self) -> impl Iterator<Item = T> {
        self.here.into_values().flatten()
    }
}

impl<I: Clone, C: Contents> Ownership<I, C> {
    /// Drops a message.
    pub(crate) fn refuse(&mut self, fault: Fault) {
        let counter = match fault {
            Fault::Role => &mut self.counters.dropped_role,
            Fault::Content => &mut self.counters.dropped_content,
            Fault::Limit => &mut self.counters.dropped_limit,
        };
        *counter += 1;
    }

    /// What is wrong with a message of `from`, a member of this view and not this node.
    pub(crate) fn fault(&self, from: NodeId, message: &Message, image: bool) -> Option<Fault> {
        if !self.is_its_part(from, message) {
            Some(Fault::Role)
        } else if image != matches!(message, Message::Page { .. } | Message::Copy { .. })
            || !self.is_possible(message)
        {
            Some(Fault::Content)
        } else if !self.is_bounded(from, message) {
            Some(Fault::Limit)
        } else {
            None
        }
    }

    fn is_its_part(&self, from: NodeId, message: &Message) -> bool {
        let leader = self.view.leader;
        let leads = leader == self.me;
        // Claims, analyses and redo are about slots that have not moved.
        let (mine, theirs) = (
            |page: &PageId| self.view.home(page.slot(&self.view)) == self.me,
            |page: &PageId| self.view.home(page.slot(&self.view)) == from,
        );
        match message {
            Message::Acquire { page, .. }
            | Message::Release { page, .. }
            | Message::Invalidated { page, .. }
            | Message::Gone { page, .. }
            | Message::Done { page, .. }
            | Message::Refused { page, .. }
            | Message::Dropped { page, .. }
            | Message::Inherited { page, .. }
            | Message::Cleaned { page, .. }
            | Message::FlushWanted { page }
            | Message::AskCopy { page, .. } => self.is_or_was_home(page.slot(&self.view)),
            Message::Denied { page, .. }
            | Message::Grant { page, .. }
            | Message::Transfer { page, .. }
            | Message::Next { page, .. }
            | Message::Invalidate { page, .. }
            | Message::Drop { page, .. }
            | Message::Inherit { page, .. }
            | Message::WriteBackWanted { page, .. }
            | Message::NotHeld { page }
            | Message::CopyWanted { page, .. } => self.may_have_moved(page.slot(&self.view)),
            Message::Slot { slot, version, .. } => {
                let slot = usize::from(*slot);
                let known = |slot| *version <= self.assignment(slot).1; // it is only acknowledged
                slot < self.view.slots() && (known(slot) || self.may_have_moved(slot))
            }
            // Whom the home told to ship it, only the home knows; an answer is compared with what was asked.
            Message::Page { .. }
            | Message::ReleaseAck { .. }
            | Message::DoneAck { .. }
            | Message::Copy { .. }
            | Message::NoCopy { .. }
            | Message::SlotAck { .. }
            | Message::Moved { .. } => true,
            Message::WrittenBack { by, .. } => *by == self.me || (leads && !self.view.contains(*by)),
            Message::Query { slots, pages } => self.asks_for_its_own(from, slots) && pages.iter().all(theirs),
            Message::Claims { entries, .. } => entries.iter().all(|claim| mine(&claim.page)),
            Message::Analysis { targets, .. } => from == leader && targets.iter().all(|(page, _)| mine(page)),
            Message::Redone { page, .. } => from == leader && mine(page),
            Message::NeedRedoAck { .. } => from == leader,
            Message::AnalysisAck { .. } => leads,
            Message::NeedRedo { pages, .. } => leads && pages.iter().all(|(page, ..)| theirs(page)),
            Message::RedoUrgent { page } | Message::RedoneAck { page, .. } => leads && theirs(page),
        }
    }

    /// Ranges that rise, of slots that `home` is home of.
    fn asks_for_its_own(&self, home: NodeId, slots: &[(u16, u16)]) -> bool {
        let rise = slots.windows(2).all(|two| two[0].1 < two[1].0);
        let exist = |(start, end): &(u16, u16)| start <= end && usize::from(*end) < self.view.slots();
        let own =
            |(start, end): &(u16, u16)| (*start..=*end).all(|slot| self.view.home(usize::from(slot)) == home);
        rise && slots.iter().all(|range| exist(range) && own(range))
    }

    fn is_possible(&self, message: &Message) -> bool {
        let now = |conversion: &Conversion| conversion.epoch == self.view.epoch;
        let by_now = |conversion: &Conversion| conversion.epoch <= self.view.epoch;
        match message {
            Message::Transfer { order, .. } | Message::Next { order, .. } => {
                now(&order.conversion) && self.view.contains(order.to) && order.to != self.me
            }
            Message::Grant { conversion, .. }
            | Message::Invalidate { conversion, .. }
            | Message::Invalidated { conversion, .. }
            | Message::Gone { conversion, .. }
            | Message::Page { conversion, .. }
            | Message::Done { conversion, .. }
            | Message::Refused { conversion, .. }
            | Message::DoneAck { conversion, .. }
            | Message::Inherit { conversion, .. }
            | Message::Inherited { conversion, .. }
            | Message::Redone { conversion, .. }
            | Message::RedoneAck { conversion, .. } => now(conversion),
            // These may speak of what was shipped or seen in an earlier view.
            Message::Drop { conversion, .. }
            | Message::Dropped { conversion, .. }
            | Message::Cleaned { conversion, .. } => by_now(conversion),
            Message::WriteBackWanted { by, .. } => self.view.contains(*by),
            Message::CopyWanted { to, .. } => self.view.contains(*to) && *to != self.me,
            Message::Acquire { request, .. } | Message::Release { request, .. } => request.number > 0,
            Message::Claims {
                chunk,
                chunks,
                entries,
                ..
            } => fits(*chunk, *chunks, entries) && entries.iter().all(|claim| self.is_possible_claim(claim)),
            Message::Analysis {
                chunk,
                chunks,
                targets,
            } => fits(*chunk, *chunks, targets),
            Message::NeedRedo { chunk, chunks, pages } => {
                fits(*chunk, *chunks, pages) && pages.iter().all(|(_, _, conversion)| now(conversion))
            }
            Message::Slot {
                slot,
                version,
                chunk,
                chunks,
                entries,
                next_conversion,
            } => {
                let listed = |entry: &SlotEntry| entry.page.slot(&self.view) == usize::from(*slot);
                fits(*chunk, *chunks, entries)
                    && (1..VERSIONS_MAX).contains(version)
                    && *next_conversion < CONVERSIONS_MAX
                    && entries.iter().all(|e| listed(e) && self.is_possible_entry(e))
            }
            Message::Moved { home, version, .. } => {
                self.view.contains(*home) && (1..VERSIONS_MAX).contains(version)
            }
            _ => true,
        }
    }

    fn is_possible_entry(&self, entry: &SlotEntry) -> bool {
        let one_kind = entry.owner.is_none() || entry.sharers.is_empty();
        let holders = entry.owner.map_or(entry.sharers, NodeSet::of);
        let since = |(_, since): (NodeId, Conversion)| since.epoch <= self.view.epoch;
        let duty = entry
            .duty
            .is_none_or(|duty| entry.sharers.contains(duty.0) && since(duty));
        one_kind && duty && holders.without(self.view.nodes()).is_empty()
    }

    fn is_possible_claim(&self, claim: &Claim) -> bool {
        match claim.held {
            Held::Retained(conversion) => conversion.epoch <= self.view.epoch,
            Held::Exclusive | Held::Shared { .. } => true,
        }
    }

    fn is_bounded(&self, from: NodeId, message: &Message) -> bool {
        match message {
            Message::Acquire { request, .. } | Message::Release { request, .. } => {
                let floor = self.seen.get(&from).map_or(0, |seen| seen.floor());
                request.number <= floor.saturating_add(REQUESTS_AHEAD)
            }
            Message::Claims { chunks, .. }
            | Message::Analysis { chunks, .. }
            | Message::NeedRedo { chunks, .. }
            | Message::Slot { chunks, .. } => *chunks <= CHUNKS_MAX,
            _ => true,
        }
    }
}

fn fits<T>(chunk: u32, chunks: u32, items: &[T]) -> bool {
    chunk < chunks && items.len() <= CHUNK
}
