//! Tests of mirrored volumes that come and go, and of devices that take the place of lost ones, on simulated disks.

use super::mirror_tests::{EIO, UNIT, life};
use super::tests::{Network, check_units, connect, node, tiny};
use super::volume_tests::{Rig, fill, first_byte, sized};
use super::*;
use crate::device::CutPoint;
use crate::seam::{IoBuffer, Runtime};
use aquifer_dss_proto::catalog::{MirrorState, OperationError};
use aquifer_dss_proto::defect::{Defect, fails_with};
use aquifer_dss_proto::{Epoch, FileId};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;

const FIVE_MIB: u64 = 5 << 20;
const UNITS: u64 = 20;

/// A group of one mirrored volume, on the disks "a" and "b".
fn mirrored(seed: u64) -> Rig {
    let rig = Rig::new(seed);
    rig.disk("b", FIVE_MIB, seed + 100);
    let devices = [rig.device("a"), rig.device("b")];
    let new = [(0u8, ""), (1, "b")].map(|(leg, path)| NewDevice {
        device: &*devices[usize::from(leg)],
        path,
        failure_group: leg,
    });
    let options = GroupOptions {
        mirror: true,
        force: true,
        ..tiny()
    };
    rig.runtime
        .block_on(VolumeGroup::format_all(&new, &options))
        .unwrap();
    rig
}

fn with_twin(path: &str) -> AddVolumeOptions {
    AddVolumeOptions {
        twin: Some(SecondDevice {
            path: path.into(),
            failure_group: 1,
        }),
        ..AddVolumeOptions::default()
    }
}

fn state(group: &VolumeGroup, volume: u16) -> MirrorState {
    group.with_catalog(|catalog| catalog.mirror(volume).unwrap().state)
}

async fn until(rig: &Rig, done: impl Fn() -> bool) {
    let deadline = rig.runtime.now() + Duration::from_secs(60);
    while !done() {
        assert!(rig.runtime.now() < deadline, "it never comes");
        rig.runtime.sleep(Duration::from_micros(100)).await;
    }
}

async fn until_whole(rig: &Rig, group: &VolumeGroup, volume: u16) {
    until(rig, || state(group, volume) == MirrorState::Both).await;
}

/// Both legs of every volume have the same bytes in every unit of a file.
fn assert_alike(rig: &Rig, group: &VolumeGroup, file: FileId) {
    let places: Vec<([String; 2], u64)> = group.with_catalog(|catalog| {
        let inode = catalog.inode(file).unwrap();
        let stat = super::volume_group::stat_inode(catalog, file, inode);
        let places = stat.extents.into_iter().flat_map(|run| {
            let volume = catalog.volume(run.volume).unwrap();
            let legs = [0, 1].map(|leg| volume.leg(leg).unwrap().1.to_owned());
            let first = catalog.offset_of(&run);
            (0..u64::from(run.count)).map(move |at| (legs.clone(), first + at * UNIT))
        });
        places.collect()
    });
    let disks = rig.disks.lock();
    for (legs, offset) in places {
        let disk = |path: &str| disks[if path.is_empty() { "a" } else { path }].clone();
        let [one, other] = legs.each_ref().map(|path| disk(path).peek(offset, UNIT as usize));
        assert!(one == other, "{legs:?} differ at {offset}");
    }
}

/// Reads each unit on both legs.
async fn assert_values(group: &VolumeGroup, file: FileId, value: impl Fn(u64) -> u8) {
    for unit in 0..UNITS {
        for _ in 0..4 {
            let read = first_byte(group, file, unit * UNIT).await.unwrap();
            assert_eq!(read, value(unit), "unit {unit}");
        }
    }
}

async fn filled(group: &VolumeGroup, path: &str) -> FileId {
    let file = group.create(path, sized(UNITS * UNIT)).await.unwrap();
    for unit in 0..UNITS {
        fill(group, file, unit * UNIT, unit as u8 + 1).await.unwrap();
    }
    group.flush().await.unwrap();
    file
}

