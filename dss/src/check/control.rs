//! Node slots, ballot blocks and ballot bodies.

use super::{Pass, READ_AGAIN, Report};
use crate::group::{ControlBlocks, GroupImage};
use crate::membership::{SlotView, decode_ballot, decode_body};
use crate::seam::{BoxFuture, DeviceError};
use aquifer_dss_proto::ballot::{BallotBlock, BodyHash};
use aquifer_dss_proto::{Epoch, NodeId};
use std::sync::Arc;

/// What is to be done about a block that only its node may write.
const ADVICE: &str = "its node may have promised or decided something in it that is nowhere else, so nothing may be put in its place: \
     restore the device from a backup, or make a fresh group and copy the files over";

/// The blocks of all nodes.
pub(super) struct Control;

/// What one reading found: per block what is wrong with it.
#[derive(Default)]
struct Found {
    slots: usize,
    ballots: usize,
    bodies: usize,
    faults: Vec<(String, String)>,
}

impl Pass for Control {
    fn run<'a>(&'a self, image: &'a Arc<GroupImage>, report: &'a mut Report) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let control = ControlBlocks::new(image.first.clone(), image.label.slots());
            let mut found = look(&control).await;
            for _ in 1..READ_AGAIN {
                // A node that runs writes its blocks all the time, and a body before the block that names it.
                if found.as_ref().is_ok_and(|found| found.faults.is_empty()) {
                    break;
                }
                found = look(&control).await;
            }
            match found {
                Ok(found) => found.report(report),
                Err(error) => report.wrong(
                    "control blocks",
                    error.to_string(),
                    "the device cannot be read: look at its errors in the system's log",
                ),
            }
        })
    }
}

impl Found {
    fn report(self, report: &mut Report) {
        if self.faults.is_empty() {
            report.sound(
                "control blocks",
                format!(
                    "{} slots, {} ballot blocks and {} ballot bodies are in use",
                    self.slots, self.ballots, self.bodies
                ),
            );
        }
        for (what, detail) in self.faults {
            report.wrong(what, detail, ADVICE);
        }
    }
}

async fn look(control: &ControlBlocks) -> Result<Found, DeviceError> {
    let mut found = Found::default();
    for (node, block) in control.read_all_slot_blocks().await?.iter() {
        match SlotView::decode(node, block) {
            Ok(slot) => found.slots += usize::from(slot.is_some()),
            Err(_) => found
                .faults
                .push((format!("slot of node {node}"), "damaged".into())),
        }
    }
    let blocks = control.read_all_ballot_blocks().await?;
    let ballots: Vec<_> = blocks
        .iter()
        .map(|(node, block)| (node, decode_ballot(block)))
        .collect();
    let decided = ballots
        .iter()
        .flat_map(|(_, ballot)| ballot)
        .map(|ballot| ballot.decided);
    let newest = decided.max().unwrap_or(Epoch(0));
    for (node, ballot) in ballots {
        let Ok(ballot) = ballot else {
            found
                .faults
                .push((format!("ballot block of node {node}"), "damaged".into()));
            continue;
        };
        if ballot == BallotBlock::default() {
            continue;
        }
        found.ballots += 1;
        // What is older than a decision is of no use: its node may have begun to write the next body of that place over it.
        for (epoch, hash) in named(&ballot).filter(|(epoch, _)| *epoch >= newest) {
            let place = control.read_body(node, (epoch.0 % 2) as usize).await?;
            if decode_body(&place, control.home_slots(), epoch, hash).is_some() {
                found.bodies += 1;
            } else {
                found.faults.push(missing_body(node, epoch));
            }
        }
    }
    Ok(found)
}

/// The bodies that a block names.
fn named(ballot: &BallotBlock) -> impl Iterator<Item = (Epoch, BodyHash)> {
    let decided = (ballot.decided > Epoch(0)).then_some((ballot.decided, ballot.decided_value));
    let accepted = (ballot.accepted.round > 0).then_some((ballot.instance, ballot.value));
    let same = decided == accepted;
    decided.into_iter().chain(accepted.filter(|_| !same))
}

fn missing_body(node: NodeId, epoch: Epoch) -> (String, String) {
    (
        format!("ballot body of node {node}"),
        format!("the body of epoch {} that its block names is not there", epoch.0),
    )
}
