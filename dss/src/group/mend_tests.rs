//! Tests of wrong bytes on one leg of a mirrored volume: who knows a checksum reads the other, and the leader writes them again.

use super::mirror_tests::{EIO, Life, Pair, UNIT, install, life, returned, state};
use super::tests::{Network, check_units, node};
use super::volume_tests::sized;
use super::*;
use crate::seam::{IoBuffer, Runtime};
use aquifer_dss_proto::catalog::{FileKind, MirrorState, Operation};
use aquifer_dss_proto::defect::{Defect, fails_with};
use aquifer_dss_proto::envelope::crc32c;
use aquifer_dss_proto::{Epoch, FileId};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const BLOCK: usize = 4096;

/// A block that says of itself whether it is right.
fn sealed(value: u8) -> IoBuffer {
    let mut block = IoBuffer::zeroed(BLOCK);
    block.fill(value);
    let crc = crc32c(&[&block[4..]]);
    block[..4].copy_from_slice(&crc.to_le_bytes());
    block
}

fn is_sealed(_: u64, block: &[u8]) -> bool {
    block[..4] == crc32c(&[&block[4..]]).to_le_bytes()
}

struct Blocks;

impl Judge for Blocks {
    fn chunk(&self, _: FileKind) -> Option<usize> {
        Some(BLOCK)
    }
    fn judge(&self, _: FileId, offset: u64, bytes: &[u8]) -> Quality {
        match is_sealed(offset, bytes) {
            true => Quality::Right,
            false if bytes.iter().all(|byte| *byte == 0) => Quality::Unwritten,
            false => Quality::Wrong,
        }
    }
}

async fn write(group: &VolumeGroup, file: FileId, at: u64, value: u8) -> Result<(), StorageError> {
    group.write_at(file, at, sealed(value)).await.map(drop)
}

/// The value of a block that is read with its checksum; it must be right.
async fn value(group: &VolumeGroup, file: FileId, at: u64) -> u8 {
    let buffer = IoBuffer::zeroed(BLOCK);
    let read = group.read_checked(file, at, buffer, BLOCK, &is_sealed).await;
    let read = read.unwrap();
    assert!(is_sealed(at, &read), "wrong bytes were read at {at}");
    read[BLOCK - 1]
}

/// Byte of the devices at which byte `at` of a file is.
fn place(group: &VolumeGroup, file: FileId, at: u64) -> u64 {
    group.with_catalog(|catalog| {
        let stat = super::volume_group::stat_inode(catalog, file, catalog.inode(file).unwrap());
        let unit = at / UNIT;
        let has = |run: &&aquifer_dss_proto::catalog::Extent| {
            u64::from(run.unit) <= unit && unit < u64::from(run.unit) + u64::from(run.count)
        };
        let run = stat.extents.iter().find(has).unwrap();
        catalog.offset_of(run) + at - u64::from(run.unit) * UNIT
    })
}

/// A byte decays on one leg, on the device and in its cache.
fn decay(pair: &Pair, group: &VolumeGroup, leg: usize, file: FileId, at: u64) {
    let offset = place(group, file, at) + 512;
    let byte = pair.disks[leg].peek(offset, 1)[0];
    pair.disks[leg].overwrite(offset, &[byte ^ 0x40]);
}

async fn until_mended(pair: &Pair, group: &VolumeGroup, bytes: u64) {
    pair.until(|| group.mend_counts().mended_bytes >= bytes).await;
    pair.until(|| {
        group.with_catalog(|catalog| catalog.mirrors().all(|(_, mirror)| mirror.holds().is_empty()))
    })
    .await;
}

