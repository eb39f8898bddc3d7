//! Tests of the volume group on the simulated disk.

use super::*;
use crate::device::{CutPoint, SimDisk, SimDiskOptions};
use crate::seam::{BlockDevice, IoBuffer, Runtime, Service, Tail, Transport};
use crate::testing::{TestHandle, TestRuntime};
use aquifer_dss_proto::catalog::{FileKind, OperationError};
use aquifer_dss_proto::defect::{Defect, fails_with};
use aquifer_dss_proto::label::{LABEL_OFFSETS, body_bytes, journal_offset};
use aquifer_dss_proto::{Epoch, HomeSlots, Incarnation, NodeId, NodeSet, PageSize};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

pub(super) fn node(id: u8) -> NodeId {
    NodeId::new(id).unwrap()
}

pub(super) fn tiny() -> GroupOptions {
    GroupOptions {
        au_bytes: 8192,
        journal_bytes: 64 << 10,
        checkpoint_bytes: 32 << 10,
        seed: Some([7; 16]),
        ..GroupOptions::default()
    }
}

/// A new file of the engine with space for `size` bytes.
fn engine_file(size: u64) -> CreateOptions {
    CreateOptions {
        size,
        kind: FileKind::Tree,
        exclusive: true,
    }
}

pub(super) fn disk(seed: u64) -> SimDisk {
    SimDisk::new(SimDiskOptions::new((4 << 20) + (1 << 20), seed))
}

pub(super) fn formatted(runtime: &Arc<TestHandle>, seed: u64) -> SimDisk {
    let disk = disk(seed);
    let device = disk.attach(runtime.clone());
    runtime.block_on(VolumeGroup::format(&*device, &tiny())).unwrap();
    disk
}

pub(super) async fn open(
    runtime: &Arc<TestHandle>,
    disk: &SimDisk,
    id: u8,
) -> Result<Arc<VolumeGroup>, StorageError> {
    VolumeGroup::open(runtime.clone(), vec![disk.attach(runtime.clone())], node(id)).await
}

/// Loses every third message; the rest arrives at once.
#[derive(Default)]
pub(super) struct Network {
    nodes: Mutex<BTreeMap<NodeId, Weak<VolumeGroup>>>,
    sent: Mutex<u64>,
}

struct Wire {
    network: Arc<Network>,
    me: NodeId,
}

impl Transport for Wire {
    fn send(&self, to: NodeId, service: Service, head: &[u8], _: Option<Tail>) {
        assert_eq!(service, Service::Storage);
        let mut sent = self.network.sent.lock();
        *sent += 1;
        if sent.is_multiple_of(3) {
            return;
        }
        drop(sent);
        let target = self.network.nodes.lock().get(&to).and_then(Weak::upgrade);
        if let Some(group) = target {
            group.receive(self.me, Incarnation(1), head);
        }
    }
}

pub(super) fn connect(network: &Arc<Network>, group: &Arc<VolumeGroup>, id: u8) {
    network.nodes.lock().insert(node(id), Arc::downgrade(group));
    group.attach(Arc::new(Wire {
        network: network.clone(),
        me: node(id),
    }));
}

#[test]
fn each_unfit_device_has_its_own_error() {
    let runtime = TestRuntime::new(1);
    let disk = disk(1);
    let device = disk.attach(runtime.clone());
    runtime.block_on(async {
        assert!(matches!(
            open(&runtime, &disk, 1).await,
            Err(StorageError::NoLabel)
        ));
        disk.overwrite(1 << 20, b"something");
        let refused = VolumeGroup::format(&*device, &tiny()).await;
        assert!(matches!(
            refused,
            Err(StorageError::NotBlank { offset: 1_048_576 })
        ));
        VolumeGroup::format(
            &*device,
            &GroupOptions {
                force: true,
                ..tiny()
            },
        )
        .await
        .unwrap();
        assert!(matches!(
            VolumeGroup::format(&*device, &tiny()).await,
            Err(StorageError::InUse { .. })
        ));
        let small = SimDisk::new(SimDiskOptions::new(4 << 20, 1)).attach(runtime.clone());
        assert!(matches!(
            VolumeGroup::format(&*small, &tiny()).await,
            Err(StorageError::TooSmall { .. })
        ));
        for offset in LABEL_OFFSETS {
            disk.overwrite(offset + 40, &[0xFF; 8]);
        }
        assert!(matches!(
            open(&runtime, &disk, 1).await,
            Err(StorageError::DamagedLabel)
        ));
    });
}

