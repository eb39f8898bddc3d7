//! The word of the members in place of a leg of volume 0: all of them together are the third place of a ballot.
//!
//! An epoch that follows a decree with the metadata on both legs is decided in two of three places: the legs, and the memory of the members of
//! that decree's view. So one leg may be lost, and no two sides of a split decide two things (MEM-13):
//! - a block is with the members when every one has it who is not proven dead; so whoever lives, and asks himself alone, has seen it;
//! - a life keeps what it was told until the epoch is decided. Another life of its node is no member of that view, and is not asked;
//! - only a member asks. Who starts has the legs alone.

use super::api::Membership;
use super::types::{MembershipError, Message};
use aquifer_dss_proto::ballot::{BALLOT_BLOCK_BYTES, BallotBlock, BodyHash};
use aquifer_dss_proto::defect::{Defect, planted};
use aquifer_dss_proto::{Epoch, Member, NodeId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

/// A node's block, and the body of the value that it accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Written {
    block: BallotBlock,
    body: Vec<u8>,
}

/// A [`Written`] on the wire.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Entry {
    node: NodeId,
    block: Vec<u8>,
    body: Vec<u8>,
}

impl Entry {
    fn of(node: NodeId, written: &Written) -> Self {
        Self {
            node,
            block: written.block.encode().to_vec(),
            body: written.body.clone(),
        }
    }

    fn decode(self) -> Option<(NodeId, Written)> {
        let node = NodeId::new(self.node.get())?;
        let bytes: [u8; BALLOT_BLOCK_BYTES] = self.block.try_into().ok()?;
        let block = BallotBlock::decode(&bytes)?;
        let body = self.body;
        let has_body = block.accepted.round == 0 || BodyHash::of(&body) == block.value;
        has_body.then_some((node, Written { block, body }))
    }
}

/// A member's block for the epoch after `base`, which the receiver keeps.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Ask {
    question: u64,
    base: Epoch,
    entry: Entry,
}

/// What the sender has of all nodes, in answer to [`Ask`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Word {
    question: u64,
    base: Epoch,
    entries: Vec<Entry>,
}

/// What this life was told for the epoch after `base`, and its own open question.
pub(super) struct Vote {
    base: Epoch,
    written: BTreeMap<NodeId, Written>,
    question: u64,
    answered: Vec<Member>,
    answers: Vec<(NodeId, Written)>,
}

impl Vote {
    pub(super) fn new(base: Epoch) -> Self {
        Self {
            base,
            written: BTreeMap::new(),
            question: 0,
            answered: Vec::new(),
            answers: Vec::new(),
        }
    }

    /// An epoch is decided: what was told for it is of no use any more.
    pub(super) fn begin(&mut self, decided: Epoch) {
        if decided > self.base {
            *self = Self::new(decided);
        }
    }

    /// Keeps a node's block, unless a later one is known: messages may overtake each other.
    fn write(&mut self, node: NodeId, written: Written) {
        let age = |written: &Written| {
            let block = &written.block;
            (block.instance, block.promised, block.accepted, block.decided)
        };
        match self.written.get(&node) {
            Some(known) if age(known) >= age(&written) => {}
            _ => drop(self.written.insert(node, written)),
        }
    }

    /// The blocks that this life was told, its own too.
    pub(super) fn blocks(&self) -> Vec<(NodeId, BallotBlock)> {
        let blocks = self.written.iter().map(|(node, written)| (*node, written.block));
        blocks.collect()
    }

    /// The accepted body with this hash, if somebody told it.
    pub(super) fn body(&self, hash: BodyHash) -> Option<Vec<u8>> {
        let told = self.answers.iter().map(|(_, written)| written);
        let mut all = self.written.values().chain(told);
        let found = all.find(|written| written.block.accepted.round > 0 && written.block.value == hash)?;
        Some(found.body.clone())
    }
}

