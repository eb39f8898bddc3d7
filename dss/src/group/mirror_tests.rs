//! Tests of mirrored volumes, on two simulated disks that fail, come back, and lose power in the middle of a write.

use super::decrees::Decrees;
use super::tests::{Network, check_units, connect, node, tiny};
use super::volume_tests::{fill, first_byte, sized};
use super::*;
use crate::device::{CutPoint, SimDevice, SimDisk, SimDiskOptions};
use crate::seam::{BlockDevice, IoBuffer, Runtime};
use crate::testing::{TestHandle, TestRuntime};
use aquifer_dss_proto::catalog::{Legs, MirrorState, OperationError, UnitAccess};
use aquifer_dss_proto::defect::{Defect, fails_with};
use aquifer_dss_proto::{Epoch, FileId, Incarnation, Member};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

pub(super) const UNIT: u64 = 8192;
pub(super) const EIO: i32 = libc::EIO;

/// The two legs of the only volume.
#[derive(Clone)]
pub(super) struct Pair {
    pub(super) runtime: Arc<TestHandle>,
    pub(super) disks: [SimDisk; 2],
    decrees: Decrees,
}

/// A node with its own way to both legs.
#[derive(Clone)]
pub(super) struct Life {
    pub(super) group: Arc<VolumeGroup>,
    pub(super) ports: [Arc<SimDevice>; 2],
}

pub(super) fn life(id: u8) -> Member {
    Member {
        node: node(id),
        incarnation: Incarnation(u64::from(id)),
    }
}

impl Pair {
    pub(super) fn new(seed: u64) -> Self {
        Self::with_disks(seed, |_| {})
    }

    fn with_disks(seed: u64, change: fn(&mut SimDiskOptions)) -> Self {
        let runtime = TestRuntime::new(seed);
        let disk = |seed| {
            let mut options = SimDiskOptions::new(9 << 20, seed);
            change(&mut options);
            SimDisk::new(options)
        };
        let disks = [disk(seed), disk(seed + 1000)];
        let decrees = Decrees::default();
        let pair = Self {
            runtime,
            disks,
            decrees,
        };
        let devices = pair.ports();
        let new = [0u8, 1].map(|leg| NewDevice {
            device: &*devices[usize::from(leg)],
            path: "",
            failure_group: leg,
        });
        let options = GroupOptions {
            mirror: true,
            ..tiny()
        };
        pair.runtime
            .block_on(VolumeGroup::format_all(&new, &options))
            .unwrap();
        pair
    }

    pub(super) fn ports(&self) -> [Arc<SimDevice>; 2] {
        self.disks
            .each_ref()
            .map(|disk| disk.attach(self.runtime.clone()))
    }

    pub(super) async fn open(&self, id: u8) -> Result<Life, StorageError> {
        let ports = self.ports();
        let devices: Vec<Arc<dyn BlockDevice>> = vec![ports[1].clone(), ports[0].clone()];
        let group = VolumeGroup::open(self.runtime.clone(), devices, node(id)).await?;
        self.decrees.follow(&self.runtime, &group);
        Ok(Life { group, ports })
    }

    /// A node that is alone, and leads.
    pub(super) async fn alone(&self, epoch: u64) -> Result<Arc<VolumeGroup>, StorageError> {
        let life = self.open(1).await?;
        life.group.lead(Epoch(epoch)).await?;
        Ok(life.group)
    }

    /// Members of the first view; the first of them leads.
    pub(super) async fn members(&self, network: &Arc<Network>, ids: &[u8]) -> Vec<Life> {
        let mut lives = Vec::new();
        for id in ids {
            let one = self.open(*id).await.unwrap();
            connect(network, &one.group, *id);
            lives.push(one);
        }
        install(&lives.iter().collect::<Vec<_>>(), ids, 1).await;
        lives
    }

    /// The process of a node ends: what it was writing is there, or not, or in part, on each leg as it happens.
    pub(super) fn kill(&self, dead: &Life) {
        self.runtime.tolerate_aborts();
        for (disk, port) in self.disks.iter().zip(&dead.ports) {
            disk.kill(port.port());
        }
    }

    /// The power of both disks fails and is back; every process is gone.
    pub(super) fn power_cycle(&self) {
        self.runtime.drop_tasks();
        for disk in &self.disks {
            disk.power_cut();
            disk.power_on();
        }
    }