#[test]
fn the_shape_of_a_group_is_kept_and_its_ballot_bodies_leave_the_journal_alone() {
    let slots = [1, 4096, 16_384, 65_536].map(|count| HomeSlots::new(count).unwrap());
    for (home_slots, page_size) in slots.into_iter().zip(PageSize::ALL) {
        let runtime = TestRuntime::new(5);
        let size = journal_offset(home_slots) + (1 << 20);
        let disk = SimDisk::new(SimDiskOptions::new(size, 5));
        let options = GroupOptions {
            home_slots,
            page_size,
            ..tiny()
        };
        let device = disk.attach(runtime.clone());
        runtime.block_on(async {
            VolumeGroup::format(&*device, &options).await.unwrap();
            let group = open(&runtime, &disk, 1).await.unwrap();
            assert_eq!(
                (group.label().slots(), group.page_size()),
                (home_slots, page_size)
            );
            group.lead(Epoch(1)).await.unwrap();
            let file = group.create("/a", CreateOptions::default()).await.unwrap();
            let body = vec![0xFF; body_bytes(home_slots)];
            group
                .metadata()
                .control(0)
                .unwrap()
                .write_body(node(64), 1, &body)
                .await
                .unwrap();
            let read = group
                .metadata()
                .control(0)
                .unwrap()
                .read_body(node(64), 1)
                .await
                .unwrap();
            assert_eq!(*read, *body);
            let again = open(&runtime, &disk, 2).await.unwrap();
            assert_eq!(again.lookup("/a").await.unwrap(), Some(file));
        });
    }
}

#[test]
fn a_damaged_label_is_repaired_from_its_twin() {
    let runtime = TestRuntime::new(1);
    let disk = formatted(&runtime, 1);
    for damaged in LABEL_OFFSETS {
        let good = disk.peek(damaged, 4096);
        disk.overwrite(damaged + 33, &[0xAA; 4]);
        runtime.block_on(open(&runtime, &disk, 1)).unwrap();
        assert_eq!(disk.peek(damaged, 4096), good);
    }
}

#[test]
fn data_crosses_extents_and_a_follower_catches_up_on_a_miss() {
    let runtime = TestRuntime::new(2);
    let disk = formatted(&runtime, 2);
    runtime.block_on(async {
        let leader = open(&runtime, &disk, 1).await.unwrap();
        let follower = open(&runtime, &disk, 2).await.unwrap();
        leader.lead(Epoch(1)).await.unwrap();
        let options = engine_file(8192);
        let file = leader.create("/a/b", options).await.unwrap();
        leader.create("/between", options).await.unwrap();
        leader.allocate(file, 32 << 10).await.unwrap();
        assert_eq!(leader.stat(file).await.unwrap().extents.len(), 2);
        let mut buffer = IoBuffer::zeroed(24 << 10);
        buffer
            .iter_mut()
            .enumerate()
            .for_each(|(index, byte)| *byte = (index / 4096) as u8 + 1);
        leader.write_at(file, 4096, buffer).await.unwrap();
        let read = follower
            .read_at(file, 0, IoBuffer::zeroed(32 << 10))
            .await
            .unwrap();
        assert_eq!(
            read.chunks(4096).map(|chunk| chunk[9]).collect::<Vec<_>>(),
            [0, 1, 2, 3, 4, 5, 6, 0]
        );
        let outside = follower.read_at(file, 32 << 10, IoBuffer::zeroed(4096)).await;
        assert!(matches!(outside, Err(StorageError::OutsideFile { .. })));
        assert_eq!(follower.lookup("/a/b").await.unwrap(), Some(file));
    });
}

#[test]
fn requests_over_a_lossy_network_are_done_once_and_survive_a_change_of_leaders() {
    let runtime = TestRuntime::new(3);
    let disk = formatted(&runtime, 3);
    let network = Arc::new(Network::default());
    runtime.block_on(async {
        let groups = [
            open(&runtime, &disk, 1).await.unwrap(),
            open(&runtime, &disk, 2).await.unwrap(),
        ];
        connect(&network, &groups[0], 1);
        connect(&network, &groups[1], 2);
        for round in 0..4u64 {
            let (leader, other) = (round as usize % 2, 1 - round as usize % 2);
            groups[other].follow(Epoch(round + 1), node(leader as u8 + 1));
            groups[leader].lead(Epoch(round + 1)).await.unwrap();
            for number in 0..10 {
                let path = format!("/{round}/{number}");
                let options = engine_file(1);
                let file = groups[other].create(&path, options).await.unwrap();
                assert_eq!(groups[leader].lookup(&path).await.unwrap(), Some(file));
                groups[other].rename(&path, &format!("{path}x")).await.unwrap();
            }
            let again = groups[other].mkdir(&format!("/{round}/3x")).await.unwrap_err();
            assert!(again.is(OperationError::NotADirectory));
        }
        let alike = |group: &Arc<VolumeGroup>| group.with_catalog(Clone::clone);
        groups[0].catch_up().await.unwrap();
        assert_eq!(alike(&groups[0]), alike(&groups[1]));
    });
}

