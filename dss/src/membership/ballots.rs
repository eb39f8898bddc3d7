//! Ballots on the device: the driver of `ballot::Proposer`, and learning what is decided.

use super::api::Membership;
use super::slot::{decode_ballot, encode_ballot};
use super::types::MembershipError;
use crate::group::{ControlBlocks, MetadataDevices};
use crate::seam::Runtime;
use aquifer_dss_proto::ballot::{BallotBlock, BallotNumber, BallotOutput, BodyHash, Proposer};
use aquifer_dss_proto::defect::{Defect, planted};
use aquifer_dss_proto::membership::{Decree, MetadataLegs};
use aquifer_dss_proto::{Epoch, HomeSlots, NodeId};
use futures_util::future::join;
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

/// The newest that a node's own block may be, of what the places of a ballot have: a number is never used twice (HZ-19).
pub(super) fn newest_own(node: NodeId, blocks: &[(NodeId, BallotBlock)]) -> BallotBlock {
    let own = blocks
        .iter()
        .filter(|(of, _)| *of == node)
        .map(|(_, block)| *block);
    let newest = own.max_by_key(|block| (block.instance, block.promised, block.accepted, block.decided));
    newest.unwrap_or_default()
}

/// What reading the legs that count gives; of two one may fail.
struct OfLegs<T> {
    found: Vec<(u8, T)>,
    failed: Option<MembershipError>,
}

impl<T> OfLegs<T> {
    const fn new() -> Self {
        Self {
            found: Vec::new(),
            failed: None,
        }
    }

    fn note(&mut self, metadata: &MetadataDevices, leg: u8, read: Result<T, MembershipError>) {
        match read {
            Ok(read) => self.found.push((leg, read)),
            Err(error) => {
                if let MembershipError::Device(error) = &error {
                    metadata.leg_failed(leg, error);
                }
                self.failed = Some(error);
            }
        }
    }

    fn finish(self) -> Result<Vec<(u8, T)>, MembershipError> {
        match self.failed {
            Some(error) if self.found.is_empty() => Err(error),
            _ => Ok(self.found),
        }
    }
}

/// The ballot blocks of all nodes, by leg that counts.
async fn ballots_by_leg(
    runtime: &dyn Runtime,
    metadata: &MetadataDevices,
) -> Result<Vec<(u8, NodeId, BallotBlock)>, MembershipError> {
    let mut legs = OfLegs::new();
    for leg in metadata.legs().legs() {
        let read = async { read_ballots(runtime, &metadata.control(leg)?).await }.await;
        legs.note(metadata, leg, read);
    }
    let blocks = legs.finish()?.into_iter();
    let of_leg = |(leg, blocks): (u8, Vec<(NodeId, BallotBlock)>)| {
        blocks.into_iter().map(move |(node, block)| (leg, node, block))
    };
    Ok(blocks.flat_map(of_leg).collect())
}

/// The ballot blocks of all nodes, from every leg that counts.
pub(super) async fn read_all_ballots(
    runtime: &dyn Runtime,
    metadata: &MetadataDevices,
) -> Result<Vec<(NodeId, BallotBlock)>, MembershipError> {
    let blocks = ballots_by_leg(runtime, metadata).await?.into_iter();
    Ok(blocks.map(|(_, node, block)| (node, block)).collect())
}

/// The ballot blocks of all nodes on one leg.
async fn read_ballots(
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
    Some((body, decode_decree(body, slots, epoch)?))
}

