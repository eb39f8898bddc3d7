//! The core seen from outside: what a home lists of a page, and when two cores are the same.

use crate::directory::{State, Step};
use crate::ownership::{Contents, Ownership};
use crate::page::{Mode, PageId};
use alloc::vec::Vec;
use aquifer_dss_proto::{NodeId, NodeSet};
use core::hash::{Hash, Hasher};

/// What a home is doing with a page.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum HomeState {
    /// Nothing: the entry says who holds it.
    Idle,
    /// These sharers have still to give it up, for this requester.
    Invalidating(NodeSet, NodeId, Mode),
    /// This node has still to send its image to this requester.
    Shipping(NodeId, NodeId, Mode),
    /// This requester has still to say Done.
    Granting(NodeId, Mode),
    /// This sharer was asked to take the duty of a dead dirty holder.
    Inheriting(NodeId),
    /// Members are being asked what they hold.
    Unknown,
    /// Waits for the analysis of dead streams.
    Frozen,
    /// The leader redoes it.
    Redoing,
    /// It could not be redone.
    Broken,
}

/// What a home lists of a page.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Listed {
    /// What it is doing.
    pub state: HomeState,
    /// The Exclusive holder.
    pub owner: Option<NodeId>,
    /// The Shared holders.
    pub sharers: NodeSet,
    /// The sharer that has the duty to write back, as far as the home knows.
    pub duty: Option<NodeId>,
    /// Nodes that keep an image they gave away.
    pub retained: NodeSet,
    /// Who waits for the page, first come first.
    pub waiting: Vec<(NodeId, Mode)>,
}

fn home_state(state: State) -> HomeState {
    match state {
        State::Idle => HomeState::Idle,
        State::Converting { ask, step, .. } => match step {
            Step::Invalidating(waiting) => HomeState::Invalidating(waiting, ask.node, ask.mode),
            Step::Shipping(source) => HomeState::Shipping(source, ask.node, ask.mode),
            Step::Granting => HomeState::Granting(ask.node, ask.mode),
        },
        State::Inheriting(_, heir) => HomeState::Inheriting(heir),
        State::Unknown => HomeState::Unknown,
        State::Frozen => HomeState::Frozen,
        State::Redoing(_) => HomeState::Redoing,
        State::Broken => HomeState::Broken,
    }
}

impl<I: Clone, C: Contents> Ownership<I, C> {
    /// What this node, if it is the home, lists of `page`. An entry that says nothing is not kept.
    pub fn listed(&self, page: PageId) -> Option<Listed> {
        let entry = self.entries.get(&page)?;
        Some(Listed {
            state: home_state(entry.state),
            owner: entry.owner,
            sharers: entry.sharers,
            duty: entry.duty.map(|(node, _)| node),
            retained: entry.retained.keys().copied().collect(),
            waiting: entry.waiting().map(|ask| (ask.node, ask.mode)).collect(),
        })
    }

    /// Leader: whether `next_redo` may have a task.
    pub fn redo_waits(&self) -> bool {
        self.redo.is_queued()
    }

    /// Messages that are repeated until they are answered.
    pub fn unanswered(&self) -> usize {
        self.repeated.len()
    }
}

/// Two cores are the same when the same inputs make them do the same from here on. Figures and times are left out:
/// time decides only when a message is repeated, figures only when a slot moves.
impl<I: PartialEq, C: PartialEq> PartialEq for Ownership<I, C> {
    fn eq(&self, other: &Self) -> bool {
        self.me == other.me
            && self.view == other.view
            && self.contents == other.contents
            && (&self.entries, &self.seen) == (&other.entries, &other.seen)
            && (&self.pages, &self.retained) == (&other.pages, &other.retained)
            && (self.next_conversion, self.next_answer) == (other.next_conversion, other.next_answer)
            && self.next_request == other.next_request
            && (&self.rebuild, &self.redo) == (&other.rebuild, &other.redo)
            && self.questions == other.questions
            && self.locality == other.locality
            && (&self.outputs, &self.loopback) == (&other.outputs, &other.loopback)
            && self.repeated.len() == other.repeated.len()
            && self.repeated.iter().zip(&other.repeated).all(
                |((key, (_, to, message)), (their_key, (_, their_to, their_message)))| {
                    (key, to, message) == (their_key, their_to, their_message)
                },
            )
    }
}

impl<I: Eq, C: Eq> Eq for Ownership<I, C> {}

impl<I: Hash, C: Hash> Hash for Ownership<I, C> {
    fn hash<H: Hasher>(&self, into: &mut H) {
        (self.me, self.view.epoch, self.view.leader).hash(into);
        for member in &self.view.members {
            (member.node, member.incarnation).hash(into);
        }
        self.contents.hash(into);
        (&self.entries, &self.seen, &self.pages, &self.retained).hash(into);
        (self.next_conversion, &self.next_request, self.next_answer).hash(into);
        (&self.rebuild, &self.redo, &self.questions, &self.locality).hash(into);
        (self.outputs.len(), &self.loopback).hash(into);
        for (key, (_, to, message)) in &self.repeated {
            (key, to, message).hash(into);
        }
    }
}
