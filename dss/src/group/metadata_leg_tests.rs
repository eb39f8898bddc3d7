//! The metadata on both legs of volume 0: one of them is lost at any moment, and returns.

use super::mirror_tests::{EIO, Life, Pair, UNIT, install, life, returned, state};
use super::tests::{Network, check_units};
use super::volume_tests::{fill, first_byte, sized};
use super::*;
use crate::device::{CutPoint, SimDisk};
use crate::seam::Runtime;
use aquifer_dss_proto::catalog::MirrorState;
use aquifer_dss_proto::defect::{Defect, fails_with};
use aquifer_dss_proto::membership::MetadataLegs;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;

async fn whole(pair: &Pair, group: &VolumeGroup) {
    pair.until(|| group.metadata().legs() == MetadataLegs::Both).await;
}

#[test]
fn each_leg_is_lost_in_turn_and_returns() {
    let pair = Pair::new(901);
    pair.runtime.block_on(async {
        let group = pair.alone(1).await.unwrap();
        let file = group.create("/file", sized(20 * UNIT)).await.unwrap();
        for round in 0..4u8 {
            let lost = round % 2;
            pair.disks[usize::from(lost)].break_down(EIO);
            for unit in 0..20 {
                fill(&group, file, unit * UNIT, round + 1).await.unwrap();
            }
            group.create(&format!("/{round}"), sized(1)).await.unwrap();
            assert_eq!(group.metadata().legs(), MetadataLegs::Only(1 - lost));
            pair.disks[usize::from(lost)].repair();
            pair.until(|| {
                state(&group)
                    == MirrorState::Out {
                        leg: lost,
                        since: None,
                    }
            })
            .await;
            returned(&pair, &group).await;
            whole(&pair, &group).await;
            assert_eq!(first_byte(&group, file, 7 * UNIT).await.unwrap(), round + 1);
        }
        pair.assert_alike(&group, file);
    });
    // What each of them has is the same, and all of it.
    pair.power_cycle();
    for lost in [0u8, 1] {
        pair.runtime.block_on(async {
            let ports = pair
                .ports()
                .map(|port| -> Arc<dyn crate::seam::BlockDevice> { port });
            let kept = vec![ports[usize::from(1 - lost)].clone()];
            let refused = VolumeGroup::open(pair.runtime.clone(), kept.clone(), life(1).node).await;
            let refused = refused.err().expect("one of two may be old");
            assert!(
                matches!(refused, StorageError::OneSide { side, .. } if side == lost),
                "{refused}"
            );
            let group =
                VolumeGroup::open_without(pair.runtime.clone(), kept, None, life(1).node, Some(lost)).await;
            let group = group.unwrap();
            for round in 0..4 {
                assert!(group.lookup(&format!("/{round}")).await.unwrap().is_some());
            }
        });
    }
}

/// Entries, one leg lost, entries, its return, the other one lost, entries.
async fn lose_both_in_turn(pair: &Pair, told: &Mutex<u32>) -> Result<(), StorageError> {
    let group = pair.alone(2).await?;
    let next = async || {
        let number = *told.lock() + 1;
        group.set_config("told", Some(&number.to_string())).await?;
        *told.lock() = number;
        Ok::<(), StorageError>(())
    };
    for lost in [0u8, 1] {
        next().await?;
        pair.disks[usize::from(lost)].break_down(EIO);
        for _ in 0..3 {
            next().await?;
        }
        pair.disks[usize::from(lost)].repair();
        while !matches!(state(&group), MirrorState::Out { since: None, .. }) {
            pair.runtime.sleep(Duration::from_micros(100)).await;
        }
        group.resync_leg(0).await?;
        while group.metadata().legs() != MetadataLegs::Both {
            pair.runtime.sleep(Duration::from_millis(100)).await;
            next().await?;
        }
    }
    next().await
}

/// The power fails at a point of one disk; whether the work was done before.
fn cut(seed: u64, leg: usize, point: CutPoint) -> bool {
    let pair = Pair::new(seed);
    let told = Mutex::new(0);
    pair.disks[leg].cut_at(point);
    pair.runtime.tolerate_aborts();
    let powered = || pair.disks.iter().all(SimDisk::has_power);
    let done = pair.runtime.block_on(async {
        tokio::select! {
            biased;
            () = async { while powered() { pair.runtime.sleep(Duration::from_micros(10)).await } } => false,
            done = lose_both_in_turn(&pair, &told) => done.is_ok(),
        }
    });
    pair.power_cycle();
    pair.disks.iter().for_each(SimDisk::repair);
    pair.runtime.block_on(async {
        let group = pair.alone(5).await.expect("a cut group opens");
        let found = group.config("told").await.unwrap();
        let found: u32 = found.map_or(0, |found| found.parse().unwrap());
        let told = *told.lock();
        assert!(
            (told..=told + 1).contains(&found),
            "{told} was told, {found} is there"
        );
        check_units(&group);
    });
    done
}

#[test]
fn nothing_acknowledged_is_lost_while_legs_go_and_return_wherever_the_power_fails() {
    for leg in [0, 1] {
        for kind in [CutPoint::DuringWrite, CutPoint::DuringFlush, CutPoint::AfterFlush] {
            let mut number = 1;
            while !cut(920 + number, leg, kind(number)) {
                number += 1;
                assert!(number < 1000, "it never ends");
            }
            assert!(number > 8, "the work has only {number} of these on leg {leg}");
        }
    }
}

/// A leader dies with half an entry, then the leg is lost that has it: who followed must not have believed it.
fn half_an_entry_and_its_leg_are_lost() {
    for seed in 0..3 {
        let pair = Pair::new(950 + seed);
        let network = Arc::new(Network::default());
        pair.runtime.block_on(async {
            let lives: Vec<Life> = pair.members(&network, &[1, 2, 3]).await;
            let (leader, reader, next) = (&lives[0], &lives[1], &lives[2]);
            leader.group.set_config("a", Some("1")).await.unwrap();
            assert_eq!(reader.group.config("a").await.unwrap().as_deref(), Some("1"));
            assert_eq!(next.group.config("a").await.unwrap().as_deref(), Some("1"));
            let label = leader.group.label().clone();
            let journal = pair.disks[1].peek(label.journal_offset(), label.journal_bytes as usize);
            leader.group.set_config("a", Some("2")).await.unwrap();
            // As if it had died before the write of the second leg.
            pair.kill(leader);
            pair.disks[1].overwrite(label.journal_offset(), &journal);
            reader.group.catch_up().await.unwrap();
            pair.disks[0].break_down(EIO);
            install(&[next, reader], &[3, 2], 2).await;
            next.group.set_config("b", Some("3")).await.unwrap();
            for group in [&next.group, &reader.group] {
                assert_eq!(group.config("b").await.unwrap().as_deref(), Some("3"));
                assert_eq!(group.config("a").await.unwrap().as_deref(), Some("1"));
            }
        });
    }
}

#[test]
fn half_an_entry_is_not_believed() {
    half_an_entry_and_its_leg_are_lost();
    assert!(fails_with(
        Defect::BelieveOneLeg,
        half_an_entry_and_its_leg_are_lost
    ));
}