    pub(super) async fn until(&self, done: impl Fn() -> bool) {
        let deadline = self.runtime.now() + Duration::from_secs(60);
        while !done() {
            assert!(self.runtime.now() < deadline, "it never comes");
            self.runtime.sleep(Duration::from_micros(100)).await;
        }
    }

    /// Both legs have the same bytes in every unit of a file.
    pub(super) fn assert_alike(&self, group: &VolumeGroup, file: FileId) {
        let places: Vec<u64> = group.with_catalog(|catalog| {
            let inode = catalog.inode(file).unwrap();
            let stat = super::volume_group::stat_inode(catalog, file, inode);
            let units = stat.extents.into_iter().flat_map(|run| {
                let first = catalog.offset_of(&run);
                (0..u64::from(run.count)).map(move |at| first + at * UNIT)
            });
            units.collect()
        });
        for (unit, offset) in places.into_iter().enumerate() {
            let [a, b] = self.disks.each_ref().map(|disk| disk.peek(offset, UNIT as usize));
            assert!(a == b, "the legs differ in unit {unit}");
        }
    }
}

/// Installs a view at its members; the first of them leads.
pub(super) async fn install(lives: &[&Life], ids: &[u8], epoch: u64) {
    let members: Vec<Member> = ids.iter().map(|id| life(*id)).collect();
    for one in lives {
        one.group.set_lives(&members);
    }
    // The leader's entry may come late.
    for one in &lives[1..] {
        one.group.follow(Epoch(epoch), node(ids[0]));
    }
    lives[0].group.lead(Epoch(epoch)).await.unwrap();
}

pub(super) fn state(group: &VolumeGroup) -> MirrorState {
    group.with_catalog(|catalog| catalog.mirror(0).unwrap().state)
}

async fn block(group: &VolumeGroup, file: FileId, at: u64) -> Result<Vec<u8>, StorageError> {
    let read = group.read_at(file, at, IoBuffer::zeroed(4096)).await?;
    Ok(read.to_vec())
}

/// Reads a block so often that both legs are read, and finds the same each time.
async fn stable(group: &VolumeGroup, file: FileId, at: u64) -> Vec<u8> {
    let first = block(group, file, at).await.unwrap();
    for _ in 0..5 {
        let again = block(group, file, at).await.unwrap();
        assert!(again == first, "two reads of unit {} differ", at / UNIT);
    }
    first
}

pub(super) async fn returned(pair: &Pair, group: &VolumeGroup) {
    group.resync_leg(0).await.unwrap();
    pair.until(|| state(group) == MirrorState::Both).await;
}

#[test]
fn a_pair_is_one_volume_and_its_legs_are_found_in_any_order() {
    let pair = Pair::new(1);
    pair.runtime.block_on(async {
        let one = pair.open(1).await.unwrap();
        let status = one.group.volume_status();
        assert_eq!(status.len(), 1);
        assert_eq!(state(&one.group), MirrorState::Both);
        let first: Vec<Arc<dyn BlockDevice>> = vec![one.ports[1].clone()];
        let headless = VolumeGroup::open(pair.runtime.clone(), first, node(1)).await;
        let refused = headless.err().unwrap().to_string();
        assert!(refused.contains("side 0 of volume 0 cannot be used"), "{refused}");
    });
    let devices = pair.ports();
    let new = |failure_group| NewDevice {
        device: &*devices[0],
        path: "",
        failure_group,
    };
    let options = GroupOptions {
        mirror: true,
        force: true,
        ..tiny()
    };
    for wrong in [vec![new(0)], vec![new(1), new(1)], vec![]] {
        let refused = pair.runtime.block_on(VolumeGroup::format_all(&wrong, &options));
        assert!(matches!(refused, Err(StorageError::Invalid(_))));
    }
}

#[test]
fn both_legs_are_written_and_both_are_read() {
    let pair = Pair::new(2);
    pair.runtime.block_on(async {
        let group = pair.alone(1).await.unwrap();
        let file = group.create("/file", sized(20 * UNIT)).await.unwrap();
        for unit in 0..20 {
            fill(&group, file, unit * UNIT, unit as u8 + 1).await.unwrap();
        }
        pair.assert_alike(&group, file);
        let before = pair.disks.each_ref().map(|disk| disk.counters().reads);
        for unit in 0..20 {
            assert_eq!(
                first_byte(&group, file, unit * UNIT).await.unwrap(),
                unit as u8 + 1
            );
        }
        let reads = [0, 1].map(|leg| pair.disks[leg].counters().reads - before[leg]);
        assert!(reads.iter().all(|reads| *reads >= 8), "{reads:?}");
        check_units(&group);
    });
}

