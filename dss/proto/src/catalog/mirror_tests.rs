//! Tests of mirrored volumes: which legs count, what is dirty, what is torn.

use super::*;
use crate::defect::{Defect, fails_with};
use crate::label::Uuid;
use crate::{Incarnation, Member};
use alloc::string::ToString;
use alloc::vec;

const UNITS: u32 = 40;

fn node(id: u8) -> NodeId {
    NodeId::new(id).unwrap()
}

fn life(id: u8, incarnation: u64) -> Member {
    Member {
        node: node(id),
        incarnation: Incarnation(incarnation),
    }
}

/// A volume of two legs, and what was applied.
struct Bench {
    catalog: Catalog,
    sequence: u64,
    request: u64,
}

impl Bench {
    fn new() -> Self {
        let twin = Twin {
            uuid: Uuid([9; 16]),
            failure_group: 1,
            path: "/b".to_string(),
        };
        let volume = NewVolume {
            volume: 0,
            uuid: Uuid([1; 16]),
            units: UNITS,
            au_offset: 4096,
            failure_group: 0,
            path: String::new(),
            twin: Some(twin),
        };
        let mut bench = Self {
            catalog: Catalog::with_volumes(4096, &[volume], 1 << 16),
            sequence: 0,
            request: 0,
        };
        bench.lead(&[life(1, 1), life(2, 1)]);
        bench
    }

    fn apply(&mut self, origin: Option<Origin>, operation: Operation) -> Outcome {
        self.sequence += 1;
        let outcome = self.catalog.apply(self.sequence, &Record { origin, operation });
        // Whatever happens, a checkpoint says the same.
        assert_eq!(Catalog::decode(&self.catalog.encode()).unwrap(), self.catalog);
        outcome
    }

    fn own(&mut self, operation: Operation) -> Outcome {
        self.apply(None, operation)
    }

    fn ask(&mut self, id: u8, operation: Operation) -> Outcome {
        self.request += 1;
        let origin = Origin {
            node: node(id),
            session: u64::from(id),
            request: self.request,
            settled: self.request,
            time: 0,
        };
        self.apply(Some(origin), operation)
    }

    fn lead(&mut self, members: &[Member]) {
        let lead = Operation::Lead {
            epoch: Epoch(self.sequence + 1),
            leader: members[0].node,
            members: members.to_vec(),
        };
        self.own(lead).unwrap();
    }

    fn pass(&mut self) {
        let through = self.sequence;
        self.own(Operation::Passed { through }).unwrap();
    }

    fn intend(&mut self, life: Member, add: &[u32], clear: &[u32]) -> Outcome {
        let of = |units: &[u32]| units.iter().map(|unit| (0, *unit)).collect();
        let intend = Operation::Intend {
            life,
            add: of(add),
            clear: of(clear),
        };
        self.ask(life.node.get(), intend)
    }

    fn detach(&mut self, leg: u8, units: &[(u32, u32)]) -> Outcome {
        let generation = self.catalog.mirror(0).unwrap().generations[usize::from(leg)];
        self.ask(
            2,
            Operation::Detach {
                volume: 0,
                leg,
                generation,
                units: units.to_vec(),
            },
        )
    }

    fn mark(&mut self, units: &[(u32, u32)]) -> Outcome {
        let units = units.to_vec();
        self.ask(2, Operation::MarkDirty { volume: 0, units })
    }

    fn resync(&mut self, leg: u8, generation: u64) -> Outcome {
        let volume = 0;
        self.own(Operation::Resync {
            volume,
            leg,
            generation,
        })
    }

    fn begin(&mut self, start: u32, count: u32) -> Outcome {
        let volume = 0;
        self.own(Operation::BeginSync { volume, start, count })
    }

    fn end(&mut self, start: u32, count: u32) -> Outcome {
        let volume = 0;
        self.own(Operation::EndSync { volume, start, count })
    }

    fn dirty(&self) -> Vec<(u32, u32)> {
        self.catalog.mirror(0).unwrap().dirty().runs().collect()
    }

    fn state(&self) -> MirrorState {
        self.catalog.mirror(0).unwrap().state
    }
}

