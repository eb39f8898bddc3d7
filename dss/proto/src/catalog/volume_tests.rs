//! Tests of volumes and moves in the catalogue: any history is consistent, in every state of a move.

use super::*;
use crate::label::Uuid;
use alloc::format;
use alloc::string::ToString;
use proptest::prelude::*;

const AU: u64 = 4096;

fn done(catalog: &mut Catalog, sequence: u64, operation: Operation) -> Outcome {
    let origin = None;
    catalog.apply(sequence, &Record { origin, operation })
}

fn new_volume(volume: u16, units: u32) -> NewVolume {
    let mut uuid = [7; 16];
    uuid[..2].copy_from_slice(&volume.to_le_bytes());
    NewVolume {
        volume,
        uuid: Uuid(uuid),
        units,
        au_offset: AU,
        failure_group: 0,
        path: format!("/dev/{volume}"),
        twin: None,
    }
}

fn create(path: &str, units: u64) -> Operation {
    Operation::Create {
        path: path.to_string(),
        size: units * AU,
        kind: FileKind::Tree,
        exclusive: true,
    }
}

/// Two volumes of 20 and 50 units, a file of 40 on the second, which is drained.
fn draining() -> (Catalog, FileId) {
    let mut catalog = Catalog::new(AU, &[20], 1 << 16);
    done(&mut catalog, 1, Operation::AddVolume(new_volume(1, 50))).unwrap();
    assert_eq!(catalog.free_units(), 20, "it is joining");
    done(&mut catalog, 2, Operation::Passed { through: 1 }).unwrap();
    assert_eq!(catalog.free_units(), 70);
    done(&mut catalog, 3, create("/f", 40)).unwrap();
    let file = catalog.lookup("/f").unwrap();
    let (volume, drain) = (1, true);
    done(&mut catalog, 4, Operation::DrainVolume { volume, drain }).unwrap();
    (catalog, file)
}

#[test]
fn a_move_goes_on_only_when_it_is_passed_and_frees_what_it_leaves() {
    let (mut catalog, file) = draining();
    let (found, run) = catalog.next_to_move(FileId(0), 4).unwrap();
    assert_eq!((found, run.volume, run.count), (file, 1, 4));
    done(&mut catalog, 5, Operation::BeginMove { file, from: run }).unwrap();
    let number = catalog.moves().next().unwrap().number;
    assert!(catalog.is_frozen(1, run.start + 3, 1) && !catalog.is_frozen(1, run.start + 4, 1));
    let early = done(&mut catalog, 6, Operation::EndMove { number });
    assert_eq!(early, Err(OperationError::VolumeRaced));
    done(&mut catalog, 7, Operation::Passed { through: 4 }).unwrap();
    assert_eq!(
        done(&mut catalog, 8, Operation::EndMove { number }),
        Err(OperationError::VolumeRaced)
    );
    done(&mut catalog, 9, Operation::Passed { through: 5 }).unwrap();
    done(&mut catalog, 10, Operation::EndMove { number }).unwrap();
    let to = catalog.moves().next().unwrap().to;
    assert!(
        catalog.is_frozen(0, to.start, 4),
        "not every member knows the new place"
    );
    let before = catalog.units_of(1).1;
    done(&mut catalog, 11, Operation::Passed { through: 9 }).unwrap();
    assert_eq!(catalog.units_of(1).1, before);
    done(&mut catalog, 12, Operation::Passed { through: 10 }).unwrap();
    assert_eq!((catalog.units_of(1).1, catalog.moves().count()), (before + 4, 0));
    assert!(!catalog.is_frozen(0, to.start, 4));
}