#[test]
fn a_pair_is_added_while_nodes_serve_and_found_again() {
    let rig = mirrored(1);
    rig.disk("c", FIVE_MIB, 7);
    rig.disk("d", FIVE_MIB + 10 * UNIT, 8);
    let network = Arc::new(Network::default());
    let file = rig.runtime.block_on(async {
        let leader = rig.leader().await;
        let follower = rig.open(2).await.unwrap();
        connect(&network, &leader, 1);
        connect(&network, &follower, 2);
        leader.set_lives(&[life(1), life(2)]);
        follower.set_lives(&[life(1), life(2)]);
        follower.follow(Epoch(2), node(1));
        leader.lead(Epoch(2)).await.unwrap();
        assert_eq!(leader.add_volume("c", &with_twin("d")).await.unwrap(), 1);
        // The emptier volume gets it; the smaller device counts.
        let file = filled(&follower, "/f").await;
        let extents = leader.stat(file).await.unwrap().extents;
        assert!(extents.iter().all(|run| run.volume == 1), "{extents:?}");
        assert_eq!(leader.with_catalog(|catalog| catalog.units_of(1).0), 128);
        assert_alike(&rig, &leader, file);
        assert_values(&leader, file, |unit| unit as u8 + 1).await;
        check_units(&leader);
        file
    });
    rig.crash();
    rig.runtime.block_on(async {
        let again = rig.open(3).await.unwrap();
        again.lead(Epoch(3)).await.unwrap();
        assert_values(&again, file, |unit| unit as u8 + 1).await;
        assert_eq!(state(&again, 1), MirrorState::Both);
    });
}

#[test]
fn a_pair_is_of_two_blank_devices_of_different_failure_groups() {
    let rig = mirrored(2);
    for (path, seed) in [("c", 7), ("d", 8)] {
        rig.disk(path, FIVE_MIB, seed);
    }
    rig.runtime.block_on(async {
        let leader = rig.leader().await;
        let alone = AddVolumeOptions::default();
        let same_group = AddVolumeOptions {
            failure_group: 1,
            ..with_twin("d")
        };
        for options in [alone, same_group] {
            let refused = leader.add_volume("c", &options).await.err().unwrap();
            assert!(matches!(refused, StorageError::Invalid(_)), "{refused}");
        }
        for (path, twin) in [("b", "c"), ("c", "b")] {
            let refused = leader.add_volume(path, &with_twin(twin)).await.err().unwrap();
            assert!(refused.is(OperationError::AlreadyExists), "{refused}");
        }
        // A device of the group by another path, also when what is on it may be lost.
        let twin = rig.disks.lock()["b"].clone();
        rig.disks.lock().insert("alias".into(), twin.clone());
        for force in [false, true] {
            let options = AddVolumeOptions {
                force,
                ..with_twin("alias")
            };
            let refused = leader.add_volume("c", &options).await.err().unwrap();
            assert!(matches!(refused, StorageError::RefusedVolume { .. }), "{refused}");
        }
        let blank = rig.disks.lock()["c"].clone();
        rig.disks.lock().insert("alias".into(), blank);
        let refused = leader.add_volume("c", &with_twin("alias")).await.err().unwrap();
        assert!(refused.to_string().contains("the same device"), "{refused}");
        assert_eq!(leader.add_volume("c", &with_twin("d")).await.unwrap(), 1);
    });
    let rig = Rig::new(3);
    rig.runtime.block_on(async {
        let refused = rig.leader().await.add_volume("c", &with_twin("d")).await;
        assert!(matches!(refused, Err(StorageError::Invalid(_))));
    });
}

