//! One proposer in one instance: phase 1 asks what may already be chosen, phase 2 chooses.

use super::block::{BallotBlock, BallotNumber, BodyHash};
use crate::defect::{Defect, planted};
use crate::{Epoch, NodeId};

/// What the driver must do, then report.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum BallotOutput {
    /// Have the body with this hash in the own body place `instance % 2`: the own proposal when `source` is the
    /// proposer, else a copy from the place of `source`. Then [`Proposer::handle_stored`], or
    /// [`Proposer::handle_missing`] when the source has another body by now. It needs no flush of its own: the
    /// flush of the `Publish` before which it was written, or the one the driver adds, must come before the block
    /// that names it is written.
    Store {
        /// What to store.
        value: BodyHash,
        /// Whose body place has it.
        source: NodeId,
    },
    /// Flush (bodies), write this own block, flush, then read the blocks of all others: [`Proposer::handle_blocks`].
    Publish(BallotBlock),
    /// The epoch has this value for ever. The block is to be written and flushed before anybody is told.
    Decided {
        /// The value; not always the proposer's own.
        value: BodyHash,
        /// The own block that says so.
        block: BallotBlock,
    },
    /// Somebody has a higher ballot: try again with a new proposer, after a while.
    Preempted,
    /// `node` knows `epoch`, this instance or a later one, as decided: learn it.
    Overtaken {
        /// Who knows.
        node: NodeId,
        /// What is decided.
        epoch: Epoch,
        /// Its body, in body place `epoch % 2` of `node`.
        value: BodyHash,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Phase {
    /// The block with the new `promised` is being published.
    Asking,
    /// The body to be accepted is being stored.
    Storing { value: BodyHash },
    /// The block with the new `accepted` is being published.
    Choosing,
    /// Nothing more will happen.
    Over,
}

/// See the module. A new one is made for each attempt, from the own block as it is on the device.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Proposer {
    me: NodeId,
    proposal: BodyHash,
    block: BallotBlock,
    phase: Phase,
    output: Option<BallotOutput>,
}

impl Proposer {
    /// Starts an attempt to decide `decided + 1`. `own` is this node's block as it is on the device, `decided` the
    /// last decided epoch and its body, which must be (flushed) in the own body place `decided % 2`.
    /// `highest` is the highest round seen so far, so that a preempted proposer overtakes.
    pub fn new(
        me: NodeId,
        own: BallotBlock,
        decided: (Epoch, BodyHash),
        proposal: BodyHash,
        highest: u64,
    ) -> Self {
        let instance = decided.0.next();
        assert!(own.instance <= instance, "an instance is never opened again");
        let round = own.promised.round.max(highest) + 1;
        let promised = BallotNumber {
            round,
            node: me.get(),
        };
        let mut block = BallotBlock {
            instance,
            promised,
            decided: decided.0,
            decided_value: decided.1,
            ..own
        };
        if own.instance < instance {
            block.accepted = BallotNumber::default();
            block.value = BodyHash::default();
        }
        Self {
            me,
            proposal,
            block,
            phase: Phase::Asking,
            output: Some(BallotOutput::Publish(block)),
        }
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<BallotOutput> {
        self.output.take()
    }

    /// The blocks of all other nodes, read after the flush of the own one.
    pub fn handle_blocks(&mut self, others: &[(NodeId, BallotBlock)]) {
        assert!(
            matches!(self.phase, Phase::Asking | Phase::Choosing),
            "blocks are read after a publication"
        );
        let instance = self.block.instance;
        let others = || others.iter().filter(|(node, _)| *node != self.me);
        if let Some((node, block)) = others().max_by_key(|(_, b)| b.decided)
            && block.decided >= instance
        {
            let (node, epoch, value) = (*node, block.decided, block.decided_value);
            return self.finish(BallotOutput::Overtaken { node, epoch, value });
        }
        let in_instance = || others().filter(|(_, b)| b.instance == instance);
        if in_instance().any(|(_, b)| b.promised > self.block.promised) {
            return self.finish(BallotOutput::Preempted);
        }
        if self.phase == Phase::Choosing {
            let block = BallotBlock {
                decided: instance,
                decided_value: self.block.value,
                ..self.block
            };
            self.block = block;
            return self.finish(BallotOutput::Decided {
                value: block.value,
                block,
            });
        }
        let accepted = in_instance()
            .map(|(node, b)| (b.accepted, b.value, *node))
            .chain([(self.block.accepted, self.block.value, self.me)])
            .filter(|(ballot, ..)| ballot.round > 0)
            .max_by_key(|(ballot, _, node)| (*ballot, *node == self.me));
        let accepted = accepted.filter(|_| !planted(Defect::IgnoreAccepted));
        let (value, source) = accepted.map_or((self.proposal, self.me), |(_, value, node)| (value, node));
        self.phase = Phase::Storing { value };
        self.output = Some(BallotOutput::Store { value, source });
    }

    /// The body asked for is in the own body place.
    pub fn handle_stored(&mut self) {
        let Phase::Storing { value } = self.phase else {
            panic!("nothing was to be stored")
        };
        self.block.value = value;
        self.block.accepted = self.block.promised;
        self.phase = Phase::Choosing;
        self.output = Some(BallotOutput::Publish(self.block));
    }

    /// The source has another body by now: it has moved on.
    pub fn handle_missing(&mut self) {
        assert!(
            matches!(self.phase, Phase::Storing { .. }),
            "nothing was to be stored"
        );
        self.finish(BallotOutput::Preempted);
    }

    fn finish(&mut self, output: BallotOutput) {
        self.phase = Phase::Over;
        self.output = Some(output);
    }
}
