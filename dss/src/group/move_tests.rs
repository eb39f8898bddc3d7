//! Tests of units that move while files are read and written.

use super::tests::{Network, check_units, connect, node};
use super::volume_tests::{Rig, add, fill, first_byte, sized};
use super::*;
use crate::device::CutPoint;
use crate::seam::{IoBuffer, Runtime};
use aquifer_dss_proto::catalog::OperationError;
use aquifer_dss_proto::defect::{Defect, fails_with};
use aquifer_dss_proto::{Epoch, FileId};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const FIVE_MIB: u64 = 5 << 20;
const UNIT: u64 = 8192;
/// Units of the file that the tests write, more than the first volume has.
const UNITS: u64 = 60;

async fn drained(rig: &Rig, group: &VolumeGroup, volume: u16) {
    loop {
        group.catch_up().await.unwrap();
        let (units, free) = group.with_catalog(|catalog| catalog.units_of(volume));
        if units == free {
            return;
        }
        rig.runtime.sleep(Duration::from_millis(5)).await;
    }
}

/// Two members and a file that is on volume 1 as a whole.
async fn two_members(rig: &Rig, network: &Arc<Network>) -> ([Arc<VolumeGroup>; 2], FileId) {
    let leader = rig.leader().await;
    let follower = rig.open(2).await.unwrap();
    follower.follow(Epoch(1), node(1));
    connect(network, &leader, 1);
    connect(network, &follower, 2);
    leader.set_members([node(1), node(2)].into_iter().collect());
    leader
        .add_volume("b", &AddVolumeOptions::default())
        .await
        .unwrap();
    let file = leader.create("/file", sized(UNITS * UNIT)).await.unwrap();
    let extents = leader.stat(file).await.unwrap().extents;
    assert!(extents.iter().all(|extent| extent.volume == 1), "{extents:?}");
    ([leader, follower], file)
}

/// Writes rising numbers to one unit from both nodes by turns, and reads each back at the other node: what was written
/// is what is read, wherever the unit is by then.
async fn write_and_read_by_turns(
    rig: Rig,
    groups: [Arc<VolumeGroup>; 2],
    file: FileId,
    unit: u64,
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
) {
    let mut value = 1u8;
    while !stop.load(Ordering::Relaxed) {
        for (writer, reader) in [(0, 1), (1, 0)] {
            fill(&groups[writer], file, unit * UNIT, value).await.unwrap();
            groups[writer].flush().await.unwrap();
            let read = first_byte(&groups[reader], file, unit * UNIT).await.unwrap();
            assert_eq!(
                read,
                value,
                "unit {unit}: a write of node {} is not read",
                writer + 1
            );
            value = value.wrapping_add(1).max(1);
        }
        rounds.fetch_add(1, Ordering::Relaxed);
        rig.runtime.sleep(Duration::from_micros(100)).await;
    }
}

fn nothing_is_lost_while_units_move(seed: u64) {
    let rig = Rig::new(seed);
    rig.disk("b", FIVE_MIB, seed + 1);
    let network = Arc::new(Network::default());
    rig.runtime.block_on(async {
        let (groups, file) = two_members(&rig, &network).await;
        let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let tasks: Vec<_> = (0..UNITS).step_by(7).collect();
        for unit in &tasks {
            let work = write_and_read_by_turns(
                rig.clone(),
                groups.clone(),
                file,
                *unit,
                stop.clone(),
                rounds.clone(),
            );
            rig.runtime.spawn("turns", Box::pin(work));
        }
        for unit in (0..UNITS).filter(|unit| unit % 7 != 0) {
            fill(&groups[0], file, unit * UNIT + 4096, unit as u8 + 1)
                .await
                .unwrap();
        }
        groups[1].drain_volume(1, true).await.unwrap();
        drained(&rig, &groups[0], 1).await;
        let status = groups[0].move_status();
        assert_eq!((status.left, status.moved), (0, UNITS * UNIT));
        groups[0].remove_volume(1).await.unwrap();
        let before = rounds.load(Ordering::Relaxed);
        while rounds.load(Ordering::Relaxed) < before + 20 {
            rig.runtime.sleep(Duration::from_millis(1)).await;
        }
        stop.store(true, Ordering::Relaxed);
        for unit in (0..UNITS).filter(|unit| unit % 7 != 0) {
            let found = first_byte(&groups[1], file, unit * UNIT + 4096).await.unwrap();
            assert_eq!(found, unit as u8 + 1);
        }
        check_units(&groups[0]);
    });
}

fn moving_under_load() {
    for seed in 0..12 {
        nothing_is_lost_while_units_move(100 + seed);
    }
}

#[test]
fn what_one_node_writes_the_other_reads_while_units_move() {
    moving_under_load();
}

#[test]
fn each_rule_of_a_move_is_missed_when_it_is_gone() {
    assert!(fails_with(Defect::CopyBesideWriters, moving_under_load));
    assert!(fails_with(Defect::ThawBeforeEverybodySwitched, moving_under_load));
}

#[test]
fn draining_waits_for_space_and_a_volume_can_be_used_again() {
    let rig = Rig::new(3);
    rig.disk("b", FIVE_MIB, 7);
    rig.disk("c", FIVE_MIB, 8);
    rig.runtime.block_on(async {
        let leader = rig.leader_of_two().await;
        let file = leader.create("/file", sized(200 * UNIT)).await.unwrap();
        fill(&leader, file, 0, 7).await.unwrap();
        leader.drain_volume(1, true).await.unwrap();
        while leader.move_status().problem != Some(Problem::NoSpace) {
            rig.runtime.sleep(Duration::from_millis(10)).await;
        }
        let refused = leader.remove_volume(1).await.err().unwrap();
        assert!(refused.is(OperationError::VolumeInUse));
        leader.drain_volume(1, false).await.unwrap();
        assert_eq!(leader.move_status().left, 0);
        leader.drain_volume(1, true).await.unwrap();
        add(&leader, "c").await.unwrap();
        drained(&rig, &leader, 1).await;
        leader.remove_volume(1).await.unwrap();
        assert_eq!(first_byte(&leader, file, 0).await.unwrap(), 7);
        check_units(&leader);
    });
}