#[test]
fn a_pair_is_drained_and_removed_and_so_is_one_that_lost_a_side() {
    for lost in [None, Some(0), Some(1)] {
        let rig = mirrored(4);
        let disks = [("c", 7), ("d", 8)].map(|(path, seed)| rig.disk(path, FIVE_MIB, seed));
        rig.runtime.block_on(async {
            let leader = rig.leader().await;
            leader.add_volume("c", &with_twin("d")).await.unwrap();
            let file = filled(&leader, "/f").await;
            if let Some(leg) = lost {
                leader.detach_leg(1, leg).await.unwrap();
                fill(&leader, file, 0, 77).await.unwrap();
            }
            leader.drain_volume(1, true).await.unwrap();
            until(&rig, || {
                leader.with_catalog(|catalog| catalog.units_of(1).0 == catalog.units_of(1).1)
            })
            .await;
            leader.remove_volume(1).await.unwrap();
            let first = if lost.is_some() { 77 } else { 1 };
            assert_values(
                &leader,
                file,
                |unit| if unit == 0 { first } else { unit as u8 + 1 },
            )
            .await;
            assert_alike(&rig, &leader, file);
            check_units(&leader);
            for (leg, disk) in (0..).zip(&disks) {
                let is_erased = disk.peek(0, 4096).iter().all(|byte| *byte == 0);
                assert_eq!(is_erased, lost != Some(leg), "leg {leg}");
            }
            // Its devices may be used again, that with a label when they say so.
            let again = leader.add_volume("c", &with_twin("d")).await;
            assert_eq!(again.is_ok(), lost.is_none());
            let force = AddVolumeOptions {
                force: true,
                ..with_twin("d")
            };
            if lost.is_some() {
                assert_eq!(leader.add_volume("c", &force).await.unwrap(), 2);
            }
        });
    }
}

/// Adds a pair and uses it; says whether the addition was acknowledged.
async fn add_pair(rig: &Rig, acknowledged: &Mutex<bool>) -> Result<(), StorageError> {
    let leader = rig.open(1).await?;
    leader.lead(Epoch(1)).await?;
    leader.add_volume("c", &with_twin("d")).await?;
    *acknowledged.lock() = true;
    let file = leader.create("/g", sized(UNITS * UNIT)).await?;
    fill(&leader, file, 0, 3).await?;
    leader.set_config("end", Some("yes")).await
}

fn cut_addition(seed: u64, path: &str, point: CutPoint) -> bool {
    let rig = mirrored(seed);
    for (path, more) in [("c", 1), ("d", 2)] {
        rig.disk(path, FIVE_MIB, seed + more);
    }
    let acknowledged = Mutex::new(false);
    let done = rig.cut_at(path, point, add_pair(&rig, &acknowledged));
    rig.runtime.block_on(async {
        let (group, named) = rig.after_cut().await;
        assert!(
            named || !*acknowledged.lock(),
            "{point:?} of {path}: the pair is gone"
        );
        if !named {
            // Also over the labels of an addition that was cut off.
            group.add_volume("c", &with_twin("d")).await.unwrap();
        }
        let file = filled(&group, "/after").await;
        assert_alike(&rig, &group, file);
    });
    done
}

#[test]
fn a_pair_is_added_as_a_whole_or_not_at_all() {
    for path in ["a", "c", "d"] {
        for kind in [CutPoint::DuringWrite, CutPoint::DuringFlush, CutPoint::AfterFlush] {
            let mut number = 1;
            while !cut_addition(40 + number, path, kind(number)) {
                number += 1;
                assert!(number < 1000, "it never ends");
            }
            assert!(number > 2, "the work has only {number} of these on {path}");
        }
    }
}

async fn replace(group: &VolumeGroup, path: &str) -> Result<u8, StorageError> {
    group.replace_leg(0, path, &ReplaceLegOptions::default()).await
}

/// A leader with a file, whose second leg failed when some of it had been written again. The rest was written in an earlier life: so nobody
/// has it in his intents, and it is not dirty.
fn with_lost_leg(rig: &Rig) -> (Arc<VolumeGroup>, FileId) {
    let file = rig.runtime.block_on(async {
        let leader = rig.leader().await;
        filled(&leader, "/f").await
    });
    rig.crash();
    let leader = rig.runtime.block_on(async {
        let leader = rig.open(1).await.unwrap();
        leader.lead(Epoch(2)).await.unwrap();
        let torn = || leader.with_catalog(|catalog| catalog.torn_units());
        until(rig, || torn() == 0).await;
        rig.disks.lock()["b"].break_down(EIO);
        for unit in 0..4 {
            fill(&leader, file, unit * UNIT, 100).await.unwrap();
        }
        let out = MirrorState::Out { leg: 1, since: None };
        until(rig, || state(&leader, 0) == out).await;
        leader
    });
    (leader, file)
}