#[test]
fn mir13_what_is_wrong_on_one_leg_is_read_from_the_other_and_written_again() {
    for leg in [0, 1] {
        let pair = Pair::new(800 + leg as u64);
        let network = Arc::new(Network::default());
        pair.runtime.block_on(async {
            let lives = pair.members(&network, &[1, 2]).await;
            let (leader, follower) = (&lives[0].group, &lives[1].group);
            let file = leader.create("/file", sized(20 * UNIT)).await.unwrap();
            for unit in 0..20 {
                write(leader, file, unit * UNIT, unit as u8 + 1).await.unwrap();
            }
            decay(&pair, leader, leg, file, 3 * UNIT);
            decay(&pair, leader, leg, file, 9 * UNIT);
            // The leader finds one, the follower tells it of the other.
            for (reader, unit) in [(leader, 3), (follower, 9)] {
                for _ in 0..6 {
                    assert_eq!(value(reader, file, unit * UNIT).await, unit as u8 + 1);
                }
            }
            until_mended(&pair, leader, 2 * BLOCK as u64).await;
            assert!(follower.mend_counts().wrong > 0);
            pair.assert_alike(leader, file);
            write(follower, file, 9 * UNIT, 77).await.unwrap();
            assert_eq!(value(leader, file, 9 * UNIT).await, 77);
            assert_eq!(leader.mend_counts().mended_bytes, 2 * BLOCK as u64);
            check_units(leader);
        });
    }
}

#[test]
fn what_is_right_nowhere_comes_as_it_is() {
    let pair = Pair::new(810);
    pair.runtime.block_on(async {
        let group = pair.alone(1).await.unwrap();
        let file = group.create("/file", sized(4 * UNIT)).await.unwrap();
        write(&group, file, 0, 5).await.unwrap();
        decay(&pair, &group, 0, file, 0);
        decay(&pair, &group, 1, file, 0);
        let buffer = IoBuffer::zeroed(BLOCK);
        let read = group
            .read_checked(file, 0, buffer, BLOCK, &is_sealed)
            .await
            .unwrap();
        assert!(!is_sealed(0, &read));
        assert_eq!(group.mend_counts(), MendCounts::default());
        // One leg only: there is nothing to compare with.
        group.detach_leg(0, 1).await.unwrap();
        assert!(group.read_sides(file, 0, BLOCK).await.unwrap().is_none());
    });
}

/// Writes rising values to one block while it decays on a leg again and again; at the end both legs have the last one.
fn a_block_decays_under_its_writer(seed: u64) {
    let pair = Pair::new(seed);
    let network = Arc::new(Network::default());
    pair.runtime.block_on(async {
        let lives = pair.members(&network, &[1, 2]).await;
        let (leader, follower) = (lives[0].group.clone(), lives[1].group.clone());
        let file = leader.create("/file", sized(UNIT)).await.unwrap();
        write(&leader, file, 0, 0).await.unwrap();
        write(&leader, file, 4096, 1).await.unwrap();
        let (stop, told) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (ended, last) = (stop.clone(), told.clone());
        let runtime = pair.runtime.clone();
        let work = async move {
            let mut next = 1;
            while !ended.load(Ordering::Relaxed) {
                write(&follower, file, 0, next as u8).await.unwrap();
                last.store(next, Ordering::Relaxed);
                next += 1;
                runtime.sleep(Duration::from_micros(700)).await;
            }
            last.store(u64::MAX, Ordering::Relaxed);
        };
        pair.runtime.spawn("write", Box::pin(work));
        for round in 0..40 {
            decay(&pair, &leader, (round + seed as usize) % 2, file, 0);
            for _ in 0..4 {
                let known = told.load(Ordering::Relaxed);
                let buffer = IoBuffer::zeroed(BLOCK);
                let read = leader
                    .read_checked(file, 0, buffer, BLOCK, &is_sealed)
                    .await
                    .unwrap();
                let is_old = u64::from(read[BLOCK - 1]) < (known & 255) && known % 256 < 250;
                assert!(
                    !is_old || known > 255 || !is_sealed(0, &read),
                    "an older value was read"
                );
            }
            pair.runtime.sleep(Duration::from_micros(300)).await;
        }
        stop.store(true, Ordering::Relaxed);
        pair.until(|| told.load(Ordering::Relaxed) == u64::MAX).await;
        for _ in 0..6 {
            value(&leader, file, 0).await;
        }
        pair.runtime.sleep(Duration::from_millis(20)).await;
        pair.assert_alike(&leader, file);
    });
}