fn legs(access: UnitAccess) -> Vec<u8> {
    match access {
        UnitAccess::Legs(legs) => legs.iter().collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_stale_leg_is_read_by_nobody_until_each_of_its_dirty_units_was_copied() {
    let mut bench = Bench::new();
    assert_eq!(legs(bench.catalog.read_access(0, 5)), [0, 1]);
    bench.detach(1, &[(5, 2)]).unwrap();
    assert_eq!(legs(bench.catalog.read_access(0, 5)), [0]);
    assert_eq!(
        bench.catalog.write_access(0, 5),
        UnitAccess::Wait,
        "members are waited for"
    );
    bench.pass();
    assert_eq!(legs(bench.catalog.write_access(0, 5)), [0]);
    assert_eq!(bench.catalog.write_access(0, 9), UnitAccess::Unmarked);
    bench.mark(&[(9, 1)]).unwrap();
    assert_eq!(legs(bench.catalog.write_access(0, 9)), [0]);
    bench.resync(1, 2).unwrap();
    assert_eq!(
        bench.mark(&[(10, 1)]),
        Err(OperationError::VolumeRaced),
        "others read it soon"
    );
    assert_eq!(legs(bench.catalog.read_access(0, 10)), [0]);
    bench.pass();
    assert_eq!(legs(bench.catalog.read_access(0, 10)), [0, 1]);
    assert_eq!(legs(bench.catalog.write_access(0, 10)), [0, 1]);
    assert_eq!(legs(bench.catalog.write_access(0, 9)), [0]);
    bench.begin(5, 2).unwrap();
    assert_eq!(bench.catalog.write_access(0, 6), UnitAccess::Wait);
    assert_eq!(
        bench.end(5, 2),
        Err(OperationError::VolumeRaced),
        "members may write there"
    );
    bench.pass();
    assert_eq!(legs(bench.catalog.read_access(0, 6)), [0]);
    bench.end(5, 2).unwrap();
    assert_eq!(legs(bench.catalog.read_access(0, 6)), [0, 1]);
    assert_eq!(bench.dirty(), [(9, 1)]);
    bench.begin(9, 1).unwrap();
    bench.pass();
    bench.end(9, 1).unwrap();
    assert_eq!(bench.state(), MirrorState::Both);
}

#[test]
fn the_leg_that_has_everything_is_never_detached() {
    let mut bench = Bench::new();
    bench.detach(0, &[(1, 1)]).unwrap();
    assert_eq!(bench.detach(1, &[]), Err(OperationError::LastLeg));
    bench.pass();
    bench.resync(0, 2).unwrap();
    bench.pass();
    assert_eq!(
        bench.detach(1, &[]),
        Err(OperationError::LastLeg),
        "unit 1 is on it alone"
    );
    // What is late about the earlier stay of a leg changes nothing.
    let late = Operation::Detach {
        volume: 0,
        leg: 0,
        generation: 1,
        units: vec![],
    };
    bench.ask(1, late).unwrap();
    assert!(matches!(bench.state(), MirrorState::Resyncing { .. }));
    bench.detach(0, &[(7, 1)]).unwrap();
    assert_eq!(bench.dirty(), [(1, 1), (7, 1)]);
    assert_eq!(bench.resync(0, 3), Err(OperationError::VolumeRaced), "not passed");
    bench.pass();
    assert_eq!(
        bench.resync(0, 2),
        Err(OperationError::VolumeRaced),
        "not a later label"
    );
    bench.resync(0, 3).unwrap();
}

fn what_may_be_half_written_is_dirty() {
    let mut bench = Bench::new();
    bench.intend(life(1, 1), &[3, 4], &[]).unwrap();
    bench.intend(life(2, 1), &[8], &[]).unwrap();
    bench
        .ask(1, Operation::Files(FileOperation::Reserve { units: 2 }))
        .unwrap();
    bench.lead(&[life(2, 1)]);
    assert_eq!(bench.catalog.torn_units(), 2);
    bench.detach(1, &[]).unwrap();
    assert_eq!(bench.catalog.torn_units(), 0, "one leg is not compared");
    let reserved = bench.catalog.reservation(1).unwrap().extents[0];
    let dirty = bench.catalog.mirror(0).unwrap().dirty();
    assert!(
        [3, 4, 8, reserved.start, reserved.start + 1]
            .iter()
            .all(|unit| dirty.contains(*unit))
    );
    assert!(!bench.catalog.has_intent(life(2, 1), (0, 8)), "dirty is enough");
    assert!(
        bench.intend(life(2, 1), &[9], &[]).is_err(),
        "one leg needs no intent"
    );
}

#[test]
fn what_may_be_half_written_is_dirty_when_a_leg_goes() {
    what_may_be_half_written_is_dirty();
    assert!(fails_with(
        Defect::ForgetHalfWritten,
        what_may_be_half_written_is_dirty
    ));
}

fn the_intents_of_the_dead_are_torn() {
    let mut bench = Bench::new();
    bench.intend(life(1, 1), &[3, 4], &[]).unwrap();
    bench.intend(life(1, 1), &[5], &[4]).unwrap();
    bench.intend(life(2, 1), &[3], &[]).unwrap();
    // A node that came back at once is in both views, and its earlier life is over.
    bench.lead(&[life(1, 2), life(2, 1)]);
    assert_eq!(bench.catalog.torn().collect::<Vec<_>>(), [(0, 3), (0, 5)]);
    assert_eq!(bench.catalog.read_access(0, 3), UnitAccess::Torn);
    assert_eq!(bench.catalog.write_access(0, 5), UnitAccess::Torn);
    assert!(
        bench.intend(life(1, 1), &[6], &[]).is_err(),
        "a life that is over"
    );
    assert!(
        bench.own(Operation::Healed { units: vec![(0, 3)] }).is_err(),
        "not passed"
    );
    assert!(bench.catalog.has_intent(life(2, 1), (0, 3)));
    bench.pass();
    bench.own(Operation::Healed { units: vec![(0, 3)] }).unwrap();
    assert_eq!(legs(bench.catalog.read_access(0, 3)), [0, 1]);
    assert_eq!(bench.catalog.read_access(0, 5), UnitAccess::Torn);
}

#[test]
fn the_intents_of_a_life_that_is_over_are_torn_until_they_are_healed() {
    the_intents_of_the_dead_are_torn();
    assert!(fails_with(
        Defect::ForgetIntentsOfDead,
        the_intents_of_the_dead_are_torn
    ));
    assert!(fails_with(
        Defect::ReadTornUnits,
        the_intents_of_the_dead_are_torn
    ));
}

#[test]
fn intents_are_bounded_and_of_their_own_life_alone() {
    let mut bench = Bench::new();
    let foreign = Operation::Intend {
        life: life(1, 1),
        add: vec![(0, 1)],
        clear: vec![],
    };
    assert!(bench.ask(2, foreign).is_err());
    assert!(bench.intend(life(1, 1), &[UNITS], &[]).is_err(), "no such unit");
    let own = Operation::Intend {
        life: life(1, 1),
        add: (0..257).map(|unit| (0, unit)).collect(),
        clear: vec![],
    };
    assert!(bench.ask(1, own).is_err());
    assert_eq!(bench.catalog.intents(life(1, 1)).count(), 0);
}