fn after_loss(unit: u64) -> u8 {
    if unit < 4 { 100 } else { unit as u8 + 1 }
}

fn a_blank_device_takes_the_place() {
    let rig = mirrored(5);
    rig.disk("n", FIVE_MIB, 7);
    rig.runtime.block_on(async {
        let leader = rig.leader().await;
        let early = replace(&leader, "n").await.err().unwrap();
        assert!(early.is(OperationError::VolumeRaced), "nothing is lost: {early}");
    });
    rig.crash();
    let (leader, file) = with_lost_leg(&rig);
    rig.runtime.block_on(async {
        assert_eq!(replace(&leader, "n").await.unwrap(), 1);
        // Before it has everything too.
        assert_values(&leader, file, after_loss).await;
        until_whole(&rig, &leader, 0).await;
        assert_values(&leader, file, after_loss).await;
        assert_alike(&rig, &leader, file);
        check_units(&leader);
    });
    drop(leader);
    rig.disks.lock()["b"].repair();
    rig.crash();
    rig.runtime.block_on(async {
        let again = rig.open(1).await.unwrap();
        again.lead(Epoch(3)).await.unwrap();
        assert_values(&again, file, after_loss).await;
    });
}

#[test]
fn a_blank_device_that_takes_the_place_of_a_lost_leg_gets_everything() {
    a_blank_device_takes_the_place();
    assert!(fails_with(
        Defect::TakeBlankForWhole,
        a_blank_device_takes_the_place
    ));
}

#[test]
fn the_device_that_was_lost_is_never_read_again_wherever_it_turns_up() {
    let rig = mirrored(6);
    rig.disk("n", FIVE_MIB, 7);
    let (leader, file) = with_lost_leg(&rig);
    rig.runtime.block_on(async {
        replace(&leader, "n").await.unwrap();
        until_whole(&rig, &leader, 0).await;
        rig.disks.lock()["b"].repair();
        // It is not taken for a blank one either.
        leader.detach_leg(0, 1).await.unwrap();
        let refused = replace(&leader, "b").await.err().unwrap();
        assert!(matches!(refused, StorageError::InUse { .. }), "{refused}");
        assert_eq!(leader.resync_leg(0).await.unwrap(), 1);
        until_whole(&rig, &leader, 0).await;
    });
    drop(leader);
    rig.crash();
    let old = rig.disks.lock()["b"].clone();
    // Under its old path: nobody looks there, and who names it is told.
    rig.runtime.block_on(async {
        let again = rig.open(2).await.unwrap();
        again.lead(Epoch(5)).await.unwrap();
        assert_values(&again, file, after_loss).await;
        let devices = vec![rig.device("a"), rig.device("b")];
        let named = VolumeGroup::open(rig.runtime.clone(), devices, node(3)).await;
        let refused = named.err().unwrap().to_string();
        assert!(refused.contains("does not name it"), "{refused}");
    });
    rig.crash();
    // Under the path of the new one: it is refused, and the side detached when the operator says that it is lost.
    rig.disks.lock().insert("n".into(), old);
    rig.runtime.block_on(async {
        let refused = rig.open(4).await.err().unwrap();
        assert!(
            matches!(refused, StorageError::OneSide { side: 1, .. }),
            "{refused}"
        );
        let again = rig.open_without(4, Some(1)).await.unwrap();
        again.lead(Epoch(7)).await.unwrap();
        assert_values(&again, file, after_loss).await;
        until(&rig, || {
            state(&again, 0) == MirrorState::Out { leg: 1, since: None }
        })
        .await;
        let refused = again.resync_leg(0).await.err().unwrap();
        assert!(matches!(refused, StorageError::RefusedVolume { .. }), "{refused}");
        assert_values(&again, file, after_loss).await;
    });
}