fn decode_decree(body: &[u8], slots: HomeSlots, epoch: Epoch) -> Option<Decree> {
    let decree: Decree = postcard::from_bytes(body).ok()?;
    (decree.view.epoch == epoch && decree.is_sound(slots)).then_some(decree)
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

/// Has a decree decided, as whoever runs the ballots would.
#[cfg(test)]
pub(crate) async fn write_decree(control: &ControlBlocks, decree: &Decree) -> Result<(), MembershipError> {
    let (node, epoch, body) = (decree.view.leader, decree.view.epoch, encode(decree));
    write_body(control, node, epoch, &body).await?;
    control.flush().await?;
    let block = BallotBlock {
        instance: epoch,
        decided: epoch,
        decided_value: BodyHash::of(&body),
        ..BallotBlock::default()
    };
    let block = encode_ballot(&block);
    control.write_ballot_block(node, &block).await?;
    Ok(control.flush().await?)
}

/// The last decree that any block names as decided, on the legs that count.
pub async fn learn_decided(
    runtime: &dyn Runtime,
    metadata: &MetadataDevices,
) -> Result<Decree, MembershipError> {
    let mut last = None;
    for _ in 0..ATTEMPTS {
        let mut blocks = ballots_by_leg(runtime, metadata).await?;
        let highest = blocks.iter().map(|(_, _, block)| block.decided).max();
        let highest = highest.unwrap_or_default();
        blocks.retain(|(_, _, block)| block.decided == highest);
        if highest == Epoch(0) {
            return Ok(Decree::none(metadata.home_slots(), metadata.legs()));
        }
        for (leg, node, block) in blocks {
            let control = metadata.control(leg)?;
            if let Some((_, decree)) = read_body(&control, node, highest, block.decided_value).await? {
                return Ok(decree);
            }
            last = Some(node);
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
        self.write_own_body(epoch, &body).await?;
        self.flush_bodies().await?;
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
        self.publish(block, &[], false).await.map(drop)
    }

    /// Writes the own body of an epoch on every leg that counts. Of two legs one may fail: it does not count in the ballot of that epoch.
    async fn write_own_body(&self, epoch: Epoch, body: &[u8]) -> Result<(), MembershipError> {
        let write = |leg| async move {
            let control = self.metadata.control(leg)?;
            write_body(&control, self.me.node, epoch, body).await
        };
        if let MetadataLegs::Only(leg) = self.metadata.legs() {
            return write(leg).await;
        }
        let without = match join(write(0), write(1)).await {
            (Ok(()), Ok(())) => return Ok(()),
            (Err(error), Err(_)) => return Err(error),
            (Err(error), Ok(())) => (0, error),
            (Ok(()), Err(error)) => (1, error),
        };
        let MembershipError::Device(error) = without.1 else {
            return Err(without.1);
        };
        self.metadata.leg_failed(without.0, &error);
        self.inner.lock().no_body = Some((epoch, without.0));
        Ok(())
    }

    /// Makes bodies durable; a leg on which that fails does not count in the ballot that is under way.
    async fn flush_bodies(&self) -> Result<(), MembershipError> {
        let flush = |leg| async move {
            match self.metadata.control(leg) {
                Ok(control) => control.flush().await,
                Err(error) => Err(error),
            }
        };
        if let MetadataLegs::Only(leg) = self.metadata.legs() {
            return Ok(flush(leg).await?);
        }
        let without = match join(flush(0), flush(1)).await {
            (Ok(()), Ok(())) => return Ok(()),
            (Err(error), Err(_)) => return Err(error.into()),
            (Err(error), Ok(())) => (0, error),
            (Ok(()), Err(error)) => (1, error),
        };
        self.metadata.leg_failed(without.0, &without.1);
        let mut inner = self.inner.lock();
        let epoch = inner.core.decided().view.epoch.next();
        inner.no_body = Some((epoch, without.0));
        Ok(())
    }

    /// Writes the own block in as many places as make it count, and gives what is in all of them when `reads`. The places are
    /// the legs that count; for one of two legs that fails the word of the members stands (MEM-13). `body` is that of the block's value, when it
    /// was just stored.
    async fn publish(
        &self,
        block: BallotBlock,
        body: &[u8],
        reads: bool,
    ) -> Result<Vec<(NodeId, BallotBlock)>, MembershipError> {
        let instance = {
            let mut inner = self.inner.lock();
            inner.own_block_unknown = true;
            inner.highest_round = inner.highest_round.max(block.promised.round);
            inner.core.decided().view.epoch.next()
        };
        let found = match self.metadata.legs() {
            MetadataLegs::Only(leg) => self.visit(leg, instance, &block, reads).await?,
            MetadataLegs::Both => {
                let visits = join(
                    self.visit(0, instance, &block, reads),
                    self.visit(1, instance, &block, reads),
                );
                match visits.await {
                    (Ok(first), Ok(second)) => [first, second].concat(),
                    (Ok(found), Err(_)) | (Err(_), Ok(found)) if planted(Defect::BallotOnOneLeg) => found,
                    (Ok(found), Err(error)) | (Err(error), Ok(found)) => {
                        tracing::warn!(%error, "a side of volume 0 does not count in this ballot: the members are asked");
                        [found, self.ask_members(&block, body).await?].concat()
                    }
                    (Err(error), Err(_)) => return Err(error),
                }
            }
        };
        let mut inner = self.inner.lock();
        inner.own_block = block;
        inner.own_block_unknown = false;
        Ok(found)
    }

    /// Writes the own block on a leg, durably, and then reads all that are there.
    async fn visit(
        &self,
        leg: u8,
        instance: Epoch,
        block: &BallotBlock,
        reads: bool,
    ) -> Result<Vec<(NodeId, BallotBlock)>, MembershipError> {
        let visit = async {
            let control = self.metadata.control(leg)?;
            control
                .write_ballot_block(self.me.node, &encode_ballot(block))
                .await?;
            control.flush().await?;
            match reads {
                true => read_ballots(&*self.runtime, &control).await,
                false => Ok(Vec::new()),
            }
        };
        if self.inner.lock().no_body == Some((instance, leg)) {
            return Err(MembershipError::LegWithoutBody(leg));
        }
        let visited = visit.await;
        if let Err(MembershipError::Device(error)) = &visited {
            self.metadata.leg_failed(leg, error);
        }
        visited
    }

    async fn read_own_block(&self, leg: u8) -> Result<BallotBlock, MembershipError> {
        let node = self.me.node;
        let block = self.metadata.control(leg)?.read_ballot_block(node).await?;
        decode_ballot(&block).map_err(|_| MembershipError::Damaged {
            what: "ballot block",
            node,
        })
    }

    /// After a failed write the own block is read first, as after a start (HZ-19).
    async fn know_own_block(&self) -> Result<(), MembershipError> {
        if self.inner.lock().own_block_unknown && !planted(Defect::TrustOwnBallotMemory) {
            let node = self.me.node;
            let mut legs = OfLegs::new();
            for leg in self.metadata.legs().legs() {
                let read = self.read_own_block(leg).await;
                legs.note(&self.metadata, leg, read);
            }
            let mut blocks: Vec<_> = legs
                .finish()?
                .into_iter()
                .map(|(_, block)| (node, block))
                .collect();
            blocks.extend(self.vote.lock().blocks());
            let mut inner = self.inner.lock();
            inner.own_block = newest_own(node, &blocks);
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
            self.write_own_body(epoch, &body).await?;
        }
        let mut stored = if early { body.clone() } else { Vec::new() };
        let mut proposer = Proposer::new(node, own, (base, own.decided_value), hash, highest);
        let mut chosen = proposal.clone();
        loop {
            match proposer.poll_output().expect("a proposer always has a next step") {
                BallotOutput::Publish(block) => {
                    let blocks = self.publish(block, &stored, true).await?;
                    self.inner.lock().highest_round = highest_round(&blocks);
                    proposer.handle_blocks(&blocks);
                }
                BallotOutput::Store { value, source } => {
                    if source == node && value == hash && early {
                        proposer.handle_stored();
                    } else if source == node && value == hash {
                        self.store(epoch, &body).await?;
                        stored.clone_from(&body);
                        proposer.handle_stored();
                    } else if let Some((body, decree)) = self.find_body(source, epoch, value).await? {
                        self.store(epoch, &body).await?;
                        stored = body;
                        chosen = decree;
                        proposer.handle_stored();
                    } else {
                        proposer.handle_missing();
                    }
                }
                BallotOutput::Decided { block, .. } => {
                    self.publish(block, &stored, false).await?;
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
        let decree = learn_decided(&*self.runtime, &self.metadata).await?;
        Ok(Outcome::Learned(decree))
    }

    async fn store(&self, epoch: Epoch, body: &[u8]) -> Result<(), MembershipError> {
        self.write_own_body(epoch, body).await?;
        if planted(Defect::BallotBeforeBody) {
            return Ok(());
        }
        self.flush_bodies().await
    }

    /// The body with this hash, from the place of `node` on a leg that counts or from the members, and what it says.
    pub(super) async fn find_body(
        &self,
        node: NodeId,
        epoch: Epoch,
        hash: BodyHash,
    ) -> Result<Option<(Vec<u8>, Decree)>, MembershipError> {
        if let Some(body) = self.vote.lock().body(hash)
            && let Some(decree) = decode_decree(&body, self.metadata.home_slots(), epoch)
        {
            return Ok(Some((body, decree)));
        }
        let mut legs = OfLegs::new();
        for leg in self.metadata.legs().legs() {
            let read = async { read_body(&self.metadata.control(leg)?, node, epoch, hash).await }.await;
            legs.note(&self.metadata, leg, read);
        }
        Ok(legs.finish()?.into_iter().find_map(|(_, body)| body))
    }
}