#[test]
fn what_does_not_belong_to_the_file_any_more_is_not_given_to_it() {
    let (mut catalog, file) = draining();
    let (_, from) = catalog.next_to_move(FileId(0), 4).unwrap();
    done(&mut catalog, 5, Operation::BeginMove { file, from }).unwrap();
    let number = catalog.moves().next().unwrap().number;
    done(&mut catalog, 6, Operation::Remove { path: "/f".into() }).unwrap();
    let entries = catalog.limbo().map(|limbo| limbo.number).collect();
    done(&mut catalog, 6, Operation::Release { entries }).unwrap();
    done(&mut catalog, 7, Operation::Passed { through: 5 }).unwrap();
    done(&mut catalog, 8, Operation::EndMove { number }).unwrap();
    assert!(matches!(
        catalog.moves().next().unwrap().state,
        MoveState::Abandoned { since: 8 }
    ));
    done(&mut catalog, 9, Operation::Passed { through: 8 }).unwrap();
    assert_eq!(
        catalog.units_of(0),
        (20, 20),
        "the place of the copy is free again"
    );
}

#[test]
fn volumes_are_refused_that_do_not_fit() {
    let mut catalog = Catalog::new(AU, &[20], 1 << 16);
    let mut refused = |new: NewVolume, error| {
        assert_eq!(done(&mut catalog, 1, Operation::AddVolume(new)), Err(error));
    };
    refused(new_volume(2, 50), OperationError::VolumeRaced);
    refused(new_volume(1, 0), OperationError::Invalid);
    refused(new_volume(1, UNITS_MAX + 1), OperationError::Invalid);
    done(&mut catalog, 2, Operation::AddVolume(new_volume(1, 50))).unwrap();
    let twice = NewVolume {
        volume: 2,
        ..new_volume(1, 50)
    };
    assert_eq!(
        done(&mut catalog, 3, Operation::AddVolume(twice)),
        Err(OperationError::AlreadyExists)
    );
    let (volume, drain) = (0, true);
    let last = done(&mut catalog, 4, Operation::DrainVolume { volume, drain });
    assert_eq!(last, Err(OperationError::NoSpace), "volume 1 is joining");
    let (volume, drain) = (1, true);
    let joining = done(&mut catalog, 4, Operation::DrainVolume { volume, drain });
    assert_eq!(joining, Err(OperationError::VolumeRaced));
    for volume in 2..256 {
        done(&mut catalog, 5, Operation::AddVolume(new_volume(volume, 1))).unwrap();
    }
    let full = done(&mut catalog, 6, Operation::AddVolume(new_volume(256, 1)));
    assert_eq!(full, Err(OperationError::TooManyVolumes));
    assert_eq!(Catalog::decode(&catalog.encode()).unwrap(), catalog);
}

/// What a history asks for; moves are chosen from what the catalogue has.
#[derive(Clone, Debug)]
enum Ask {
    Create(u8, u64),
    Remove(u8),
    Allocate(u64, u64),
    Add(u32),
    Resize(u16, u32),
    Drain(u16, bool),
    Forget(u16),
    Begin(u64, u32),
    End(u64),
    Cancel(u64),
    Pass,
    Release,
}

fn asks() -> impl Strategy<Value = Ask> {
    prop_oneof![
        3 => (0u8..6, 0u64..12).prop_map(|(name, units)| Ask::Create(name, units)),
        2 => (0u8..6).prop_map(Ask::Remove),
        1 => (1u64..12, 0u64..20).prop_map(|(file, units)| Ask::Allocate(file, units)),
        2 => (1u32..40).prop_map(Ask::Add),
        1 => (0u16..4, 1u32..60).prop_map(|(volume, units)| Ask::Resize(volume, units)),
        2 => (0u16..4, any::<bool>()).prop_map(|(volume, drain)| Ask::Drain(volume, drain)),
        1 => (0u16..4).prop_map(Ask::Forget),
        5 => (0u64..12, 1u32..5).prop_map(|(cursor, most)| Ask::Begin(cursor, most)),
        4 => (0u64..4).prop_map(Ask::End),
        1 => (0u64..4).prop_map(Ask::Cancel),
        4 => Just(Ask::Pass),
        2 => Just(Ask::Release),
    ]
}