#[test]
fn a_leg_that_fails_is_left_behind_and_catches_up_when_it_returns() {
    let pair = Pair::new(3);
    pair.runtime.block_on(async {
        let group = pair.alone(1).await.unwrap();
        let file = group.create("/file", sized(40 * UNIT)).await.unwrap();
        fill(&group, file, 0, 1).await.unwrap();
        group.flush().await.unwrap();
        pair.disks[1].break_down(EIO);
        for unit in 0..10 {
            fill(&group, file, unit * UNIT, 7).await.unwrap();
            assert_eq!(first_byte(&group, file, unit * UNIT).await.unwrap(), 7);
        }
        assert_eq!(state(&group), MirrorState::Out { leg: 1, since: None });
        let refused = group.detach_leg(0, 0).await.err().unwrap();
        assert!(
            refused.is(OperationError::LastLeg),
            "the last one stays: {refused}"
        );
        let early = group.resync_leg(0).await.err().unwrap();
        assert!(matches!(early, StorageError::RefusedVolume { .. }), "{early}");
        pair.disks[1].repair();
        let status = group.resync_status()[0];
        assert!((10 * UNIT..20 * UNIT).contains(&status.left), "{status:?}");
        returned(&pair, &group).await;
        pair.assert_alike(&group, file);
        let copied = pair.disks[1].counters().writes;
        // On its own now.
        pair.disks[0].break_down(EIO);
        assert_eq!(first_byte(&group, file, 3 * UNIT).await.unwrap(), 7);
        pair.disks[0].repair();
        assert!(copied < 200, "only what it lacks is copied: {copied} writes");
        group.flush().await.unwrap();
    });
}

#[test]
fn a_leg_that_missed_writes_is_not_read_after_a_restart_in_whatever_order_they_come_back() {
    let pair = Pair::new(4);
    let file = pair.runtime.block_on(async {
        let group = pair.alone(1).await.unwrap();
        let file = group.create("/file", sized(10 * UNIT)).await.unwrap();
        fill(&group, file, 0, 1).await.unwrap();
        pair.disks[1].break_down(EIO);
        fill(&group, file, 0, 2).await.unwrap();
        group.flush().await.unwrap();
        file
    });
    pair.power_cycle();
    pair.disks[1].repair();
    let old = pair.disks[1].durable_copy(77);
    pair.runtime.block_on(async {
        let group = pair.alone(2).await.unwrap();
        assert_eq!(stable(&group, file, 0).await, vec![2; 4096]);
        returned(&pair, &group).await;
        assert_eq!(stable(&group, file, 0).await, vec![2; 4096]);
    });
    pair.power_cycle();
    // A copy of the leg from before it was let in is refused, though its label is good.
    let with_old = Pair {
        runtime: pair.runtime.clone(),
        disks: [pair.disks[0].clone(), old],
        decrees: Decrees::default(),
    };
    let refused = pair.runtime.block_on(with_old.open(1)).err().unwrap();
    assert!(refused.to_string().contains("old copy"), "{refused}");
}

#[test]
fn a_group_starts_without_its_second_leg_and_detaches_it() {
    starts_without_its_second_leg(false);
    starts_without_its_second_leg(true);
}

/// The device of the leg is not there, or `named` and broken.
fn starts_without_its_second_leg(named: bool) {
    let pair = Pair::new(5);
    let file = pair.runtime.block_on(async {
        let group = pair.alone(1).await.unwrap();
        let file = group.create("/file", sized(10 * UNIT)).await.unwrap();
        fill(&group, file, 0, 1).await.unwrap();
        group.flush().await.unwrap();
        file
    });
    pair.power_cycle();
    pair.runtime.block_on(async {
        pair.disks[1].break_down(EIO);
        let ports = pair.ports().map(|port| -> Arc<dyn BlockDevice> { port });
        let count = if named { 2 } else { 1 };
        let open = |lost| {
            let devices = ports[..count].to_vec();
            VolumeGroup::open_without(pair.runtime.clone(), devices, None, node(1), lost)
        };
        // The other one may have been dropped, for all that this one knows; so somebody has to answer for it.
        let refused = open(None).await.err().unwrap();
        assert!(
            matches!(refused, StorageError::OneSide { side: 1, .. }),
            "{refused}"
        );
        let group = open(Some(1)).await.unwrap();
        group.lead(Epoch(2)).await.unwrap();
        assert_eq!(first_byte(&group, file, 0).await.unwrap(), 1);
        fill(&group, file, 0, 2).await.unwrap();
        pair.until(|| state(&group) == MirrorState::Out { leg: 1, since: None })
            .await;
        assert_eq!(first_byte(&group, file, 0).await.unwrap(), 2);
    });
}