fn blocks_decay() {
    for seed in 0..8 {
        a_block_decays_under_its_writer(820 + seed);
    }
}

#[test]
fn mir13_nothing_newer_is_written_over() {
    blocks_decay();
    assert!(fails_with(Defect::MendBesideWriters, blocks_decay));
}

#[test]
fn what_a_dead_leader_held_can_be_written_under_the_next() {
    let pair = Pair::new(830);
    let network = Arc::new(Network::default());
    pair.runtime.block_on(async {
        let lives = pair.members(&network, &[1, 2]).await;
        let file = lives[1].group.create("/file", sized(4 * UNIT)).await.unwrap();
        write(&lives[1].group, file, 0, 1).await.unwrap();
        let start = (place(&lives[1].group, file, 0) - place_of_unit_zero(&lives[1].group)) / UNIT;
        let begin = Operation::BeginSync {
            volume: 0,
            start: start as u32,
            count: 1,
        };
        lives[0].group.append_as_leader(begin).await.unwrap();
        pair.kill(&lives[0]);
        install(&[&lives[1]], &[2], 2).await;
        write(&lives[1].group, file, 0, 2).await.unwrap();
        assert_eq!(value(&lives[1].group, file, 0).await, 2);
        assert_eq!(state(&lives[1].group), MirrorState::Both);
        // And the leg can go and return.
        pair.disks[1].break_down(EIO);
        write(&lives[1].group, file, 0, 3).await.unwrap();
        pair.disks[1].repair();
        returned(&pair, &lives[1].group).await;
        pair.assert_alike(&lives[1].group, file);
    });
}

fn place_of_unit_zero(group: &VolumeGroup) -> u64 {
    group.with_catalog(|catalog| catalog.volume(0).unwrap().au_offset)
}

/// A writer dies; of a unit that he may have been writing one leg has decayed, elsewhere than he wrote.
fn torn_units_are_healed_from_what_is_right() {
    for leg in [0, 1] {
        let pair = Pair::new(840 + leg as u64);
        let network = Arc::new(Network::default());
        pair.runtime.block_on(async {
            let lives: Vec<Life> = pair.members(&network, &[1, 2]).await;
            let leader = &lives[0].group;
            lives.iter().for_each(|one| one.group.set_judge(Arc::new(Blocks)));
            let file = leader.create("/file", sized(4 * UNIT)).await.unwrap();
            write(leader, file, 0, 1).await.unwrap();
            write(leader, file, 4096, 2).await.unwrap();
            // An intent of the other node, who dies.
            write(&lives[1].group, file, 0, 3).await.unwrap();
            leader.flush().await.unwrap();
            decay(&pair, leader, leg, file, 4096);
            pair.kill(&lives[1]);
            leader.set_lives(&[life(1)]);
            leader.lead(Epoch(2)).await.unwrap();
            assert_eq!(value(leader, file, 4096).await, 2);
            assert_eq!(value(leader, file, 0).await, 3);
            pair.until(|| leader.with_catalog(|catalog| catalog.torn_units() == 0))
                .await;
            pair.assert_alike(leader, file);
            assert_eq!(leader.leading(), Some(Epoch(2)), "{}", node(1));
        });
    }
}

#[test]
fn mir14_a_torn_unit_is_healed_from_what_is_right() {
    torn_units_are_healed_from_what_is_right();
    assert!(fails_with(
        Defect::CopyWithoutChecksum,
        torn_units_are_healed_from_what_is_right
    ));
}

async fn scrubbed(pair: &Pair, group: &VolumeGroup) -> ScrubStatus {
    group.scrub().unwrap();
    pair.until(|| !group.scrub_status().running).await;
    let status = group.scrub_status();
    assert_eq!(status.problem, None);
    assert_eq!(status.done, status.total);
    status
}

