//! What this node has seen of one peer, and what follows for each of its lives.

use super::Timing;
use crate::defect::{Defect, planted};
use crate::{Epoch, Incarnation, Instant, NodeId, NodeSet};
use serde::{Deserialize, Serialize};

/// What a node says of itself in its slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum SlotState {
    /// Started, not in a view yet.
    Joining,
    /// In a view.
    Member,
    /// In a view, has stopped using the shared storage and wants out.
    Leaving,
    /// Ended cleanly: this life will never write anything again.
    Down,
}

/// The part of a slot that decisions are made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlotFacts {
    /// Whose slot.
    pub node: NodeId,
    /// Which life wrote it.
    pub incarnation: Incarnation,
    /// Grows with each write of that life.
    pub sequence: u64,
    /// What it says of itself.
    pub state: SlotState,
    /// Whom it hears over the network.
    pub heard: NodeSet,
    /// Highest epoch it knows to be decided.
    pub decided: Epoch,
    /// Highest epoch of which it knows that everybody excluded is proven dead.
    pub fenced: Epoch,
}

/// How it stands with one life of a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LifeState {
    /// Nothing speaks against it.
    Alive,
    /// Its lock was free when looked at, but never seen held: gone, if nothing moves (not a proof).
    Unlocked,
    /// Its slot has not changed for the full time (not a proof).
    Silent,
    /// It can write no more.
    Dead,
    /// It ended cleanly.
    Left,
}

#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub facts: SlotFacts,
    /// When this node saw the sequence change, or the slot for the first time.
    pub changed: Instant,
    /// The sequence was seen to change in this incarnation.
    pub moved: bool,
    /// The lock was seen held in this incarnation.
    pub held: bool,
    /// The last look at the lock since the slot last changed life: held or free.
    pub locked: Option<bool>,
    /// Lives up to this one are proven dead.
    pub dead: Option<Incarnation>,
}

impl Peer {
    pub fn new(now: Instant, facts: SlotFacts) -> Self {
        Self {
            facts,
            changed: now,
            moved: false,
            held: false,
            locked: None,
            dead: None,
        }
    }

    /// A slot as read. Older contents (a read that overtook another) change nothing.
    pub fn handle_slot(&mut self, now: Instant, facts: SlotFacts) {
        if facts.incarnation > self.facts.incarnation {
            // The new life took the lock before it wrote this, so the old life's descriptions are closed.
            let dead = Some(self.facts.incarnation).max(self.dead);
            *self = Self {
                dead,
                ..Self::new(now, facts)
            };
        } else if facts.incarnation == self.facts.incarnation && facts.sequence > self.facts.sequence {
            self.facts = facts;
            self.changed = now;
            self.moved = true;
        }
    }

    /// A look at the lock; true when it is news that this life is dead.
    pub fn handle_lock(&mut self, incarnation: Incarnation, held: bool) -> bool {
        if incarnation != self.facts.incarnation {
            return false;
        }
        self.locked = Some(held);
        self.held |= held;
        let seen = self.held || planted(Defect::TrustLockNeverSeenHeld);
        let news = seen && !held && self.dead < Some(incarnation);
        if news {
            self.dead = Some(incarnation);
        }
        news
    }

    pub fn life(&self, now: Instant, timing: &Timing, incarnation: Incarnation) -> LifeState {
        if self.facts.incarnation == incarnation && self.facts.state == SlotState::Down {
            LifeState::Left
        } else if self.dead >= Some(incarnation) || self.facts.incarnation > incarnation {
            LifeState::Dead
        } else if now.since(self.changed) >= timing.death_after() {
            LifeState::Silent
        } else if self.locked == Some(false) && !self.moved {
            LifeState::Unlocked
        } else {
            LifeState::Alive
        }
    }

    /// Whether this node has evidence that the present life is there.
    pub fn seen_alive(&self, now: Instant, timing: &Timing) -> bool {
        self.life(now, timing, self.facts.incarnation) == LifeState::Alive
            && (self.moved || self.locked == Some(true))
    }
}