fn an_acknowledged_write_is_read_everywhere() {
    for seed in 0..6 {
        let pair = Pair::new(100 + seed);
        let network = Arc::new(Network::default());
        pair.runtime.block_on(async {
            let lives = pair.members(&network, &[1, 2]).await;
            let file = lives[0].group.create("/file", sized(20 * UNIT)).await.unwrap();
            for unit in 0..8 {
                fill(&lives[0].group, file, unit * UNIT, 1).await.unwrap();
                stable(&lives[1].group, file, unit * UNIT).await;
            }
            // Only one of them sees the leg fail.
            pair.disks[1].fail(lives[0].ports[1].port(), 0, EIO);
            for unit in 0..8 {
                fill(&lives[0].group, file, unit * UNIT, 2).await.unwrap();
                assert_eq!(stable(&lives[1].group, file, unit * UNIT).await, vec![2; 4096]);
            }
        });
    }
}

#[test]
fn a_write_that_missed_a_leg_is_acknowledged_when_nobody_reads_that_leg() {
    an_acknowledged_write_is_read_everywhere();
    assert!(fails_with(
        Defect::AcknowledgeBeforePassed,
        an_acknowledged_write_is_read_everywhere
    ));
}

/// Writes rising numbers to one block from both nodes by turns, and reads each back at the other.
async fn turns(
    pair: Pair,
    lives: Vec<Life>,
    file: FileId,
    unit: u64,
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
) {
    let mut value = 1u8;
    while !stop.load(Ordering::Relaxed) {
        for (writer, reader) in [(0, 1), (1, 0)] {
            // Not the same unit for long: some are written for the first time while a leg is out.
            let at = (unit + u64::from(value) % 9) * UNIT;
            fill(&lives[writer].group, file, at, value).await.unwrap();
            let read = stable(&lives[reader].group, file, at).await;
            assert_eq!(
                read,
                vec![value; 4096],
                "unit {unit}: a write of node {}",
                writer + 1
            );
            value = value.wrapping_add(1).max(1);
        }
        pair.runtime.sleep(Duration::from_micros(300)).await;
    }
    done.fetch_add(1, Ordering::Relaxed);
}

/// Legs fail, are detached and come back under two nodes that write; at the end they are alike.
fn legs_come_and_go(seed: u64) {
    let pair = Pair::new(seed);
    let network = Arc::new(Network::default());
    pair.runtime.block_on(async {
        let lives = pair.members(&network, &[1, 2]).await;
        let file = lives[1].group.create("/file", sized(63 * UNIT)).await.unwrap();
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let units: Vec<u64> = (0..60).step_by(9).collect();
        for unit in &units {
            let work = turns(
                pair.clone(),
                lives.clone(),
                file,
                *unit,
                stop.clone(),
                done.clone(),
            );
            pair.runtime.spawn("turns", Box::pin(work));
        }
        for round in 0..4 {
            pair.runtime.sleep(Duration::from_millis(3)).await;
            if round % 2 == 0 {
                pair.disks[1].break_down(EIO);
            } else {
                lives[1].group.detach_leg(0, 1).await.unwrap();
            }
            let out = MirrorState::Out { leg: 1, since: None };
            pair.until(|| state(&lives[0].group) == out).await;
            pair.runtime.sleep(Duration::from_millis(5)).await;
            pair.disks[1].repair();
            returned(&pair, &lives[0].group).await;
        }
        stop.store(true, Ordering::Relaxed);
        pair.until(|| done.load(Ordering::Relaxed) == units.len() as u64)
            .await;
        pair.assert_alike(&lives[0].group, file);
        check_units(&lives[0].group);
    });
}