impl Membership {
    /// Has every member keep the own block, and gives the blocks that they have.
    pub(super) async fn ask_members(
        &self,
        block: &BallotBlock,
        body: &[u8],
    ) -> Result<Vec<(NodeId, BallotBlock)>, MembershipError> {
        let base = self.require_member()?;
        let body = self.body_of(block, body).await?;
        let written = Written { block: *block, body };
        let entry = Entry::of(self.me.node, &written);
        let question = self.runtime.random();
        {
            let mut vote = self.vote.lock();
            if vote.base != base {
                return Err(MembershipError::Unheard);
            }
            vote.write(self.me.node, written);
            (vote.question, vote.answered, vote.answers) = (question, Vec::new(), Vec::new());
        }
        let ask = Message::Ask(Ask {
            question,
            base,
            entry,
        });
        let deadline = self.runtime.now() + self.config.timing.lease;
        let mut again = self.runtime.now();
        loop {
            let missing = self.unheard(question);
            if missing.is_empty() || planted(Defect::SkipSilentMembers) {
                break;
            }
            let now = self.runtime.now();
            if now >= deadline || self.vote.lock().base != base || self.ended.load(Ordering::Acquire) {
                return Err(MembershipError::Unheard);
            }
            if now >= again {
                missing.iter().for_each(|member| self.send(member.node, &ask));
                again = now + self.config.timing.heartbeat / 2;
            }
            tokio::select! {
                biased;
                () = self.wake_vote.notified() => {}
                () = self.runtime.sleep_until(again) => {}
            }
        }
        let vote = self.vote.lock();
        if vote.base != base {
            return Err(MembershipError::Unheard);
        }
        let told = vote.answers.iter().map(|(node, written)| (*node, written.block));
        Ok(vote.blocks().into_iter().chain(told).collect())
    }

    /// The epoch of the view that this life is a member of, when nothing later is known to be decided.
    fn require_member(&self) -> Result<Epoch, MembershipError> {
        let inner = self.inner.lock();
        let view = &inner.core.decided().view;
        match view.members.contains(&self.me) {
            true => Ok(view.epoch),
            false => Err(MembershipError::OneLeg),
        }
    }

    /// The members that have not answered and may live.
    fn unheard(&self, question: u64) -> Vec<Member> {
        let voters = self.inner.lock().core.voters(self.runtime.now());
        let vote = self.vote.lock();
        let is_open = vote.question == question;
        let others = voters.into_iter().filter(|member| *member != self.me);
        others
            .filter(|member| !is_open || !vote.answered.contains(member))
            .collect()
    }

    /// The body that a block accepted: as it was just stored, or as an earlier attempt left it.
    async fn body_of(&self, block: &BallotBlock, stored: &[u8]) -> Result<Vec<u8>, MembershipError> {
        if block.accepted.round == 0 {
            return Ok(Vec::new());
        }
        if BodyHash::of(stored) == block.value {
            return Ok(stored.to_vec());
        }
        let found = self.find_body(self.me.node, block.instance, block.value).await?;
        let found = found.map(|(body, _)| body);
        found.ok_or(MembershipError::Damaged {
            what: "view",
            node: self.me.node,
        })
    }

    /// A member wants its block kept.
    pub(super) fn receive_ask(&self, from: Member, ask: Ask) {
        let (base, both_are_in) = {
            let mut inner = self.inner.lock();
            let view = &inner.core.decided().view;
            let both = view.members.contains(&from) && view.members.contains(&self.me);
            let base = view.epoch;
            inner.hinted |= ask.base > base;
            (base, both)
        };
        if ask.base > base {
            return self.wake_reform.notify_one();
        }
        if ask.base < base {
            // It finds in this node's slot that more is decided.
            return self.send(from.node, &Message::Heartbeat { look: true });
        }
        let entry = ask.entry.decode().filter(|(node, _)| *node == from.node);
        let Some((node, written)) = entry.filter(|_| both_are_in) else {
            return tracing::warn!(%from.node, "a ballot block that is not for this node, or not sound");
        };
        let decided = written.block.decided > base;
        let word = {
            let mut vote = self.vote.lock();
            if vote.base != base {
                return;
            }
            vote.write(node, written);
            let entries = vote
                .written
                .iter()
                .map(|(node, written)| Entry::of(*node, written));
            Word {
                question: ask.question,
                base,
                entries: entries.collect(),
            }
        };
        self.send(from.node, &Message::Word(word));
        if decided {
            self.inner.lock().hinted = true;
            self.wake_reform.notify_one();
        }
    }

    /// A member answers.
    pub(super) fn receive_word(&self, from: Member, word: Word) {
        let entries: Option<Vec<_>> = word.entries.into_iter().map(Entry::decode).collect();
        let Some(entries) = entries else {
            return tracing::warn!(%from.node, "ballot blocks that are not sound");
        };
        let mut vote = self.vote.lock();
        if word.base != vote.base || word.question != vote.question || vote.answered.contains(&from) {
            return;
        }
        vote.answered.push(from);
        vote.answers.extend(entries);
        drop(vote);
        self.wake_vote.notify_one();
    }
}