#[test]
fn removed_units_are_reused_only_after_every_member_let_go() {
    let runtime = TestRuntime::new(4);
    let disk = formatted(&runtime, 4);
    let network = Arc::new(Network::default());
    runtime.block_on(async {
        let leader = open(&runtime, &disk, 1).await.unwrap();
        connect(&network, &leader, 1);
        leader.set_members([node(1), node(2)].into_iter().collect());
        leader.lead(Epoch(1)).await.unwrap();
        let free = leader.space().free;
        let options = engine_file(64 << 10);
        leader.create("/gone", options).await.unwrap();
        leader.remove("/gone").await.unwrap();
        runtime.sleep(std::time::Duration::from_secs(5)).await;
        assert_eq!(
            (leader.space().free, leader.space().waiting),
            (free - 8, 8),
            "node 2 did not let go"
        );
        let follower = open(&runtime, &disk, 2).await.unwrap();
        connect(&network, &follower, 2);
        runtime.sleep(std::time::Duration::from_secs(5)).await;
        assert_eq!((leader.space().free, leader.space().waiting), (free, 0));
        follower.catch_up().await.unwrap();
        assert_eq!(follower.space().free, free);
        leader.remove("/gone").await.unwrap_err();
    });
}

#[test]
fn a_follower_that_was_overtaken_by_the_ring_loads_the_checkpoint() {
    let runtime = TestRuntime::new(5);
    let disk = formatted(&runtime, 5);
    runtime.block_on(async {
        let leader = open(&runtime, &disk, 1).await.unwrap();
        let follower = open(&runtime, &disk, 2).await.unwrap();
        leader.set_members(NodeSet::of(node(1)));
        leader.lead(Epoch(1)).await.unwrap();
        for number in 0..200 {
            leader
                .set_config("counter", Some(&number.to_string()))
                .await
                .unwrap();
        }
        assert_eq!(follower.config("counter").await.unwrap().as_deref(), Some("199"));
        assert_eq!(
            leader.with_catalog(Clone::clone),
            follower.with_catalog(Clone::clone)
        );
    });
}

#[test]
fn a_damaged_entry_before_good_ones_is_told_and_not_forgotten() {
    let runtime = TestRuntime::new(6);
    let disk = formatted(&runtime, 6);
    runtime.block_on(async {
        let leader = open(&runtime, &disk, 1).await.unwrap();
        leader.lead(Epoch(1)).await.unwrap();
        for number in 0..4 {
            leader
                .set_config("counter", Some(&number.to_string()))
                .await
                .unwrap();
        }
        // Epoch 1 started in the second segment (8 KiB); its second segment holds the second record.
        disk.overwrite((4 << 20) + 16384 + 70, &[0xFF]);
        let next = open(&runtime, &disk, 2).await.unwrap();
        assert!(matches!(next.lead(Epoch(2)).await, Err(StorageError::Damaged(_))));
    });
}

/// What the workload was told, so that a reopened catalogue can be judged.
#[derive(Clone, Default)]
struct Told {
    acknowledged: BTreeMap<String, Option<String>>,
    asked: Option<(String, Option<String>)>,
}

async fn set(told: &Mutex<Told>, group: &Arc<VolumeGroup>, key: &str, value: Option<&str>) -> Result<(), ()> {
    told.lock().asked = Some((key.into(), value.map(String::from)));
    group.set_config(key, value).await.map_err(drop)?;
    let mut told = told.lock();
    told.asked = None;
    told.acknowledged.insert(key.into(), value.map(String::from));
    Ok(())
}