#[test]
fn mir15_a_scrub_heals_what_checksums_decide_and_names_the_rest() {
    let pair = Pair::new(850);
    let network = Arc::new(Network::default());
    pair.runtime.block_on(async {
        let lives = pair.members(&network, &[1, 2]).await;
        let (leader, follower) = (&lives[0].group, &lives[1].group);
        leader.set_judge(Arc::new(Blocks));
        let file = leader.create("/file", sized(20 * UNIT)).await.unwrap();
        for unit in 0..10 {
            write(follower, file, unit * UNIT, unit as u8 + 1).await.unwrap();
        }
        assert!(matches!(follower.scrub(), Err(StorageError::NotLeader(_))));
        assert_eq!(scrubbed(&pair, leader).await.mended, 0);
        for (leg, unit) in [(0, 2), (1, 3), (1, 7)] {
            decay(&pair, leader, leg, file, unit * UNIT);
        }
        let status = scrubbed(&pair, leader).await;
        assert_eq!((status.mended, status.different), (3 * BLOCK as u64, 0));
        pair.assert_alike(leader, file);
        // Wrong on both, and not in the same way.
        decay(&pair, leader, 0, file, 5 * UNIT);
        decay(&pair, leader, 1, file, 5 * UNIT + 64);
        let status = scrubbed(&pair, leader).await;
        assert_eq!((status.mended, status.different), (0, 1));
        let found = &status.differences[0];
        assert_eq!((found.path.as_str(), found.in_file), ("/file", 5 * UNIT));
        // A side that is out is no side to compare with.
        leader.detach_leg(0, 1).await.unwrap();
        leader.scrub().unwrap();
        pair.until(|| !leader.scrub_status().running).await;
        let problem = leader.scrub_status().problem.unwrap();
        assert!(problem.contains("side 1 of volume 0 is not current"), "{problem}");
    });
}

/// Scrubs again and again while somebody writes what it compares and it decays.
fn a_scrub_beside_a_writer(seed: u64) {
    let pair = Pair::new(seed);
    let network = Arc::new(Network::default());
    pair.runtime.block_on(async {
        let lives = pair.members(&network, &[1, 2]).await;
        let (leader, follower) = (lives[0].group.clone(), lives[1].group.clone());
        leader.set_judge(Arc::new(Blocks));
        let file = leader.create("/file", sized(4 * UNIT)).await.unwrap();
        for unit in 0..4 {
            write(&leader, file, unit * UNIT, 1).await.unwrap();
        }
        let stop = Arc::new(AtomicBool::new(false));
        let writers: Arc<AtomicU64> = Arc::default();
        for unit in 0..4 {
            let (group, ended, left) = (follower.clone(), stop.clone(), writers.clone());
            left.fetch_add(1, Ordering::Relaxed);
            let work = async move {
                let mut value = 1u8;
                while !ended.load(Ordering::Relaxed) {
                    write(&group, file, unit * UNIT, value).await.unwrap();
                    value = value.wrapping_add(1);
                }
                left.fetch_sub(1, Ordering::Relaxed);
            };
            pair.runtime.spawn("write", Box::pin(work));
        }
        for round in 0..12 {
            let unit = round % 4;
            decay(&pair, &leader, (round % 2) as usize, file, unit * UNIT);
            let status = scrubbed(&pair, &leader).await;
            assert_eq!(status.different, 0, "{:?}", status.differences);
        }
        stop.store(true, Ordering::Relaxed);
        pair.until(|| writers.load(Ordering::Relaxed) == 0).await;
        scrubbed(&pair, &leader).await;
        pair.assert_alike(&leader, file);
        for unit in 0..4 {
            value(&leader, file, unit * UNIT).await;
        }
    });
}

fn scrubs_beside_writers() {
    for seed in 0..6 {
        a_scrub_beside_a_writer(860 + seed);
    }
}

#[test]
fn mir15_a_scrub_writes_nothing_over_what_is_newer() {
    scrubs_beside_writers();
    assert!(fails_with(Defect::MendBesideWriters, scrubs_beside_writers));
}