#[test]
fn a_file_that_is_removed_while_it_moves_leaves_nothing_behind() {
    let rig = Rig::new(4);
    rig.disk("b", FIVE_MIB, 7);
    rig.runtime.block_on(async {
        let leader = rig.leader_of_two().await;
        leader.create("/file", sized(60 * UNIT)).await.unwrap();
        leader.drain_volume(1, true).await.unwrap();
        while leader.with_catalog(|catalog| catalog.moves().next().is_none()) {
            rig.runtime.sleep(Duration::from_micros(50)).await;
        }
        leader.remove("/file").await.unwrap();
        drained(&rig, &leader, 1).await;
        leader.remove_volume(1).await.unwrap();
        while leader.space().free < leader.space().units {
            rig.runtime.sleep(Duration::from_millis(1)).await;
        }
        check_units(&leader);
    });
}

/// Writes numbers while a volume is drained and removed. What was acknowledged and flushed is told.
async fn drain_and_write(rig: &Rig, told: &Mutex<Vec<u8>>) -> Result<(), StorageError> {
    let leader = rig.open(1).await?;
    leader.lead(Epoch(2)).await?;
    let Some(file) = leader.lookup("/file").await? else {
        panic!("made before the cut");
    };
    leader.drain_volume(1, true).await?;
    for round in 1..=3u8 {
        for unit in 0..12 {
            fill(&leader, file, unit * UNIT, round).await?;
            leader.flush().await?;
            told.lock()[unit as usize] = round;
        }
    }
    drained(rig, &leader, 1).await;
    leader.remove_volume(1).await
}

/// What a unit has after a cut: the last round that was told, or, torn at 512 bytes, the one that was being written.
async fn assert_has(group: &VolumeGroup, file: FileId, unit: u64, told: u8) {
    let read = group
        .read_at(file, unit * UNIT, IoBuffer::zeroed(4096))
        .await
        .unwrap();
    let wrong = read.iter().find(|byte| **byte != told && **byte != told + 1);
    assert_eq!(wrong, None, "unit {unit}: told {told}");
}

fn cut_drain(seed: u64, path: &str, point: CutPoint) -> bool {
    let rig = Rig::new(seed);
    rig.disk("b", FIVE_MIB, seed + 1);
    let file = rig.runtime.block_on(async {
        let leader = rig.leader_of_two().await;
        leader.create("/file", sized(12 * UNIT)).await.unwrap()
    });
    rig.crash();
    let told = Mutex::new(vec![0; 12]);
    let done = rig.cut_at(path, point, drain_and_write(&rig, &told));
    rig.runtime.block_on(async {
        let group = rig.open(2).await.expect("a cut group opens");
        group.lead(Epoch(5)).await.unwrap();
        check_units(&group);
        let told = told.lock().clone();
        for (unit, round) in told.iter().enumerate() {
            assert_has(&group, file, unit as u64, *round).await;
        }
        if group.with_catalog(|catalog| catalog.volume(1).is_some_and(|volume| volume.exists())) {
            group.drain_volume(1, true).await.unwrap();
            drained(&rig, &group, 1).await;
            for (unit, round) in told.iter().enumerate() {
                assert_has(&group, file, unit as u64, *round).await;
            }
            group.remove_volume(1).await.unwrap();
        }
        check_units(&group);
    });
    done
}

#[test]
fn a_drain_that_is_cut_anywhere_loses_nothing_and_goes_on() {
    for path in ["a", "b"] {
        for kind in [CutPoint::DuringWrite, CutPoint::DuringFlush, CutPoint::AfterFlush] {
            let mut number = 1;
            while !cut_drain(300 + number, path, kind(number)) {
                number += 1;
            }
            assert!(
                number > 8 || path == "b",
                "the work has only {number} of these on {path}"
            );
        }
    }
}

/// A write that nobody waits for any more goes on, and holds a move up no longer than that.
#[test]
fn a_write_that_is_dropped_does_not_freeze_its_units() {
    let rig = Rig::new(9);
    rig.disk("b", FIVE_MIB, 7);
    rig.runtime.block_on(async {
        let leader = rig.leader_of_two().await;
        let file = leader.create("/file", sized(4 * UNIT)).await.unwrap();
        for unit in 0..4 {
            let mut write = Box::pin(fill(&leader, file, unit * UNIT, 5));
            let waker = std::task::Waker::noop();
            let begun = write.as_mut().poll(&mut std::task::Context::from_waker(waker));
            assert!(begun.is_pending(), "the device takes its time");
        }
        let mut read = Box::pin(first_byte(&leader, file, 0));
        let waker = std::task::Waker::noop();
        assert!(
            read.as_mut()
                .poll(&mut std::task::Context::from_waker(waker))
                .is_pending()
        );
        drop(read);
        leader.drain_volume(1, true).await.unwrap();
        drained(&rig, &leader, 1).await;
        for unit in 0..4 {
            assert_eq!(first_byte(&leader, file, unit * UNIT).await.unwrap(), 5);
            fill(&leader, file, unit * UNIT, 6).await.unwrap();
        }
    });
}