/// Creates, grows, renames, removes, over checkpoints and a change of leaders. Ends early when the power fails.
async fn workload(runtime: Arc<TestHandle>, disk: SimDisk, told: Arc<Mutex<Told>>) -> Result<(), ()> {
    let first = open(&runtime, &disk, 1).await.map_err(drop)?;
    first.lead(Epoch(1)).await.map_err(drop)?;
    for round in 0..12u32 {
        let options = engine_file(20_000);
        let file = first
            .create(&format!("/d/{round}"), options)
            .await
            .map_err(drop)?;
        first.allocate(file, 40_000).await.map_err(drop)?;
        set(&told, &first, "round", Some(&round.to_string())).await?;
        if round % 3 == 1 {
            first
                .rename(&format!("/d/{round}"), &format!("/e/{round}"))
                .await
                .map_err(drop)?;
        }
        if round % 3 == 2 {
            first.remove(&format!("/d/{round}")).await.map_err(drop)?;
            set(&told, &first, &format!("removed{round}"), Some("yes")).await?;
        }
    }
    let second = open(&runtime, &disk, 2).await.map_err(drop)?;
    first.follow(Epoch(2), node(2));
    second.lead(Epoch(2)).await.map_err(drop)?;
    for number in 0..6 {
        set(
            &told,
            &second,
            &format!("key{}", number % 2),
            (number % 3 != 0).then_some("v"),
        )
        .await?;
    }
    set(&told, &second, "end", Some("yes")).await
}

/// Runs the workload with a cut, reopens, and checks that everything acknowledged is there and nothing was made up.
fn cut_and_verify(seed: u64, point: CutPoint) -> bool {
    let runtime = TestRuntime::new(seed);
    let disk = formatted(&runtime, seed);
    let told = Arc::new(Mutex::new(Told::default()));
    disk.cut_at(point);
    runtime.tolerate_aborts();
    // An abort of the journal's task after the cut is what must happen.
    let (done, all) = tokio::sync::oneshot::channel();
    let work = workload(runtime.clone(), disk.clone(), told.clone());
    runtime.spawn(
        "workload",
        Box::pin(async move {
            let _gone = done.send(work.await);
        }),
    );
    let watch = disk.clone();
    let clock = runtime.clone();
    let finished = runtime.block_on(async move {
        tokio::select! {
            biased;
            result = all => result.is_ok_and(|result| result.is_ok()),
            () = async { while watch.has_power() { clock.sleep(std::time::Duration::from_micros(10)).await } } => false,
        }
    });
    runtime.drop_tasks();
    disk.power_on();
    let told = told.lock().clone();
    runtime.block_on(async {
        let group = open(&runtime, &disk, 3).await.expect("a cut group opens");
        group.lead(Epoch(9)).await.expect("a cut group can be led");
        for (key, value) in &told.acknowledged {
            let found = group.config(key).await.unwrap();
            let asked = told.asked.as_ref().filter(|(asked, _)| asked == key);
            let allowed = found == *value || asked.is_some_and(|(_, value)| found == *value);
            assert!(
                allowed,
                "{point:?} seed {seed}: {key} is {found:?}, acknowledged {value:?}"
            );
        }
        check_units(&group);
        group.create("/after", engine_file(1)).await.unwrap();
        // What was removed is still being given back.
        while group.with_catalog(|catalog| catalog.limbo().next().is_some()) {
            runtime.sleep(std::time::Duration::from_millis(1)).await;
        }
        let again = open(&runtime, &disk, 4).await.unwrap();
        assert_eq!(again.with_catalog(Clone::clone), group.with_catalog(Clone::clone));
    });
    finished
}

/// Encoding and decoding checks that each unit has one owner.
pub(super) fn check_units(group: &VolumeGroup) {
    group.with_catalog(|catalog| {
        let copy = aquifer_dss_proto::catalog::Catalog::decode(&catalog.encode()).expect("sound");
        assert_eq!(copy, *catalog);
    });
}

#[test]
fn nothing_acknowledged_is_lost_at_any_write() {
    let mut number = 1;
    while !cut_and_verify(100 + number, CutPoint::DuringWrite(number)) {
        number += 1;
    }
    assert!(number > 60, "the workload has only {number} writes");
}

#[test]
fn nothing_acknowledged_is_lost_at_any_flush() {
    let mut number = 1;
    while !cut_and_verify(500 + number, CutPoint::DuringFlush(number)) {
        number += 1;
    }
    let mut number = 1;
    while !cut_and_verify(900 + number, CutPoint::AfterFlush(number)) {
        number += 1;
    }
}

#[test]
fn writes_of_a_dead_port_do_not_linger() {
    let runtime = TestRuntime::new(8);
    let disk = formatted(&runtime, 8);
    let device = disk.attach(runtime.clone());
    disk.kill(device.port());
    let written = runtime.block_on(device.write(0, IoBuffer::zeroed(4096)));
    assert!(matches!(written, Err(crate::seam::DeviceError::Fenced(_))));
}

