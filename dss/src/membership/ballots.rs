//! Ballots on the device: the driver of `ballot::Proposer`, and learning what is decided.

use super::api::Membership;
use super::slot::{decode_ballot, encode_ballot};
use super::types::MembershipError;
use crate::group::ControlBlocks;
use crate::seam::Runtime;
use aquifer_dss_proto::ballot::{BallotBlock, BallotNumber, BallotOutput, BodyHash, Proposer};
use aquifer_dss_proto::defect::{Defect, planted};
use aquifer_dss_proto::membership::Decree;
use aquifer_dss_proto::{Epoch, HomeSlots, NodeId};
use std::time::Duration;

const ATTEMPTS: usize = 20;

/// How an attempt ended.
pub(super) enum Outcome {
    /// This decree has the epoch.
    Decided(Decree),
    /// Another proposer was faster.
    Preempted,
    /// Another node knew more.
    Learned(Decree),
}

/// The highest round that any of these promised.
pub(super) fn highest_round(blocks: &[(NodeId, BallotBlock)]) -> u64 {
    blocks
        .iter()
        .map(|(_, block)| block.promised.round)
        .max()
        .unwrap_or(0)
}

/// The ballot blocks of all nodes.
pub(super) async fn read_ballots(
    runtime: &dyn Runtime,
    control: &ControlBlocks,
) -> Result<Vec<(NodeId, BallotBlock)>, MembershipError> {
    let mut damaged = None;
    for _ in 0..ATTEMPTS {
        let blocks = control.read_all_ballot_blocks().await?;
        let decoded: Result<Vec<_>, NodeId> = blocks
            .iter()
            .map(|(node, block)| Ok((node, decode_ballot(block).map_err(|_| node)?)))
            .collect();
        match decoded {
            Ok(blocks) => return Ok(blocks),
            Err(node) => damaged = Some(node),
        }
        // Perhaps a write was under way on a device that shows halves of it.
        runtime.sleep(Duration::from_millis(2)).await;
    }
    let node = damaged.expect("the loop ran");
    Err(MembershipError::Damaged {
        what: "ballot block",
        node,
    })
}

/// The body with this hash in a body place, and what it says.
async fn read_body(
    control: &ControlBlocks,
    node: NodeId,
    epoch: Epoch,
    hash: BodyHash,
) -> Result<Option<(Vec<u8>, Decree)>, MembershipError> {
    let place = control.read_body(node, place_of(epoch)).await?;
    let decree = decode_body(&place, control.home_slots(), epoch, hash);
    Ok(decree.map(|(body, decree)| (body.to_vec(), decree)))
}

/// The body in a body place, and what it says, when it has this hash and is of this epoch. Any bytes are safe.
pub fn decode_body(place: &[u8], slots: HomeSlots, epoch: Epoch, hash: BodyHash) -> Option<(&[u8], Decree)> {
    let (length, rest) = place.split_at_checked(4)?;
    let length = u32::from_le_bytes(length.try_into().expect("4 bytes")) as usize;
    let body = rest.get(..length).filter(|body| BodyHash::of(body) == hash)?;
    let decree: Decree = postcard::from_bytes(body).ok()?;
    let fits = decree.view.epoch == epoch && decree.is_sound(slots);
    fits.then_some((body, decree))
}

async fn write_body(
    control: &ControlBlocks,
    node: NodeId,
    epoch: Epoch,
    body: &[u8],
) -> Result<(), MembershipError> {
    let mut bytes = (body.len() as u32).to_le_bytes().to_vec();
    bytes.extend_from_slice(body);
    Ok(control.write_body(node, place_of(epoch), &bytes).await?)
}

fn place_of(epoch: Epoch) -> usize {
    (epoch.0 % 2) as usize
}

/// The last decree that any block names as decided.
pub(super) async fn learn_decided(
    runtime: &dyn Runtime,
    control: &ControlBlocks,
) -> Result<Decree, MembershipError> {
    let mut last = None;
    for _ in 0..ATTEMPTS {
        let blocks = read_ballots(runtime, control).await?;
        let highest = blocks
            .iter()
            .map(|(_, block)| block.decided)
            .max()
            .unwrap_or_default();
        if highest == Epoch(0) {
            return Ok(Decree::none(control.home_slots()));
        }
        for (node, block) in blocks.iter().filter(|(_, block)| block.decided == highest) {
            if let Some((_, decree)) = read_body(control, *node, highest, block.decided_value).await? {
                return Ok(decree);
            }
            last = Some(*node);
        }
        // The body was overwritten between the two reads: its node has moved on.
        runtime.sleep(Duration::from_millis(2)).await;
    }
    Err(MembershipError::Damaged {
        what: "view",
        node: last.expect("some block was decided"),
    })
}

fn encode(decree: &Decree) -> Vec<u8> {
    postcard::to_allocvec(decree).expect("a decree has nothing that cannot be encoded")
}

