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

fn new_leg(leg: u8, uuid: u8, path: &str) -> NewLeg {
    NewLeg {
        volume: 0,
        leg,
        uuid: Uuid([uuid; 16]),
        generation: 2,
        failure_group: 7,
        path: path.to_string(),
    }
}

fn refuses_what_cannot_take_the_place(bench: &mut Bench) {
    let wrong = [
        (
            NewLeg {
                generation: 1,
                ..new_leg(1, 5, "/n")
            },
            OperationError::VolumeRaced,
        ),
        (
            NewLeg {
                failure_group: 0,
                ..new_leg(1, 5, "/n")
            },
            OperationError::Invalid,
        ),
        (
            NewLeg {
                leg: 2,
                ..new_leg(1, 5, "/n")
            },
            OperationError::Invalid,
        ),
        (
            NewLeg {
                volume: 1,
                ..new_leg(1, 5, "/n")
            },
            OperationError::NoSuchVolume,
        ),
        (new_leg(0, 5, "/n"), OperationError::VolumeRaced),
        (new_leg(1, 1, "/n"), OperationError::AlreadyExists),
        (new_leg(1, 9, "/n"), OperationError::AlreadyExists),
    ];
    for (new, error) in wrong {
        let before = bench.catalog.clone();
        assert_eq!(
            bench.own(Operation::ReplaceLeg(new.clone())),
            Err(error),
            "{new:?}"
        );
        assert_eq!(bench.catalog.volume(0), before.volume(0));
        assert_eq!(bench.catalog.mirror(0), before.mirror(0));
    }
}

fn a_blank_device_lacks_everything() {
    let mut bench = Bench::new();
    let refused = bench.own(Operation::ReplaceLeg(new_leg(1, 5, "/n")));
    assert_eq!(refused, Err(OperationError::VolumeRaced), "nothing is lost");
    bench.detach(1, &[(3, 2)]).unwrap();
    let refused = bench.own(Operation::ReplaceLeg(new_leg(1, 5, "/n")));
    assert_eq!(
        refused,
        Err(OperationError::VolumeRaced),
        "somebody may be using it"
    );
    bench.pass();
    refuses_what_cannot_take_the_place(&mut bench);
    bench
        .own(Operation::ReplaceLeg(new_leg(1, 5, "/a longer path")))
        .unwrap();
    let mirror = bench.catalog.mirror(0).unwrap();
    assert_eq!(mirror.dirty().units(), u64::from(UNITS));
    assert_eq!(mirror.generations, [1, 2]);
    assert_eq!(bench.catalog.write_access(0, 7), UnitAccess::Wait);
    bench.pass();
    for unit in 0..UNITS {
        let only = UnitAccess::Legs(Legs::only(0));
        assert_eq!(bench.catalog.read_access(0, unit), only);
        assert_eq!(bench.catalog.write_access(0, unit), only);
    }
    let volume = bench.catalog.volume(0).unwrap();
    assert_eq!(volume.leg(1), Some((Uuid([5; 16]), "/a longer path")));
    assert_eq!(volume.failure_group_of(1), Some(7));
    bench.catalog.audit().unwrap();
}

#[test]
fn a_device_in_the_place_of_a_leg_lacks_everything_and_the_uuid_of_the_one_before_is_free_for_nobody() {
    a_blank_device_lacks_everything();
    assert!(fails_with(
        Defect::TakeBlankForWhole,
        a_blank_device_lacks_everything
    ));
}

#[test]
fn a_mirrored_group_takes_pairs_and_nothing_else() {
    let mut bench = Bench::new();
    let twin = |uuid, failure_group, path: &str| Twin {
        uuid: Uuid([uuid; 16]),
        failure_group,
        path: path.to_string(),
    };
    let pair = NewVolume {
        volume: 1,
        uuid: Uuid([3; 16]),
        units: 10,
        au_offset: 4096,
        failure_group: 0,
        path: "/c".to_string(),
        twin: Some(twin(4, 1, "/d")),
    };
    let wrong = [
        (None, OperationError::Invalid),
        (Some(twin(3, 1, "/d")), OperationError::Invalid),
        (Some(twin(4, 0, "/d")), OperationError::Invalid),
        (Some(twin(4, 1, "/c")), OperationError::Invalid),
        (Some(twin(9, 1, "/d")), OperationError::AlreadyExists),
        (Some(twin(4, 1, "/b")), OperationError::AlreadyExists),
    ];
    for (twin, error) in wrong {
        let new = NewVolume { twin, ..pair.clone() };
        assert_eq!(bench.own(Operation::AddVolume(new)), Err(error));
    }
    bench.own(Operation::AddVolume(pair)).unwrap();
    bench.pass();
    assert_eq!(bench.catalog.write_access(1, 3), UnitAccess::Legs(Legs::BOTH));
    bench.catalog.audit().unwrap();
    let drain = |volume| Operation::DrainVolume { volume, drain: true };
    bench.own(drain(1)).unwrap();
    bench.own(Operation::RemoveVolume { volume: 1 }).unwrap();
    assert_eq!(bench.catalog.mirror(1), None);
    bench.catalog.audit().unwrap();
}