#[test]
fn a_device_in_the_same_place_as_the_lost_one_is_another_one() {
    let rig = mirrored(7);
    let (leader, file) = with_lost_leg(&rig);
    rig.runtime.block_on(async {
        rig.disk("b", FIVE_MIB + 3 * UNIT, 9);
        assert_eq!(replace(&leader, "b").await.unwrap(), 1);
        until_whole(&rig, &leader, 0).await;
        assert_values(&leader, file, after_loss).await;
        assert_alike(&rig, &leader, file);
    });
}

#[test]
fn what_cannot_take_the_place_is_refused_and_changes_nothing() {
    let rig = mirrored(8);
    rig.disk("small", FIVE_MIB - 30 * UNIT, 9);
    rig.disk("n", FIVE_MIB, 10).overwrite(8192, &[1]);
    let (leader, file) = with_lost_leg(&rig);
    rig.runtime.block_on(async {
        let small = replace(&leader, "small").await.err().unwrap();
        assert!(matches!(small, StorageError::TooSmall { .. }), "{small}");
        let used = replace(&leader, "n").await.err().unwrap();
        assert!(matches!(used, StorageError::NotBlank { .. }), "{used}");
        let unknown = replace(&leader, "x").await.err().unwrap();
        assert!(matches!(unknown, StorageError::Device(_)), "{unknown}");
        let same_group = ReplaceLegOptions {
            failure_group: Some(0),
            force: true,
        };
        let refused = leader.replace_leg(0, "n", &same_group).await.err().unwrap();
        assert!(refused.is(OperationError::Invalid), "{refused}");
        assert_eq!(state(&leader, 0), MirrorState::Out { leg: 1, since: None });
        let elsewhere = ReplaceLegOptions {
            failure_group: Some(5),
            force: true,
        };
        assert_eq!(leader.replace_leg(0, "n", &elsewhere).await.unwrap(), 1);
        until_whole(&rig, &leader, 0).await;
        assert_values(&leader, file, after_loss).await;
        rig.disks.lock()["b"].repair();
        // The device that has everything cannot take its own place.
        leader.detach_leg(0, 1).await.unwrap();
        rig.disk("alias", FIVE_MIB, 11);
        let first = rig.disks.lock()["a"].clone();
        rig.disks.lock().insert("alias".into(), first);
        let refused = leader.replace_leg(0, "alias", &elsewhere).await.err().unwrap();
        assert!(matches!(refused, StorageError::RefusedVolume { .. }), "{refused}");
        // The one that is out may, as if it were blank.
        assert_eq!(leader.replace_leg(0, "n", &elsewhere).await.unwrap(), 1);
        until_whole(&rig, &leader, 0).await;
        assert_alike(&rig, &leader, file);
    });
}

/// A node has the second leg open, is no member while another device takes its place, and joins.
fn a_node_that_was_away_uses_the_new_device() {
    let rig = mirrored(9);
    rig.disk("n", FIVE_MIB, 7);
    let network = Arc::new(Network::default());
    let work = async {
        let away = rig.open(2).await.unwrap();
        let leader = rig.leader().await;
        let file = filled(&leader, "/f").await;
        leader.detach_leg(0, 1).await.unwrap();
        replace(&leader, "n").await.unwrap();
        until_whole(&rig, &leader, 0).await;
        connect(&network, &leader, 1);
        connect(&network, &away, 2);
        for group in [&leader, &away] {
            group.set_lives(&[life(1), life(2)]);
        }
        away.follow(Epoch(2), node(1));
        leader.lead(Epoch(2)).await.unwrap();
        for unit in 0..UNITS {
            fill(&away, file, unit * UNIT, 50 + unit as u8).await.unwrap();
        }
        away.flush().await.unwrap();
        assert_alike(&rig, &leader, file);
        assert_values(&leader, file, |unit| 50 + unit as u8).await;
    };
    rig.runtime.block_on(async {
        tokio::select! {
            biased;
            () = work => {}
            () = rig.runtime.sleep(Duration::from_secs(60)) => panic!("the node that was away does not get on"),
        }
    });
}