impl Membership {
    /// Has the last decided decree in the own places, so that the own block may name it and move on.
    pub(super) async fn record_decided(&self) -> Result<(), MembershipError> {
        let (decree, block) = {
            let inner = self.inner.lock();
            (inner.core.decided().clone(), inner.own_block)
        };
        let epoch = decree.view.epoch;
        if epoch == Epoch(0) || block.decided >= epoch {
            return Ok(());
        }
        let body = encode(&decree);
        write_body(&self.control, self.me.node, epoch, &body).await?;
        self.control.flush().await?;
        let mut block = BallotBlock {
            decided: epoch,
            decided_value: BodyHash::of(&body),
            ..block
        };
        if block.instance < epoch {
            // Whoever still proposes for this epoch sees that it is decided; nothing accepted needs to be kept.
            block.instance = epoch;
            block.accepted = BallotNumber::default();
            block.value = BodyHash::default();
        }
        self.publish(block).await
    }

    /// Writes the own block and flushes it.
    async fn publish(&self, block: BallotBlock) -> Result<(), MembershipError> {
        self.inner.lock().own_block_unknown = true;
        self.control
            .write_ballot_block(self.me.node, &encode_ballot(&block))
            .await?;
        self.control.flush().await?;
        let mut inner = self.inner.lock();
        inner.own_block = block;
        inner.own_block_unknown = false;
        Ok(())
    }

    /// After a failed write the own block is read first, as after a start (HZ-19).
    async fn know_own_block(&self) -> Result<(), MembershipError> {
        if self.inner.lock().own_block_unknown && !planted(Defect::TrustOwnBallotMemory) {
            let node = self.me.node;
            let block = decode_ballot(&self.control.read_ballot_block(node).await?).map_err(|_| {
                MembershipError::Damaged {
                    what: "ballot block",
                    node,
                }
            })?;
            let mut inner = self.inner.lock();
            inner.own_block = block;
            inner.own_block_unknown = false;
        }
        Ok(())
    }

    /// One attempt to decide `proposal`, made to follow the last decided decree. When another was decided meanwhile, as a peer
    /// can tell at any await, the proposal is out of date and nothing is written for it.
    pub(super) async fn run_ballot(&self, proposal: &Decree) -> Result<Outcome, MembershipError> {
        self.know_own_block().await?;
        self.record_decided().await?;
        let (own, decided, highest) = {
            let inner = self.inner.lock();
            (inner.own_block, inner.core.decided().clone(), inner.highest_round)
        };
        let base = decided.view.epoch;
        let epoch = base.next();
        if proposal.view.epoch != epoch {
            assert!(
                proposal.view.epoch <= base,
                "a proposal follows a view that was decided"
            );
            return Ok(Outcome::Learned(decided));
        }
        if own.decided > base || own.instance > epoch {
            return self.learned().await;
        }
        let (node, body) = (self.me.node, encode(proposal));
        let hash = BodyHash::of(&body);
        let early = (own.instance < epoch || own.accepted == BallotNumber::default())
            && !planted(Defect::BallotBeforeBody);
        if early {
            // Made durable by the flush of the first publication, whose block does not name it yet.
            write_body(&self.control, node, epoch, &body).await?;
        }
        let mut proposer = Proposer::new(node, own, (base, own.decided_value), hash, highest);
        let mut chosen = proposal.clone();
        loop {
            match proposer.poll_output().expect("a proposer always has a next step") {
                BallotOutput::Publish(block) => {
                    self.publish(block).await?;
                    let blocks = read_ballots(&*self.runtime, &self.control).await?;
                    self.inner.lock().highest_round = highest_round(&blocks);
                    proposer.handle_blocks(&blocks);
                }
                BallotOutput::Store { value, source } => {
                    if source == node && value == hash && early {
                        proposer.handle_stored();
                    } else if source == node && value == hash {
                        self.store(epoch, &body).await?;
                        proposer.handle_stored();
                    } else if let Some((body, decree)) =
                        read_body(&self.control, source, epoch, value).await?
                    {
                        self.store(epoch, &body).await?;
                        chosen = decree;
                        proposer.handle_stored();
                    } else {
                        proposer.handle_missing();
                    }
                }
                BallotOutput::Decided { block, .. } => {
                    self.publish(block).await?;
                    return Ok(Outcome::Decided(chosen));
                }
                BallotOutput::Preempted => return Ok(Outcome::Preempted),
                BallotOutput::Overtaken { .. } => {
                    return self.learned().await;
                }
            }
        }
    }

    async fn learned(&self) -> Result<Outcome, MembershipError> {
        let decree = learn_decided(&*self.runtime, &self.control).await?;
        Ok(Outcome::Learned(decree))
    }

    async fn store(&self, epoch: Epoch, body: &[u8]) -> Result<(), MembershipError> {
        write_body(&self.control, self.me.node, epoch, body).await?;
        if planted(Defect::BallotBeforeBody) {
            return Ok(());
        }
        Ok(self.control.flush().await?)
    }
}