#[test]
fn a_group_in_a_real_file_keeps_what_it_was_told() {
    use crate::device::{OpenMode, create_sparse, open_device};
    use crate::tokio_runtime::TokioRuntime;
    let tokio = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let path = std::env::temp_dir().join(format!("aquifer-group-{}", std::process::id()));
    create_sparse(&path, 16 << 20).unwrap();
    tokio.block_on(async {
        let device = open_device(&path, OpenMode::Best).unwrap();
        println!("by {}", device.way());
        VolumeGroup::format(&*device, &tiny()).await.unwrap();
        let runtime = Arc::new(TokioRuntime::current());
        let group = VolumeGroup::open(runtime.clone(), vec![device.clone()], node(1))
            .await
            .unwrap();
        group.lead(Epoch(1)).await.unwrap();
        for number in 0..50 {
            group
                .create(&format!("/f/{number}"), engine_file(100))
                .await
                .unwrap();
        }
        let file = group.lookup("/f/7").await.unwrap().unwrap();
        let mut buffer = IoBuffer::zeroed(4096);
        buffer.fill(9);
        group.write_at(file, 0, buffer).await.unwrap();
        group.flush().await.unwrap();
        let again = open_device(&path, OpenMode::Plain).unwrap();
        let follower = VolumeGroup::open(runtime, vec![again], node(2)).await.unwrap();
        assert_eq!(follower.list("/f").await.unwrap().len(), 50);
        assert_eq!(
            follower.read_at(file, 0, IoBuffer::zeroed(4096)).await.unwrap()[4095],
            9
        );
    });
    std::fs::remove_file(&path).unwrap();
}

/// A deposed leader that was not fenced in time appends once more (HZ-18): nobody reads it, and it destroys nothing.
#[test]
fn a_deposed_leaders_entry_is_read_by_nobody() {
    let runtime = TestRuntime::new(5);
    let disk = disk(5);
    // So large that nobody writes a checkpoint, from which the others would go on.
    let options = GroupOptions {
        journal_bytes: 512 << 10,
        ..tiny()
    };
    runtime.block_on(async {
        let device = disk.attach(runtime.clone());
        VolumeGroup::format(&*device, &options).await.unwrap();
        let told = Mutex::new(Told::default());
        let first = open(&runtime, &disk, 1).await.unwrap();
        first.lead(Epoch(1)).await.unwrap();
        set(&told, &first, "before", Some("1")).await.unwrap();
        let second = open(&runtime, &disk, 2).await.unwrap();
        second.lead(Epoch(2)).await.unwrap();
        set(&told, &second, "kept", Some("2")).await.unwrap();
        set(&told, &first, "stale", Some("1")).await.unwrap();
        let third = open(&runtime, &disk, 3).await.unwrap();
        third.lead(Epoch(3)).await.unwrap();
        for (key, value) in [("before", Some("1")), ("kept", Some("2")), ("stale", None)] {
            assert_eq!(third.config(key).await.unwrap().as_deref(), value, "{key}");
        }
    });
}

/// A node that has followed since the first checkpoint knows of no later one, until it leads.
fn take_over_after(entries: u64) {
    let runtime = TestRuntime::new(entries);
    let disk = formatted(&runtime, entries);
    runtime.block_on(async {
        let first = open(&runtime, &disk, 1).await.unwrap();
        let second = open(&runtime, &disk, 2).await.unwrap();
        first.lead(Epoch(1)).await.unwrap();
        for number in 0..entries {
            let value = number.to_string();
            first.set_config("counter", Some(&value)).await.unwrap();
            second.catch_up().await.unwrap();
        }
        first.follow(Epoch(2), node(2));
        let (newest, sequence) = first.journal.lock().await.newest_checkpoint();
        second.lead(Epoch(2)).await.unwrap();
        let (which, of) = second.journal.lock().await.newest_checkpoint();
        assert!(of >= sequence, "an older one is taken for the newest");
        assert_eq!(which == newest, of == sequence, "the newest is written over");
    });
}

#[test]
fn a_leader_that_takes_over_leaves_the_newest_checkpoint_alone() {
    let any: fn() = || (8..48).step_by(4).for_each(take_over_after);
    any();
    assert!(fails_with(Defect::ForgetNewerCheckpoint, any));
}

#[test]
fn each_rule_of_the_journal_is_missed_when_it_is_gone() {
    let deposed: fn() = a_deposed_leaders_entry_is_read_by_nobody;
    assert!(fails_with(Defect::FollowDeposedLeader, deposed));
    assert!(fails_with(Defect::AppendToOldSegment, deposed));
    let cuts = nothing_acknowledged_is_lost_at_any_write;
    assert!(fails_with(Defect::AnswerBeforeJournalFlush, cuts));
    let flushes = nothing_acknowledged_is_lost_at_any_flush;
    assert!(fails_with(Defect::CheckpointClaimsMore, flushes));
}