#[test]
fn a_node_that_did_not_see_the_change_does_not_go_on_with_the_old_device() {
    a_node_that_was_away_uses_the_new_device();
    assert!(fails_with(
        Defect::KeepReplacedOpen,
        a_node_that_was_away_uses_the_new_device
    ));
}

/// Loses a leg, puts another device in its place, and writes beside the copy. The last value of each unit that was told.
async fn lose_and_replace(rig: &Rig, file: FileId, told: &Mutex<Vec<u8>>) -> Result<(), StorageError> {
    let leader = rig.open(1).await?;
    leader.lead(Epoch(2)).await?;
    let write = |unit: u64, value: u8| {
        let group = &leader;
        async move {
            fill(group, file, unit * UNIT, value).await?;
            group.flush().await?;
            told.lock()[unit as usize] = value;
            Ok::<(), StorageError>(())
        }
    };
    leader.detach_leg(0, 1).await?;
    write(0, 101).await?;
    replace(&leader, "n").await?;
    while state(&leader, 0) != MirrorState::Both {
        let next = told.lock()[3] + 1;
        write(3, next).await?;
    }
    write(1, 101).await
}

/// Brings a group back that lost its power while a device took the place of the second leg.
async fn goes_on(rig: &Rig, group: &Arc<VolumeGroup>) {
    let is_out = || matches!(state(group, 0), MirrorState::Out { .. });
    if is_out() {
        until(rig, || {
            state(group, 0) == MirrorState::Out { leg: 1, since: None }
        })
        .await;
        let is_new = group.with_catalog(|catalog| catalog.volume(0).unwrap().is_at("n"));
        if is_new {
            group.resync_leg(0).await.unwrap();
        } else {
            // Also over the label of a change that was cut off.
            let options = ReplaceLegOptions {
                force: true,
                ..ReplaceLegOptions::default()
            };
            group.replace_leg(0, "n", &options).await.unwrap();
        }
    }
    until_whole(rig, group, 0).await;
}

fn cut_replacement(seed: u64, path: &str, point: CutPoint) -> bool {
    let rig = mirrored(seed);
    rig.disk("n", FIVE_MIB, seed + 1);
    let file = rig.runtime.block_on(async {
        let leader = rig.leader().await;
        filled(&leader, "/f").await
    });
    rig.crash();
    let told = Mutex::new((1..=UNITS as u8).collect::<Vec<u8>>());
    let done = rig.cut_at(path, point, lose_and_replace(&rig, file, &told));
    rig.runtime.block_on(async {
        let group = rig.open(2).await.expect("a cut group opens");
        group.lead(Epoch(5)).await.unwrap();
        goes_on(&rig, &group).await;
        until(&rig, || group.with_catalog(|catalog| catalog.torn_units() == 0)).await;
        let told = told.lock().clone();
        for (unit, value) in (0..).zip(told) {
            let read = group.read_at(file, unit * UNIT, IoBuffer::zeroed(4096)).await;
            // What was told, or, torn at 512 bytes, what was being written.
            let next = if unit < 2 { 101 } else { value + 1 };
            let fits = |byte: &u8| *byte == value || *byte == next;
            assert!(
                read.unwrap().iter().all(fits),
                "{point:?} of {path}, unit {unit}: {value} was told"
            );
        }
        assert_alike(&rig, &group, file);
        check_units(&group);
    });
    done
}

#[test]
fn nothing_is_lost_wherever_a_replacement_is_cut() {
    for path in ["a", "n"] {
        for kind in [CutPoint::DuringWrite, CutPoint::DuringFlush, CutPoint::AfterFlush] {
            let mut number = 1;
            while !cut_replacement(700 + number, path, kind(number)) {
                number += 1;
                assert!(number < 1000, "it never ends");
            }
            assert!(number > 2, "the work has only {number} of these on {path}");
        }
    }
}