fn coming_and_going() {
    for seed in 0..6 {
        legs_come_and_go(200 + seed);
    }
}

#[test]
fn what_one_node_writes_the_other_reads_while_legs_come_and_go() {
    coming_and_going();
}

#[test]
fn each_rule_of_a_leg_that_returns_is_missed_when_it_is_gone() {
    assert!(fails_with(Defect::WriteBeforeDirty, coming_and_going));
    assert!(fails_with(Defect::SyncBesideWriters, coming_and_going));
}

/// Keeps writing one block of a unit until its device is taken away.
async fn write_until_killed(
    group: Arc<VolumeGroup>,
    file: FileId,
    unit: u64,
    offset: u64,
    told: Arc<Mutex<Vec<u8>>>,
) {
    let mut value = 1u8;
    while fill(&group, file, unit * UNIT + offset, value).await.is_ok() {
        told.lock()[unit as usize] = value;
        value = value.wrapping_add(1).max(1);
    }
}

/// A node dies in the middle of its writes; a follower reads in the new view, perhaps before its leader has begun.
fn a_writer_dies(seed: u64) {
    let pair = Pair::new(seed);
    let network = Arc::new(Network::default());
    pair.runtime.block_on(async {
        let lives = pair.members(&network, &[1, 2, 3]).await;
        let file = lives[0].group.create("/file", sized(12 * UNIT)).await.unwrap();
        for unit in 0..12 {
            fill(&lives[0].group, file, unit * UNIT, 0).await.unwrap();
            fill(&lives[0].group, file, unit * UNIT + 4096, 0).await.unwrap();
        }
        let told = Arc::new(Mutex::new(vec![0; 12]));
        for unit in 0..12 {
            let work = write_until_killed(lives[1].group.clone(), file, unit, 0, told.clone());
            pair.runtime.spawn("write", Box::pin(work));
        }
        pair.until(|| told.lock().iter().all(|value| *value > 0)).await;
        pair.runtime
            .sleep(Duration::from_micros(2000 + seed * 37 % 900))
            .await;
        pair.kill(&lives[1]);
        for disk in &pair.disks {
            disk.attach(pair.runtime.clone()).flush().await.unwrap();
        }
        // The follower is told of the view first, and the leader's entry takes its time.
        let members = [life(1), life(3)];
        lives[2].group.set_lives(&members);
        lives[2].group.follow(Epoch(2), node(1));
        let early: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
        let (group, reads) = (lives[2].group.clone(), early.clone());
        let read = async move {
            for unit in 0..12 {
                let read = stable(&group, file, unit * UNIT).await;
                reads.lock().push(read);
            }
        };
        pair.runtime.spawn("read early", Box::pin(read));
        pair.runtime.sleep(Duration::from_millis(20)).await;
        lives[0].group.set_lives(&members);
        lives[0].group.lead(Epoch(2)).await.unwrap();
        for unit in 0..12 {
            let seen = stable(&lives[0].group, file, unit * UNIT).await;
            pair.until(|| early.lock().len() > unit as usize).await;
            let early = early.lock()[unit as usize].clone();
            assert!(early == seen, "unit {unit} was read as something else before");
        }
        pair.until(|| lives[0].group.with_catalog(|catalog| catalog.torn_units() == 0))
            .await;
        pair.assert_alike(&lives[0].group, file);
    });
}

fn writers_die() {
    for seed in 0..10 {
        a_writer_dies(300 + seed);
    }
}

#[test]
fn hz21_what_a_dead_writer_left_on_one_side_is_read_by_nobody() {
    writers_die();
}

#[test]
fn hz21_each_rule_of_torn_units_is_missed_when_it_is_gone() {
    assert!(fails_with(Defect::WriteWithoutIntent, writers_die));
    assert!(fails_with(Defect::ForgetIntentsOfDead, writers_die));
    assert!(fails_with(Defect::ReadTornUnits, writers_die));
    assert!(fails_with(Defect::TrustMapBeforeLead, writers_die));
}