fn operation(catalog: &Catalog, sequence: u64, ask: Ask) -> Option<Operation> {
    let number = |index: u64| catalog.moves().nth(index as usize).map(|unit| unit.number);
    let through = sequence;
    Some(match ask {
        Ask::Create(name, units) => create(&format!("/{name}"), units),
        Ask::Remove(name) => Operation::Remove {
            path: format!("/{name}"),
        },
        Ask::Allocate(file, units) => Operation::Allocate {
            file: FileId(file),
            size: units * AU,
        },
        Ask::Add(units) => Operation::AddVolume(new_volume(catalog.next_volume(), units)),
        Ask::Resize(volume, units) => Operation::ResizeVolume { volume, units },
        Ask::Drain(volume, drain) => Operation::DrainVolume { volume, drain },
        Ask::Forget(volume) => Operation::RemoveVolume { volume },
        Ask::Begin(cursor, most) => {
            let (file, from) = catalog.next_to_move(FileId(cursor), most)?;
            Operation::BeginMove { file, from }
        }
        Ask::End(index) => Operation::EndMove {
            number: number(index)?,
        },
        Ask::Cancel(index) => Operation::CancelMove {
            number: number(index)?,
        },
        Ask::Pass => Operation::Passed { through },
        Ask::Release => Operation::Release {
            entries: catalog.limbo().map(|limbo| limbo.number).collect(),
        },
    })
}

/// The file of a move was removed and its units are free; the move still reads them, and a checkpoint names them.
#[test]
fn a_volume_stays_as_large_as_a_move_needs_it() {
    let mut catalog = Catalog::new(AU, &[30], 1 << 16);
    let mut sequence = 0;
    let mut ask = |catalog: &mut Catalog, ask| {
        sequence += 1;
        let operation = operation(catalog, sequence, ask).expect("there is something to do");
        let result = done(catalog, sequence, operation);
        assert_eq!(&Catalog::decode(&catalog.encode()).unwrap(), catalog);
        result
    };
    let before = [
        Ask::Add(40),
        Ask::Pass,
        Ask::Create(1, 3),
        Ask::Create(5, 1),
        Ask::Remove(1),
        Ask::Remove(5),
        Ask::Drain(1, true),
        Ask::Begin(3, 1),
        Ask::Release,
    ];
    for step in before {
        ask(&mut catalog, step).unwrap();
    }
    let unit = catalog.moves().next().unwrap().from;
    assert_eq!((unit.volume, unit.start, unit.count), (1, 3, 1));
    assert_eq!(catalog.units_of(1), (40, 40), "nobody has a unit of it");
    for shrink in [Ask::Resize(1, 3), Ask::Forget(1)] {
        assert_eq!(ask(&mut catalog, shrink), Err(OperationError::VolumeInUse));
    }
    for step in [
        Ask::Resize(1, 4),
        Ask::Pass,
        Ask::End(0),
        Ask::Pass,
        Ask::Forget(1),
    ] {
        ask(&mut catalog, step).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_history_of_volumes_is_consistent_and_survives_its_checkpoint(history in prop::collection::vec(asks(), 0..80)) {
        let mut catalog = Catalog::new(AU, &[30], 1 << 16);
        for (sequence, ask) in history.into_iter().enumerate() {
            let Some(operation) = operation(&catalog, sequence as u64, ask) else { continue };
            let before = catalog.clone();
            if done(&mut catalog, sequence as u64, operation).is_err() {
                prop_assert_eq!(&before, &catalog, "a refusal changes nothing");
            }
            // Decoding takes the units of files, limbo and moves again: each has one owner, and no unit is lost.
            prop_assert_eq!(&Catalog::decode(&catalog.encode()).unwrap(), &catalog);
            for (id, volume) in catalog.volumes() {
                prop_assert!(volume.exists() || catalog.units_of(id) == (0, 0));
            }
        }
    }
}
