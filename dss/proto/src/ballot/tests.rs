//! Every interleaving of a few proposers, with crashes between any two device operations.

use super::*;
use crate::defect::{Defect, fails_with};
use crate::{Epoch, NodeId};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

const LAST: u64 = 2;

fn node(index: usize) -> NodeId {
    NodeId::new(index as u8 + 1).unwrap()
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Doing {
    Idle,
    Read {
        proposer: Proposer,
        collected: Vec<(NodeId, BallotBlock)>,
    },
    Perform {
        proposer: Proposer,
        output: BallotOutput,
    },
    Learn {
        node: NodeId,
        epoch: Epoch,
        value: BodyHash,
    },
    Over,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Actor {
    doing: Doing,
    attempts: u8,
    crashes: u8,
    /// Learned in this life: lost by a crash.
    decided: (Epoch, BodyHash),
    highest: u64,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct World {
    blocks: Vec<BallotBlock>,
    places: Vec<[BodyHash; 2]>,
    actors: Vec<Actor>,
    decided: BTreeMap<Epoch, BodyHash>,
}

impl World {
    fn new(actors: usize, attempts: u8, crashes: u8) -> Self {
        let decided = (Epoch(0), BodyHash(0));
        let actor = Actor {
            doing: Doing::Idle,
            attempts,
            crashes,
            decided,
            highest: 0,
        };
        Self {
            blocks: alloc::vec![BallotBlock::default(); actors],
            places: alloc::vec![[BodyHash(0); 2]; actors],
            actors: alloc::vec![actor; actors],
            decided: BTreeMap::new(),
        }
    }

    fn note_decided(&mut self, epoch: Epoch, value: BodyHash) {
        let known = *self.decided.entry(epoch).or_insert(value);
        assert_eq!(known, value, "two values for epoch {epoch:?}");
    }

    fn next(&mut self, i: usize, mut proposer: Proposer) {
        let output = proposer.poll_output().expect("a proposer always has a next step");
        self.actors[i].doing = Doing::Perform { proposer, output };
    }

    fn again(&mut self, i: usize) {
        self.actors[i].doing = if self.actors[i].attempts == 0 {
            Doing::Over
        } else {
            Doing::Idle
        };
    }

    fn crash(&mut self, i: usize) {
        let actor = &mut self.actors[i];
        actor.crashes -= 1;
        actor.decided = (Epoch(0), BodyHash(0));
        actor.highest = 0;
        actor.doing = Doing::Idle;
    }

    fn start(&mut self, i: usize) {
        let own = self.blocks[i];
        if self.actors[i].decided.0 < own.decided {
            self.actors[i].decided = (own.decided, own.decided_value);
        }
        let decided = self.actors[i].decided;
        if decided.0 >= Epoch(LAST) || self.actors[i].attempts == 0 {
            self.actors[i].doing = Doing::Over;
            return;
        }
        self.actors[i].attempts -= 1;
        let proposal = BodyHash(u128::from(decided.0.0 + 1) * 10 + i as u128);
        if own.instance <= decided.0 || own.accepted.round == 0 {
            self.places[i][(decided.0.0 as usize + 1) % 2] = proposal;
        }
        let proposer = Proposer::new(node(i), own, decided, proposal, self.actors[i].highest);
        self.next(i, proposer);
    }

    fn perform(&mut self, i: usize, mut proposer: Proposer, output: BallotOutput) {
        match output {
            BallotOutput::Publish(block) => {
                self.blocks[i] = block;
                self.actors[i].doing = Doing::Read {
                    proposer,
                    collected: Vec::new(),
                };
            }
            BallotOutput::Store { value, source } => {
                let place = (self.actors[i].decided.0.0 as usize + 1) % 2;
                if self.places[source.index()][place] == value {
                    self.places[i][place] = value;
                    proposer.handle_stored();
                } else {
                    proposer.handle_missing();
                }
                self.next(i, proposer);
            }
            BallotOutput::Decided { value, block } => {
                self.note_decided(block.instance, value);
                assert_eq!(
                    self.places[i][block.instance.0 as usize % 2],
                    value,
                    "the body is there"
                );
                self.blocks[i] = block;
                self.actors[i].decided = (block.decided, value);
                self.again(i);
            }
            BallotOutput::Preempted => self.again(i),
            BallotOutput::Overtaken { node, epoch, value } => {
                self.actors[i].doing = Doing::Learn { node, epoch, value };
            }
        }
    }

    fn step(&mut self, i: usize) {
        match core::mem::replace(&mut self.actors[i].doing, Doing::Over) {
            Doing::Idle => self.start(i),
            Doing::Perform { proposer, output } => self.perform(i, proposer, output),
            Doing::Read {
                mut proposer,
                mut collected,
            } => {
                let next =
                    (0..self.blocks.len()).find(|j| *j != i && !collected.iter().any(|c| c.0 == node(*j)));
                if let Some(j) = next {
                    let round = self.blocks[j].promised.round;
                    self.actors[i].highest = self.actors[i].highest.max(round);
                    collected.push((node(j), self.blocks[j]));
                    self.actors[i].doing = Doing::Read { proposer, collected };
                } else {
                    proposer.handle_blocks(&collected);
                    self.next(i, proposer);
                }
            }
            Doing::Learn { node, epoch, value } => {
                self.note_decided(epoch, value);
                let place = epoch.0 as usize % 2;
                if self.places[node.index()][place] == value {
                    self.places[i][place] = value;
                    self.actors[i].decided = (epoch, value);
                }
                self.again(i);
            }
            Doing::Over => unreachable!("nothing to do"),
        }
    }
}

fn explore(start: World) -> (usize, BTreeSet<Vec<u128>>) {
    let mut seen = BTreeSet::new();
    let mut outcomes = BTreeSet::new();
    let mut open = alloc::vec![start];
    while let Some(world) = open.pop() {
        for i in 0..world.actors.len() {
            let mut push = |next: World| {
                if !seen.contains(&next) {
                    outcomes.insert(next.decided.values().map(|v| v.0).collect());
                    seen.insert(next.clone());
                    open.push(next);
                }
            };
            if world.actors[i].doing != Doing::Over {
                let mut next = world.clone();
                next.step(i);
                push(next);
                if world.actors[i].crashes > 0 && world.actors[i].doing != Doing::Idle {
                    let mut next = world.clone();
                    next.crash(i);
                    push(next);
                }
            }
        }
    }
    (seen.len(), outcomes)
}

#[test]
fn two_proposers_never_decide_two_values_over_two_instances_with_crashes() {
    let (states, outcomes) = explore(World::new(2, 3, 1));
    assert!(states > 1000, "{states} states");
    for outcome in [
        alloc::vec![10],
        alloc::vec![11],
        alloc::vec![10, 21],
        alloc::vec![11, 20],
    ] {
        assert!(outcomes.contains(&outcome), "reached {outcome:?} of {outcomes:?}");
    }
}

#[test]
fn three_proposers_never_decide_two_values() {
    let (states, outcomes) = explore(World::new(3, 1, 0));
    assert!(states > 1000, "{states} states");
    assert!(outcomes.len() > 3);
}

#[test]
fn blocks_survive_encoding_and_garbage_is_refused() {
    let promised = BallotNumber { round: 9, node: 3 };
    let accepted = BallotNumber { round: 7, node: 64 };
    let (value, decided_value) = (BodyHash::of(b"a"), BodyHash::of(b"b"));
    let block = BallotBlock {
        instance: Epoch(5),
        promised,
        accepted,
        value,
        decided: Epoch(4),
        decided_value,
    };
    assert_eq!(BallotBlock::decode(&block.encode()), Some(block));
    assert_eq!(BallotBlock::decode(&[0xff; BALLOT_BLOCK_BYTES]), None);
    assert_ne!(value, decided_value);
}

#[test]
fn an_accepted_value_is_missed_when_it_is_ignored() {
    let two: fn() = two_proposers_never_decide_two_values_over_two_instances_with_crashes;
    assert!(fails_with(Defect::IgnoreAccepted, two));
}