/// One of two nodes that write to the same units dies; the other goes on while they are compared.
fn the_living_go_on(seed: u64) {
    let pair = Pair::new(seed);
    let network = Arc::new(Network::default());
    pair.runtime.block_on(async {
        let lives = pair.members(&network, &[1, 2, 3]).await;
        let file = lives[0].group.create("/file", sized(8 * UNIT)).await.unwrap();
        // What each of the two has been told.
        let told = [(); 2].map(|()| Arc::new(Mutex::new(vec![0; 8])));
        for unit in 0..8 {
            for (writer, offset) in [(1, 0), (2, 4096)] {
                let (group, told) = (lives[writer].group.clone(), told[writer - 1].clone());
                let work = write_until_killed(group, file, unit, offset, told);
                pair.runtime.spawn("write", Box::pin(work));
            }
        }
        let begun = |told: &Arc<Mutex<Vec<u8>>>| told.lock().iter().all(|value| *value > 0);
        pair.until(|| told.iter().all(begun)).await;
        pair.runtime
            .sleep(Duration::from_micros(3000 + seed * 41 % 700))
            .await;
        pair.kill(&lives[1]);
        for disk in &pair.disks {
            disk.attach(pair.runtime.clone()).flush().await.unwrap();
        }
        install(&[&lives[0], &lives[2]], &[1, 3], 2).await;
        pair.until(|| lives[0].group.with_catalog(|catalog| catalog.torn_units() == 0))
            .await;
        pair.runtime.sleep(Duration::from_millis(2)).await;
        pair.kill(&lives[2]);
        // Of what was acknowledged nothing differs: those who died later are compared again.
        for disk in &pair.disks {
            disk.attach(pair.runtime.clone()).flush().await.unwrap();
        }
        install(&[&lives[0]], &[1], 3).await;
        for unit in 0..8 {
            let last = told[1].lock()[unit as usize];
            let seen = stable(&lives[0].group, file, unit * UNIT + 4096).await;
            let next = last.wrapping_add(1).max(1);
            let fits = seen.iter().all(|byte| *byte == last || *byte == next);
            assert!(fits, "unit {unit}: {last} was acknowledged, {} is there", seen[0]);
            assert_eq!(stable(&lives[0].group, file, unit * UNIT).await.len(), 4096);
        }
        pair.assert_alike(&lives[0].group, file);
    });
}

#[test]
fn hz21_the_living_write_while_torn_units_are_compared() {
    for seed in 0..10 {
        the_living_go_on(400 + seed);
    }
}

/// A node dies that shared a unit with another one, whose write is on the second leg and not yet on the first.
fn a_slow_writer_lives() {
    let pair = Pair::new(7);
    let network = Arc::new(Network::default());
    pair.runtime.block_on(async {
        let lives = pair.members(&network, &[1, 2, 3]).await;
        let file = lives[0].group.create("/file", sized(UNIT)).await.unwrap();
        fill(&lives[1].group, file, 0, 1).await.unwrap();
        fill(&lives[2].group, file, 4096, 2).await.unwrap();
        pair.disks[0].slow_down(lives[2].ports[0].port(), Duration::from_millis(30));
        let (group, done) = (lives[2].group.clone(), Arc::new(AtomicBool::new(false)));
        let told = done.clone();
        let work = async move {
            fill(&group, file, 4096, 9).await.unwrap();
            told.store(true, Ordering::Release);
        };
        pair.runtime.spawn("write", Box::pin(work));
        pair.runtime.sleep(Duration::from_millis(3)).await;
        pair.kill(&lives[1]);
        install(&[&lives[0], &lives[2]], &[1, 3], 2).await;
        assert!(!done.load(Ordering::Acquire), "the write is still on its way");
        pair.until(|| lives[0].group.with_catalog(|catalog| catalog.torn_units() == 0))
            .await;
        pair.until(|| done.load(Ordering::Acquire)).await;
        pair.assert_alike(&lives[0].group, file);
    });
}

#[test]
fn hz21_torn_units_are_compared_when_the_living_have_stopped_writing_there() {
    a_slow_writer_lives();
    assert!(fails_with(Defect::HealBesideWriters, a_slow_writer_lives));
}

/// More units than intents are written and nothing is flushed by the program; then the power fails.
/// The power of one leg fails in the nth flush while intents go out for new ones, right after what they are for was written.
fn the_power_of_a_leg_fails(seed: u64, flush: u64) {
    let pair = Pair::new(seed);
    let units = 400;
    let file = pair.runtime.block_on(async {
        let group = pair.alone(1).await.unwrap();
        let file = group.create("/file", sized(units * UNIT)).await.unwrap();
        let write = |units: std::ops::Range<u64>, value| {
            let writes = units.map(|unit| fill(&group, file, unit * UNIT, value));
            futures_util::future::join_all(writes)
        };
        // As many as there are intents; and again, which needs no entry and so no flush.
        write(0..256, 5).await;
        write(0..256, 6).await;
        pair.disks[1].cut_at(CutPoint::DuringFlush(flush));
        pair.runtime.tolerate_aborts();
        let write = write(256..units, 5);
        tokio::select! {
            biased;
            () = async { while pair.disks[1].has_power() { pair.runtime.sleep(Duration::from_micros(10)).await } } => {}
            _ = write => {}
        }
        file
    });
    pair.power_cycle();
    pair.runtime.block_on(async {
        let group = pair.alone(2).await.unwrap();
        for unit in 0..units {
            stable(&group, file, unit * UNIT).await;
        }
    });
}

fn the_power_fails(seed: u64) {
    let pair = Pair::new(seed);
    let units = 400;
    let file = pair.runtime.block_on(async {
        let group = pair.alone(1).await.unwrap();
        let file = group.create("/file", sized(units * UNIT)).await.unwrap();
        for unit in 0..units {
            fill(&group, file, unit * UNIT, 5).await.unwrap();
        }
        let life = group.writer();
        let intents = group.with_catalog(|catalog| catalog.intents(life).count());
        assert!((200..=256).contains(&intents), "{intents}");
        let asked = group.with_catalog(|catalog| catalog.next_volume()); // The catalogue is there.
        assert_eq!(asked, 1);
        file
    });
    pair.power_cycle();
    pair.runtime.block_on(async {
        let group = pair.alone(2).await.unwrap();
        for unit in 0..units {
            stable(&group, file, unit * UNIT).await;
        }
        assert_eq!(group.with_catalog(|catalog| catalog.torn_units()), 0);
    });
}

fn powers_fail() {
    for seed in 0..3 {
        the_power_fails(500 + seed);
    }
    for flush in 1..6 {
        the_power_of_a_leg_fails(520 + flush, flush);
    }
}

#[test]
fn hz21_an_intent_stays_until_both_legs_were_flushed() {
    powers_fail();
    assert!(fails_with(Defect::ClearIntentBeforeFlush, powers_fail));
}

#[test]
fn random_writes_over_as_many_units_as_there_are_intents_cost_few_entries() {
    let pair = Pair::new(6);
    pair.runtime.block_on(async {
        let group = pair.alone(1).await.unwrap();
        let file = group.create("/file", sized(250 * UNIT)).await.unwrap();
        let before = group.known.read().applied;
        for round in 0..4u64 {
            let writes = (0..250).map(|unit| fill(&group, file, (unit * 7 + round) % 250 * UNIT, 1));
            let written = futures_util::future::join_all(writes).await;
            assert!(written.iter().all(Result::is_ok));
        }
        let entries = group.known.read().applied - before;
        assert!(entries <= 8, "{entries} entries for 1000 writes");
        group.give_intents_back().await.unwrap();
        let life = group.writer();
        assert_eq!(group.with_catalog(|catalog| catalog.intents(life).count()), 0);
    });
}

/// A leg fails, writes go on, it returns: cut anywhere.
async fn detach_write_resync(pair: &Pair, file: FileId, told: &Mutex<Vec<u8>>) -> Result<(), StorageError> {
    let group = pair.alone(2).await?;
    let write = |unit: u64, value: u8| {
        let group = &group;
        async move {
            fill(group, file, unit * UNIT, value).await?;
            group.flush().await?;
            told.lock()[unit as usize] = value;
            Ok::<(), StorageError>(())
        }
    };
    for unit in 0..4 {
        write(unit, 1).await?;
    }
    group.detach_leg(0, 1).await?;
    for unit in 2..6 {
        write(unit, 2).await?;
    }
    group.resync_leg(0).await?;
    while state(&group) != MirrorState::Both {
        let next = told.lock()[3] + 1;
        write(3, next).await?;
    }
    write(4, 9).await
}

fn cut_pair(seed: u64, leg: usize, point: CutPoint) -> bool {
    let pair = Pair::new(seed);
    let file = pair.runtime.block_on(async {
        let group = pair.alone(1).await.unwrap();
        let file = group.create("/file", sized(8 * UNIT)).await.unwrap();
        for unit in 0..8 {
            fill(&group, file, unit * UNIT, 0).await.unwrap();
        }
        group.flush().await.unwrap();
        file
    });
    pair.runtime.drop_tasks();
    let told = Mutex::new(vec![0; 8]);
    pair.disks[leg].cut_at(point);
    pair.runtime.tolerate_aborts();
    let powered = || pair.disks.iter().all(SimDisk::has_power);
    let done = pair.runtime.block_on(async {
        tokio::select! {
            biased;
            () = async { while powered() { pair.runtime.sleep(Duration::from_micros(10)).await } } => false,
            done = detach_write_resync(&pair, file, &told) => done.is_ok(),
        }
    });
    pair.power_cycle();
    pair.runtime.block_on(async {
        let group = pair.alone(5).await.expect("a cut group opens");
        if matches!(state(&group), MirrorState::Out { .. }) {
            pair.until(|| state(&group) == MirrorState::Out { leg: 1, since: None })
                .await;
            group.resync_leg(0).await.unwrap();
        }
        pair.until(|| state(&group) == MirrorState::Both).await;
        let told = told.lock().clone();
        for (unit, value) in told.iter().enumerate() {
            let seen = stable(&group, file, unit as u64 * UNIT).await;
            // What was told, or, torn at 512 bytes, what was being written.
            let next = if unit == 4 && *value == 2 { 9 } else { value + 1 };
            let fits = |byte: &u8| *byte == *value || *byte == next || (*value == 0 && *byte <= 2);
            assert!(
                seen.iter().all(fits),
                "unit {unit}: {value} was told, {} is there",
                seen[0]
            );
        }
        pair.until(|| group.with_catalog(|catalog| catalog.torn_units() == 0))
            .await;
        pair.assert_alike(&group, file);
        check_units(&group);
    });
    done
}

#[test]
fn a_leg_that_goes_and_returns_loses_nothing_wherever_it_is_cut() {
    for leg in [0, 1] {
        for kind in [CutPoint::DuringWrite, CutPoint::DuringFlush, CutPoint::AfterFlush] {
            let mut number = 1;
            while !cut_pair(600 + number, leg, kind(number)) {
                number += 1;
                assert!(number < 1000, "it never ends");
            }
            assert!(number > 8, "the work has only {number} of these on leg {leg}");
        }
    }
}

#[test]
fn the_last_leg_is_not_detached_and_its_failure_is_the_writers() {
    let pair = Pair::new(7);
    pair.runtime.block_on(async {
        let group = pair.alone(1).await.unwrap();
        let file = group.create("/file", sized(4 * UNIT)).await.unwrap();
        fill(&group, file, 0, 1).await.unwrap();
        group.detach_leg(0, 1).await.unwrap();
        let access = group.with_catalog(|catalog| catalog.read_access(0, 0));
        assert_eq!(access, UnitAccess::Legs(Legs::only(0)));
        let added = group.add_volume("x", &AddVolumeOptions::default()).await;
        assert!(matches!(added, Err(StorageError::Invalid(_))));
        let again = group.resync_leg(1).await.err().unwrap();
        assert!(again.is(OperationError::NotMirrored), "{again}");
    });
}

#[test]
fn both_legs_are_discarded_and_stay_alike() {
    for alike in [true, false] {
        let pair = Pair::with_disks(
            11,
            if alike {
                |options| options.discards_to_zeros = true
            } else {
                |_| {}
            },
        );
        pair.runtime.block_on(async {
            let group = pair.alone(1).await.unwrap();
            let file = group.create("/f", sized(5 * UNIT)).await.unwrap();
            fill(&group, file, 0, 5).await.unwrap();
            let units = group.stat_path("/f").await.unwrap().extents;
            group.remove("/f").await.unwrap();
            pair.runtime.sleep(Duration::from_secs(3)).await;
            assert_eq!(group.space().waiting, 0);
            let offset = group.with_catalog(|catalog| catalog.offset_of(&units[0]));
            let legs = pair.disks.each_ref().map(|disk| disk.peek(offset, UNIT as usize));
            assert_eq!(legs[0], legs[1]);
            let zeros = legs[0].iter().all(|byte| *byte == 0);
            assert_eq!((zeros, group.discard_status().bytes > 0), (alike, alike));
        });
    }
}
